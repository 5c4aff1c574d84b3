# SPDX-License-Identifier: BSD-3-Clause
"""Tell what a file of evidence is and take the report and certificates out of it.

What this is: recognition by content, never by file name. What this is not: verification.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sealroom.errors import FormatError, StorageError
from sealroom.snp import REPORT_SIZE, CheckResult, Outcome, choose_vek
from sealroom.snp.bundle import FORMAT, EvidenceBundle
from sealroom.snp.hcl import HclReport
from sealroom.snp.table import ENTRY_SIZE, split_extended_report

MAX_FILE: Final = 4 << 20
"""Longest file of evidence that is read."""
_TOKEN: Final = re.compile(rb"\s*[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\s*")


@dataclass(frozen=True, slots=True)
class Evidence:
    """An SNP report and what came with it."""

    kind: str
    """What the file is, in words."""
    report: bytes
    """The bytes that claim to be a report."""
    certificates: Mapping[str, bytes] = field(default_factory=dict)
    """Certificates in DER by kind."""
    nonce: bytes | None = None
    """The nonce that the file says the report answers."""
    checks: tuple[CheckResult, ...] = ()
    """Checks of the container that were made."""

    def vek(self) -> bytes:
        """Return the endorsement certificate that came with the report."""
        return choose_vek(self.report, self.certificates)

    def others(self) -> list[bytes]:
        """Return the certificates that lead to a root."""
        return [self.certificates[kind] for kind in ("ASK", "ASVK", "ARK") if kind in self.certificates]


@dataclass(frozen=True, slots=True)
class Token:
    """An attestation result of a broker, as a signed token."""

    text: str
    """The token in compact form."""


def read_file(path: Path) -> bytes:
    """Return the content of a file that a person named.

    Raises:
        StorageError: It cannot be read.
        FormatError: It is too long to be evidence.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_FILE:
        raise FormatError(f"{path} is longer than {MAX_FILE} bytes and no evidence.")
    return data


def recognise(data: bytes) -> Evidence | Token:
    """Tell what some bytes are.

    Args:
        data: Content of a file.

    Raises:
        FormatError: They are evidence of no kind that is known here, or broken.
        BindingError: An HCL report does not cover its runtime data.
    """
    if data[:4] == b"HCLA":
        hcl = HclReport.from_bytes(data)
        checks = (
            CheckResult("snp.hcl.format", Outcome.PASSED, "report at offset 0x20"),
            CheckResult("snp.hcl.runtime_data", Outcome.PASSED, f"{len(hcl.runtime_data)} bytes covered"),
        )
        return Evidence("Azure HCL report", hcl.report, checks=checks)
    if data.lstrip()[:1] == b"{":
        return _from_json(data)
    if _TOKEN.fullmatch(data):
        return Token(data.decode("ascii").strip())
    if len(data) >= REPORT_SIZE + ENTRY_SIZE:
        report, certificates = split_extended_report(data)
        detail = ", ".join(certificates) or "empty"
        table = CheckResult("snp.table.format", Outcome.PASSED, detail)
        return Evidence("report with a certificate table", report, certificates, checks=(table,))
    return Evidence("report", data)


def _from_json(data: bytes) -> Evidence:
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError("The file looks like JSON and is not.", field="JSON") from error
    if "format" in document:
        bundle = EvidenceBundle.from_json(data)
        passed = CheckResult("snp.bundle.format", Outcome.PASSED, FORMAT)
        return Evidence("evidence bundle", bundle.report, bundle.certificates, bundle.nonce, (passed,))
    if "attestation_report" in document:
        from sealroom.kbs.evidence import snp_from_json

        report, certificates = snp_from_json(document)
        return Evidence("report in JSON", report, certificates)
    raise FormatError("The JSON document is no evidence of a kind that is known here.", field="JSON")
