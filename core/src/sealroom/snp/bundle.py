# SPDX-License-Identifier: BSD-3-Clause
"""The evidence bundle: a file that a person saves from a notebook server and verifies anywhere.

What this is: the JSON document `sealroom-evidence/1` and the digest that binds a nonce to a report. What
this is not: verified evidence; `runtime_data`, `provider` and `created` are what the server says and are
covered by nothing.

Invariants:

- REPORT_DATA of the report in a bundle is `report_data_for(nonce, devices)`; a verifier compares it with its
  own nonce. So the processor's report covers the devices' evidence, and no evidence without devices can be
  passed off as one with devices: the prefixes differ.
- Each device answers `device_nonce_for(nonce)`.
- Unknown members are refused: a bundle is ours to define.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sealroom.errors import FormatError

FORMAT: Final = "sealroom-evidence/1"
"""Value of the member `format`."""
MAX_BUNDLE: Final = 1 << 21
"""Longest bundle in bytes; one with a chain of three certificates has about 10 KiB."""
NONCE_SIZES: Final = range(16, 65)
"""Lengths that a nonce may have in bytes."""
MAX_DEVICES: Final = 1 << 20
"""Longest text of devices' evidence in bytes; that of eight GPUs has about 100 KiB."""
_REQUIRED: Final = {"format", "tee", "nonce", "report", "certificates"}
_MEMBERS: Final = _REQUIRED | {"additional_evidence", "runtime_data", "provider", "created"}
_CHECK: Final = "snp.bundle.format"


def report_data_for(nonce: bytes, devices: str = "") -> bytes:
    """Return the REPORT_DATA that answers a nonce and covers the evidence of devices.

    Without devices it is SHA-512 of the format's name, a zero byte and the nonce. With devices it is SHA-512
    of the format's name, `+devices`, a zero byte, the SHA-384 of their evidence, and the nonce.

    Args:
        nonce: 16 to 64 bytes.
        devices: The devices' evidence, as the text that is in the bundle.
    """
    if not devices:
        return hashlib.sha512(FORMAT.encode() + b"\0" + nonce).digest()
    covered = hashlib.sha384(devices.encode("ascii")).digest()
    return hashlib.sha512(FORMAT.encode() + b"+devices\0" + covered + nonce).digest()


def device_nonce_for(nonce: bytes) -> bytes:
    """Return the 32 bytes that each device answers: SHA-256 of the format's name, `+device`, zero, nonce."""
    return hashlib.sha256(FORMAT.encode() + b"+device\0" + nonce).digest()


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """A parsed and not yet verified evidence bundle."""

    nonce: bytes
    """The nonce that the server was asked to answer, 16 to 64 bytes."""
    report: bytes
    """The bytes of the SNP report."""
    certificates: Mapping[str, bytes]
    """Certificates in DER by kind: VCEK or VLEK, ASK, ARK."""
    devices: str = ""
    """Evidence of devices (member `additional_evidence`), as the key broker protocol carries it; or empty."""
    runtime_data: Mapping[str, Any] = field(default_factory=dict)
    """What the server says about itself; covered by nothing."""
    provider: str = ""
    """Where the server got the report from."""
    created: str = ""
    """When the server made the bundle, by its own clock."""

    @classmethod
    def from_json(cls, data: bytes) -> EvidenceBundle:
        """Parse a bundle.

        Args:
            data: UTF-8 JSON.

        Raises:
            FormatError: It is no bundle of this format, or a member does not decode.
        """
        if len(data) > MAX_BUNDLE:
            raise _bad(
                f"A bundle of {len(data)} bytes is longer than the {MAX_BUNDLE} that are read.", "bundle"
            )
        try:
            document = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise _bad("The bundle is no JSON document.", "bundle") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise _bad(f"The document's format is not {FORMAT}.", "format")
        unknown, missing = document.keys() - _MEMBERS, _REQUIRED - document.keys()
        if unknown or missing:
            raise _bad(
                f"Members of the bundle are unknown or missing: {', '.join(sorted(unknown | missing))}.",
                "bundle",
            )
        if document["tee"] != "snp":
            raise _bad("The bundle is not of an SEV-SNP guest.", "tee")
        runtime_data = document.get("runtime_data", {})
        certificates = document["certificates"]
        if not isinstance(runtime_data, dict) or not isinstance(certificates, dict):
            raise _bad("runtime_data and certificates are objects.", "certificates")
        return cls(
            nonce=_nonce(document["nonce"]),
            report=_base64(document["report"], "report"),
            certificates={
                kind: _base64(value, f"certificates.{kind}") for kind, value in certificates.items()
            },
            devices=_devices(document.get("additional_evidence", "")),
            runtime_data=runtime_data,
            provider=_text(document.get("provider", ""), "provider"),
            created=_text(document.get("created", ""), "created"),
        )

    def to_json(self) -> bytes:
        """Return the document; the inverse of `from_json`."""
        document = {
            "format": FORMAT,
            "tee": "snp",
            "nonce": self.nonce.hex(),
            "report": base64.b64encode(self.report).decode(),
            "certificates": {
                kind: base64.b64encode(value).decode() for kind, value in self.certificates.items()
            },
            **({"additional_evidence": self.devices} if self.devices else {}),
            "runtime_data": dict(self.runtime_data),
            "provider": self.provider,
            "created": self.created,
        }
        return json.dumps(document, indent=2).encode() + b"\n"


def _bad(message: str, name: str) -> FormatError:
    return FormatError(message, field=name, check=_CHECK)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} is no string.", name)
    return value


def _devices(value: object) -> str:
    devices = _text(value, "additional_evidence")
    if len(devices) > MAX_DEVICES or not devices.isascii():
        raise _bad(
            f"additional_evidence is no ASCII text of at most {MAX_DEVICES} bytes.", "additional_evidence"
        )
    return devices


def _nonce(value: object) -> bytes:
    try:
        nonce = binascii.unhexlify(_text(value, "nonce"))
    except ValueError as error:
        raise _bad("nonce is no hexadecimal string.", "nonce") from error
    if len(nonce) not in NONCE_SIZES:
        raise _bad(f"nonce is {len(nonce)} bytes and must be 16 to 64.", "nonce")
    return nonce


def _base64(value: object, name: str) -> bytes:
    try:
        return base64.b64decode(_text(value, name), validate=True)
    except ValueError as error:
        raise _bad(f"{name} is no base64.", name) from error
