# SPDX-License-Identifier: BSD-3-Clause
"""Sealing, as commands: `sealroom dataset seal` and `crypt4gh encrypt`, in the same interleaved run.

What is measured is CPU time of each whole process (its start and all of its threads, in user and system), not
wall time. The files are on the disk of the temporary directory, where both write durably or not as they do:
Sealroom syncs every file, crypt4gh none. The last rows say what bounds sealing: the cipher and the digest on
one hot segment, from the same run.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import (
    CIPHER_SEGMENT,
    DataKey,
    SecretKey,
    SegmentCipher,
    write_public_key,
    write_secret_key,
)

SIZE = 512 << 20
SMALL_SIZE = 64 << 20
ROUNDS = 5

_COMMAND = [sys.executable, "-c", "from sealroom.cli import main; main()", "dataset"]


def rows() -> list[dict[str, Any]]:
    """Measure.

    Returns:
        One row per comparison: `what`, `peer`, `unit`, `ours` and `theirs` (in that unit, more is better) and
        `ratio`, ours to theirs.
    """
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-") as directory:
        bench = _Bench(Path(directory))
        commands: dict[str, Callable[[], object]] = {
            "seal": lambda: bench.seal("large"),
            "seal, whole digests": lambda: bench.seal("large", "--sha256"),
            "seal, 64 MiB": lambda: bench.seal("small"),
            "encrypt": lambda: bench.encrypt("large"),
            "encrypt, 64 MiB": lambda: bench.encrypt("small"),
        }
        spent: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                before = _children()
                command()
                spent[name].append(_children() - before)
                bench.clean()
    seconds = {name: statistics.median(times) for name, times in spent.items()}

    def speed(name: str) -> float:
        return (SMALL_SIZE if "64 MiB" in name else SIZE) / 1e6 / seconds[name]

    cipher, digest = _hot(_encrypt_segment()), _hot(_digest_segment())
    theirs = "crypt4gh encrypt, the process"
    return [
        _row("dataset seal, the process, 512 MiB", speed("seal"), theirs, speed("encrypt")),
        _row("dataset seal --sha256, 512 MiB", speed("seal, whole digests"), theirs, speed("encrypt")),
        _row("dataset seal, 64 MiB", speed("seal, 64 MiB"), theirs, speed("encrypt, 64 MiB")),
        _row(
            "dataset seal, 512 MiB", speed("seal"), "cipher and SHA-256, hot", 1 / (1 / cipher + 1 / digest)
        ),
        _row("SHA-256 of a segment, hot", digest, "encrypt a segment, hot", cipher),
    ]


class _Bench:
    def __init__(self, place: Path) -> None:
        self._place = place
        for name, size in (("large", SIZE), ("small", SMALL_SIZE)):
            (place / name).mkdir()
            with (place / name / "data.bin").open("wb") as out:
                for _ in range(size >> 20):
                    out.write(os.urandom(1 << 20))
        owner = place / "owner"
        owner.mkdir()
        (owner / "owner.toml").write_text('broker = "http://127.0.0.1:9"\n')
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        key, writer = SecretKey.generate(), SecretKey.generate()
        (owner / "keys").mkdir()
        for path, data in (
            (owner / "signing.pem", pem),
            (owner / "keys" / "heartbeats.sec", write_secret_key(key)),
            (place / "writer.sec", write_secret_key(writer)),
            (place / "reader.pub", write_public_key(key.public)),
        ):
            path.write_bytes(data)
            path.chmod(0o600)

    def seal(self, name: str, *more: str) -> None:
        command = [*_COMMAND, "seal", str(self._place / name), "--out", str(self._place / "sealed"), *more]
        command += ["--id", "heartbeats", "--title", "Heartbeats", "--owner", "Heart Centre"]
        command += ["--settings", str(self._place / "owner" / "owner.toml")]
        subprocess.run(command, check=True, capture_output=True)

    def encrypt(self, name: str) -> None:
        command = [str(Path(sys.executable).with_name("crypt4gh")), "encrypt"]
        command += [
            "--sk",
            str(self._place / "writer.sec"),
            "--recipient_pk",
            str(self._place / "reader.pub"),
        ]
        source, target = self._place / name / "data.bin", self._place / "encrypted.c4gh"
        with source.open("rb") as stream, target.open("wb") as out:
            subprocess.run(command, check=True, stdin=stream, stdout=out, stderr=subprocess.DEVNULL)

    def clean(self) -> None:
        shutil.rmtree(self._place / "sealed", ignore_errors=True)
        (self._place / "encrypted.c4gh").unlink(missing_ok=True)


def _row(what: str, ours: float, peer: str, theirs: float) -> dict[str, Any]:
    row = {"what": what, "peer": peer, "unit": "MB/cpu-s", "ours": round(ours), "theirs": round(theirs)}
    return {**row, "ratio": round(ours / theirs, 2)}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _hot(work: Callable[[], object]) -> float:
    """Return MB of plaintext per second of CPU time of work on one segment."""
    times = []
    for _ in range(ROUNDS):
        before = time.process_time()
        for _ in range(1024):
            work()
        times.append(time.process_time() - before)
    return 1024 * 65536 / 1e6 / statistics.median(times)


def _encrypt_segment() -> Callable[[], object]:
    cipher, plain, out = SegmentCipher([DataKey.generate()]), os.urandom(65536), bytearray(CIPHER_SEGMENT)
    return lambda: cipher.encrypt_into(plain, memoryview(out))


def _digest_segment() -> Callable[[], object]:
    segment = os.urandom(CIPHER_SEGMENT)
    return lambda: hashlib.sha256(segment).digest()


if __name__ == "__main__":
    for line in rows():
        print(line)
