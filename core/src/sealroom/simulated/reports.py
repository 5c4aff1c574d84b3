# SPDX-License-Identifier: BSD-3-Clause
"""Lay out and sign attestation reports (AMD 56860 rev 1.58, ATTESTATION_REPORT).

The layout is written down here a second time, apart from the parser in `sealroom.snp`, so that tests
compare two readings of the specification. Nothing is checked but lengths: negative tests need reports that
break one rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from sealroom.snp import ProductLine, TcbVersion

SIZE = 0x4A0
SIGNED = 0x2A0
CPUID = {
    ProductLine.MILAN: (0x19, 0x01, 0x01),
    ProductLine.GENOA: (0x19, 0x11, 0x01),
    ProductLine.TURIN: (0x1A, 0x02, 0x01),
}
"""Family, model and stepping that a simulated processor of each line reports."""
DEFAULT_TCB = {
    ProductLine.MILAN: TcbVersion(fmc=None, bootloader=4, tee=0, snp=24, microcode=219),
    ProductLine.GENOA: TcbVersion(fmc=None, bootloader=10, tee=0, snp=23, microcode=84),
    ProductLine.TURIN: TcbVersion(fmc=1, bootloader=1, tee=0, snp=4, microcode=75),
}
DEFAULT_POLICY = 0x30000
"""Guest policy: SMT allowed, and the bit that must be one."""
KEY_INFO_VLEK = 1 << 2


def pack_tcb(tcb: TcbVersion, line: ProductLine) -> bytes:
    """Lay out a TCB_VERSION: Turin puts FMC first and shifts the others."""
    if line is ProductLine.TURIN:
        return bytes((tcb.fmc or 0, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode))
    return bytes((tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))


@dataclass(frozen=True, slots=True)
class ReportFields:
    """The fields of a report by their specification's names; `for_line` fills in a processor's."""

    version: int = 5
    guest_svn: int = 0
    policy: int = DEFAULT_POLICY
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    signature_algo: int = 1
    current_tcb: bytes = bytes(8)
    platform_info: int = 0x25
    key_info: int = 0
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(48)
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = bytes(32)
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: bytes = bytes(8)
    cpuid: tuple[int, int, int] = (0, 0, 0)
    chip_id: bytes = bytes(64)
    committed_tcb: bytes = bytes(8)
    current_version: tuple[int, int, int] = (1, 55, 40)
    """Major, minor, build."""
    committed_version: tuple[int, int, int] = (1, 55, 40)
    launch_tcb: bytes = bytes(8)
    launch_mit_vector: int = 0
    current_mit_vector: int = 0
    patches: Mapping[int, bytes] = field(default_factory=dict)
    """Bytes to put at an offset after everything else, for reserved areas."""

    @classmethod
    def for_line(
        cls, line: ProductLine, tcb: TcbVersion | None = None, *, version: int = 5, **changes: object
    ) -> ReportFields:
        """Fill in what a processor of `line` would report; `changes` replace single fields."""
        packed = pack_tcb(tcb or DEFAULT_TCB[line], line)
        values: dict[str, object] = {
            "version": version,
            "current_tcb": packed,
            "reported_tcb": packed,
            "committed_tcb": packed,
            "launch_tcb": packed,
            "cpuid": CPUID[line] if version >= 3 else (0, 0, 0),
            "launch_mit_vector": 1 if version >= 5 else 0,
            "current_mit_vector": 1 if version >= 5 else 0,
        }
        unknown = set(changes) - {item.name for item in fields(cls)}
        if unknown:
            raise TypeError(f"no such report field: {', '.join(sorted(unknown))}")
        return cls(**(values | changes))  # type: ignore[arg-type]

    def signed_part(self) -> bytes:
        """Return the 0x2A0 bytes that the signature covers."""
        out = bytearray(SIGNED)
        _put(out, 0x000, self.version, 4)
        _put(out, 0x004, self.guest_svn, 4)
        _put(out, 0x008, self.policy, 8)
        _put(out, 0x010, self.family_id, 16)
        _put(out, 0x020, self.image_id, 16)
        _put(out, 0x030, self.vmpl, 4)
        _put(out, 0x034, self.signature_algo, 4)
        _put(out, 0x038, self.current_tcb, 8)
        _put(out, 0x040, self.platform_info, 8)
        _put(out, 0x048, self.key_info, 4)
        _put(out, 0x050, self.report_data, 64)
        _put(out, 0x090, self.measurement, 48)
        _put(out, 0x0C0, self.host_data, 32)
        _put(out, 0x0E0, self.id_key_digest, 48)
        _put(out, 0x110, self.author_key_digest, 48)
        _put(out, 0x140, self.report_id, 32)
        _put(out, 0x160, self.report_id_ma, 32)
        _put(out, 0x180, self.reported_tcb, 8)
        _put(out, 0x188, bytes(self.cpuid), 3)
        _put(out, 0x1A0, self.chip_id, 64)
        _put(out, 0x1E0, self.committed_tcb, 8)
        _put(out, 0x1E8, bytes(reversed(self.current_version)), 3)
        _put(out, 0x1EC, bytes(reversed(self.committed_version)), 3)
        _put(out, 0x1F0, self.launch_tcb, 8)
        _put(out, 0x1F8, self.launch_mit_vector, 8)
        _put(out, 0x200, self.current_mit_vector, 8)
        for offset, data in self.patches.items():
            _put(out, offset, data, len(data))
        return bytes(out)


def sign_report(signed_part: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign the first 0x2A0 bytes and return the whole report of 1184 bytes.

    r and s stand little-endian in 72 bytes each (AMD 56860 rev 1.58, SIGNATURE).
    """
    if len(signed_part) != SIGNED:
        raise ValueError(f"the signed part has {SIGNED} bytes, not {len(signed_part)}")
    r, s = decode_dss_signature(key.sign(signed_part, ec.ECDSA(SHA384())))
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return signed_part + signature + bytes(SIZE - SIGNED - len(signature))


def _put(out: bytearray, offset: int, value: int | bytes, size: int) -> None:
    data = value.to_bytes(size, "little") if isinstance(value, int) else value
    if len(data) != size or offset + size > len(out):
        raise ValueError(f"the field at {offset:#x} has {size} bytes, not {len(data)}")
    out[offset : offset + size] = data
