# SPDX-License-Identifier: BSD-3-Clause
"""The SEV-SNP attestation report: 1184 bytes as fields.

What this is: a strict parser of report versions 2 to 5. What this is not: verification. A `Report` is what
some bytes claim; only `sealroom.snp.verify` tells whether a processor signed them.

Invariants:

- `Report.from_bytes(b).to_bytes() == b` for every `b` that parses.
- Nothing is padded, cut or guessed; a reserved bit or byte that is set is refused with its offset.
- A report of version 2 does not name its processor. Its TCB fields are read in the layout that its chip id
  shows, unless the caller knows the line; verification always does, from the endorsement certificate.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from sealroom.errors import FormatError
from sealroom.snp.checks import Trail
from sealroom.snp.fields import GuestPolicy, KeyInfo, PlatformInfo
from sealroom.snp.structure import check_structure, first_set, refused
from sealroom.snp.tcb import ProductLine, TcbVersion, line_from_cpuid

_LAYOUT: Final = struct.Struct(
    "<IIQ16s16sIIQQI4s64s48s32s48s48s32s32sQ3B21s64sQ3Bc3BcQQQ152s48s24s48s24s368s"
)


@dataclass(frozen=True, slots=True)
class Report:
    """A parsed and not yet verified attestation report."""

    version: int
    """VERSION: layout of the report, 2 to 5."""
    guest_svn: int
    """GUEST_SVN: the guest's own security version, from the ID block."""
    policy: GuestPolicy
    """POLICY: what the guest owner allowed at launch."""
    family_id: bytes
    """FAMILY_ID: 16 bytes from the ID block."""
    image_id: bytes
    """IMAGE_ID: 16 bytes from the ID block."""
    vmpl: int
    """VMPL: privilege level inside the guest that asked for the report; 0xFFFFFFFF if the host asked."""
    signature_algo: int
    """SIGNATURE_ALGO: 1 is ECDSA P-384 with SHA-384."""
    current_tcb: TcbVersion
    """CURRENT_TCB: firmware that runs now."""
    platform_info: PlatformInfo
    """PLATFORM_INFO: how the platform runs."""
    key_info: KeyInfo
    """Word at 0x48: AUTHOR_KEY_EN, MASK_CHIP_KEY and SIGNING_KEY."""
    report_data: bytes
    """REPORT_DATA: 64 bytes that the guest chose for this report."""
    measurement: bytes
    """MEASUREMENT: 48 bytes, digest of everything the guest was launched with."""
    host_data: bytes
    """HOST_DATA: 32 bytes that the host gave at launch, fixed since."""
    id_key_digest: bytes
    """ID_KEY_DIGEST: 48 bytes, digest of the key that signed the ID block; zero if there was none."""
    author_key_digest: bytes
    """AUTHOR_KEY_DIGEST: 48 bytes, digest of the key that certified the ID key; zero if there was none."""
    report_id: bytes
    """REPORT_ID: 32 bytes that name this guest until it ends."""
    report_id_ma: bytes
    """REPORT_ID_MA: 32 bytes that name the migration agent; all FFh if there is none."""
    reported_tcb: TcbVersion
    """REPORTED_TCB: firmware that the endorsement certificate vouches for."""
    cpuid_fam_id: int
    """CPUID_FAM_ID: processor family; zero before version 3."""
    cpuid_mod_id: int
    """CPUID_MOD_ID: processor model; zero before version 3."""
    cpuid_step: int
    """CPUID_STEP: processor stepping; zero before version 3."""
    chip_id: bytes
    """CHIP_ID: 64 bytes; zero if the platform masks it."""
    committed_tcb: TcbVersion
    """COMMITTED_TCB: firmware below which the platform cannot go back."""
    current_build: int
    """CURRENT_BUILD: build of the firmware that runs."""
    current_minor: int
    """CURRENT_MINOR: minor ABI version of the firmware that runs."""
    current_major: int
    """CURRENT_MAJOR: major ABI version of the firmware that runs."""
    committed_build: int
    """COMMITTED_BUILD: build of the committed firmware."""
    committed_minor: int
    """COMMITTED_MINOR: minor ABI version of the committed firmware."""
    committed_major: int
    """COMMITTED_MAJOR: major ABI version of the committed firmware."""
    launch_tcb: TcbVersion
    """LAUNCH_TCB: firmware at the time the guest was launched."""
    launch_mit_vector: int
    """LAUNCH_MIT_VECTOR: mitigations in force at launch; zero before version 5."""
    current_mit_vector: int
    """CURRENT_MIT_VECTOR: mitigations in force now; zero before version 5."""
    signature_r: int
    """R of the signature."""
    signature_s: int
    """S of the signature. S and n - S both verify: never use a report's digest to recognise a replay."""
    line: ProductLine | None = field(default=None)
    """Product line: from CPUID, or as the caller said for version 2; None if neither tells."""

    @classmethod
    def from_bytes(cls, raw: bytes, line: ProductLine | None = None) -> Report:
        """Parse a report.

        Args:
            raw: Exactly 1184 bytes.
            line: The product line, if it is known from the endorsement certificate. Used only for version
                2, which does
                not name its processor.

        Raises:
            FormatError: The bytes are no report; the error names offset, field and check.
        """
        check_structure(raw, Trail())
        return decode(raw, line, Trail())

    @property
    def raw(self) -> bytes:
        """The 1184 bytes of the report."""
        return self.to_bytes()

    @property
    def chip_id_masked(self) -> bool:
        """CHIP_ID is all zero: the platform masks it, or a VLEK signed."""
        return not any(self.chip_id)

    def to_bytes(self) -> bytes:
        """Return the 1184 bytes of the report; the inverse of `from_bytes`."""
        return _LAYOUT.pack(
            self.version,
            self.guest_svn,
            self.policy,
            self.family_id,
            self.image_id,
            self.vmpl,
            self.signature_algo,
            _tcb_word(self.current_tcb),
            self.platform_info,
            self.key_info,
            b"",
            self.report_data,
            self.measurement,
            self.host_data,
            self.id_key_digest,
            self.author_key_digest,
            self.report_id,
            self.report_id_ma,
            _tcb_word(self.reported_tcb),
            self.cpuid_fam_id,
            self.cpuid_mod_id,
            self.cpuid_step,
            b"",
            self.chip_id,
            _tcb_word(self.committed_tcb),
            self.current_build,
            self.current_minor,
            self.current_major,
            b"\0",
            self.committed_build,
            self.committed_minor,
            self.committed_major,
            b"\0",
            _tcb_word(self.launch_tcb),
            self.launch_mit_vector,
            self.current_mit_vector,
            b"",
            self.signature_r.to_bytes(48, "little"),
            b"",
            self.signature_s.to_bytes(48, "little"),
            b"",
            b"",
        )


def _tcb_word(tcb: TcbVersion) -> int:
    return int.from_bytes(tcb.to_bytes(), "little")


def decode(raw: bytes, line: ProductLine | None, trail: Trail) -> Report:
    """Make the fields of a report whose structure was checked, in the layout of its line.

    Args:
        raw: Bytes that `check_structure` let pass.
        line: The line that the endorsement certificate gives, or None.
        trail: Where passed checks are recorded.

    Raises:
        FormatError: A TCB or chip id does not have the layout of the line.
    """
    v = _LAYOUT.unpack(raw)
    chip_id: bytes = v[23]
    named = line_from_cpuid(v[19], v[20]) if v[0] > 2 else line
    layout = named or _layout_of_version_2(raw)
    current, reported, committed, launch = (
        _tcb(raw, offset, name, layout)
        for name, offset in (
            ("CURRENT_TCB", 0x38),
            ("REPORTED_TCB", 0x180),
            ("COMMITTED_TCB", 0x1E0),
            ("LAUNCH_TCB", 0x1F0),
        )
    )
    trail.passed("snp.report.tcb_layout", f"layout of {layout}")
    if named is not None and any(chip_id[named.chip_id_size :]):
        at = first_set(raw, 0x1A0 + named.chip_id_size)
        raise refused(
            "snp.report.chip_id_layout",
            "CHIP_ID",
            at,
            (
                f"CHIP_ID has a byte set at offset {at:#x}, after the {named.chip_id_size} bytes that "
                f"{named} uses."
            ),
        )
    trail.passed("snp.report.chip_id_layout", f"{(named or layout).chip_id_size} bytes")
    return Report(
        version=v[0],
        guest_svn=v[1],
        policy=GuestPolicy(v[2]),
        family_id=v[3],
        image_id=v[4],
        vmpl=v[5],
        signature_algo=v[6],
        current_tcb=current,
        platform_info=PlatformInfo(v[8]),
        key_info=KeyInfo(v[9]),
        report_data=v[11],
        measurement=v[12],
        host_data=v[13],
        id_key_digest=v[14],
        author_key_digest=v[15],
        report_id=v[16],
        report_id_ma=v[17],
        reported_tcb=reported,
        cpuid_fam_id=v[19],
        cpuid_mod_id=v[20],
        cpuid_step=v[21],
        chip_id=chip_id,
        committed_tcb=committed,
        current_build=v[25],
        current_minor=v[26],
        current_major=v[27],
        committed_build=v[29],
        committed_minor=v[30],
        committed_major=v[31],
        launch_tcb=launch,
        launch_mit_vector=v[34],
        current_mit_vector=v[35],
        signature_r=int.from_bytes(v[37], "little"),
        signature_s=int.from_bytes(v[39], "little"),
        line=named,
    )


def _tcb(raw: bytes, offset: int, name: str, line: ProductLine) -> TcbVersion:
    try:
        return TcbVersion.from_bytes(raw[offset : offset + 8], line)
    except FormatError as error:
        raise refused(
            "snp.report.tcb_layout", name, offset, f"{name} at offset {offset:#x}: {error.message}"
        ) from error


def _layout_of_version_2(raw: bytes) -> ProductLine:
    """Return a line with the TCB layout that a version 2 report shows by its chip id.

    Turin's chip ids have 8 bytes, the others' 64. Where the chip id is masked, the reserved bytes of
    CURRENT_TCB tell: they are zero in the layout of Milan and Genoa.
    """
    chip_id = raw[0x1A0:0x1E0]
    if any(chip_id):
        return ProductLine.MILAN if any(chip_id[8:]) else ProductLine.TURIN
    return ProductLine.TURIN if any(raw[0x3A:0x3E]) else ProductLine.MILAN
