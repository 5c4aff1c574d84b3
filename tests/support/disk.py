# SPDX-License-Identifier: BSD-3-Clause
"""Looks for known bytes in everything that was written to disk since a moment, and in what processes show."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_PIECE = 8 << 20
# Not on any disk: what the kernel makes up. Shared memory in /dev/shm is looked at.
_NOT_DISK = ("/proc", "/sys", "/dev")


def forms_of(secret: bytes) -> tuple[bytes, ...]:
    """Return the forms in which bytes could lie on a disk: raw, hex, base64 at each alignment, UTF-16."""
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for shift in range(3):
        # Without the characters that depend on what stands before and behind.
        text = base64.b64encode(bytes(shift) + secret)
        inside = text[4 if shift else 0 : len(text) // 4 * 4 - 4]
        found += [inside, inside.translate(bytes.maketrans(b"+/", b"-_"))]
    if secret.isascii():
        found += [secret.decode().encode("utf-16-le"), secret.decode().encode("utf-16-be")]
    return tuple(dict.fromkeys(form for form in found if len(form) >= 12))


class Seeker:
    """Looks for some secrets in all their forms.

    Args:
        secrets: What to look for, by name.
    """

    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._forms = [(name, form) for name, secret in secrets.items() for form in forms_of(secret)]
        self._overlap = max(len(form) for _, form in self._forms) - 1

    def find(self, data: bytes | bytearray) -> set[str]:
        """Return the names of the secrets that are in some bytes."""
        return {name for name, form in self._forms if form in data}

    def find_in_file(self, path: Path) -> set[str]:
        """Return the names of the secrets that are in a file; one that is gone or unreadable holds none."""
        found: set[str] = set()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return found
        try:
            for data in _pieces(fd, self._overlap):
                found |= self.find(data)
        except OSError:
            pass
        finally:
            os.close(fd)
        return found

    def find_since(self, moment: float, *, aside: Iterable[Path] = ()) -> tuple[int, dict[str, set[str]]]:
        """Look at every file of the file system that was made, written or renamed since a moment.

        Args:
            moment: Seconds since the epoch.
            aside: Directories that are not looked at.

        Returns:
            How many files were looked at, and what was found where.
        """
        count, found = 0, {}
        for path in files_since(moment, aside=aside):
            count += 1
            names = self.find_in_file(path)
            if names:
                found[str(path)] = names
        return count, found

    def find_in_processes(self) -> dict[str, set[str]]:
        """Look at the arguments and the environment of every process but this one."""
        found = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            for part in ("cmdline", "environ"):
                try:
                    names = self.find((process / part).read_bytes())
                except OSError:
                    continue
                if names:
                    found[f"{process}/{part}"] = names
        return found

    def find_in_open_files(self, pid: int) -> dict[str, set[str]]:
        """Look at the files of a disk that a process holds open although they have no name any more."""
        found = {}
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
                # Shared memory has no name either, and lies on no disk.
                if not target.endswith(" (deleted)") or target.startswith(("/memfd:", "/dev/")):
                    continue
                with link.open("rb") as stream:
                    names = self.find(stream.read())
            except OSError:
                continue
            if names:
                found[f"{link} -> {target}"] = names
        return found


def files_since(moment: float, *, aside: Iterable[Path] = ()) -> Iterator[Path]:
    """Yield the regular files that were made, written or renamed since a moment."""
    passed = {*_NOT_DISK, *(str(path) for path in aside)}
    for root in ("/", "/dev/shm"):
        for folder, directories, names in os.walk(root):
            directories[:] = [one for one in directories if f"{folder.rstrip('/')}/{one}" not in passed]
            for name in names:
                path = Path(folder, name)
                try:
                    status = path.lstat()
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and max(status.st_mtime, status.st_ctime) >= moment:
                    yield path


def _pieces(fd: int, overlap: int) -> Iterator[bytearray]:
    """Yield a file's data, each piece beginning with the end of the one before; holes are passed over."""
    size, start, before = os.fstat(fd).st_size, 0, b""
    while start < size:
        try:
            data_start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:
            return
        if data_start > start:
            start, before = data_start, b""
        read = os.pread(fd, _PIECE, start)
        if not read:
            return
        yield bytearray(before + read)
        before, start = read[-overlap:], start + len(read)
