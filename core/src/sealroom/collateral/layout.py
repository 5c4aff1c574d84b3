# SPDX-License-Identifier: BSD-3-Clause
"""Names of entries in a store.

| name | content |
|---|---|
| `amd/<line>/vcek/<hwid in hex>/<tcb>.der` | VCEK of one chip at one TCB; kept for good |
| `amd/<line>/vlek/<tcb>/<sha256>.der` | VLEK at one TCB; it names no chip, so there may be several |
| `amd/<line>/{ark,ask,asvk}-<sha256, 16 digits>.der` | certificates between a VEK and its root |
| `amd/<line>/crl.der`, `amd/<line>/crl-vlek.der` | revocation lists, until their nextUpdate |
| `amd/<line>/crl.json`, `amd/<line>/crl-vlek.json` | when the list was fetched |
| `nvidia/rim/<id>/<sha256>.xml` | a reference manifest; those that were replaced stay |
| `nvidia/rim/<id>/current.json` | which one is current, and when it was fetched |
| `nvidia/ocsp/<sha256 of the certificate>.der` | OCSP answer, until its nextUpdate |
| `development/<fingerprint of the roots, 16 digits>/{amd,nvidia}/...` | the same under other roots |

`<line>` is `milan`, `genoa` or `turin`; `<tcb>` is `bl3-tee0-snp8-ucode115`, and `fmc0-bl1-tee0-snp2-ucode71`
for Turin.

Invariant: a name that `Entry.parse` accepts is a relative path without `..`, and is the one that the entry
gives back.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from sealroom.errors import FormatError
from sealroom.snp import ProductLine, TcbVersion, VekKind

_AREA: Final = r"(?:development/(?P<fingerprint>[0-9a-f]{16})/)?"
_LINE: Final = r"amd/(?P<line>milan|genoa|turin)/"
_TCB: Final = r"(?P<tcb>(?:fmc\d{1,3}-)?bl\d{1,3}-tee\d{1,3}-snp\d{1,3}-ucode\d{1,3})"
_RIM_ID: Final = r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
MAX_RIM_ID: Final = 128
"""Longest id of a manifest; NVIDIA's have about 60 characters."""


class Kind(StrEnum):
    """What an entry is."""

    VCEK = "VCEK"
    VLEK = "VLEK"
    CA = "CA certificate"
    CRL = "revocation list"
    CRL_INFO = "revocation list, when fetched"
    RIM = "reference manifest"
    RIM_CURRENT = "reference manifest, which is current"
    OCSP = "OCSP answer"


_PATTERNS: Final = {
    Kind.VCEK: re.compile(
        _AREA + _LINE + r"vcek/(?P<hwid>[0-9a-f]{16}(?:[0-9a-f]{112})?)/" + _TCB + r"\.der"
    ),
    Kind.VLEK: re.compile(_AREA + _LINE + r"vlek/" + _TCB + r"/(?P<digest>[0-9a-f]{64})\.der"),
    Kind.CA: re.compile(_AREA + _LINE + r"(?P<role>ark|ask|asvk)-(?P<digest>[0-9a-f]{16})\.der"),
    Kind.CRL: re.compile(_AREA + _LINE + r"crl(?P<vlek>-vlek)?\.der"),
    Kind.CRL_INFO: re.compile(_AREA + _LINE + r"crl(?P<vlek>-vlek)?\.json"),
    Kind.RIM: re.compile(_AREA + rf"nvidia/rim/(?P<rim_id>{_RIM_ID})/(?P<digest>[0-9a-f]{{64}})\.xml"),
    Kind.RIM_CURRENT: re.compile(_AREA + rf"nvidia/rim/(?P<rim_id>{_RIM_ID})/current\.json"),
    Kind.OCSP: re.compile(_AREA + r"nvidia/ocsp/(?P<digest>[0-9a-f]{64})\.der"),
}
_NUMBERS: Final = re.compile(
    r"(?:fmc(?P<fmc>\d+)-)?bl(?P<bl>\d+)-tee(?P<tee>\d+)-snp(?P<snp>\d+)-ucode(?P<ucode>\d+)"
)


class TrustedRoots(Protocol):
    """What roots of either maker say about themselves."""

    @property
    def simulated(self) -> bool:
        """True for development roots."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the roots, in hex."""


def area(roots: TrustedRoots) -> str:
    """Return where entries under these roots are: the empty string for the makers' own."""
    return f"development/{roots.fingerprint[:16]}/" if roots.simulated else ""


def tcb_text(tcb: TcbVersion) -> str:
    """Return a TCB as a part of a name."""
    first = "" if tcb.fmc is None else f"fmc{tcb.fmc}-"
    return f"{first}bl{tcb.bootloader}-tee{tcb.tee}-snp{tcb.snp}-ucode{tcb.microcode}"


def parse_tcb(text: str) -> TcbVersion:
    """Parse a TCB as it stands in names.

    Raises:
        FormatError: It is none, or a number is above 255.
    """
    match = _NUMBERS.fullmatch(text)
    numbers = {name: int(value) for name, value in match.groupdict().items() if value} if match else {}
    if not numbers or max(numbers.values()) > 255:
        raise FormatError(
            f"{text[:60]!r} is no TCB; one looks like bl3-tee0-snp8-ucode115, Turin's with fmc0- before it.",
            field="TCB",
        )
    return TcbVersion(numbers["bl"], numbers["tee"], numbers["snp"], numbers["ucode"], numbers.get("fmc"))


def check_rim_id(rim_id: str) -> str:
    """Return an id of a manifest that is safe as a part of a name.

    Raises:
        FormatError: It is not.
    """
    if len(rim_id) > MAX_RIM_ID or not re.fullmatch(_RIM_ID, rim_id):
        raise FormatError(f"{rim_id[:40]!r} is no id of a reference manifest.", field="RIM id")
    return rim_id


@dataclass(frozen=True, slots=True)
class Entry:
    """What the name of an entry says."""

    name: str
    """Path under the store."""
    kind: Kind
    """What it is."""
    fingerprint: str
    """First 16 digits of the development roots' fingerprint; empty under the makers' roots."""
    line: ProductLine | None = None
    """Product line, for AMD's entries."""
    hwid: bytes | None = None
    """Chip id of a VCEK: 8 bytes for Turin, 64 for others."""
    tcb: TcbVersion | None = None
    """TCB of a VCEK or VLEK."""
    role: str = ""
    """ARK, ASK or ASVK."""
    digest: str = ""
    """SHA-256 that the name gives: of the content, or of the certificate that an OCSP answer is about."""
    rim_id: str = ""
    """Id of a manifest."""
    vlek: bool = False
    """Whether a revocation list is the one for VLEKs."""

    @classmethod
    def parse(cls, name: str) -> Entry:
        """Parse a name.

        Raises:
            FormatError: It is no name of an entry.
        """
        for kind, pattern in _PATTERNS.items():
            match = pattern.fullmatch(name)
            if match is None:
                continue
            parts = {key: value for key, value in match.groupdict().items() if value}
            entry = cls(
                name=name,
                kind=kind,
                fingerprint=parts.get("fingerprint", ""),
                line=ProductLine(parts["line"].capitalize()) if "line" in parts else None,
                hwid=bytes.fromhex(parts["hwid"]) if "hwid" in parts else None,
                tcb=parse_tcb(parts["tcb"]) if "tcb" in parts else None,
                role=parts.get("role", "").upper(),
                digest=parts.get("digest", ""),
                rim_id=check_rim_id(parts["rim_id"]) if "rim_id" in parts else "",
                vlek="vlek" in parts,
            )
            if entry.tcb is None or f"/{tcb_text(entry.tcb)}" in name:
                return entry
        raise FormatError(f"{name[:200]!r} is no name of an entry.", field="name")


def vcek_name(roots: TrustedRoots, line: ProductLine, hwid: bytes, tcb: TcbVersion) -> str:
    """Return the name of a VCEK."""
    return f"{area(roots)}amd/{line.lower()}/vcek/{hwid.hex()}/{tcb_text(tcb)}.der"


def vlek_folder(roots: TrustedRoots, line: ProductLine, tcb: TcbVersion) -> str:
    """Return the folder of the VLEKs at a TCB."""
    return f"{area(roots)}amd/{line.lower()}/vlek/{tcb_text(tcb)}"


def vlek_name(roots: TrustedRoots, line: ProductLine, tcb: TcbVersion, data: bytes) -> str:
    """Return the name of a VLEK."""
    return f"{vlek_folder(roots, line, tcb)}/{hashlib.sha256(data).hexdigest()}.der"


def line_folder(roots: TrustedRoots, line: ProductLine) -> str:
    """Return the folder of a product line."""
    return f"{area(roots)}amd/{line.lower()}"


def ca_name(roots: TrustedRoots, line: ProductLine, role: str, data: bytes) -> str:
    """Return the name of an ARK, ASK or ASVK."""
    return f"{line_folder(roots, line)}/{role.lower()}-{hashlib.sha256(data).hexdigest()[:16]}.der"


def crl_name(roots: TrustedRoots, line: ProductLine, kind: VekKind) -> str:
    """Return the name of the revocation list for a kind of endorsement certificate."""
    return f"{line_folder(roots, line)}/crl{'-vlek' if kind is VekKind.VLEK else ''}.der"


def rim_folder(roots: TrustedRoots, rim_id: str) -> str:
    """Return the folder of the manifests with an id."""
    return f"{area(roots)}nvidia/rim/{check_rim_id(rim_id)}"


def ocsp_name(roots: TrustedRoots, certificate: bytes) -> str:
    """Return the name of the OCSP answer about a certificate in DER."""
    return f"{area(roots)}nvidia/ocsp/{hashlib.sha256(certificate).hexdigest()}.der"
