# SPDX-License-Identifier: BSD-3-Clause
"""The file system's methods with `await`: each does what the other does, in a thread; see `filesystem`.

Small ranges that are asked for in the same turn of the event loop, as zarr asks for its chunks, travel in one
request.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sealroom.datasets.api import default_client
from sealroom.datasets.file import SealedFile
from sealroom.datasets.filesystem_ranges import RangeReader
from sealroom.datasets.listing import Entry, Listings

# Ranges up to this are gathered; more would wait for each other.
_SMALL = 1 << 20


class AwaitedMethods:
    """What `SealedFileSystem` has besides, under the names that fsspec gives it."""

    # The methods that are awaited here, of fsspec's class and of `SealedFileSystem`.
    ls: Any
    info: Any
    exists: Any
    isfile: Any
    isdir: Any
    walk: Any
    find: Any
    glob: Any
    du: Any
    expand_path: Any
    cat: Any
    cat_ranges: Any
    cat_file: Any
    get: Any
    get_file: Any
    put_file: Any
    pipe_file: Any
    rm: Any
    rm_file: Any
    cp_file: Any
    mkdir: Any
    makedirs: Any
    _open: Any
    _strip_protocol: Any
    _listings: Listings
    _ranges: RangeReader

    def _prepare(self) -> None:
        self._gathered: weakref.WeakKeyDictionary[Any, list[_Waiting]] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open_async(self, path: str, mode: str = "rb", **_: Any) -> SealedStream:
        """Open a file for reading with `await`.

        Raises:
            NotImplementedError: The mode is another than `rb`.
        """
        if mode != "rb":
            raise NotImplementedError("sealed files are opened for reading only, with mode 'rb'")
        return SealedStream(await asyncio.to_thread(self._open, path))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        return await asyncio.to_thread(self.ls, path, detail=detail, **kwargs)

    async def _info(self, path: str, **_: Any) -> Entry:
        return await asyncio.to_thread(self.info, path)

    async def _exists(self, path: str, **_: Any) -> bool:
        return await asyncio.to_thread(self.exists, path)

    async def _isfile(self, path: str) -> bool:
        return await asyncio.to_thread(self.isfile, path)

    async def _isdir(self, path: str) -> bool:
        return await asyncio.to_thread(self.isdir, path)

    async def _walk(self, *args: Any, **kwargs: Any) -> AsyncIterator[tuple[str, Any, Any]]:
        for found in await asyncio.to_thread(lambda: list(self.walk(*args, **kwargs))):
            yield found

    async def _find(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self.find, *args, **kwargs)

    async def _glob(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self.glob, *args, **kwargs)

    async def _du(self, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self.du, *args, **kwargs)

    async def _expand_path(self, *args: Any, **kwargs: Any) -> list[str]:
        found: list[str] = await asyncio.to_thread(self.expand_path, *args, **kwargs)
        return found

    async def _cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        return await asyncio.to_thread(self.cat, path, recursive, on_error)

    async def _cat_ranges(
        self,
        paths: Sequence[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        return await asyncio.to_thread(self.cat_ranges, paths, starts, ends, max_gap, on_error)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        loop = asyncio.get_running_loop()
        if not self._is_small(path, start, end):
            return await asyncio.to_thread(self.cat_file, path, start, end)
        one = _Waiting(path, start, end, loop.create_future())
        others = self._gathered.setdefault(loop, [])
        others.append(one)
        if len(others) == 1:
            loop.call_soon(self._ask, loop)
        return bytes(await one.answer)

    async def _get(self, *args: Any, batch_size: int | None = None, **kwargs: Any) -> Any:
        return await asyncio.to_thread(self.get, *args, **kwargs)

    async def _get_file(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self.get_file, *args, **kwargs)

    async def _put_file(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self.put_file, *args, **kwargs)

    async def _pipe_file(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self.pipe_file, *args, **kwargs)

    async def _rm(
        self, path: Any, recursive: bool = False, batch_size: int | None = None, maxdepth: int | None = None
    ) -> None:
        await asyncio.to_thread(self.rm, path, recursive, maxdepth)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await asyncio.to_thread(self.rm_file, path)

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        await asyncio.to_thread(self.cp_file, path1, path2)

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self.mkdir(path)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.makedirs(path)

    def _is_small(self, path: str, start: int | None, end: int | None) -> bool:
        """Tell whether a range is known to be small; asks nobody."""
        dataset, _, name = self._strip_protocol(path).partition("/")
        listing = self._listings.known(default_client(), dataset)
        size = None if listing is None else listing.sizes.get(name)
        return size is not None and len(range(*slice(start, end).indices(size))) <= _SMALL

    def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ask for what was gathered in this turn of the loop."""
        gathered = self._gathered.pop(loop, [])
        task = loop.create_task(self._answer(gathered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, gathered: list[_Waiting]) -> None:
        wanted = [(self._strip_protocol(one.path), one.start, one.end) for one in gathered]
        answers: Sequence[Any]
        try:
            answers = await asyncio.to_thread(self._ranges.read, wanted)
        except BaseException as error:  # noqa: BLE001 - told to everybody who waits
            answers = [error] * len(gathered)
        for one, answer in zip(gathered, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, BaseException):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


class SealedStream:
    """A sealed file that is read with `await`.

    Args:
        file: The opened file.
    """

    def __init__(self, file: SealedFile) -> None:
        self.size = file.size
        self._file = file

    async def read(self, size: int = -1) -> bytes:
        """Return so many bytes from the position on; the rest of the file without a number."""
        return await asyncio.to_thread(self._file.read, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()

    async def close(self) -> None:
        """Close the file."""
        self._file.close()

    async def __aenter__(self) -> SealedStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A range that a coroutine waits for."""

    path: str
    start: int | None
    end: int | None
    answer: asyncio.Future[bytes]
