# SPDX-License-Identifier: BSD-3-Clause
"""Read a firmware image (OVMF) and check its tables before the package `sev-snp-measure` relies on them.

What this is: the checks that the package leaves out. It takes what there is of a table that is cut, and
measures as much memory as the metadata names. What this is not: the measurement.

Source: edk2, OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm (table of GUIDs) and
OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm (sections).
"""

from __future__ import annotations

import stat
import uuid
from pathlib import Path
from typing import Any, Final

from sevsnpmeasure.ovmf import OVMF, SectionType

from sealroom.errors import FormatError, StorageError

MAX_OVMF: Final = 16 << 20
"""Longest firmware in bytes: QEMU maps no more (hw/i386/pc_sysfw.c, FLASH_SIZE_LIMIT)."""
MAX_SECTIONS: Final = 64 << 20
"""Most guest memory in bytes that a firmware's metadata may name; OVMF names less than 1 MiB."""
FOREIGN: Final = (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError, AssertionError)
"""What the package raises on firmware that it cannot read."""

_PAGE: Final = 4096
_ENTRY: Final = 18
"""Bytes of an entry's length and GUID in the table."""
_OFFSET: Final = 4
"""Bytes of what an entry holds that Sealroom needs: an address or an offset."""
_TABLE_END: Final = 32
"""The table ends so many bytes before the file's end."""
_ONE_PAGE: Final = (SectionType.SNP_SECRETS, SectionType.CPUID, SectionType.SNP_KERNEL_HASHES)
_NEEDED: Final = {
    OVMF.SEV_ES_RESET_BLOCK_GUID: "SEV_ES_RESET_BLOCK",
    OVMF.OVMF_SEV_META_DATA_GUID: "SEV metadata",
}


def load_firmware(path: Path, *, whole: bool) -> Any:
    """Return a firmware image (the package's `OVMF`) whose tables were checked.

    Args:
        path: The file.
        whole: Its pages are measured too, so its size must be that of pages.

    Raises:
        StorageError: The file cannot be read.
        FormatError: It is no firmware for SEV-SNP, or its tables are not whole.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"{path} is no file.")
        if not 0 < status.st_size <= MAX_OVMF or (whole and status.st_size % _PAGE):
            raise FormatError(
                f"{path.name} has {status.st_size} bytes; firmware has whole pages of {_PAGE} and at most "
                f"{MAX_OVMF}."
            )
        firmware = OVMF(str(path))
        _check_table(firmware.data(), path.name)
        _check_sections(firmware, path.name)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {why(error)}.") from error
    except FOREIGN as error:
        raise FormatError(f"{path.name} is no OVMF firmware: {str(error) or 'malformed'}.") from error
    return firmware


def _check_table(data: bytes, name: str) -> None:
    """Check that the table of GUIDs at the end is whole: the package takes what there is of a cut one.

    The table grows downwards; each entry is data, 16-bit length and GUID, and the last is the footer, whose
    length is that of the table.
    """
    end = len(data) - _TABLE_END
    footer = uuid.UUID(OVMF.OVMF_TABLE_FOOTER_GUID).bytes_le
    if end < _ENTRY or data[end - 16 : end] != footer:
        raise FormatError(f"{name} has no table of GUIDs at its end.", field="OVMF table", offset=max(0, end))
    start = end - int.from_bytes(data[end - _ENTRY : end - 16], "little")
    at, seen = end - _ENTRY, dict[bytes, int]()
    while at > start:
        length = int.from_bytes(data[max(0, at - _ENTRY) : max(0, at - 16)], "little")
        guid = data[at - 16 : at]
        if at - _ENTRY < start or length < _ENTRY or at - length < start or guid in seen:
            raise FormatError(
                f"{name} has a wrong entry before offset {at:#x} of its table.", field="OVMF table", offset=at
            )
        seen[guid] = length - _ENTRY
        at -= length
    if at != start or start < 0:
        raise FormatError(f"{name} has a table that is not whole.", field="OVMF table", offset=max(0, start))
    for text, what in _NEEDED.items():
        if seen.get(uuid.UUID(text).bytes_le, 0) < _OFFSET:
            raise FormatError(f"{name} has no {what} in its table: it is not made for SEV-SNP.", field=what)


def _check_sections(firmware: Any, name: str) -> None:
    """Check the metadata's sections, of which the package takes sizes and addresses as they are."""
    total = 0
    for section in firmware.metadata_items():
        kind, start, size = section.section_type(), section.gpa, section.size
        total += size
        wrong = size == 0 or start % _PAGE or size % _PAGE or (kind in _ONE_PAGE and size != _PAGE)
        if wrong or total > MAX_SECTIONS or start + size > 1 << 32:
            raise FormatError(
                f"{name} names {size:#x} bytes at {start:#x} for {kind.name}, which is no such section.",
                field="SEV metadata",
            )


def why(error: Exception) -> str:
    """Return what an error of the operating system says."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
