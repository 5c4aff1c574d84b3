# SPDX-License-Identifier: BSD-3-Clause
"""Evidence from the kernel's configfs-tsm interface (Linux 6.7 and later).

Documentation/ABI/testing/configfs-tsm: a directory made under `report/` is one request; writing `inblob`
and reading `outblob` gives the report, `auxblob` the certificate table. `generation` counts the writes, so
that a read can tell whether somebody else wrote in between.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Protocol

from sealroom.errors import FormatError, NetworkError, ProtocolError
from sealroom.guest.messages import MAX_TABLE, REPORT_SIZE, read_certificates
from sealroom.guest.provider import GuestEvidence, check_report_data

ROOT = Path("/sys/kernel/config/tsm/report")
PROVIDER = "sev_guest"
"""Content of the file `provider` on SEV-SNP."""


class Files(Protocol):
    """The file operations that the interface needs; a stand-in takes their place in tests."""

    def make(self, path: Path) -> None:
        """Make a directory."""

    def remove(self, path: Path) -> None:
        """Remove a directory, whose attributes go with it."""

    def read(self, path: Path, limit: int) -> bytes:
        """Read a file, at most `limit` bytes and one more."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file in one call."""

    def exists(self, path: Path) -> bool:
        """Tell whether a directory is there and may be written."""


class SystemFiles:
    """The real file operations."""

    def make(self, path: Path) -> None:
        """Make a directory."""
        path.mkdir()

    def remove(self, path: Path) -> None:
        """Remove a directory."""
        path.rmdir()

    def read(self, path: Path, limit: int) -> bytes:
        """Read a file."""
        with path.open("rb") as file:
            return file.read(limit + 1)

    def write(self, path: Path, data: bytes) -> None:
        """Write a file in one call, as binary attributes want it."""
        with path.open("wb", buffering=0) as file:
            file.write(data)

    def exists(self, path: Path) -> bool:
        """Tell whether a directory is there and may be written."""
        return path.is_dir() and os.access(path, os.W_OK)


class ConfigfsProvider:
    """Asks the kernel through configfs-tsm.

    Args:
        root: The directory `tsm/report` of configfs.
        files: File operations.
    """

    name = "configfs-tsm"

    def __init__(self, root: Path = ROOT, *, files: Files | None = None) -> None:
        self._root = root
        self._files = files or SystemFiles()

    def available(self) -> str:
        """Return why it cannot be used; empty if the directory is there and may be written."""
        return "" if self._files.exists(self._root) else f"{self._root} is not there or may not be written"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Ask for a report over 64 bytes of report data."""
        check_report_data(report_data)
        entry = self._root / f"sealroom-{secrets.token_hex(8)}"
        try:
            self._files.make(entry)
            try:
                return self._ask(entry, report_data)
            finally:
                self._files.remove(entry)
        except OSError as error:
            raise NetworkError(
                f"The kernel gives no report through configfs-tsm: {error.strerror or error}."
            ) from error
        except FormatError as error:
            raise ProtocolError(f"The kernel's answer is malformed: {error.message}") from error

    def _ask(self, entry: Path, report_data: bytes) -> GuestEvidence:
        provider = self._files.read(entry / "provider", 64).strip().decode("ascii", "replace")
        if provider != PROVIDER:
            raise ProtocolError(f"The kernel's provider of reports is {provider!r}, not {PROVIDER}.")
        before = self._generation(entry)
        self._files.write(entry / "inblob", report_data)
        report = self._files.read(entry / "outblob", REPORT_SIZE)
        table = self._files.read(entry / "auxblob", MAX_TABLE)
        if self._generation(entry) != before + 1:
            raise ProtocolError("Somebody else used the same request of configfs-tsm.", advice="Try again.")
        if len(report) != REPORT_SIZE:
            raise ProtocolError(f"The kernel's report has {len(report)} bytes, not {REPORT_SIZE}.")
        if len(table) > MAX_TABLE:
            raise ProtocolError(f"The kernel's certificate table is longer than {MAX_TABLE} bytes.")
        return GuestEvidence("snp", report, read_certificates(table), self.name)

    def _generation(self, entry: Path) -> int:
        text = self._files.read(entry / "generation", 32)
        try:
            return int(text)
        except ValueError as error:
            raise ProtocolError("The generation of configfs-tsm is not a number.") from error
