# SPDX-License-Identifier: BSD-3-Clause
"""`sealed://dataset/file` for everything that speaks fsspec: pandas, pyarrow, zarr, dask and others.

Keys stay in the notebook server: this asks its agent for ranges (see `agent`). Datasets are read-only; what
is written to `sealed://workspace/` is sealed on its way to the disk (see `writer`) and can be read back.

Invariants:

- Nothing is written to disk unless somebody says `allow_plain_copies=True`. fsspec's `filecache::` and
  `simplecache::` keep plain copies, so they are refused too.
- "No access" is never taken for "not there": zarr would fill the gap with zeros.
- Names and sizes are remembered for some seconds, data are not. A file that turns out to have another size
  than was remembered is asked for again. Of results nothing is remembered: they may be replaced.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from fsspec.asyn import AsyncFileSystem, get_loop
from fsspec.spec import AbstractFileSystem

from sealroom.datasets.api import default_client, open_file
from sealroom.datasets.filesystem_async import AwaitedMethods, SealedStream
from sealroom.datasets.filesystem_ranges import RangeReader, is_a_directory, not_found
from sealroom.datasets.listing import WORKSPACE, Entry, Listings, directory_entry, file_entry
from sealroom.errors import AccessDeniedError, ConfigurationError, Error

LISTING_SECONDS = 10.0
"""How long names and sizes are remembered where nothing else is said."""

_COPIED = 4 << 20


class SealedFileSystem(AwaitedMethods, AsyncFileSystem):
    """The unlocked datasets of this notebook server, to be read, and its workspace, to be written to.

    Its asynchronous methods (`_cat_file`, `_ls`, …) do what the others do, in a thread; small ranges that are
    asked for at the same time travel in one request. Instances work in several threads, after `fork`, and
    pickled in other processes of the same notebook server.

    Args:
        allow_plain_copies: Whether `get`, `get_file` and `download` may write plain copies to the disk.
            They are refused otherwise: what is sealed would lie there for whoever reads the disk later.
        use_listings_cache: Whether names and sizes are remembered at all.
        listings_expiry_time: For how many seconds; `ls(…, refresh=True)` and `invalidate_cache` do not wait
            for their end.
        storage_options: What fsspec itself knows: `asynchronous`, `loop`, `batch_size`,
            `skip_instance_cache`.
    """

    protocol = "sealed"
    root_marker = ""
    # The methods of `AbstractFileSystem` are used as they are: they need no event loop, so they work after
    # `fork` and in a thread that has one.
    mirror_sync_methods = False

    def __init__(
        self,
        *args: Any,
        asynchronous: bool = False,
        loop: Any = None,
        batch_size: int | None = None,
        allow_plain_copies: bool = False,
        use_listings_cache: bool = True,
        listings_expiry_time: float | None = LISTING_SECONDS,
        **storage_options: Any,
    ) -> None:
        # Not the constructor of `AsyncFileSystem`: it starts a thread, whether anybody needs it or not.
        AbstractFileSystem.__init__(self, *args, use_listings_cache=False, **storage_options)
        self.asynchronous = asynchronous
        self.batch_size = batch_size
        self.allow_plain_copies = allow_plain_copies
        self._loop = loop
        seconds = float("inf") if listings_expiry_time is None else listings_expiry_time
        self._listings = Listings(seconds if use_listings_cache else 0.0)
        self._ranges = RangeReader(self._listings)
        self._prepare()

    @property
    def loop(self) -> Any:
        """The event loop that fsspec runs coroutines in where the caller has none."""
        return self._loop or get_loop()

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return super()._strip_protocol(path).strip("/")

    # --- names ---

    def ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        """List datasets, or the files and directories of one.

        Args:
            path: Empty, a dataset, or a file or directory of one.
            detail: Names, sizes and types; names alone otherwise. Datasets have a `state` too.
            refresh: Ask the notebook server even if the answer is remembered.

        Raises:
            AccessDeniedError: The dataset is locked, or access to it has ended.
            FileNotFoundError: There is no such dataset, file or directory.
        """
        path = self._strip_protocol(path)
        found = self._entries(path, refresh) if path else self._datasets()
        return [dict(entry) for entry in found] if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> Entry:
        """Return a file's or directory's name, size (bytes) and type.

        Raises:
            AccessDeniedError: It is below a dataset that is locked.
            FileNotFoundError: There is no such dataset, file or directory.
        """
        path = self._strip_protocol(path)
        dataset, _sep, inside = path.partition("/")
        if not inside and not self._is_unlocked(dataset):
            return directory_entry(path)
        listing = self._ranges.listing(dataset)
        if inside in listing.sizes:
            return file_entry(path, listing.sizes[inside])
        if inside in listing.directories:
            return directory_entry(path)
        raise not_found(path)

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether there is such a dataset, file or directory.

        Raises:
            AccessDeniedError: It is below a dataset that is locked, so nobody can tell.
        """
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def isfile(self, path: str) -> bool:
        """Tell whether this is a file.

        Raises:
            AccessDeniedError: It is below a dataset that is locked, so nobody can tell.
        """
        try:
            return bool(self.info(path)["type"] == "file")
        except FileNotFoundError:
            return False

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield directories with what is in them, as `os.walk` does.

        From the root, datasets that are locked are named and not entered; `on_error="raise"` enters them.

        Raises:
            AccessDeniedError: The dataset is locked.
        """
        if self._strip_protocol(path) or on_error == "raise":
            yield from super().walk(path, maxdepth, topdown, on_error, **kwargs)
            return
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        found = self._datasets()
        opened = [entry["name"] for entry in found if entry["state"] == "unlocked"]
        directories: Any = [entry["name"] for entry in found]
        files: Any = []
        if kwargs.get("detail"):
            directories, files = dict(zip(directories, found, strict=True)), {}
        here = "", directories, files
        if topdown:
            yield here
        for name in opened:
            # What the caller took out is not entered.
            if name in directories and (maxdepth is None or maxdepth > 1):
                deeper = None if maxdepth is None else maxdepth - 1
                yield from super().walk(name, deeper, topdown, on_error, **kwargs)
        if not topdown:
            yield here

    def ukey(self, path: str) -> str:
        """Return what changes when the file does: a digest (hex) over the signed manifest and its name.

        Results have none: theirs is another each time.
        """
        entry = self.info(path)
        dataset = entry["name"].partition("/")[0]
        if dataset == WORKSPACE:
            return secrets.token_hex(32)
        manifest = default_client().record(dataset).manifest_sha256 if dataset else ""
        return hashlib.sha256(repr((manifest, sorted(entry.items()))).encode()).hexdigest()

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(self.ukey(path), 16)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget names and sizes, of one dataset or of all."""
        self._listings.forget(self._strip_protocol(path).partition("/")[0] if path else None)
        super().invalidate_cache(path)

    # --- data ---

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a file's bytes, or the range of them that `data[start:end]` would be.

        Raises:
            AccessDeniedError: The dataset is locked, or access to it has ended.
            FileNotFoundError: There is no such file.
            IntegrityError: The sealed file was changed, cut or replaced.
        """
        (found,) = self.cat_ranges([path], [start], [end])
        if isinstance(found, BaseException):
            raise found
        return bytes(found)

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: Iterable[int | None] | int | None,
        ends: Iterable[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Return ranges of files with one request for many of them.

        Args:
            paths: The file of each range.
            starts: Where each begins, as in a slice; one for all is possible.
            ends: Where each ends, as in a slice; one for all is possible.
            max_gap: Not needed: ranges that are near each other cost no request of their own.
            on_error: `return` puts what went wrong in the place of the bytes, `raise` raises the first.

        Raises:
            NetworkError: The notebook server does not answer.
            ValueError: There are not as many starts and ends as paths.
        """
        if isinstance(paths, (str, os.PathLike)):
            raise TypeError("paths is a list")
        wanted = list(zip(paths, _each(starts, len(paths)), _each(ends, len(paths)), strict=True))
        answers = self._ranges.read([(self._strip_protocol(path), start, end) for path, start, end in wanted])
        if on_error != "return":
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
        return answers

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """Return the bytes of a file, or a dictionary of them for several (a list, a pattern, a directory).

        Args:
            path: One path or pattern, or a list of them.
            recursive: Take all files of the directories.
            on_error: `raise`, `omit` the file, or `return` what went wrong in its place.
        """
        paths = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and paths == [self._strip_protocol(path)] and not recursive:
            return self.cat_file(paths[0])
        if recursive:
            paths = [one for one in paths if not self.isdir(one)]
        answers = self.cat_ranges(paths, None, None, on_error="raise" if on_error == "raise" else "return")
        found = zip(paths, answers, strict=True)
        return {
            name: data for name, data in found if on_error != "omit" or not isinstance(data, BaseException)
        }

    def get(
        self, rpath: Any, lpath: Any, *args: Any, allow_plain_copies: bool | None = None, **kwargs: Any
    ) -> Any:
        """Write plain copies of files to the disk, if that was allowed; see `get_file`."""
        self._check_plain_copies(rpath, allow_plain_copies)
        return super().get(rpath, lpath, *args, allow_plain_copies=True, **kwargs)

    def get_file(
        self, rpath: str, lpath: Any, *args: Any, allow_plain_copies: bool | None = None, **kwargs: Any
    ) -> None:
        """Write a plain copy of a file to the disk, if that was allowed.

        A sealed file protects what is in it wherever its bytes go; a copy does not. The server's disk, its
        snapshots and its backups would hold the data after access has ended. Most libraries need no copy:
        they take `fs.open(path)` or `sealroom.open(path)`. Those that insist on a name can have one in
        memory: `sealroom.datasets.genomics.in_memory`.

        Args:
            rpath: The sealed file.
            lpath: Where the copy goes.
            args: What fsspec's `get_file` takes.
            allow_plain_copies: True allows it for this call, False forbids it; None leaves it to the option
                of the same name of the file system.
            kwargs: What fsspec's `get_file` takes.

        Raises:
            ConfigurationError: It was not allowed.
        """
        self._check_plain_copies(rpath, allow_plain_copies)
        super().get_file(rpath, lpath, *args, **kwargs)

    def _open(self, path: str, mode: str = "rb", autocommit: bool = True, **_: Any) -> Any:
        path = self._strip_protocol(path)
        if mode != "rb":
            return self._create(path, mode, autocommit)
        entry = self.info(path)
        if entry["type"] != "file":
            raise is_a_directory(path)
        dataset, _sep, name = path.partition("/")
        return open_file(default_client(), dataset, name)

    # --- what the workspace takes, and a dataset refuses ---

    def rm_file(self, path: str) -> None:
        """Remove a result.

        Raises:
            FileNotFoundError: There is no such result.
            NotImplementedError: The path is not in the workspace: datasets are read-only.
        """
        path = self._in_workspace(path)
        if self.info(path)["type"] == "directory":
            raise is_a_directory(path)
        default_client().remove(path.partition("/")[2])

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove results; see `rm_file`. Directories go with the last result in them."""
        for one in path if isinstance(path, list) else [path]:
            self._in_workspace(one)
        for one in self.expand_path(path, recursive=recursive, maxdepth=maxdepth):
            if not recursive or self.isfile(one):
                self.rm_file(one)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a sealed file into the workspace; the copy is sealed too.

        Raises:
            NotImplementedError: The target is not in the workspace: datasets are read-only.
        """
        path2 = self._in_workspace(path2)
        if not self.isdir(path1):
            with self.open(path1) as source, self.open(path2, "wb") as target:
                shutil.copyfileobj(source, target, _COPIED)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Do nothing in the workspace, where directories come with their files; refuse elsewhere."""
        self._in_workspace(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing in the workspace, where directories come with their files; refuse elsewhere."""
        self._in_workspace(path)

    def rmdir(self, path: str) -> None:
        """Do nothing in the workspace, where directories go with their files; refuse elsewhere."""
        self._in_workspace(path)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty result; refuse outside of the workspace."""
        if not truncate:
            raise NotImplementedError("sealed files have no times to change")
        self._create(self._in_workspace(path), "wb", autocommit=True).close()

    # --- how ---

    def _datasets(self) -> list[Entry]:
        client = default_client()
        found = [{**directory_entry(info.id), "state": info.state} for info in client.datasets()]
        # An older notebook server has no workspace, and one whose trust was lost shows none.
        with contextlib.suppress(Error):
            if client.files(WORKSPACE):
                found.append({**directory_entry(WORKSPACE), "state": "unlocked"})
        return found

    def _in_workspace(self, path: Any) -> str:
        """Return a path without its protocol if it is in the workspace."""
        found = str(self._strip_protocol(path))
        if found.partition("/")[0] != WORKSPACE:
            raise _read_only(found)
        return found

    def _is_unlocked(self, dataset: str) -> bool:
        """Tell a dataset that is unlocked from one that is only on offer; the root is neither."""
        if not dataset:
            return False
        try:
            self._ranges.listing(dataset)
        except AccessDeniedError:
            return False
        return True

    def _entries(self, path: str, refresh: bool) -> list[Entry]:
        dataset, _, inside = path.partition("/")
        listing = self._ranges.listing(dataset, refresh=refresh)
        if inside in listing.sizes:
            return [file_entry(path, listing.sizes[inside])]
        if inside not in listing.directories:
            raise not_found(path)
        return listing.directories[inside]

    def _check_plain_copies(self, path: Any, allowed: bool | None) -> None:
        if self.allow_plain_copies if allowed is None else allowed:
            return
        first = path[0] if isinstance(path, list) and path else path
        raise ConfigurationError(
            f"A plain copy of {str(first)[:200]} would lie on the disk. Read it in place instead, with "
            "sealroom.open or fs.open; if you need the copy, say allow_plain_copies=True.",
            advice="Libraries that insist on a file's name: docs/howto/read-sealed-files.md.",
        )

    def _create(self, path: str, mode: str, autocommit: bool) -> Any:
        if path.partition("/")[0] != WORKSPACE or path == WORKSPACE:
            raise _read_only(path)
        if mode not in ("wb", "xb") or not autocommit:
            raise NotImplementedError(
                "A sealed file is written once, from its beginning: open it with mode 'wb' or 'xb', "
                "outside of a transaction."
            )
        if mode == "xb" and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"sealed://{path}")
        # As everywhere in fsspec, `wb` takes the place of what was there; here only when it is whole.
        writer = import_module("sealroom.datasets.writer")
        return writer.create(path, mode, overwrite=mode == "wb")


def _each(value: Any, count: int) -> list[int | None]:
    values = [value] * count if value is None or isinstance(value, int) else list(value)
    if len(values) != count:
        raise ValueError("there are not as many starts and ends as paths")
    return values


def _read_only(path: str) -> NotImplementedError:
    dataset = path.partition("/")[0]
    what = f"The dataset {dataset} is read-only" if dataset else "Datasets are not made here"
    return NotImplementedError(f"{what}: write results to sealed://{WORKSPACE}/… instead.")


__all__ = ["LISTING_SECONDS", "SealedFileSystem", "SealedStream"]
