# SPDX-License-Identifier: BSD-3-Clause
"""Reference integrity manifests (RIM): what NVIDIA says a driver or a VBIOS measures as.

A manifest is a SWID tag (ISO/IEC 19770-2:2015, TCG RIM Information Model 1.01) with an enveloped XML
signature (W3C XML Signature 1.1: canonical XML 1.1, ECDSA with SHA-384) and the signer's chain in it.

Invariants:

- Nothing is read but from the part that the signature covers, as the XML signature library returns it.
- Algorithms and transforms are fixed here, not taken from the file. UTF-8 alone, no document type, no
  entities, no network.
- White space and base64 around signature and certificates are outside of what is signed, and mean nothing.
- What is remembered between calls is a manifest whose signature was verified under these roots. Validity and
  revocation are evaluated every time.
- lxml and signxml are imported when the first manifest is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from sealroom.checks import CheckResult, Trail
from sealroom.errors import ExpiredError, FormatError, SignatureError
from sealroom.nvidia.certificates import RIM, Certificate, build_chain, check_times
from sealroom.nvidia.ocsp import OcspPolicy, check_revocation
from sealroom.nvidia.roots import NvidiaRoots
from sealroom.remember import Memory

MAX_MANIFEST: Final = 1 << 20
"""Longest manifest in bytes; one has about 30 KiB."""
MAX_INDEX: Final = 64
MAX_ALTERNATIVES: Final = 64
MAX_CACHED: Final = 128
_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
_DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
_C14N11: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ENVELOPED: Final = f"{_DSIG}enveloped-signature"
_VBIOS: Final = re.compile(r"[0-9A-F]{2}(\.[0-9A-F]{2}){4,7}")
_DRIVER: Final = re.compile(r"[0-9]{2,6}(\.[0-9]{1,6}){1,3}")
_DIGEST: Final = re.compile(r"[0-9a-fA-F]{96}")
_ENCODING: Final = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*?\bencoding\s*=\s*["']([^"']*)["']""")
_DOCUMENT_TYPE: Final = "It has a document type, which no manifest has."
_PROOF: Final = object()
_ANEW: Final = "Fetch the manifest anew with `sealroom collateral refresh`."
_EXPIRED: Final = (
    "The manifest is genuine and its signer's certificate has ended, which says nothing bad about the GPU. "
    "Fetch the manifest anew with `sealroom collateral refresh`; if the service still gives this one, use a "
    "newer driver or VBIOS."
)

Kind = Literal["driver", "vbios"]


@dataclass(frozen=True, slots=True)
class VerifiedRim:
    """An authentic manifest; only `verify_rim` makes one."""

    kind: Kind
    """What it is of."""
    version: str
    """Version of the driver or the VBIOS."""
    product: str
    """Chip, for example `GH100`."""
    sha256: str
    """SHA-256 of the file, hex: tells manifests of one version apart."""
    measurements: Mapping[int, tuple[bytes, ...]]
    """Active reference values: 0-based index to accepted values, 48 bytes each."""
    chain: tuple[Certificate, ...]
    """The signer, its issuers, the pinned root."""
    roots: NvidiaRoots
    """What was trusted."""
    at: datetime
    """The reference time."""
    checks: tuple[CheckResult, ...]
    """What was checked."""
    proof: InitVar[object] = None

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("only verify_rim makes a VerifiedRim")

    @property
    def rim_id(self) -> str:
        """Names it for people: kind, version and the beginning of its SHA-256."""
        return (
            f"{'driver' if self.kind == 'driver' else 'VBIOS'} manifest {self.version} ({self.sha256[:12]})"
        )

    @property
    def simulated(self) -> bool:
        """True if a development root vouches for it."""
        return self.roots.simulated


@dataclass(frozen=True, slots=True)
class _Content:
    """What the signature of a manifest covers, and who signed."""

    kind: Kind
    version: str
    product: str
    measurements: Mapping[int, tuple[bytes, ...]]
    chain: tuple[Certificate, ...]
    checks: tuple[CheckResult, ...]


_KNOWN: Final[Memory[tuple[str, str], _Content]] = Memory(MAX_CACHED)


def clear_rim_cache() -> None:
    """Forget every verified manifest."""
    _KNOWN.clear()


def verify_rim(
    xml: bytes,
    *,
    roots: NvidiaRoots,
    at: datetime,
    ocsp: Sequence[bytes] = (),
    ocsp_policy: OcspPolicy = OcspPolicy.OFF,
    allow_expired: bool = False,
) -> VerifiedRim:
    """Verify that a manifest is authentic and in force.

    Args:
        xml: The file.
        roots: The roots to trust; there is no default on purpose.
        at: The reference time, with a time zone.
        ocsp: OCSP answers in DER about the signer and its issuers.
        ocsp_policy: What is done about revocation; NVIDIA puts signers on hold, which counts as good here.
        allow_expired: Accept a signer whose own certificate has ended, not one whose issuer's has; the check
            then says so and is not passed.

    Returns:
        The manifest with what was checked.

    Raises:
        FormatError: It is no manifest.
        VerificationError: It is not authentic: `SignatureError`, `ChainError`, `ExpiredError`,
            `NotYetValidError`, `RevokedError`, `RevocationUnavailableError`. `check` names the check.
        TypeError: `at` has no time zone.
    """
    if at.tzinfo is None:
        raise TypeError("at needs a time zone")
    at = at.astimezone(UTC)
    xml = bytes(xml)
    digest = hashlib.sha256(xml).hexdigest()
    key = (digest, roots.fingerprint)
    content = _KNOWN.get(key)
    if content is None:
        content = _read(xml, roots, None if allow_expired else at)
        _KNOWN.put(key, content)
    trail = Trail(content.checks)
    _check_validity(content.chain, at, trail, allow_expired=allow_expired)
    check_revocation(content.chain, ocsp, ocsp_policy, at, trail, "nvidia.rim.ocsp", tolerate_hold=True)
    return VerifiedRim(
        content.kind,
        content.version,
        content.product,
        digest,
        content.measurements,
        content.chain,
        roots,
        at,
        tuple(trail.results),
        proof=_PROOF,
    )


def _check_validity(
    chain: tuple[Certificate, ...], at: datetime, trail: Trail, *, allow_expired: bool
) -> None:
    signer, *issuers = chain
    ends = signer.x509.not_valid_after_utc
    if not (allow_expired and at > ends):
        check_times(chain, at, RIM, trail, _EXPIRED)
        return
    check_times(issuers, at, RIM, Trail(), _EXPIRED)
    trail.not_asked(
        "nvidia.rim.validity", f"{signer.name} expired on {ends:%Y-%m-%d}, which the policy accepts"
    )


def _read(xml: bytes, roots: NvidiaRoots, at: datetime | None) -> _Content:
    trail = Trail()
    root = _parse(xml)
    chain = build_chain(_certificates(root), roots.rim, RIM, trail)
    try:
        signed = _signed(root, chain[0])
    except SignatureError as error:
        _say_expired(chain, at, error)
        raise
    trail.passed("nvidia.rim.signature", "ECDSA P-384 with SHA-384 over the whole document")
    kind, version, product = _meta(signed)
    measurements = _measurements(signed)
    trail.passed("nvidia.rim.content", f"{kind} {version}, {len(measurements)} active reference values")
    return _Content(kind, version, product, measurements, chain, tuple(trail.results))


def _say_expired(chain: Sequence[Certificate], at: datetime | None, error: SignatureError) -> None:
    """Name the end of the signer before a signature that does not verify, as NVIDIA's verifiers do."""
    for one in chain:
        ends = one.x509.not_valid_after_utc
        if at is not None and at > ends:
            raise ExpiredError(
                f"{one.name} in the {RIM.what} expired on {ends:%Y-%m-%d %H:%M:%S} UTC, and besides: "
                f"{error.message}",
                advice=_ANEW,
                check="nvidia.rim.validity",
            ) from error


def _parse(xml: bytes) -> Any:
    from lxml import etree

    if len(xml) > MAX_MANIFEST:
        raise _bad(f"A manifest of {len(xml)} bytes is longer than the {MAX_MANIFEST} that are read.")
    # Before the parser sees it: declared entities in attributes are expanded whatever the parser is told.
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise _bad(_DOCUMENT_TYPE)
    _check_encoding(xml)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=False
    )
    try:
        root = etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise _bad(
            f"It is no XML: {str(error).splitlines()[0][:120] if str(error) else 'malformed'}."
        ) from None
    if root.getroottree().docinfo.doctype or root.getroottree().docinfo.internalDTD is not None:
        raise _bad(_DOCUMENT_TYPE)
    if root.tag != f"{{{_SWID}}}SoftwareIdentity":
        raise _bad(f"Its root element is {str(root.tag)[:200]}, not SoftwareIdentity in {_SWID}.")
    return root


def _check_encoding(xml: bytes) -> None:
    """Check that the bytes are UTF-8 and say nothing else, so that there is one way to read them."""
    declared = _ENCODING.match(xml)
    try:
        xml.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad("It is not in UTF-8.") from None
    # No character of XML, and every second byte of English in UTF-16.
    if b"\0" in xml:
        raise _bad("It holds a zero byte, so it is not in UTF-8.")
    if declared is not None and declared.group(1).lower() != b"utf-8":
        raise _bad("It says that it is in another encoding than UTF-8.")


def _certificates(root: Any) -> list[bytes]:
    signatures = root.findall(f"{{{_DSIG}}}Signature")
    if len(signatures) != 1 or len(list(root.iter(f"{{{_DSIG}}}Signature"))) != 1:
        raise SignatureError(
            "The manifest does not have exactly one signature.", check="nvidia.rim.signature"
        )
    found = []
    for element in signatures[0].iter(f"{{{_DSIG}}}X509Certificate"):
        try:
            found.append(base64.b64decode("".join((element.text or "").split()), validate=True))
        except (binascii.Error, ValueError):
            raise _bad("A certificate in the signature is no base64.") from None
    return found


def _signed(root: Any, signer: Certificate) -> Any:
    """Return the part that the signature covers, which is the whole document without the signature."""
    from cryptography.exceptions import InvalidSignature as CryptographyInvalidSignature
    from lxml import etree
    from signxml.algorithms import DigestAlgorithm, SignatureMethod
    from signxml.exceptions import SignXMLException
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    _check_profile(root.find(f"{{{_DSIG}}}Signature"))
    # The library parses for itself. It gets what was parsed here, written anew, and not the bytes: so nothing
    # that this parser passed over or refused can mean something else to the other.
    configuration = SignatureConfiguration(
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        # Validity is a check of its own, with its own reasons; here every certificate is judged inside of it.
        verification_time=signer.x509.not_valid_before_utc,
    )
    try:
        result = XMLVerifier().verify(
            etree.tostring(root),
            x509_cert=signer.x509,
            expect_config=configuration,
            id_attribute="no-such-id",
        )
    except (
        SignXMLException,
        CryptographyInvalidSignature,
        etree.LxmlError,
        # What the library lets out of a document whose signature is put together wrongly.
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        why = (str(error).splitlines() or [""])[0][:160] or type(error).__name__
        raise SignatureError(
            f"The manifest's signature does not verify: {why}.",
            advice="Fetch the manifest again; it was changed on its way or is no manifest of NVIDIA's.",
            check="nvidia.rim.signature",
        ) from None
    if isinstance(result, list) or result.signed_xml is None or result.signed_xml.tag != root.tag:
        raise SignatureError(
            "The manifest's signature covers only a part of it.", check="nvidia.rim.signature"
        )
    return result.signed_xml


def _check_profile(signature: Any) -> None:
    """Check what the library would take from the file: the canonical form, the reference, its transforms."""
    canonical = [one.get("Algorithm") for one in signature.iter(f"{{{_DSIG}}}CanonicalizationMethod")]
    references = [one.get("URI") for one in signature.iter(f"{{{_DSIG}}}Reference")]
    transforms = [one.get("Algorithm") for one in signature.iter(f"{{{_DSIG}}}Transform")]
    if (canonical, references, transforms) != ([_C14N11], [""], [_ENVELOPED, _C14N11]):
        raise SignatureError(
            "The manifest's signature is not one enveloped signature over the whole document in canonical "
            "XML 1.1.",
            advice=_ANEW,
            check="nvidia.rim.signature",
        )


def _meta(signed: Any) -> tuple[Kind, str, str]:
    metas = signed.findall(f"{{{_SWID}}}Meta")
    if len(metas) != 1:
        raise _bad(f"It has {len(metas)} Meta elements, not one.")
    version, product = str(metas[0].get("colloquialVersion", "")), str(metas[0].get("product", ""))
    if _VBIOS.fullmatch(version.upper()):
        return "vbios", version.upper(), product
    if _DRIVER.fullmatch(version):
        return "driver", version, product
    raise _bad(f"Its version {version[:40]!r} is neither a driver's nor a VBIOS's.", "nvidia.rim.content")


def _measurements(signed: Any) -> Mapping[int, tuple[bytes, ...]]:
    payloads = signed.findall(f"{{{_SWID}}}Payload")
    if len(payloads) != 1:
        raise _bad(f"It has {len(payloads)} Payload elements, not one.")
    found: dict[int, tuple[bytes, ...]] = {}
    seen: set[int] = set()
    for resource in payloads[0].findall(f"{{{_SWID}}}Resource"):
        if resource.get("type") != "Measurement":
            continue
        index = _number(resource, "index", MAX_INDEX - 1)
        if index in seen:
            raise _bad(f"Index {index} stands twice in it.")
        seen.add(index)
        active = resource.get("active")
        if active not in ("True", "False"):
            raise _bad(f"Index {index} is neither active nor inactive.")
        if active == "True":
            found[index] = _values(resource, index)
    if not found:
        raise _bad("It has no active reference value.", "nvidia.rim.content")
    return MappingProxyType(found)


def _values(resource: Any, index: int) -> tuple[bytes, ...]:
    count = _number(resource, "alternatives", MAX_ALTERNATIVES)
    names = [f"{{{_SHA384}}}Hash{number}" for number in range(count)]
    hashes = {name for name in resource.attrib if str(name).startswith(f"{{{_SHA384}}}Hash")}
    if not count or hashes != set(names) or resource.get("size") != "48":
        raise _bad(f"Index {index} does not have exactly {count} values of 48 bytes.")
    values = [str(resource.get(name)) for name in names]
    if not all(_DIGEST.fullmatch(value) for value in values):
        raise _bad(f"A value of index {index} is not 96 hexadecimal digits.")
    return tuple(bytes.fromhex(value) for value in values)


def _number(resource: Any, name: str, most: int) -> int:
    text = str(resource.get(name, ""))
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= most):
        raise _bad(f"The {name} {text[:20]!r} of a Resource is no number up to {most}.")
    return int(text)


def _bad(message: str, check: str = "nvidia.rim.format") -> FormatError:
    return FormatError(f"The reference manifest is malformed. {message}", field="rim", check=check)


__all__ = ["VerifiedRim", "clear_rim_cache", "verify_rim"]
