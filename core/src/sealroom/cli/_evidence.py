# SPDX-License-Identifier: BSD-3-Clause
"""Tell what a file of evidence is and take the reports and certificates out of it.

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
from sealroom.kbs.devices import NO_UUID, NVIDIA, Device, decode_devices
from sealroom.snp import REPORT_SIZE, CheckResult, Outcome, choose_vek
from sealroom.snp.bundle import FORMAT, EvidenceBundle
from sealroom.snp.hcl import HclReport
from sealroom.snp.table import ENTRY_SIZE, split_extended_report

MAX_FILE: Final = 4 << 20
"""Longest file of evidence that is read."""
_SPDM: Final = b"\x11\xe0"
"""SPDM 1.1, GET_MEASUREMENTS: what an NVIDIA report begins with. No SNP report has this version."""
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
    devices: str = ""
    """Evidence of devices that the report has to cover, as it came; or empty."""

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


@dataclass(frozen=True, slots=True)
class NrasToken:
    """An attestation result of NVIDIA's own service: a signed token with one more for each device."""

    data: bytes
    """The JSON document."""


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """The evidence of devices by themselves."""

    kind: str
    """What the file is, in words."""
    devices: tuple[Device, ...]
    """The devices; the chain of each may be empty."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A reference integrity manifest."""

    data: bytes
    """The XML document."""


Recognised = Evidence | Token | NrasToken | DeviceEvidence | Manifest


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


def recognise(data: bytes) -> Recognised:
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
    if data[: len(_SPDM)] == _SPDM:
        return DeviceEvidence("NVIDIA report", (Device("", NO_UUID, data, b""),))
    first = data.lstrip()[:1]
    if first in (b"{", b"["):
        return _from_json(data)
    if first == b"<":
        return Manifest(data)
    if _TOKEN.fullmatch(data):
        return Token(data.decode("ascii").strip())
    if len(data) >= REPORT_SIZE + ENTRY_SIZE:
        report, certificates = split_extended_report(data)
        detail = ", ".join(certificates) or "empty"
        table = CheckResult("snp.table.format", Outcome.PASSED, detail)
        return Evidence("report with a certificate table", report, certificates, checks=(table,))
    return Evidence("report", data)


def _from_json(data: bytes) -> Recognised:
    try:
        text = data.decode("utf-8")
        document = json.loads(text)
    except UnicodeDecodeError as error:
        raise FormatError(
            "The file looks like JSON and is not in UTF-8.", field="JSON", offset=error.start
        ) from error
    except json.JSONDecodeError as error:
        offset = len(text[: error.pos].encode("utf-8"))
        raise FormatError(
            f"The file looks like JSON and is not: {error.msg}.", field="JSON", offset=offset
        ) from error
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "The JSON document is nested too deeply, or has a number that is too long.", field="JSON"
        ) from error
    if isinstance(document, list):
        return _from_list(document, data)
    if "format" in document:
        bundle = EvidenceBundle.from_json(data)
        passed = CheckResult("snp.bundle.format", Outcome.PASSED, FORMAT)
        return Evidence(
            "evidence bundle", bundle.report, bundle.certificates, bundle.nonce, (passed,), bundle.devices
        )
    if NVIDIA in document:
        return DeviceEvidence("evidence of NVIDIA devices", decode_devices(data.decode("utf-8")))
    if "device_evidence_list" in document:
        return DeviceEvidence("evidence of NVIDIA devices", decode_devices(json.dumps({NVIDIA: document})))
    if "attestation_report" in document:
        from sealroom.kbs.evidence import snp_from_json

        report, certificates = snp_from_json(document)
        return Evidence("report in JSON", report, certificates)
    raise FormatError("The JSON document is no evidence of a kind that is known here.", field="JSON")


def _from_list(items: list[object], data: bytes) -> Recognised:
    """Take apart a list: a token of NVIDIA's service, or evidence as NVIDIA's own tools save it."""
    if items and isinstance(items[0], list):
        return NrasToken(data)
    document = {NVIDIA: {"device_evidence_list": items}}
    return DeviceEvidence("evidence of NVIDIA devices", decode_devices(json.dumps(document)))
