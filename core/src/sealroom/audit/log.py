# SPDX-License-Identifier: BSD-3-Clause
"""The audit log on a file system: one writer that loses nothing it has signed, and a reader.

Layout: exactly C2SP tlog-tiles under one directory, so that a web server or a copy of the folder is a log;
beside it `evidence/<sha256>` and the writer's `lock`. A partial tile or bundle grows in place and is renamed
to its new width, so an entry costs its own bytes, not those of its bundle.

Durability: `append` returns after the bundle and the tiles were fsynced and then the checkpoint was replaced
atomically and fsynced. Whatever a kill or a power cut leaves behind, `TileLog` at its start cuts every file
back to what the checkpoint covers: an entry is in the log exactly if a checkpoint that covers it was signed.
The bytes that a checkpoint covers were durable before it, so they need no repair; tiles that are lost all the
same are made again from the entries, and entries that are lost are an error that names them.

Invariants:

- One process writes (`flock`), one thread at a time.
- A checkpoint is signed only for a tree that continues the last one.
- After a failed append the log is as it was before: the next call recovers first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from sealroom.audit.note import Checkpoint, Signer
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    HASH_SIZE,
    TILE_HEIGHT,
    TILE_WIDTH,
    Frontier,
    Tiles,
    bundle_path,
    bundles_of,
    encode_entry,
    leaf_hash,
    read_bundle,
    split_tile,
    tile_path,
    tiles_of,
    tree_root,
)
from sealroom.errors import Error, FormatError, IntegrityError, StorageError

_LOOKS = 5
_BETWEEN_LOOKS = 0.001
"""Seconds."""
_LOG_PATH = re.compile(r"(checkpoint|tile/(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?)")
_EVIDENCE_PATH = re.compile(r"evidence/[0-9a-f]{64}")
_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


def is_log_path(path: str) -> bool:
    """Tell whether a path names a file of a log; nothing else may be asked of a reader."""
    return bool(_LOG_PATH.fullmatch(path) or _EVIDENCE_PATH.fullmatch(path))


class DirectoryReader:
    """Reads a log from a directory, also while another process writes it."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)

    def get(self, path: str) -> bytes:
        """Return a file's bytes; a partial tile or bundle also from one that has grown since.

        Raises:
            StorageError: It is not there, or the path is none of a log's.
        """
        if not is_log_path(path):
            raise StorageError("This path names no file of an audit log.")
        full, _, width = path.partition(".p/")
        try:
            if not width:
                return (self._directory / path).read_bytes()
            return self._partial(full, int(width))
        except OSError as error:
            raise _missing(path, error) from error

    def _partial(self, full: str, width: int) -> bytes:
        entries = full.startswith("tile/entries/")
        # The writer may rename while we look: another look finds what it was renamed to. A directory that
        # does not change has no writer, and what is not in it is missing.
        same, before = 0, None
        while same < _LOOKS:
            candidates = _candidates(self._directory / full, width)
            for candidate in candidates:
                with contextlib.suppress(FileNotFoundError):
                    data = candidate.read_bytes()
                    return data[: _cut(data, width, entries=entries)]
            same, before = (same + 1 if candidates == before else 0), candidates
            time.sleep(_BETWEEN_LOOKS)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _candidates(full: Path, width: int) -> list[Path]:
    """Return the files that may hold the first `width` items, the narrowest first, the full one last."""
    partial = full.with_name(full.name + ".p")
    with contextlib.suppress(OSError):
        widths = sorted(int(item.name) for item in partial.iterdir() if item.name.isdigit())
        return [*(partial / str(found) for found in widths if found >= width), full]
    return [full]


def _cut(data: bytes, width: int, *, entries: bool) -> int:
    """Return how many bytes the first `width` hashes or entries have.

    Raises:
        FormatError: There are fewer.
    """
    end = 0 if entries else width * HASH_SIZE
    for _ in range(width if entries else 0):
        end += 2 + int.from_bytes(data[end : end + 2])
    if end > len(data):
        raise FormatError(f"The tile or bundle has fewer than {width} items.", field="tile")
    return end


def _missing(path: str, error: OSError) -> StorageError:
    return StorageError(
        f"The audit log has no {path}: {error.strerror or error}.",
        advice="If files were lost, restore the audit directory from a copy and check it with a checkpoint.",
    )


class TileLog:
    """The one writer of a log directory. Use it as a context manager, or `close` it."""

    def __init__(self, directory: Path, signer: Signer) -> None:
        """Open or create the log and recover from whatever the last writer was in the middle of.

        Raises:
            StorageError: Another process writes it, or the file system refuses.
            SignatureError: Its checkpoint is of another key.
            IntegrityError: Entries that the checkpoint covers are missing or changed.
        """
        self._directory = Path(directory)
        self._signer = signer
        self._mutex = threading.RLock()
        self._frontier = Frontier()
        self._dirty = False
        self._reader = DirectoryReader(self._directory)
        with _storage("open the audit log"):
            self._directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self._directory / "lock", flags, _FILE_MODE)
        try:
            self._acquire()
            self._recover()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock; closing twice does nothing."""
        with self._mutex:
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._frontier.size

    def append(self, entry: bytes) -> int:
        """Append an entry and return its index once it is durable.

        Raises:
            FormatError: The entry is longer than 65535 bytes.
            StorageError: The file system refuses. The log is as it was before; only where the very last step
                failed, which is syncing the directory of the new checkpoint, it may have the entry.
        """
        encoded = encode_entry(entry)
        with self._mutex:
            if self._lock < 0:
                raise RuntimeError("the audit log is closed")
            if self._dirty:
                self._recover()
            index = self.size
            frontier = self._frontier.copy()
            frontier.add(leaf_hash(entry))
            self._dirty = True
            with _storage("append to the audit log"):
                self._grow(bundle_path, index, encoded)
                self._grow_tiles(index, leaf_hash(entry))
                self._sign(frontier)
            self._frontier = frontier
            self._dirty = False
            return index

    def get(self, path: str) -> bytes:
        """Return a file of the log, see `DirectoryReader.get`."""
        return self._reader.get(path)

    def entry(self, index: int) -> bytes:
        """Return an entry's bytes."""
        if not 0 <= index < self.size:
            raise ValueError("no such entry")
        return read_bundle(self._reader, index // TILE_WIDTH, self.size)[index % TILE_WIDTH]

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of entries; those that are appended meanwhile are not among them."""
        size = self.size
        stop = size if stop is None else min(stop, size)
        for bundle in range(start // TILE_WIDTH, (stop + TILE_WIDTH - 1) // TILE_WIDTH):
            for offset, entry in enumerate(read_bundle(self._reader, bundle, size)):
                index = bundle * TILE_WIDTH + offset
                if start <= index < stop:
                    yield index, entry

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint of all durable entries."""
        return self.get(CHECKPOINT_PATH)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """Return the proof that an entry is in the tree of the current size, or of an older one."""
        return Tiles(self._reader, self.size if size is None else size).inclusion_proof(index)

    def consistency_proof(self, older: int) -> list[bytes]:
        """Return the proof that the log has only grown since it had `older` entries."""
        return Tiles(self._reader, self.size).consistency_proof(older)

    # --- writing ---

    def _grow(self, path: Callable[[int, int], str], index: int, data: bytes) -> None:
        """Append to the partial file that item `index` belongs to, and rename it to its new width."""
        number, width = divmod(index, TILE_WIDTH)
        new = self._directory / path(number, width + 1)
        if width == 0:
            self._make_directory(new.parent)
            _write(new, data, os.O_CREAT | os.O_TRUNC)
            _sync_directory(new.parent)
            return
        old = self._directory / path(number, width)
        _write(old, data, os.O_APPEND)
        old.rename(new)
        if width + 1 == TILE_WIDTH:
            _sync_directory(new.parent)
            old.parent.rmdir()

    def _grow_tiles(self, index: int, leaf: bytes) -> None:
        """Add a leaf's hash, and the hash of each tile that it fills one level up."""
        level, node = 0, leaf
        while True:
            self._grow(_level_path(level), index, node)
            index, rest = divmod(index, TILE_WIDTH)
            if rest != TILE_WIDTH - 1:
                return
            full = (self._directory / tile_path(level, index)).read_bytes()
            node = tree_root(split_tile(full, TILE_WIDTH))
            level += 1

    def _sign(self, frontier: Frontier) -> None:
        checkpoint = Checkpoint(self._signer.name, frontier.size, frontier.root())
        _replace(self._directory / CHECKPOINT_PATH, checkpoint.sign(self._signer))

    def _make_directory(self, path: Path) -> None:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(mode=_DIRECTORY_MODE)
            _sync_directory(directory.parent)

    # --- recovery ---

    def _acquire(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"Another process writes the audit log in {self._directory}.",
                advice="Stop the other broker, or give this one an audit directory of its own.",
            ) from error

    def _recover(self) -> None:
        """Bring the files to what the checkpoint covers, and check the right edge against its root."""
        checkpoint = self._last_checkpoint()
        with _storage("recover the audit log"):
            # A checkpoint that was signed and not put in place was never shown to anybody, and must not be.
            _temporary(self._directory / CHECKPOINT_PATH).unlink(missing_ok=True)
            self._settle(checkpoint.size)
            try:
                self._check_edge(checkpoint)
            except Error:
                self._rebuild_tiles(checkpoint)
        self._frontier = Tiles(self._reader, checkpoint.size).frontier()
        self._dirty = False

    def _last_checkpoint(self) -> Checkpoint:
        path = self._directory / CHECKPOINT_PATH
        if path.exists():
            return Checkpoint.open(self._reader.get(CHECKPOINT_PATH), self._signer.verifier)
        if (self._directory / "tile").exists():
            # The empty log's checkpoint is written before the first entry, so this one was lost.
            raise IntegrityError(
                "The audit log has entries and no checkpoint.",
                advice="Restore the file `checkpoint` of the audit directory from a copy.",
            )
        empty = Checkpoint(self._signer.name, 0, Frontier().root())
        with _storage("create the audit log"):
            _replace(path, empty.sign(self._signer))
        return empty

    def _settle(self, size: int) -> None:
        """Give the last bundle, and the last tile of each level, the width that the size says."""
        _settle_last(self._directory, bundle_path, size, entries=True)
        level = 0
        while level == 0 or size >> TILE_HEIGHT * level:
            _settle_last(self._directory, _level_path(level), size >> TILE_HEIGHT * level, entries=False)
            level += 1
        # An append that fills the level's first tile starts a level that the checkpoint does not know yet.
        _settle_last(self._directory, _level_path(level), 0, entries=False)

    def _check_edge(self, checkpoint: Checkpoint) -> None:
        """Check the root that the tiles give, and the last bundle's entries against the last tile."""
        tiles = Tiles(self._reader, checkpoint.size)
        if tiles.root() != checkpoint.root:
            raise IntegrityError("The audit log's tiles do not give the signed root.")
        if checkpoint.size:
            last = (checkpoint.size - 1) // TILE_WIDTH
            leaves = [leaf_hash(entry) for entry in read_bundle(self._reader, last, checkpoint.size)]
            if leaves != tiles.hashes(0, last):
                raise IntegrityError("The audit log's last entries do not give its last tile.")

    def _rebuild_tiles(self, checkpoint: Checkpoint) -> None:
        """Make all tiles again from the entries, if the entries give the signed root.

        Raises:
            IntegrityError: They do not.
        """
        levels: list[list[bytes]] = [[]]
        for number, _ in bundles_of(checkpoint.size):
            levels[0] += map(leaf_hash, read_bundle(self._reader, number, checkpoint.size))
        if tree_root(levels[0]) != checkpoint.root:
            raise IntegrityError(
                "The entries of the audit log do not give the root that was signed.",
                advice="Restore the audit directory from a copy and run `sealroom audit verify`.",
            )
        while len(levels[-1]) >= TILE_WIDTH:
            hashes = levels[-1]
            full = range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH)
            levels.append([tree_root(hashes[at : at + TILE_WIDTH]) for at in full])
        for level, index, width in tiles_of(checkpoint.size):
            path = self._directory / tile_path(level, index, width)
            self._make_directory(path.parent)
            _replace(path, b"".join(levels[level][index * TILE_WIDTH :][:width]))


def _level_path(level: int) -> Callable[[int, int], str]:
    def path(index: int, width: int) -> str:
        return tile_path(level, index, width)

    return path


def _settle_last(directory: Path, path: Callable[[int, int], str], items: int, *, entries: bool) -> None:
    """Cut the file after the last full one to the width it should have, and remove what lies beyond.

    The only steps are rename, truncate and unlink: a full disk does not stop them.
    """
    number, width = divmod(items, TILE_WIDTH)
    full = directory / path(number, TILE_WIDTH)
    partial = full.with_name(full.name + ".p")
    found = [*(partial.iterdir() if partial.is_dir() else ()), *([full] if full.exists() else ())]
    if width:
        wanted = directory / path(number, width)
        found.sort(key=lambda file: file != wanted)
        for file in found:
            with contextlib.suppress(FormatError):
                end = _cut(file.read_bytes(), width, entries=entries)
                partial.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
                file.rename(wanted)
                _truncate(wanted, end)
                _sync_directory(partial)
                _sync_directory(full.parent)
                break
        found = [file for file in found if file != wanted]
    for file in found:
        file.unlink(missing_ok=True)
    if not width and partial.is_dir():
        partial.rmdir()


def _truncate(path: Path, size: int) -> None:
    if path.stat().st_size != size:
        os.truncate(path, size)
        _write(path, b"", 0)


@contextlib.contextmanager
def _storage(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"Could not {what}: {error.strerror or error}.",
            advice="Check the free space and the permissions of the audit directory.",
        ) from error


def _write(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, _FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    temporary = _temporary(path)
    _write(temporary, data, os.O_CREAT | os.O_TRUNC)
    temporary.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
