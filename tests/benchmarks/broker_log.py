# SPDX-License-Identifier: BSD-3-Clause
"""What the audit log costs at 10^3, 10^5 and 10^6 entries: in a folder, and in a PostgreSQL database.

The logs are written at once, as an exported copy would be, and then opened by the broker's own code. What is
measured is CPU time of this process, which for a database leaves out the server's; each row is compared with
the smallest log, so that a cost which grew with the log would stand out. The database of the tests does not
sync its files, so nothing is said of how long an append waits.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, overload
from unittest import mock

from sealroom.audit import verify
from sealroom.audit.log import DirectoryReader, TileLog
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    leaf_hash,
    split_tile,
    tile_path,
    tiles_of,
    tree_root,
)
from sealroom_broker.config import Postgresql
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.migrate import migrate
from sealroom_broker.sharedlog import SharedLog
from sealroom_broker.store import Store
from support.audit_logs import SIGNER, entry, write_log
from support.postgres import Postgres, binaries

SIZES: Final = (10**3, 10**5, 10**6)
APPENDS: Final = 150
PROOFS: Final = 150
OPENS: Final = 7
VERIFIED: Final = 10**5
"""The largest log that is verified as a whole: the time of an entry is what counts."""
_PADDING: Final = "-" * 500
"""So that an entry has the length of a release's."""


class Numbered(Sequence[bytes]):
    """Entries that are made when they are asked for: a million of them need no room."""

    def __init__(self, size: int) -> None:
        self._size = size
        example = entry(0, detail=f"0000000{_PADDING}")
        self._before, self._after = example.split(b"0000000", 1)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int, /) -> bytes: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[bytes]: ...
    def __getitem__(self, index: int | slice, /) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._one(number) for number in range(*index.indices(self._size))]
        if not 0 <= index < self._size:
            raise IndexError(index)
        return self._one(index)

    def _one(self, number: int) -> bytes:
        return b"%b%07d%b" % (self._before, number, self._after)


def rows(sizes: Sequence[int] = SIZES) -> list[dict[str, Any]]:
    """Measure and return one row a figure: what, ours, unit, and the smallest log as peer.

    Args:
        sizes: Entries of the logs.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-") as name, _postgresql() as server:
        for size in sizes:
            directory = Path(name) / str(size)
            write_log(directory, Numbered(size), edge=size > VERIFIED)
            if size > VERIFIED:
                _write_tiles(directory, size)
            # The database first: it is filled from the folder, which then grows.
            times = _database(server.create(), directory, size) if server is not None else {}
            for what, value in (times | _folder(directory, size)).items():
                found.setdefault(what, []).append((size, value))
    return [row for what, values in found.items() for row in _compared(what, values)]


def _compared(what: str, values: list[tuple[int, float]]) -> list[dict[str, Any]]:
    base = values[0][1]
    measured = []
    for size, value in values:
        title = f"log of 10^{round(math.log10(size))}: {what}"
        row = {"what": title, "ours": round(value, 3), "unit": "ms of CPU", "peer": f"log of {values[0][0]}"}
        measured.append(row | {"theirs": round(base, 3), "ratio": round(value / base, 2)})
    return measured


def _folder(directory: Path, size: int) -> dict[str, float]:
    found = _verified(directory, size) if size <= VERIFIED else {}
    found["in a folder, open"] = _time(lambda: TileLog(directory, SIGNER).close(), OPENS)
    with TileLog(directory, SIGNER) as log:
        found |= {f"in a folder, {what}": value for what, value in _log(log, size).items()}
    return found


def _verified(directory: Path, size: int) -> dict[str, float]:
    reader, rounds = DirectoryReader(directory), max(1, min(5, 10**5 // size))

    def check() -> None:
        if not verify.verify_log(reader, SIGNER.verifier).ok:
            raise RuntimeError("the log that was written does not verify")

    whole = _time(check, rounds) / size
    with mock.patch.object(verify, "_entry"):
        tree = _time(check, rounds) / size
    return {"verify, an entry": whole, "verify, an entry, tree only": tree}


def _log(log: Any, size: int) -> dict[str, float]:
    numbers = itertools.count(size)
    chosen = random.Random(size)
    return {
        "append": _time(lambda: log.append(entry(next(numbers), detail=_PADDING)), APPENDS),
        "inclusion proof": _time(lambda: log.inclusion_proof(chosen.randrange(size)), PROOFS),
        "consistency proof": _time(lambda: log.consistency_proof(chosen.randrange(1, size)), PROOFS),
    }


def _database(url: str, directory: Path, size: int) -> dict[str, float]:
    store = Store(PostgresqlDatabase(Postgresql(url=url)))
    try:
        migrate(store)
        _fill(url, directory, size)
        found = {"in PostgreSQL, open": _time(lambda: SharedLog(store, SIGNER), OPENS)}
        log = SharedLog(store, SIGNER)
        return found | {f"in PostgreSQL, {what}": value for what, value in _log(log, size).items()}
    finally:
        store.close()


def _write_tiles(directory: Path, size: int) -> None:
    """Write the tiles of level 0 and 1 that `write_log` left out: proofs read them, the writer does not."""
    leaves = [leaf_hash(one) for one in Numbered(size)]
    for level in range(3):
        for index in range(len(leaves) // 256):
            path = directory / tile_path(level, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(leaves[index * 256 : index * 256 + 256]))
        leaves = [tree_root(leaves[at : at + 256]) for at in range(0, len(leaves) - 255, 256)]


def _fill(url: str, directory: Path, size: int) -> None:
    """Write a log into a database from its files; its entries are short, proofs do not read them."""
    import psycopg

    reader = DirectoryReader(directory)
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY log_hashes (level, index, hash) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("int4", "int8", "bytea"))
            for level, index, width in tiles_of(size):
                for at, value in enumerate(split_tile(reader.get(tile_path(level, index, width)), width)):
                    copy.write_row((level, index * TILE_WIDTH + at, value))
        with cursor.copy("COPY log_entries (index, entry) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(("int8", "bytea"))
            for index in range(size):
                copy.write_row((index, b"entry"))
        note = reader.get(CHECKPOINT_PATH)
        cursor.execute("INSERT INTO log_head (id, size, checkpoint) VALUES (1, %s, %s)", (size, note))
        cursor.execute("ANALYZE")


def _time(call: Callable[[], object], rounds: int) -> float:
    """Return the median CPU time of a call, ms."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        call()
        times.append(1000 * (time.process_time() - begun))
    return statistics.median(times)


@contextlib.contextmanager
def _postgresql() -> Iterator[Postgres | None]:
    """Run a server, or say why there is none."""
    if binaries() is None:
        print("Not measured in PostgreSQL, which is not installed", file=sys.stderr, flush=True)
        yield None
        return
    with Postgres() as server:
        yield server


if __name__ == "__main__":
    for row in rows():
        print(row)
