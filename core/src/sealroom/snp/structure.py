# SPDX-License-Identifier: BSD-3-Clause
"""What the bytes of a report must be before anything else is looked at.

What this is: the checks that need the 1184 bytes and nothing else: length, version, limited values,
reserved bytes, the form of the signature, a known processor. What this is not: verification of the
signature.

Invariants:

- Every refusal names the field, its offset and the check.
- Nothing is padded, cut or guessed.
"""

from __future__ import annotations

from typing import Final

from sealroom.errors import FormatError
from sealroom.snp.checks import Trail
from sealroom.snp.fields import KeyInfo
from sealroom.snp.tcb import ProductLine, line_from_cpuid

REPORT_SIZE: Final = 0x4A0
"""Size of ATTESTATION_REPORT (AMD 56860 rev 1.58)."""
SIGNED_SIZE: Final = 0x2A0
"""SIGNATURE covers the bytes before this offset."""
VERSIONS: Final = range(2, 6)
"""Report versions whose layout is known here."""
VMPL_HOST: Final = 0xFFFFFFFF
"""VMPL of a report that the host asked for, not the guest."""
CURVE_ORDER: Final = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16
)
"""Order n of the base point of P-384 (FIPS 186-5, SP 800-186 section 3.2.1.4)."""

_SIGNATURE_ALGO_P384: Final = 1
_RESERVED: Final = (
    (0x04C, 0x050),
    (0x18B, 0x1A0),
    (0x1EB, 0x1EC),
    (0x1EF, 0x1F0),
    (0x208, 0x2A0),
)
"""Ranges that are zero in every version."""
_VERSION_FIELDS: Final = (
    (3, 0x188, 0x18B, "CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP"),
    (5, 0x1F8, 0x208, "LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR"),
)
"""(first version that has it, start, end, name) of fields that came later."""
_ZEROS: Final = bytes(REPORT_SIZE)
_POLICY_RESERVED_ONE: Final = 1 << 17
_POLICY_RESERVED_ZERO: Final = ~((1 << 26) - 1) & ((1 << 64) - 1)


def check_structure(raw: bytes, trail: Trail) -> ProductLine | None:
    """Make every check that needs the bytes of the report and nothing else.

    Args:
        raw: The bytes that claim to be a report.
        trail: Where passed checks are recorded.

    Returns:
        The product line that CPUID gives; None for version 2, which does not say.

    Raises:
        FormatError: At the first check that fails.
    """
    if len(raw) != REPORT_SIZE:
        raise FormatError(
            f"A report is {REPORT_SIZE} bytes and this is {len(raw)}.",
            field="ATTESTATION_REPORT",
            offset=min(len(raw), REPORT_SIZE),
            check="snp.report.length",
        )
    trail.passed("snp.report.length", f"{REPORT_SIZE} bytes")
    version = int.from_bytes(raw[0:4], "little")
    if version not in VERSIONS:
        raise refused(
            "snp.report.version",
            "VERSION",
            0x00,
            f"Report version {version} is not one of 2 to 5 (VERSION, offset 0x0).",
        )
    trail.passed("snp.report.version", f"version {version}")
    _check_words(raw, trail)
    _check_zeros(raw, version, trail)
    _check_signature_encoding(raw, trail)
    return _check_product(raw, version, trail)


def refused(check: str, name: str, offset: int, message: str) -> FormatError:
    """Return the error for a field of the report."""
    return FormatError(message, field=name, offset=offset, check=check)


def _check_words(raw: bytes, trail: Trail) -> None:
    """Check the words whose values are limited: SIGNATURE_ALGO, POLICY, VMPL and the key information."""
    algo = int.from_bytes(raw[0x34:0x38], "little")
    if algo != _SIGNATURE_ALGO_P384:
        raise refused(
            "snp.report.signature_algo",
            "SIGNATURE_ALGO",
            0x34,
            f"Signature algorithm {algo} is not 1, ECDSA P-384 with SHA-384 (SIGNATURE_ALGO, offset 0x34).",
        )
    trail.passed("snp.report.signature_algo", "ECDSA P-384 with SHA-384")
    policy = int.from_bytes(raw[0x08:0x10], "little")
    if not policy & _POLICY_RESERVED_ONE:
        raise refused(
            "snp.report.policy",
            "POLICY",
            0x08,
            f"Policy {policy:#x} lacks bit 17, which is always set (offset 0x8).",
        )
    if policy & _POLICY_RESERVED_ZERO:
        raise refused(
            "snp.report.policy",
            "POLICY",
            0x08,
            f"Policy {policy:#x} has bits above 25 set (POLICY, offset 0x8).",
        )
    trail.passed("snp.report.policy", f"{policy:#x}")
    vmpl = int.from_bytes(raw[0x30:0x34], "little")
    if vmpl > 3 and vmpl != VMPL_HOST:
        raise refused(
            "snp.report.vmpl", "VMPL", 0x30, f"Privilege level {vmpl} does not exist (VMPL, offset 0x30)."
        )
    trail.passed("snp.report.vmpl", "asked for by the host" if vmpl == VMPL_HOST else f"level {vmpl}")
    key_info = int.from_bytes(raw[0x48:0x4C], "little")
    if key_info >> 5:
        raise refused(
            "snp.report.key_info",
            "KEY_INFO",
            0x48,
            f"Key information {key_info:#x} has bits above 4 set (offset 0x48).",
        )
    if KeyInfo(key_info).signing_key not in (KeyInfo.VCEK, KeyInfo.VLEK, KeyInfo.NONE):
        raise refused(
            "snp.report.key_info",
            "SIGNING_KEY",
            0x48,
            f"Signing key {KeyInfo(key_info).signing_key} is a reserved value (SIGNING_KEY, offset 0x48).",
        )
    trail.passed("snp.report.key_info", f"signed with {KeyInfo(key_info).signing_key_name}")


def _check_zeros(raw: bytes, version: int, trail: Trail) -> None:
    """Check the ranges that are zero in every version, then those that are zero in this one."""
    for start, end in _RESERVED:
        if raw[start:end] != _ZEROS[start:end]:
            at = first_set(raw, start)
            raise refused(
                "snp.report.reserved",
                "reserved",
                at,
                f"Reserved byte at offset {at:#x} is {raw[at]:#04x}, not zero.",
            )
    trail.passed("snp.report.reserved", "all zero")
    for first, start, end, name in _VERSION_FIELDS:
        if version < first and raw[start:end] != _ZEROS[start:end]:
            at = first_set(raw, start)
            raise refused(
                "snp.report.version_fields",
                name,
                at,
                f"A report of version {version} has no {name}, but the byte at offset {at:#x} is set.",
            )
    trail.passed("snp.report.version_fields", f"none later than version {version}")


def first_set(raw: bytes, start: int) -> int:
    """Return the offset of the first byte from `start` on that is not zero; there has to be one."""
    return next(at for at in range(start, len(raw)) if raw[at])


def _check_signature_encoding(raw: bytes, trail: Trail) -> None:
    """Check that R and S are numbers of 48 bytes in range and that nothing follows them."""
    for name, start, end in (("R", 0x2D0, 0x2E8), ("S", 0x318, REPORT_SIZE)):
        if raw[start:end] != _ZEROS[start:end]:
            at = first_set(raw, start)
            raise refused(
                "snp.report.signature_encoding",
                name,
                at,
                f"Byte at offset {at:#x} after the 48 bytes of {name} is set.",
            )
    trail.passed("snp.report.signature_encoding", "48 bytes each, zeros after them")
    for name, start in (("R", 0x2A0), ("S", 0x2E8)):
        value = int.from_bytes(raw[start : start + 48], "little")
        if not 0 < value < CURVE_ORDER:
            raise refused(
                "snp.report.signature_range",
                name,
                start,
                (
                    f"{name} of the signature at offset {start:#x} is "
                    f"{'zero' if value == 0 else 'not below the order of P-384'}."
                ),
            )
    trail.passed("snp.report.signature_range", "both in range")


def _check_product(raw: bytes, version: int, trail: Trail) -> ProductLine | None:
    """Check that CPUID names a known part."""
    if version < 3:
        trail.not_asked("snp.report.product_line", "version 2 does not name its processor")
        return None
    family, model = raw[0x188], raw[0x189]
    line = line_from_cpuid(family, model)
    if line is None:
        raise refused(
            "snp.report.product_line",
            "CPUID_FAM_ID",
            0x188,
            f"No product line is known for CPUID family {family:02X}h model {model:02X}h (offset 0x188).",
        )
    trail.passed("snp.report.product_line", f"{line}: family {family:02X}h, model {model:02X}h")
    return line
