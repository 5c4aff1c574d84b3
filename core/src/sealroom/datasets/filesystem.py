# SPDX-License-Identifier: BSD-3-Clause
"""`sealed://dataset/file` for everything that speaks fsspec: pandas, pyarrow, zarr and others. Read-only."""

from __future__ import annotations

from typing import Any

from fsspec.spec import AbstractFileSystem

from sealroom.datasets.api import default_client
from sealroom.datasets.file import SealedFile


class SealedFileSystem(AbstractFileSystem):
    """The unlocked datasets of this notebook server; keys stay in the server."""

    protocol = "sealed"
    root_marker = ""

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List datasets, or the files and directories of one.

        Raises:
            AccessDeniedError: The dataset is locked, or access to it has ended.
            FileNotFoundError: There is no such file or directory.
        """
        found = self._list(self._strip_protocol(path).strip("/"))
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a file's or directory's name, size and type."""
        path = self._strip_protocol(path).strip("/")
        for entry in self._list(path):
            if entry["name"] == path and entry["type"] == "file":
                return entry
        return _directory(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """Return a file's bytes, or a range of them."""
        file = self._open(path)
        first, last, _step = slice(start, end).indices(file.size)
        return file.pread(first, max(0, last - first))

    def _open(self, path: str, mode: str = "rb", **_: Any) -> SealedFile:
        if mode != "rb":
            raise NotImplementedError("sealed datasets are read-only")
        path = self._strip_protocol(path).strip("/")
        entry = self.info(path)
        if entry["type"] != "file":
            raise IsADirectoryError(path)
        dataset, _sep, name = path.partition("/")
        return SealedFile(default_client(), dataset, name, entry["size"])

    def _list(self, path: str) -> list[dict[str, Any]]:
        if not path:
            return [_directory(info.id) for info in default_client().datasets()]
        dataset, _, inside = path.partition("/")
        entries: dict[str, dict[str, Any]] = {}
        for file in default_client().files(dataset):
            if file.name == inside:
                return [_file(f"{dataset}/{file.name}", file.size)]
            rest = file.name.removeprefix(f"{inside}/") if inside else file.name
            if inside and rest == file.name:
                continue
            first, _, below = rest.partition("/")
            name = f"{path}/{first}"
            entries[name] = _directory(name) if below else _file(name, file.size)
        if not entries:
            raise FileNotFoundError(path)
        return list(entries.values())


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "size": 0, "type": "directory"}


def _file(name: str, size: int) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file"}
