# SPDX-License-Identifier: BSD-3-Clause
"""Lay out and sign reports of GPUs and switches: SPDM 1.1 GET_MEASUREMENTS and MEASUREMENTS.

The layout (DMTF DSP0274 1.1.0, GET_MEASUREMENTS and MEASUREMENTS, with NVIDIA's opaque fields) is written
down here a second time, apart from the parser in `sealroom.nvidia`, so that tests compare two readings.
Nothing is checked: negative tests need reports that break one rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

REQUEST_HEADER: Final = b"\x11\xe0\x01\xff"
"""SPDM 1.1, GET_MEASUREMENTS, signature requested, all blocks."""
RESPONSE_HEADER: Final = b"\x11\x60\x00\x00"
NONCE_SIZE: Final = 32
MEASUREMENT_SIZE: Final = 48
SIGNATURE_SIZE: Final = 96

# Types of opaque fields.
DRIVER_VERSION, GPU_INFO, VBIOS_VERSION = 3, 4, 6
NVDEC0_STATUS, MEASUREMENT_COUNTS, CPR_INFO = 11, 12, 13
BOARD_ID, CHIP_SKU, CHIP_SKU_MOD, PROJECT, PROJECT_SKU, PROJECT_SKU_MOD = 14, 15, 16, 17, 18, 19
FWID, PROTECTED_PCIE, SWITCH_PDIS = 20, 21, 22
FLOORSWEPT_PORTS, POSITION_ID, LOCK_STATUS, GPU_PDIS = 23, 24, 25, 26
SYSTEM_ENABLE, OPAQUE_VERSION, CHIP_INFO, FEATURE = 33, 34, 35, 36

ON, OFF = b"\xaa", b"\x55"
FEATURES: Final = {"SPT": 0, "MPT": 1, "PPCIE": 2}

Opaque = tuple[tuple[int, bytes], ...]
"""Opaque fields in their order: type and value."""


@dataclass(frozen=True, slots=True)
class GpuReportFields:
    """The parts of a report."""

    nonce: bytes
    """The verifier's nonce, 32 bytes."""
    responder_nonce: bytes
    """The device's own nonce, 32 bytes."""
    measurements: tuple[bytes, ...]
    """Value of block i+1 at index i, 48 bytes each."""
    opaque: Opaque
    slot: int = 0
    request_header: bytes = REQUEST_HEADER
    response_header: bytes = RESPONSE_HEADER

    def with_field(self, kind: int, value: bytes | None) -> GpuReportFields:
        """Return the same with an opaque field replaced, added at the end, or left out if None."""
        opaque = tuple(
            (known, value if known == kind else old)
            for known, old in self.opaque
            if known != kind or value is not None
        )
        if value is not None and kind not in dict(self.opaque):
            opaque += ((kind, value),)
        return replace(self, opaque=opaque)  # type: ignore[arg-type]

    def signed_part(self) -> bytes:
        """Return what the signature covers: the request, and the response without its signature."""
        record = b"".join(_block(index, value) for index, value in enumerate(self.measurements, start=1))
        fields = b"".join(
            kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
            for kind, value in self.opaque
        )
        return b"".join(
            (
                self.request_header,
                self.nonce,
                bytes((self.slot,)),
                self.response_header,
                bytes((len(self.measurements),)),
                len(record).to_bytes(3, "little"),
                record,
                self.responder_nonce,
                len(fields).to_bytes(2, "little"),
                fields,
            )
        )


def sign_gpu_report(signed_part: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the report with its signature: r and s, 48 bytes each, big-endian."""
    algorithm = ec.ECDSA(SHA384(), deterministic_signing=True)
    r, s = decode_dss_signature(key.sign(signed_part, algorithm))
    return signed_part + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def vbios_field(version: str) -> bytes:
    """Encode a GPU's VBIOS version: `96.00.9F.00.01` is 00 9f 00 96 01 00 00 00."""
    parts = bytes(int(part, 16) for part in version.split("."))
    return parts[3::-1] + parts[4:] + bytes(3)


def text(value: str, size: int = 0) -> bytes:
    """Encode a text with its zero byte, filled with zeros up to `size`."""
    return (value.encode() + b"\0").ljust(size, b"\0")


def _block(index: int, value: bytes) -> bytes:
    # Index, DMTF specification, size, then type 1 (mutable firmware), size, value.
    body = b"\1" + len(value).to_bytes(2, "little") + value
    return bytes((index, 1)) + len(body).to_bytes(2, "little") + body
