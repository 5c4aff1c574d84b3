# SPDX-License-Identifier: BSD-3-Clause
"""The opaque part of a report: NVIDIA's own fields as type, length, value.

Types and encodings are those of NVIDIA's open verifiers (NVIDIA/nvtrust, local_gpu_verifier,
attestation/spdm_msrt_resp_msg; NVIDIA/attestation-sdk, nv-attestation-sdk-cpp).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from sealroom.errors import FormatError

CHECK: Final = "nvidia.report.opaque"
FWID_SIZE: Final = 48
VBIOS_SIZE: Final = 8


class Architecture(StrEnum):
    """Architecture of a device, by its name in the key broker protocol."""

    HOPPER = "HOPPER"
    BLACKWELL = "BLACKWELL"
    LS10 = "LS10"
    """NVSwitch."""


class Feature(IntEnum):
    """Confidential mode of a GPU."""

    SPT = 0
    """Single-GPU pass-through."""
    MPT = 1
    """Multi-GPU pass-through."""
    PPCIE = 2
    """Protected PCIe."""


class OpaqueType(IntEnum):
    """Types of opaque fields."""

    CERT_ISSUER_NAME = 1
    CERT_AUTHORITY_KEY_IDENTIFIER = 2
    DRIVER_VERSION = 3
    GPU_INFO = 4
    SKU = 5
    VBIOS_VERSION = 6
    MANUFACTURER_ID = 7
    TAMPER_DETECTION = 8
    SMC = 9
    VPR = 10
    NVDEC0_STATUS = 11
    """0xAA on, 0x55 off."""
    MSRSCNT = 12
    CPRINFO = 13
    BOARD_ID = 14
    CHIP_SKU = 15
    CHIP_SKU_MOD = 16
    PROJECT = 17
    PROJECT_SKU = 18
    PROJECT_SKU_MOD = 19
    FWID = 20
    PROTECTED_PCIE_STATUS = 21
    SWITCH_PDI = 22
    FLOORSWEPT_PORTS = 23
    POSITION_ID = 24
    LOCK_SWITCH_STATUS = 25
    GPU_LINK_CONN = 32
    SYS_ENABLE_STATUS = 33
    OPAQUE_DATA_VERSION = 34
    CHIP_INFO = 35
    FEATURE_FLAG = 36
    INVALID = 255


def read_opaque(data: bytes, start: int) -> Mapping[int, bytes]:
    """Return the fields by type; types that are unknown here are kept.

    Args:
        data: The opaque part.
        start: Its offset in the report, for messages.

    Raises:
        FormatError: A field reaches beyond the end, stands twice, or has an impossible value.
    """
    fields: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        header = data[offset : offset + 4]
        kind, size = int.from_bytes(header[:2], "little"), int.from_bytes(header[2:], "little")
        end = offset + 4 + size
        if len(header) != 4 or end > len(data):
            raise _bad(
                f"The opaque field at offset {start + offset} reaches beyond the opaque data.", start + offset
            )
        if kind in fields:
            raise _bad(f"The opaque field of type {kind} stands twice.", start + offset)
        value = data[offset + 4 : end]
        _check_value(kind, value, start + offset)
        fields[kind] = value
        offset = end
    return MappingProxyType(fields)


def _check_value(kind: int, value: bytes, offset: int) -> None:
    if kind == OpaqueType.FWID and len(value) != FWID_SIZE:
        raise _bad(f"FWID has {len(value)} bytes, not {FWID_SIZE}.", offset)
    if kind == OpaqueType.VBIOS_VERSION and not _is_text(value) and (len(value) < 4 or len(value) % 2):
        raise _bad(f"The VBIOS version has {len(value)} bytes, which is no version.", offset)
    if kind in _TEXTS:
        try:
            zero_terminated(value)
        except ValueError:
            raise _bad(f"The opaque field of type {kind} is no text.", offset) from None
    if kind == OpaqueType.FEATURE_FLAG and not 0 < len(value) <= 4:
        raise _bad(f"The feature flag has {len(value)} bytes.", offset)


_TEXTS: Final = frozenset(
    {
        OpaqueType.DRIVER_VERSION,
        OpaqueType.PROJECT,
        OpaqueType.PROJECT_SKU,
        OpaqueType.CHIP_SKU,
        OpaqueType.CHIP_INFO,
    }
)


def zero_terminated(value: bytes) -> str:
    """Return a text with zeros after it.

    Raises:
        ValueError: It is not printable ASCII, or something stands after the first zero.
    """
    text, _, rest = value.partition(b"\0")
    if any(rest) or not text.isascii() or not text.decode("ascii", "replace").isprintable():
        raise ValueError("no text")
    return text.decode("ascii")


def _is_text(value: bytes) -> bool:
    try:
        return bool(zero_terminated(value))
    except ValueError:
        return False


def vbios_text(value: bytes) -> str:
    """Return a VBIOS version.

    A GPU gives the first half of the bytes from its end, then the next byte: `00 9f 00 96 01 00 00 00` is
    `96.00.9F.00.01`. A switch gives a text.
    """
    if _is_text(value):
        return zero_terminated(value).upper()
    half = len(value) // 2
    return ".".join(f"{octet:02X}" for octet in (*reversed(value[:half]), value[half]))


def _bad(message: str, offset: int) -> FormatError:
    return FormatError(message, field="opaque data", offset=offset, check=CHECK)
