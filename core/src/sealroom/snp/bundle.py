# SPDX-License-Identifier: BSD-3-Clause
"""The evidence bundle: a file that a person saves from a notebook server and verifies anywhere.

What this is: the JSON document `sealroom-evidence/1` and the digest that binds a nonce to a report. What
this is not: verified evidence; `runtime_data`, `provider` and `created` are what the server says and are
covered by nothing.

Invariants:

- REPORT_DATA of the report in a bundle is `report_data_for(nonce)`; a verifier compares it with its own
  nonce.
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
MAX_BUNDLE: Final = 1 << 20
"""Longest bundle in bytes; one with a chain of three certificates has about 10 KiB."""
NONCE_SIZES: Final = range(16, 65)
"""Lengths that a nonce may have in bytes."""
_MEMBERS: Final = {"format", "tee", "nonce", "report", "certificates", "runtime_data", "provider", "created"}
_REQUIRED: Final = {"format", "tee", "nonce", "report", "certificates"}
_CHECK: Final = "snp.bundle.format"


def report_data_for(nonce: bytes) -> bytes:
    """Return the REPORT_DATA that answers a nonce: SHA-512 of the format name, a zero byte and the nonce."""
    return hashlib.sha512(FORMAT.encode() + b"\0" + nonce).digest()


@dataclass(frozen=True, slots=True)
class EvidenceBundle:
    """A parsed and not yet verified evidence bundle."""

    nonce: bytes
    """The nonce that the server was asked to answer, 16 to 64 bytes."""
    report: bytes
    """The bytes of the SNP report."""
    certificates: Mapping[str, bytes]
    """Certificates in DER by kind: VCEK or VLEK, ASK, ARK."""
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
