# SPDX-License-Identifier: BSD-3-Clause
"""The report of an NVIDIA GPU or NVSwitch: bytes to fields.

A report is an SPDM 1.1 GET_MEASUREMENTS request and its MEASUREMENTS response, one after the other, with no
other framing (DMTF DSP0274 1.1.0, tables 36 and 38). The signature covers both without itself.

Invariants:

- Every length is checked; nothing is padded, cut or guessed.
- One byte after the signature is kept apart and reported: one published guest appends it. It is covered by
  nothing and means nothing. More are refused.
- Parsing proves nothing; `sealroom.nvidia.verify` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sealroom.errors import FormatError
from sealroom.nvidia.opaque import Feature, OpaqueType, read_opaque, vbios_text, zero_terminated

REQUEST: Final = b"\x11\xe0\x01\xff"
"""SPDM 1.1, GET_MEASUREMENTS, signature requested, all blocks."""
RESPONSE: Final = b"\x11\x60\x00\x00"
"""SPDM 1.1, MEASUREMENTS."""
REQUEST_SIZE: Final = 37
NONCE_SIZE: Final = 32
MEASUREMENT_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96
MAX_BLOCKS: Final = 64
MAX_REPORT: Final = 0x2000
"""Longest report in bytes (NVML_CC_GPU_ATTESTATION_REPORT_SIZE)."""
MAX_TRAILING: Final = 1
_BLOCK_HEADER: Final = 4
_DMTF: Final = 1
_VALUE_HEADER: Final = 3


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """The fields of a report; made by `from_bytes`."""

    raw: bytes = field(repr=False)
    """The bytes as they came."""
    requester_nonce: bytes
    """The verifier's nonce, 32 bytes."""
    slot: int
    """Number of the certificate chain that the request asked for."""
    measurements: tuple[bytes, ...] = field(repr=False)
    """Value of block i + 1 at index i, SHA-384."""
    responder_nonce: bytes = field(repr=False)
    """The device's own nonce, 32 bytes; not the one to compare."""
    opaque: Mapping[int, bytes] = field(repr=False)
    """Opaque fields by type, see `OpaqueType`."""
    signature: bytes = field(repr=False)
    """r then s, 48 bytes each, big-endian."""
    trailing: bytes = field(repr=False)
    """What stands after the signature: none or one byte, covered by nothing."""

    @classmethod
    def from_bytes(cls, raw: bytes) -> DeviceReport:
        """Parse a report.

        Args:
            raw: Request, response, signature.

        Raises:
            FormatError: Something is missing, too much or unknown; `field` and `offset` say where.
        """
        return _parse(bytes(raw))

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return self.raw[: len(self.raw) - len(self.trailing) - SIGNATURE_SIZE]

    @property
    def is_switch(self) -> bool:
        """Whether the report has the form of an NVSwitch's: it names no driver."""
        return OpaqueType.DRIVER_VERSION not in self.opaque

    @property
    def driver_version(self) -> str:
        """Version of the driver, for example `550.90.07`; empty in a switch's report."""
        return self._text(OpaqueType.DRIVER_VERSION)

    @property
    def vbios_version(self) -> str:
        """Version of the VBIOS, for example `96.00.9F.00.01`; empty if the report names none."""
        value = self.opaque.get(OpaqueType.VBIOS_VERSION)
        return "" if value is None else vbios_text(value)

    @property
    def project(self) -> str:
        """Project of the board, part of the VBIOS manifest's id."""
        return self._text(OpaqueType.PROJECT)

    @property
    def project_sku(self) -> str:
        """SKU of the board, part of the VBIOS manifest's id."""
        return self._text(OpaqueType.PROJECT_SKU)

    @property
    def chip_sku(self) -> str:
        """SKU of the chip, part of the VBIOS manifest's id."""
        return self._text(OpaqueType.CHIP_SKU)

    @property
    def chip_info(self) -> str:
        """Name of the chip, for example `GB100`; empty before driver 580."""
        return self._text(OpaqueType.CHIP_INFO)

    @property
    def fwid(self) -> bytes | None:
        """Digest of the firmware that the device's certificate also names, 48 bytes; None in old reports."""
        return self.opaque.get(OpaqueType.FWID)

    @property
    def nvdec0_disabled(self) -> bool:
        """Whether the video decoder 0 is off, so that index 35 is not measured."""
        return self.opaque.get(OpaqueType.NVDEC0_STATUS) == b"\x55"

    @property
    def feature(self) -> str | None:
        """Mode: `SPT`, `MPT` or `PPCIE`; None if the report names none or one that is unknown here.

        Drivers before 580 name no mode, and say of protected PCIe only whether it is on (0xAA).
        """
        value = self.opaque.get(OpaqueType.FEATURE_FLAG)
        if value is None:
            protected = self.opaque.get(OpaqueType.PROTECTED_PCIE_STATUS) == b"\xaa"
            return Feature.PPCIE.name if protected else None
        number = int.from_bytes(value, "little")
        return Feature(number).name if number in set(Feature) else None

    def _text(self, kind: OpaqueType) -> str:
        value = self.opaque.get(kind)
        return "" if value is None else zero_terminated(value)


class _Reader:
    """Takes bytes from the front, and says where it stands when there are too few."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    def take(self, size: int, name: str) -> bytes:
        end = self.offset + size
        if end > len(self._data):
            raise _bad(
                f"The report ends at {len(self._data)} bytes, inside {name}, which would end at {end}.",
                name,
                self.offset,
                "nvidia.report.length",
            )
        part = self._data[self.offset : end]
        self.offset = end
        return part

    def number(self, size: int, name: str) -> int:
        return int.from_bytes(self.take(size, name), "little")

    @property
    def rest(self) -> bytes:
        return self._data[self.offset :]


def _parse(raw: bytes) -> DeviceReport:
    if len(raw) > MAX_REPORT:
        raise _bad(
            f"A report of {len(raw)} bytes is longer than the {MAX_REPORT} that are possible.",
            "report",
            MAX_REPORT,
            "nvidia.report.length",
        )
    reader = _Reader(raw)
    _expect(reader, REQUEST, "GET_MEASUREMENTS", "nvidia.report.request")
    nonce = reader.take(NONCE_SIZE, "request nonce")
    slot = reader.number(1, "slot id")
    _expect(reader, RESPONSE, "MEASUREMENTS", "nvidia.report.response")
    count, size = reader.number(1, "number of blocks"), reader.number(3, "record length")
    if not 0 < count <= MAX_BLOCKS:
        raise _bad(
            f"The report has {count} measurement blocks, not 1 to {MAX_BLOCKS}.",
            "number of blocks",
            reader.offset - 4,
            "nvidia.report.blocks",
        )
    measurements = _blocks(reader, count, size)
    responder_nonce = reader.take(NONCE_SIZE, "response nonce")
    length = reader.number(2, "opaque length")
    start = reader.offset
    opaque = read_opaque(reader.take(length, "opaque data"), start)
    signature = reader.take(SIGNATURE_SIZE, "signature")
    trailing = reader.rest
    if len(trailing) > MAX_TRAILING:
        raise _bad(
            f"{len(trailing)} bytes follow the signature; none belong there.",
            "signature",
            reader.offset,
            "nvidia.report.trailing",
        )
    return DeviceReport(raw, nonce, slot, measurements, responder_nonce, opaque, signature, trailing)


def _expect(reader: _Reader, header: bytes, name: str, check: str) -> None:
    start = reader.offset
    found = reader.take(len(header), name)
    if found != header:
        raise _bad(
            f"The bytes at offset {start} are {found.hex()}, not {header.hex()}, which begins an SPDM 1.1 "
            f"{name} message.",
            name,
            start,
            check,
        )


def _blocks(reader: _Reader, count: int, size: int) -> tuple[bytes, ...]:
    start = reader.offset
    values = tuple(_block(reader, index) for index in range(1, count + 1))
    if reader.offset - start != size:
        raise _bad(
            f"The measurement record has {reader.offset - start} bytes and says {size}.",
            "record length",
            start - 3,
            "nvidia.report.blocks",
        )
    return values


def _block(reader: _Reader, index: int) -> bytes:
    start = reader.offset
    header = reader.take(_BLOCK_HEADER, f"measurement block {index}")
    if header[0] != index or header[1] != _DMTF:
        raise _bad(
            f"Block {index} has index {header[0]} and specification {header[1]}, not {index} and {_DMTF}.",
            f"measurement block {index}",
            start,
            "nvidia.report.blocks",
        )
    size = int.from_bytes(header[2:], "little")
    value_header = reader.take(_VALUE_HEADER, f"measurement block {index}")
    inner = int.from_bytes(value_header[1:], "little")
    if inner != MEASUREMENT_SIZE or size != inner + _VALUE_HEADER:
        raise _bad(
            f"The value of block {index} has {inner} bytes in {size}, not {MEASUREMENT_SIZE} in "
            f"{MEASUREMENT_SIZE + _VALUE_HEADER}.",
            f"measurement block {index}",
            start + 2,
            "nvidia.report.blocks",
        )
    return reader.take(inner, f"measurement block {index}")


def _bad(message: str, name: str, offset: int, check: str) -> FormatError:
    return FormatError(message, field=name, offset=offset, check=check)
