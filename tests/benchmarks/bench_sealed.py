# SPDX-License-Identifier: BSD-3-Clause
"""Sealed reading, against plain files, OpenSSL and PyPI's crypt4gh, in interleaved runs; `bench_seal` seals.

What is measured is CPU time (all threads, and the agent's process where there is one), not wall time, unless
the unit says so: it says what the work costs, whatever else the machine does. Each figure is the median over
rounds in which every candidate runs once. Readers fill the same page-aligned buffer, 4 MiB at a time; files
lie in memory where the machine has such a place.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.sealed_parts import (
    Null,
    Work,
    agent_process,
    clock_of,
    interleaved,
    memory_of_a_reader,
    openssl_speed,
    seal,
    share_beside,
    write_parquet,
)
from crypt4gh import lib
from sealroom.datasets import parallel
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.cache import SegmentCache
from sealroom.datasets.file import SealedFile
from sealroom.datasets.reader import SegmentReader
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.vault import Vault
from support.s3 import BUCKET, S3Server, UnavailableError
from support.sealed import Sealed

SIZE = 96 << 20
BLOCK = 4 << 20
ROUNDS = 5
PARQUET_ROWS = 1_250_000
LARGE, SMALL = 16 << 30, 1 << 30

_NAME = "data.bin"


def rows() -> list[dict[str, Any]]:
    """Measure.

    Returns:
        One row per comparison: `what`, `peer`, `unit`, `ours` and `theirs` (in that unit, more is better but
        for memory) and `ratio`, ours to theirs.
    """
    # In memory where there is such a place, so that no disk is measured.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-", dir=place) as directory:
        folder = Path(directory)
        source = folder / "source"
        source.mkdir()
        (source / _NAME).write_bytes(os.urandom(SIZE))
        write_parquet(source / "table.parquet", PARQUET_ROWS)
        sealed = seal(folder, source)
        # The agent's process first: it is forked.
        with (
            agent_process(sealed, folder / "agent.sock") as agent,
            agent_process(sealed, folder / "mapped.sock", mapped=True) as mapped,
        ):
            measured = _agent_rows(folder, sealed, {"agent": agent, "mapped": mapped})
        measured = [*_reading_rows(folder, sealed), *measured]
        measured += _thread_rows(folder, sealed)
        measured += _s3_rows(folder, sealed)
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-") as directory:
        small, large = (memory_of_a_reader(Path(directory, str(size)), size) for size in (SMALL, LARGE))
    measured.append(_row("memory of a reader, 16 GiB file", large, "the same, 1 GiB file", small, "MB", 1))
    return measured


def _row(what: str, ours: float, peer: str, theirs: float, unit: str, digits: int = 0) -> dict[str, Any]:
    row = {"what": what, "peer": peer, "unit": unit}
    row |= {"ours": f"{ours:.{digits}f}", "theirs": f"{theirs:.{digits}f}"}
    return {**row, "ratio": round(ours / theirs, 2)}


def _speeds(seconds: dict[str, float], size: int = SIZE) -> dict[str, float]:
    return {name: size / 1e6 / spent for name, spent in seconds.items()}


def _blocks(read: Callable[[int], object], size: int = SIZE) -> Work:
    def work() -> None:
        for offset in range(0, size, BLOCK):
            read(offset)

    return work


def _buffer() -> memoryview:
    return memoryview(mmap.mmap(-1, BLOCK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _reader(sealed: Sealed, **more: Any) -> SegmentReader:
    place: DatasetDirectory = more.pop("place", sealed.directory)
    vault = sealed.unlock(Vault())
    keys = vault._releases["heartbeats"].keys[_NAME]
    return SegmentReader(place, sealed.manifest.file(_NAME), keys, cache=SegmentCache(), **more)


# --- reading in one process ---


def _reading_rows(place: Path, sealed: Sealed) -> list[dict[str, Any]]:
    buffer, unit = _buffer(), "MB/cpu-s"
    plain_path, sealed_path = place / "source" / _NAME, sealed.directory.sealed_file(_NAME)
    secret = sealed.dataset_key
    readers = {
        "sealed read": _reader(sealed, parallel=False),
        "sealed read, mapped file": _reader(sealed, parallel=False, mapped=True),
        "sealed read, SHA-256 of segments too": _reader(sealed, parallel=False, check_digests=True),
    }

    def plain() -> None:
        with plain_path.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass

    def fresh_map() -> None:
        reader = _reader(sealed, parallel=False, mapped=True)
        _blocks(lambda at: reader.pread_into(at, buffer))()

    def crypt4gh_read() -> None:
        with sealed_path.open("rb") as stream:
            lib.decrypt([(0, secret.reveal(), None)], stream, Null())

    hot: list[float] = []
    candidates: dict[str, Work] = {"plain": plain, "crypt4gh": crypt4gh_read}
    for name, reader in readers.items():
        candidates[name] = _blocks(lambda at, reader=reader: reader.pread_into(at, buffer))  # type: ignore[misc]
    candidates["sealed open and read, mapped file"] = fresh_map
    # Not timed itself: it says its own figure.
    candidates["openssl"] = lambda: hot.append(openssl_speed() or float("nan"))
    speed = _speeds(interleaved(candidates, ROUNDS))
    openssl = statistics.median(hot)
    found = []
    for name in (*readers, "sealed open and read, mapped file"):
        found.append(_row(name, speed[name], "openssl speed, 64 KiB", openssl, unit))
        found.append(_row(name, speed[name], "crypt4gh.lib.decrypt", speed["crypt4gh"], unit))
    found.append(_row("sealed read", speed["sealed read"], "plain file, readinto", speed["plain"], unit))
    return found


# --- threads ---


def _thread_rows(place: Path, sealed: Sealed) -> list[dict[str, Any]]:
    buffer, other = _buffer(), _buffer()
    alone = _reader(sealed, parallel=False)
    helped = _reader(sealed)
    half = SIZE // 2

    def two_threads() -> None:
        def second() -> None:
            for offset in range(half, SIZE, BLOCK):
                alone.pread_into(offset, other)

        thread = threading.Thread(target=second)
        thread.start()
        for offset in range(0, half, BLOCK):
            alone.pread_into(offset, buffer)
        thread.join()

    def with_a_helper() -> None:
        before, parallel.MAX_HELPERS = parallel.MAX_HELPERS, 1
        _blocks(lambda at: helped.pread_into(at, buffer))()
        parallel.MAX_HELPERS = before

    one_thread = _blocks(lambda at: alone.pread_into(at, buffer))
    speed = _speeds(
        interleaved({"one": one_thread, "two": two_threads, "helper": with_a_helper}, 2 * ROUNDS + 1)
    )

    def crypt4gh_read() -> None:
        with sealed.directory.sealed_file(_NAME).open("rb") as stream:
            lib.decrypt([(0, sealed.dataset_key.reveal(), None)], stream, Null())

    ours, theirs = (
        statistics.median(share_beside(work) for _ in range(ROUNDS)) for work in (one_thread, crypt4gh_read)
    )
    unit = "MB/cpu-s"
    return [
        _row("sealed read in two threads", speed["two"], "in one thread", speed["one"], unit),
        _row("sealed read with a helper thread", speed["helper"], "in one thread", speed["one"], unit),
        _row(
            "what another thread can do beside a sealed read",
            ours,
            "beside crypt4gh.lib.decrypt",
            theirs,
            "%",
        ),
    ]


# --- through the agent, as a notebook reads ---


def _agent_rows(place: Path, sealed: Sealed, agents: dict[str, int]) -> list[dict[str, Any]]:
    clients = {name: AgentClient(place / f"{name}.sock") for name in agents}
    client, buffer = clients["agent"], _buffer()
    here = _reader(sealed)

    def all_sides() -> float:
        return time.process_time() + sum(time.clock_gettime(clock_of(pid)) for pid in agents.values())

    reads: dict[str, Work] = {
        "here": _blocks(lambda at: here.pread_into(at, buffer)),
        "own": _blocks(lambda at: client.read_into("heartbeats", _NAME, at, buffer)),
        "shared": _blocks(lambda at: client.read_buffer("heartbeats", _NAME, at, BLOCK)),
    }
    speed = _speeds(interleaved(reads, ROUNDS, clock=all_sides))
    table = place / "source" / "table.parquet"
    tables = _tables(table, sealed.manifest.file("table.parquet").size, clients)
    tabled = _speeds(interleaved(tables, 2 * ROUNDS + 1, clock=all_sides), table.stat().st_size)
    for one in clients.values():
        one.close()
    peer, unit = "sealed read in one process", "MB/cpu-s"
    found = [
        _row("agent, buffers it gives, both sides", speed["shared"], peer, speed["here"], unit),
        _row("agent, one's own buffer, both sides", speed["own"], peer, speed["here"], unit),
    ]
    for how, words in (("agent", "through the agent"), ("mapped", "agent, mapped file")):
        for columns in ("all", "2 of 9"):
            what = f"Parquet, {columns} columns, {words}"
            theirs = tabled[f"{columns} plain"]
            found.append(_row(what, tabled[f"{columns} {how}"], "plain file", theirs, unit))
    return found


def _tables(plain: Path, size: int, clients: dict[str, AgentClient]) -> dict[str, Work]:
    parquet = import_module("pyarrow.parquet")
    works: dict[str, Work] = {}
    for columns, names in (("all", None), ("2 of 9", ["heart_rate", "code"])):
        works[f"{columns} plain"] = lambda names=names: parquet.read_table(plain, columns=names)  # type: ignore[misc]
        for how, client in clients.items():
            works[f"{columns} {how}"] = lambda names=names, client=client: parquet.read_table(  # type: ignore[misc]
                SealedFile(client, "heartbeats", plain.name, size), columns=names
            )
    return works


# --- S3 ---


def _s3_rows(place: Path, sealed: Sealed) -> list[dict[str, Any]]:
    try:
        with S3Server(place / "s3") as server:
            return _s3_measured(server, sealed)
    except UnavailableError:
        return []


def _s3_measured(server: S3Server, sealed: Sealed) -> list[dict[str, Any]]:
    s3_source, obstore = import_module("sealroom.datasets.s3_source"), import_module("obstore")
    s3_source.configure(server.options())
    there = server.bucket / "heartbeats"
    there.mkdir()
    for path in (sealed.directory.sealed_file(_NAME), sealed.directory.segment_list(_NAME)):
        os.link(path, there / path.name)
    reader = _reader(sealed, place=DatasetDirectory(f"s3://{BUCKET}/heartbeats"))
    store, key, buffer = s3_source.bucket_store(BUCKET), f"heartbeats/{_NAME}.c4gh", _buffer()
    candidates: dict[str, Work] = {
        "plain": _blocks(lambda at: obstore.get_range(store, key, start=at, length=BLOCK)),
        "sealed": _blocks(lambda at: reader.pread_into(at, buffer)),
    }
    wall = _speeds(interleaved(candidates, 2 * ROUNDS + 1, clock=time.perf_counter))
    spent = _speeds(interleaved(candidates, ROUNDS))
    peer = "obstore, plain"
    return [
        _row("4 MiB ranges over S3, by the clock", wall["sealed"], peer, wall["plain"], "MB/s"),
        _row("4 MiB ranges over S3, client", spent["sealed"], peer, spent["plain"], "MB/cpu-s"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
