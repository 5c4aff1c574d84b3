# SPDX-License-Identifier: BSD-3-Clause
"""Sealed reading and sealing, against a plain file and against PyPI's crypt4gh, in the same interleaved run.

What is measured is CPU time of the whole process (all threads), not wall time: it says what the work costs,
whatever else the machine does. Each figure is the median over rounds in which every candidate runs once.
Readers fill the same page-aligned buffer, 4 MiB at a time; writers write a new file and remove it within the
measured time; files are in memory where the machine has such a place.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crypt4gh import lib
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey, encrypt_stream
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from sealroom.datasets.vault import Vault
from support.sealed import DESCRIPTION, Backend, Sealed

SIZE = 96 << 20
BLOCK = 4 << 20
ROUNDS = 5

_Work = Callable[[], object]


class _Null(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def rows() -> list[dict[str, Any]]:
    """Measure.

    Returns:
        One row per comparison: `what`, `peer`, `unit`, `ours` and `theirs` (in that unit, more is better) and
        `ratio`, ours to theirs.
    """
    # In memory where there is such a place, so that no disk is measured.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(prefix="sealroom-bench-", dir=place) as directory,
        _candidates(Path(directory)) as candidates,
    ):
        speed = _measure(candidates)
    return [
        _row(speed, "sealed read", "plain", "plain file, readinto"),
        _row(speed, "sealed read", "crypt4gh read", "crypt4gh.lib.decrypt"),
        _row(speed, "sealed read, SHA-256 of segments too", "crypt4gh read", "crypt4gh.lib.decrypt"),
        _row(speed, "sealed read through the agent, both sides", "sealed read", "sealed read in one process"),
        _row(speed, "encrypt a stream", "crypt4gh write", "crypt4gh.lib.encrypt"),
        _row(speed, "seal with manifest", "crypt4gh write", "crypt4gh.lib.encrypt"),
    ]


def _row(speed: dict[str, float], what: str, other: str, peer: str) -> dict[str, Any]:
    ours, theirs = speed[what], speed[other]
    row = {"what": what, "peer": peer, "unit": "MB/cpu-s", "ours": round(ours), "theirs": round(theirs)}
    return {**row, "ratio": round(ours / theirs, 2)}


def _measure(candidates: dict[str, _Work]) -> dict[str, float]:
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for work in candidates.values():
        work()
    for _ in range(ROUNDS):
        for name, work in candidates.items():
            before = time.process_time()
            work()
            spent[name].append(time.process_time() - before)
    return {name: SIZE / 1e6 / statistics.median(times) for name, times in spent.items()}


@contextlib.contextmanager
def _candidates(place: Path) -> Iterator[dict[str, _Work]]:
    (place / "source").mkdir()
    plain_path = place / "source" / "data.bin"
    plain_path.write_bytes(os.urandom(SIZE))
    sealed = _seal(place)
    sealed_path = sealed.directory.sealed_file("data.bin")
    vault, thorough = sealed.unlock(Vault()), sealed.unlock(Vault(check_digests=True))
    backend = Backend(sealed)
    backend.vault = vault
    buffer = memoryview(mmap.mmap(-1, BLOCK))
    reader, writer = sealed.dataset_key, SecretKey.generate()
    written = place / "written.c4gh"
    count = 0

    def plain() -> None:
        with plain_path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass

    def through(source: Callable[[int], int]) -> _Work:
        def work() -> None:
            for offset in range(0, SIZE, BLOCK):
                source(offset)

        return work

    def crypt4gh_read() -> None:
        with sealed_path.open("rb") as stream:
            lib.decrypt([(0, reader.reveal(), None)], stream, _Null())

    def crypt4gh_write() -> None:
        with plain_path.open("rb") as stream, written.open("wb") as out:
            lib.encrypt([(0, writer.reveal(), reader.public.raw)], stream, out)
        written.unlink()

    def encrypt() -> None:
        with plain_path.open("rb") as stream, written.open("wb") as out:
            encrypt_stream(stream, out, [reader.public], writer=writer)
        written.unlink()

    def seal() -> None:
        nonlocal count
        count += 1
        target = place / f"again-{count}"
        seal_directory(
            place / "source",
            target,
            description=DESCRIPTION,
            dataset_key=reader.public,
            signing_key=sealed.signing_key,
        )
        for path in sorted(target.rglob("*"), reverse=True):
            path.unlink()
        target.rmdir()

    with AgentServer(place / "agent.sock", backend):
        client = AgentClient(place / "agent.sock")
        name = "heartbeats"
        yield {
            "plain": plain,
            "sealed read": through(lambda at: vault.read_into(name, "data.bin", at, buffer)),
            "sealed read, SHA-256 of segments too": through(
                lambda at: thorough.read_into(name, "data.bin", at, buffer)
            ),
            "sealed read through the agent, both sides": through(
                lambda at: client.read_into(name, "data.bin", at, buffer)
            ),
            "crypt4gh read": crypt4gh_read,
            "crypt4gh write": crypt4gh_write,
            "encrypt a stream": encrypt,
            "seal with manifest": seal,
        }
        client.close()


def _seal(place: Path) -> Sealed:
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        place / "source",
        place / "heartbeats",
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
    )
    return Sealed(place, manifest, dataset_key, signing_key, SecretKey.generate())


if __name__ == "__main__":
    for line in rows():
        print(line)
