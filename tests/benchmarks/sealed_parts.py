# SPDX-License-Identifier: BSD-3-Clause
"""What `bench_sealed` measures with: a clock for two processes, an agent in another process, data, peers."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from sealroom.datasets.vault import Vault
from support.sealed import DESCRIPTION, Backend, Sealed

Work = Callable[[], object]
PATIENCE = 60.0


class Null(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


def clock_of(pid: int) -> int:
    """Return the clock of another process's CPU time, as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def interleaved(
    candidates: Mapping[str, Work], rounds: int, *, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the median seconds of each candidate over rounds in which every one runs once."""
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for work in candidates.values():
        work()
    for _ in range(rounds):
        for name, work in candidates.items():
            before = clock()
            work()
            spent[name].append(clock() - before)
    return {name: statistics.median(times) for name, times in spent.items()}


def seal(place: Path, source: Path) -> Sealed:
    """Seal a directory as the dataset heartbeats."""
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        source,
        place / "heartbeats",
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
    )
    return Sealed(place, manifest, dataset_key, signing_key, SecretKey.generate())


@contextlib.contextmanager
def agent_process(sealed: Sealed, socket: Path, *, mapped: bool | None = None) -> Iterator[int]:
    """Serve an unlocked dataset from another process, as a notebook server does; gives its process id.

    The process is forked, so this comes before any thread is made.
    """
    child = os.fork()
    if child == 0:
        backend = Backend(sealed)
        backend.vault = sealed.unlock(Vault(mapped=mapped))
        with AgentServer(socket, backend):
            signal.pause()
        os._exit(0)
    try:
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            assert time.monotonic() < deadline, "the agent did not start in time"
            time.sleep(0.02)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def openssl_speed() -> float | None:
    """Return MB per CPU second of OpenSSL's own loop over one hot 64 KiB buffer; None without OpenSSL."""
    try:
        done = subprocess.run(
            ["openssl", "speed", "-evp", "chacha20-poly1305", "-bytes", "65536", "-seconds", "1"],
            capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    except OSError:
        return None
    found = re.search(r"^ChaCha20-Poly1305\s+([0-9.]+)k", done.stdout, re.MULTILINE)
    return float(found[1]) / 1000 if found else None


def share_beside(work: Work) -> float:
    """Return how often another thread gets its turn during some work, in percent of what it gets alone.

    The thread needs the interpreter for a moment, ten thousand times a second: what holds the interpreter
    lock while it works makes it wait each time.
    """
    count, stop = 0, threading.Event()

    def tick() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1
            time.sleep(0)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        alone, beside = (_per_second(lambda: count, one) for one in (lambda: time.sleep(0.2), work))
    finally:
        stop.set()
        thread.join()
    return 100 * beside / alone


def _per_second(count: Callable[[], int], work: Work) -> float:
    began, first = time.perf_counter(), count()
    work()
    return (count() - first) / (time.perf_counter() - began)


def memory_of_a_reader(folder: Path, size: int) -> float:
    """Return the MB that reading a sparse sealed file of some size takes at most, in a process of its own."""
    sparse = import_module("support.sparse")
    folder.mkdir()
    sparse.SparseFile.make(folder, size=size)
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "support.sparse", folder, "0"],
        env={**os.environ, "PYTHONPATH": str(tests)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(dict(line.split("=") for line in done.stdout.split())["grown"]) / 1e6


def write_parquet(path: Path, rows: int) -> None:
    """Write a table of nine columns, as a registry has them, in eight row groups."""
    numpy, arrow = import_module("numpy"), import_module("pyarrow")
    draw = numpy.random.default_rng(208)
    table = arrow.table(
        {
            "patient": draw.integers(0, 1 << 40, rows),
            "day": draw.integers(0, 7300, rows).astype("int32"),
            "heart_rate": draw.normal(70, 12, rows),
            "systolic": draw.normal(125, 18, rows).astype("float32"),
            "diastolic": draw.normal(80, 11, rows).astype("float32"),
            "glucose": draw.lognormal(1.7, 0.3, rows),
            "creatinine": draw.lognormal(0.0, 0.4, rows),
            "code": arrow.array(draw.integers(0, 900, rows)).cast(arrow.string()),
            "alive": draw.integers(0, 2, rows).astype(bool),
        }
    )
    import_module("pyarrow.parquet").write_table(
        table, path, compression="zstd", row_group_size=-(-rows // 8)
    )
