# SPDX-License-Identifier: BSD-3-Clause
"""SNP evidence as CoCo's attester writes it: the JSON of the `sev` crate, and back to bytes.

A signature covers bytes, so the broker rebuilds the 1184 bytes of AMD 56860's ATTESTATION_REPORT from the
numbers (virtee/sev src/firmware/guest/types/snp.rs at 9cf2adb; what sev 6.3.1 and 7.1.0 write differs in
nothing here).

The JSON carries no reserved bytes: a report that has one set cannot be sent this way, and `snp_to_json` says
so. The TCB_VERSION layout is the one of Turin exactly where the JSON has an `fmc`.

Invariants:

- `snp_from_json(snp_to_json(report, certificates))` gives back the same bytes.
- Nothing but `sealroom.errors.FormatError` leaves either call. Every number is checked against its width, and
  a missing or unknown field is refused.
- This is a change of form only: nothing here is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sealroom.errors import FormatError

REPORT_SIZE: Final = 1184
VERSIONS: Final = range(2, 6)
CERTIFICATE_KINDS: Final = ("ARK", "ASK", "VCEK", "VLEK", "CRL")
"""The `sev` crate's `CertType` names that we exchange; the one for ASVK is ASK, as in AMD's table."""

MAX_CERTIFICATES: Final = 8
MAX_CERTIFICATE: Final = 64 * 1024
"""Our own bounds; real endorsement certificates have about 1350 bytes, ARK and ASK about 1700."""

_CHIP_ID = slice(0x1A0, 0x1E0)
_FAMILY_OFFSET = 0x188
_TURIN_FAMILY = 0x1A
_OLD_RESERVED, _TURIN_RESERVED = slice(2, 6), slice(4, 7)

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of the JSON: where it lies in the report, and how it is written."""

    name: str
    offset: int
    size: int
    read: Callable[[bytes], object]
    write: Callable[[object, _Field], bytes]
    since: int = 2
    """The first report version that has the field; the JSON has null before."""


def _bad(field: str, why: str) -> FormatError:
    return FormatError(f"The SNP evidence's {field} {why}.", field=field)


def _write_number(value: object, field: _Field) -> bytes:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 8 * field.size:
        raise _bad(field.name, f"is not a number of {field.size} bytes")
    return value.to_bytes(field.size, "little")


def _read_number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _write_array(value: object, field: _Field) -> bytes:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != field.size:
        raise _bad(field.name, f"is not an array of {field.size} numbers")
    return _octets(value, field.name)


def _octets(value: Sequence[object], name: str) -> bytes:
    # Not one by one: a loop over the certificates' bytes would cost more than verifying the report.
    try:
        if set(map(type, value)) <= {int}:
            return bytes(value)  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        pass
    raise _bad(name, "has a number that is not a byte")


def _members(value: object, names: tuple[str, ...], field: str) -> _Json:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise _bad(field, f"does not have exactly the members {', '.join(names)}")
    return value


def _read_version(raw: bytes) -> dict[str, int]:
    return {"major": raw[2], "minor": raw[1], "build": raw[0]}


def _write_version(value: object, field: _Field) -> bytes:
    parts = _members(value, ("major", "minor", "build"), field.name)
    return _octets([parts["build"], parts["minor"], parts["major"]], field.name)


_TCB_MEMBERS = ("fmc", "bootloader", "tee", "snp", "microcode")


def _read_tcb(raw: bytes, *, turin: bool) -> dict[str, int | None]:
    if turin:
        return {"fmc": raw[0], "bootloader": raw[1], "tee": raw[2], "snp": raw[3], "microcode": raw[7]}
    return {"fmc": None, "bootloader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7]}


def _write_tcb(value: object, field: _Field) -> bytes:
    # `fmc` may be absent, which is the same to serde as null.
    tcb = _members({"fmc": None, **value} if isinstance(value, Mapping) else value, _TCB_MEMBERS, field.name)
    fmc = tcb["fmc"]
    if fmc is None:
        bootloader, tee, snp, microcode = _octets([tcb[name] for name in _TCB_MEMBERS[1:]], field.name)
        return bytes([bootloader, tee, 0, 0, 0, 0, snp, microcode])
    fmc, bootloader, tee, snp, microcode = _octets(
        [fmc, *(tcb[name] for name in _TCB_MEMBERS[1:])], field.name
    )
    return bytes([fmc, bootloader, tee, snp, 0, 0, 0, microcode])


def _number(name: str, offset: int, size: int, since: int = 2) -> _Field:
    return _Field(name, offset, size, _read_number, _write_number, since)


def _array(name: str, offset: int, size: int) -> _Field:
    return _Field(name, offset, size, list, _write_array)


def _version(name: str, offset: int) -> _Field:
    return _Field(name, offset, 3, _read_version, _write_version)


def _tcb(name: str, offset: int) -> _Field:
    # `read` is replaced per report, see `_read_field`: the layout depends on the product line.
    return _Field(name, offset, 8, list, _write_tcb)


# AMD 56860 rev 1.58, ATTESTATION_REPORT, with the names of the crate's struct, in its order.
_FIELDS: Final = (
    _number("version", 0x000, 4),
    _number("guest_svn", 0x004, 4),
    _number("policy", 0x008, 8),
    _array("family_id", 0x010, 16),
    _array("image_id", 0x020, 16),
    _number("vmpl", 0x030, 4),
    _number("sig_algo", 0x034, 4),
    _tcb("current_tcb", 0x038),
    _number("plat_info", 0x040, 8),
    _number("key_info", 0x048, 4),
    _array("report_data", 0x050, 64),
    _array("measurement", 0x090, 48),
    _array("host_data", 0x0C0, 32),
    _array("id_key_digest", 0x0E0, 48),
    _array("author_key_digest", 0x110, 48),
    _array("report_id", 0x140, 32),
    _array("report_id_ma", 0x160, 32),
    _tcb("reported_tcb", 0x180),
    _number("cpuid_fam_id", 0x188, 1, since=3),
    _number("cpuid_mod_id", 0x189, 1, since=3),
    _number("cpuid_step", 0x18A, 1, since=3),
    _array("chip_id", 0x1A0, 64),
    _tcb("committed_tcb", 0x1E0),
    _version("current", 0x1E8),
    _version("committed", 0x1EC),
    _tcb("launch_tcb", 0x1F0),
    _number("launch_mit_vector", 0x1F8, 8, since=5),
    _number("current_mit_vector", 0x200, 8, since=5),
)
_SIGNATURE_R = _array("signature.r", 0x2A0, 72)
_SIGNATURE_S = _array("signature.s", 0x2E8, 72)
_NAMES = {field.name for field in _FIELDS}
_OPTIONAL = {field.name for field in _FIELDS if field.since > 2}
"""Absent and null are the same to serde for these: older crates do not write them."""


def snp_to_json(report: bytes, certificates: Mapping[str, bytes]) -> dict[str, object]:
    """Return a report and its certificates in the form that CoCo's broker takes as `primary_evidence`.

    Args:
        report: The 1184 bytes.
        certificates: Kind (`VCEK`, `VLEK`, `ASK`, `ARK`, `CRL`) -> DER; may be empty.

    Raises:
        FormatError: The report has another length or version, or a reserved byte that the JSON cannot carry;
            or a certificate's kind is unknown.
    """
    if len(report) != REPORT_SIZE:
        raise FormatError(f"An SNP report has {REPORT_SIZE} bytes, not {len(report)}.", field="report")
    version = _read_number(report[:4])
    _check_version(version)
    turin = _is_turin(report, version)
    fields: dict[str, object] = {}
    for field in _FIELDS:
        fields[field.name] = _read_field(report, field, turin=turin) if version >= field.since else None
    fields["signature"] = {"r": list(_slice(report, _SIGNATURE_R)), "s": list(_slice(report, _SIGNATURE_S))}
    if _report_bytes(fields) != report:
        raise FormatError(
            "The SNP report has a reserved byte that is not zero, which this form of evidence cannot carry.",
            field="report",
        )
    chain = [{"cert_type": _kind(kind), "data": list(der)} for kind, der in certificates.items()]
    return {"attestation_report": fields, "cert_chain": chain or None}


def snp_from_json(evidence: object) -> tuple[bytes, dict[str, bytes]]:
    """Rebuild a report's exact bytes and its certificates.

    Args:
        evidence: The parsed `primary_evidence` of a guest whose TEE is `snp`.

    Raises:
        FormatError: A field is missing, unknown, of another type or out of range; there are two certificates
            of one kind; or the version is none of 2 to 5.
    """
    if not isinstance(evidence, Mapping) or not set(evidence) <= {"attestation_report", "cert_chain"}:
        raise FormatError("This is not the SNP evidence of CoCo's attester.", field="primary_evidence")
    report = _report_bytes(evidence.get("attestation_report"))
    return report, _certificates(evidence.get("cert_chain"))


def _report_bytes(fields: object) -> bytes:
    if not isinstance(fields, Mapping):
        raise _bad("attestation_report", "is missing")
    unknown, missing = (
        set(fields) - _NAMES - {"signature"},
        (_NAMES - _OPTIONAL | {"signature"}) - set(fields),
    )
    if unknown or missing:
        name = min(str(name) for name in missing or unknown)[:32]
        raise _bad(name, "is missing" if missing else "is unknown")
    version = fields["version"]
    _check_version(version)
    report = bytearray(REPORT_SIZE)
    for field in _FIELDS:
        value = fields.get(field.name)
        if version < field.since:
            if value is not None:
                raise _bad(field.name, f"is set in a report of version {version}, which has no such field")
            continue
        report[field.offset : field.offset + field.size] = field.write(value, field)
    _check_layout(fields, report)
    signature = _members(fields["signature"], ("r", "s"), "signature")
    for half, field in (("r", _SIGNATURE_R), ("s", _SIGNATURE_S)):
        report[field.offset : field.offset + field.size] = field.write(signature[half], field)
    return bytes(report)


def _check_version(version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version not in VERSIONS:
        raise _bad("version", "is none of 2 to 5")


def _check_layout(fields: _Json, report: bytearray) -> None:
    """Refuse two TCB layouts in one report, and one that the CPUID family contradicts."""
    layouts = {
        field.name: fields[field.name].get("fmc") is not None
        for field in _FIELDS
        if field.name.endswith("_tcb")
    }
    turin = layouts["reported_tcb"]
    if len(set(layouts.values())) > 1:
        raise _bad("current_tcb", "has another layout than the report's other TCB versions")
    if fields["version"] >= 3 and (report[_FAMILY_OFFSET] == _TURIN_FAMILY) != turin:
        raise _bad("reported_tcb", "has the layout of another product line than the CPUID family")


def _is_turin(report: bytes, version: int) -> bool:
    """Tell the layout of TCB_VERSION as the `sev` crate does; behind a masked chip id, by its zeros."""
    if version >= 3:
        return report[_FAMILY_OFFSET] == _TURIN_FAMILY
    chip_id = report[_CHIP_ID]
    if any(chip_id):
        return not any(chip_id[8:])
    tcbs = [_slice(report, field) for field in _FIELDS if field.name.endswith("_tcb")]
    return any(any(tcb[_OLD_RESERVED]) for tcb in tcbs) and not any(any(tcb[_TURIN_RESERVED]) for tcb in tcbs)


def _slice(report: bytes, field: _Field) -> bytes:
    return report[field.offset : field.offset + field.size]


def _read_field(report: bytes, field: _Field, *, turin: bool) -> object:
    raw = _slice(report, field)
    return _read_tcb(raw, turin=turin) if field.name.endswith("_tcb") else field.read(raw)


def _kind(kind: str) -> str:
    if kind not in CERTIFICATE_KINDS:
        raise _bad("cert_type", f"is {kind[:16]!r}, which is unknown")
    return kind


def _certificates(chain: object) -> dict[str, bytes]:
    if chain is None:
        return {}
    if not isinstance(chain, Sequence) or isinstance(chain, str | bytes) or len(chain) > MAX_CERTIFICATES:
        raise _bad("cert_chain", f"is not an array of at most {MAX_CERTIFICATES} certificates")
    found: dict[str, bytes] = {}
    for item in chain:
        entry = _members(item, ("cert_type", "data"), "cert_chain")
        kind, data = entry["cert_type"], entry["data"]
        if isinstance(kind, Mapping) and set(kind) == {"OTHER"}:
            # The host may add tables of its own under other GUIDs; they endorse nothing.
            continue
        if not isinstance(kind, str):
            raise _bad("cert_type", "is not a name")
        if not isinstance(data, Sequence) or isinstance(data, str | bytes) or len(data) > MAX_CERTIFICATE:
            raise _bad(f"cert_chain {_kind(kind)}", "is not an array of numbers")
        if _kind(kind) in found:
            raise _bad("cert_chain", f"has two certificates of the kind {kind}")
        found[kind] = _octets(data, f"cert_chain {kind}")
    return found
