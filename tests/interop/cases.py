# SPDX-License-Identifier: BSD-3-Clause
"""Cases for other verifiers: reports of `sealroom.testing`, right and with one thing wrong, as directories.

The certificates carry AMD's organisation texts, because other verifiers compare them. Each case holds its
trusted root and intermediate, so that a verifier trusts nothing else.
"""

from __future__ import annotations

import functools
import subprocess
from base64 import encodebytes
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import get_args

from cryptography.hazmat.primitives.asymmetric import ec
from sealroom import testing
from sealroom.errors import Error
from sealroom.simulated.certificates import VekKind
from sealroom.simulated.reports import sign_report
from sealroom.simulated.root import Root, make
from sealroom.snp import ProductLine, Roots, verify_report
from sealroom.snp.structure import REPORT_SIZE, SIGNED_SIZE
from sealroom.snp.table import build_certificate_table, split_extended_report

AFTER = testing.NOW.replace(year=testing.NOW.year + 40)
"""A time at which every certificate has expired."""


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of evidence with what is trusted and when."""

    line: ProductLine
    kind: VekKind
    report: bytes
    vek: bytes
    ask: bytes
    """The trusted ASK, or ASVK for a VLEK."""
    ark: bytes
    """The trusted root."""
    at: datetime = testing.NOW
    extended: bool = False
    """Give the certificate with the report, in a certificate table."""

    def evidence(self) -> bytes:
        """Return the report, with a certificate table if the case is of an extended report."""
        if not self.extended:
            return self.report
        table = {self.kind: self.vek, "ASK": self.ask, "ARK": self.ark}
        return self.report + build_certificate_table(table)

    def write(self, directory: Path) -> None:
        """Write the case as the other verifiers read it."""
        directory.mkdir()
        files = {"ask.der": self.ask, "ark.der": self.ark}
        if self.extended:
            files["extended.bin"] = self.evidence()
        else:
            files |= {"report.bin": self.report, "vek.der": self.vek}
        for name, data in files.items():
            (directory / name).write_bytes(data)
        for name, text in (("line", self.line), ("kind", self.kind), ("at", int(self.at.timestamp()))):
            (directory / name).write_text(f"{text}\n")

    def accepted_by_sealroom(self) -> bool:
        """Tell whether Sealroom's own verifier accepts the case."""
        try:
            report, vek = self.report, self.vek
            if self.extended:
                report, table = split_extended_report(self.evidence())
                vek = table[self.kind]
            roots = Roots.development(pem(self.ask) + pem(self.ark))
            verify_report(report, vek, roots=roots, at=self.at)
        except Error:
            return False
        return True


def pem(der: bytes) -> bytes:
    """Return a certificate in PEM."""
    return b"-----BEGIN CERTIFICATE-----\n" + encodebytes(der) + b"-----END CERTIFICATE-----\n"


def _chip(line: ProductLine, kind: VekKind) -> testing.Chip:
    return testing.chip(line, kind=kind, root=_root(line, kind))


@functools.cache
def _root(line: ProductLine, kind: VekKind) -> Root:
    return testing.chain(line, vlek=kind == "VLEK", names=testing.AMD_LIKE_NAMES)


def _case(chip: testing.Chip, report: bytes) -> Case:
    held = chip.certificates
    return Case(chip.line, chip.kind, report, chip.vek, held["ASK"], held["ARK"])


def right() -> dict[str, Case]:
    """Return cases that must be accepted, by name: every line, kind and report version."""
    cases = {}
    for line in ProductLine:
        for kind in get_args(VekKind):
            chip = _chip(line, kind)
            for version in (2, 3, 4, 5):
                name = f"{line}-{kind}-v{version}".lower()
                case = _case(chip, chip.report(version, report_data=b"\x5a" * 64))
                cases[name] = case
                if version == 3:
                    cases[f"{name}-extended"] = replace(case, extended=True)
    return cases


def wrong() -> dict[str, Case]:
    """Return cases that must be refused, named for the one thing wrong."""
    cases = {}
    chips: tuple[tuple[ProductLine, VekKind], ...] = (
        (ProductLine.MILAN, "VCEK"),
        (ProductLine.GENOA, "VCEK"),
        (ProductLine.GENOA, "VLEK"),
        (ProductLine.TURIN, "VCEK"),
    )
    for line, kind in chips:
        for name, case in _wrong(_chip(line, kind)).items():
            cases[f"{line}-{kind}-{name}".lower()] = case
    return cases


def _wrong(chip: testing.Chip) -> dict[str, Case]:
    good = _case(chip, chip.report(3))
    cases = {
        f"{name}-changed": replace(good, report=_flip(good.report, offset))
        for name, offset in (
            ("policy", 0x08),
            ("report-data", 0x50),
            ("measurement", 0x90),
            ("host-data", 0xC0),
            ("reported-tcb", 0x180),
            ("chip-id", 0x1A0),
            ("signature-r", 0x2A0),
            ("signature-s", 0x2E8),
        )
    }
    stranger = make(
        chip.line,
        at=testing.EPOCH,
        keys=(testing.rsa_key("strange ark"), testing.rsa_key("strange ask")),
        asvk_key=testing.rsa_key("strange ask"),
        names=testing.AMD_LIKE_NAMES,
    )
    other_key = ec.generate_private_key(ec.SECP384R1())
    older = chip.tcb.to_bytes()[:-1] + bytes((chip.tcb.microcode - 1,))
    cases |= {
        "report-extended-measurement-changed": replace(good, report=_flip(good.report, 0x90), extended=True),
        "signed-by-another-key": replace(good, report=sign_report(good.report[:SIGNED_SIZE], other_key)),
        "certificate-for-another-key": replace(
            good, vek=testing.vek(chip.line, kind=chip.kind, root=chip.root, key=other_key.public_key())
        ),
        "certificate-of-another-root": replace(
            good, vek=testing.vek(chip.line, kind=chip.kind, root=stranger, key=chip.key.public_key())
        ),
        "certificate-changed": replace(good, vek=_flip(good.vek, len(good.vek) - 300)),
        "reserved-byte-set": replace(good, report=chip.report(3, patches={0x20A: b"\x01"})),
        "cut": replace(good, report=good.report[: REPORT_SIZE - 1]),
        "certificate-expired": replace(good, at=AFTER),
        "firmware-of-another-certificate": replace(good, report=chip.report(3, reported_tcb=older)),
    }
    if chip.kind == "VCEK":
        cases["chip-of-another-certificate"] = replace(
            good, report=chip.report(3, chip_id=_flip(chip.chip_id, 0))
        )
        cases["signing-key-says-vlek"] = replace(good, report=chip.report(3, key_info=1 << 2))
    return cases


def _flip(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes((data[offset] ^ 0x01,)) + data[offset + 1 :]


def verdicts(program: Path, cases: dict[str, Case], directory: Path) -> dict[str, str]:
    """Let another verifier judge cases.

    Args:
        program: The verifier, as `interop.peers.program` builds it.
        cases: Cases by name.
        directory: An empty directory for the cases.

    Returns:
        By name, `accepted` or the reason for which the case is refused.
    """
    for name, case in cases.items():
        case.write(directory / name)
    done = subprocess.run(
        [program, "verify", directory], capture_output=True, text=True, check=True, timeout=120
    )
    found = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert found.keys() == cases.keys(), done.stderr
    return found
