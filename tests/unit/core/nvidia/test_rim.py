# SPDX-License-Identifier: BSD-3-Clause
"""Reference manifests: one thing wrong at a time, signed again where the signature is not the point."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.errors import ChainError, Error, ExpiredError, FormatError, NotYetValidError, SignatureError
from sealroom.nvidia import NvidiaRoots, VerifiedRim, clear_rim_cache, verify_rim
from sealroom.nvidia import rim as rim_module
from sealroom.nvidia.rim import MAX_MANIFEST
from sealroom.remember import Memory
from sealroom.simulated.gpu_certificates import EcAuthority, Life
from sealroom.simulated.gpu_rim import sign_rim, unsigned_rim
from sealroom.simulated.gpu_root import SIGNER_LIFE
from signxml.algorithms import (
    CanonicalizationMethod,
    DigestAlgorithm,
    SignatureConstructionMethod,
    SignatureMethod,
)
from signxml.signer import XMLSigner
from support.nvidia import detail, development, error_of, outcome, refused, reissue

GPU = testing.gpu()
ROOT = testing.gpu_root()
LIFE = Life(ROOT.at, ROOT.at + SIGNER_LIFE)
SIGNER = ROOT.signer("GH100", LIFE)
ISSUERS = [ROOT.rim_issuers["GH100"], ROOT.rim_authorities["GH100"], ROOT.rim]
VALUES = {0: (b"\1" * 48,), 9: (b"\2" * 48, b"\3" * 48)}
PLAIN = unsigned_rim("GH100", "580.95.05", VALUES)
DSIG = "{http://www.w3.org/2000/09/xmldsig#}"
DSIG_SHA384 = b"http://www.w3.org/2001/04/xmldsig-more#sha384"


def verify(xml: bytes, at: datetime = testing.NOW, **options: Any) -> VerifiedRim:
    clear_rim_cache()
    return verify_rim(xml, roots=options.pop("roots", development()), at=at, **options)


def signed(document: bytes, signer: EcAuthority = SIGNER, issuers: list[EcAuthority] | None = None) -> bytes:
    return sign_rim(document, signer, ISSUERS if issuers is None else issuers)


def malformed(document: bytes, message: str, check: str = "nvidia.rim.format") -> None:
    """Assert that a manifest that is signed well is refused for what it says."""
    error = refused(FormatError, check, lambda: verify(signed(document)))
    assert message in error.message


def changed(old: bytes, new: bytes, document: bytes = PLAIN) -> bytes:
    assert document.count(old) == 1, (old, document.count(old))
    return document.replace(old, new)


# --- good manifests


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL", "LS10"])
def test_manifests_of_each_architecture(architecture: Any) -> None:
    gpu = testing.gpu(architecture)
    found = [verify(xml) for xml in gpu.rims]

    assert [one.kind for one in found] == (["driver", "vbios"] if gpu.model.is_gpu else ["vbios"])
    assert {one.version for one in found} == {gpu.driver_version, gpu.vbios_version} - {""}
    assert {one.product for one in found} == {gpu.model.chip}
    assert all(one.simulated for one in found)


def test_values_are_the_active_ones() -> None:
    found = verify(signed(PLAIN))
    assert dict(found.measurements) == VALUES
    assert found.sha256[:12] in found.rim_id
    assert "driver manifest 580.95.05" in found.rim_id
    with pytest.raises(TypeError):
        found.measurements[0] = ()  # type: ignore[index]


def test_every_check_of_a_manifest_is_accounted_for() -> None:
    found = verify(GPU.driver_rim)
    assert [one.id for one in found.checks] == [
        "nvidia.rim.format",
        "nvidia.rim.root",
        "nvidia.rim.links",
        "nvidia.rim.authority",
        "nvidia.rim.signature",
        "nvidia.rim.content",
        "nvidia.rim.validity",
        "nvidia.rim.ocsp",
    ]
    assert outcome(found.checks, "nvidia.rim.ocsp") is Outcome.NOT_ASKED


def test_vbios_version_is_upper_case() -> None:
    assert verify(signed(unsigned_rim("GH100", "96.00.9f.00.01", VALUES))).version == "96.00.9F.00.01"


def test_nobody_else_makes_a_verified_manifest() -> None:
    found = verify(GPU.driver_rim)
    with pytest.raises((TypeError, ValueError)):
        replace(found, version="1.2")


# --- time


def test_signer_that_has_ended() -> None:
    at = testing.NOW + timedelta(days=3000)
    error = refused(ExpiredError, "nvidia.rim.validity", lambda: verify(GPU.driver_rim, at))
    assert "HCC RIM L4 Signer" in error.message
    assert "says nothing bad about the GPU" in error.advice
    assert "sealroom collateral refresh" in error.advice


def test_signer_that_has_not_begun() -> None:
    at = ROOT.at - timedelta(days=1)
    refused(NotYetValidError, "nvidia.rim.validity", lambda: verify(GPU.driver_rim, at))


def test_signer_that_has_ended_is_accepted_where_that_is_allowed_and_the_result_says_so() -> None:
    at = testing.NOW + timedelta(days=1000)
    found = verify(GPU.driver_rim, at, allow_expired=True)
    assert outcome(found.checks, "nvidia.rim.validity") is Outcome.NOT_ASKED


def test_issuer_that_has_ended_is_not_accepted_where_a_signer_is() -> None:
    at = testing.NOW + timedelta(days=5000)
    refused(ExpiredError, "nvidia.rim.validity", lambda: verify(GPU.driver_rim, at, allow_expired=True))


def test_reference_time_in_another_zone_is_told_in_utc() -> None:
    zone = timezone(timedelta(hours=9))
    found = verify(GPU.driver_rim, testing.NOW.astimezone(zone))
    assert found.at == testing.NOW
    assert f"{testing.NOW:%Y-%m-%d %H:%M:%S} UTC" in detail(found.checks, "nvidia.rim.validity")


def test_signer_that_has_not_begun_is_never_accepted() -> None:
    at = ROOT.at - timedelta(days=1)
    refused(NotYetValidError, "nvidia.rim.validity", lambda: verify(GPU.driver_rim, at, allow_expired=True))


def test_expired_and_changed_says_both() -> None:
    at, xml = (
        testing.NOW + timedelta(days=1000),
        changed(b'product="GH100"', b'product="GH200"', GPU.driver_rim),
    )

    error = refused(ExpiredError, "nvidia.rim.validity", lambda: verify(xml, at))

    assert "signature does not verify" in error.message
    assert "genuine" not in error.diagnostics()
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(xml, at, allow_expired=True))
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(xml))


def test_time_without_a_zone_is_misuse() -> None:
    with pytest.raises(TypeError, match="time zone"):
        verify(GPU.driver_rim, datetime(2026, 6, 1))  # noqa: DTZ001


# --- chain


def test_manifest_of_another_root() -> None:
    stranger = testing.gpu(root=testing.gpu_root("another"))
    refused(ChainError, "nvidia.rim.root", lambda: verify(stranger.driver_rim))


def test_simulated_manifest_is_refused_under_nvidias_roots() -> None:
    refused(ChainError, "nvidia.rim.root", lambda: verify(GPU.driver_rim, roots=NvidiaRoots.nvidia()))


def test_manifest_signed_below_the_root_of_devices() -> None:
    signer = reissue(SIGNER, GPU.chain[3])
    xml = signed(PLAIN, signer, GPU.chain[3:])
    refused(ChainError, "nvidia.rim.root", lambda: verify(xml))


@pytest.mark.parametrize(
    ("issuers", "check"),
    [
        pytest.param([], "nvidia.rim.links", id="only the signer"),
        pytest.param(ISSUERS[1:], "nvidia.rim.links", id="missing issuer"),
        pytest.param([ISSUERS[0], ISSUERS[2]], "nvidia.rim.links", id="missing authority"),
        pytest.param(ISSUERS[:1], "nvidia.rim.root", id="missing authority and root"),
    ],
)
def test_chain_that_is_not_complete(issuers: list[EcAuthority], check: str) -> None:
    refused(ChainError, check, lambda: verify(signed(PLAIN, SIGNER, issuers)))


def test_root_may_be_left_out() -> None:
    assert len(verify(signed(PLAIN, SIGNER, ISSUERS[:2])).chain) == 4


def test_signer_that_is_an_ocsp_responder() -> None:
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    signer = reissue(SIGNER, ISSUERS[0], add=[(uses, False)])
    refused(ChainError, "nvidia.rim.authority", lambda: verify(signed(PLAIN, signer)))


def test_signer_that_is_an_authority() -> None:
    # Its issuer allows no authority below it, and it is one.
    refused(ChainError, "nvidia.rim.authority", lambda: verify(signed(PLAIN, ISSUERS[0], ISSUERS[1:])))


def test_certificate_that_is_no_base64() -> None:
    xml = re.sub(rb"(X509Certificate>\s*)MII", rb"\1!II", GPU.driver_rim, count=1)
    refused(FormatError, "nvidia.rim.format", lambda: verify(xml))


def test_signer_that_was_exchanged_for_another_of_the_same_issuer() -> None:
    other = reissue(EcAuthority(SIGNER.certificate, ROOT.signer("GB100", LIFE).key), ISSUERS[0])
    tree = etree.fromstring(signed(PLAIN))
    tree.find(f".//{DSIG}X509Certificate").text = other.pem.decode().split("-----")[2]
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(etree.tostring(tree)))


# --- signature


def test_manifest_without_a_signature() -> None:
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(PLAIN))


def test_manifest_signed_twice() -> None:
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(signed(signed(PLAIN))))


def test_signature_that_is_nested_deeper() -> None:
    tree = etree.fromstring(signed(PLAIN))
    signature = tree.find(f"{DSIG}Signature")
    etree.SubElement(tree, "wrapper").append(signature)
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(etree.tostring(tree)))


def test_signature_with_another_hash() -> None:
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(GPU.rim("driver", digest="sha256")))


@pytest.mark.parametrize(
    "method",
    [CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0, CanonicalizationMethod.CANONICAL_XML_1_0],
)
def test_signature_in_another_canonical_form(method: CanonicalizationMethod) -> None:
    signer = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=method,
    )
    certificates = [SIGNER.certificate, *(one.certificate for one in ISSUERS)]
    xml = etree.tostring(signer.sign(etree.fromstring(PLAIN), key=SIGNER.key, cert=certificates))
    error = refused(SignatureError, "nvidia.rim.signature", lambda: verify(xml))
    assert "canonical XML 1.1" in error.message


def test_signature_over_a_part() -> None:
    signer = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    tree = etree.fromstring(PLAIN.replace(b"<ns0:Payload", b'<ns0:Payload Id="part"'))
    certificates = [SIGNER.certificate, *(one.certificate for one in ISSUERS)]
    xml = etree.tostring(signer.sign(tree, key=SIGNER.key, cert=certificates, reference_uri="#part"))
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(xml))


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda tree: tree.find(f".//{DSIG}Reference").set("URI", "#x"), id="reference"),
        pytest.param(lambda tree: tree.find(f".//{DSIG}Transforms").clear(), id="no transforms"),
        pytest.param(lambda tree: tree.find(f".//{DSIG}DigestMethod").set("Algorithm", ""), id="digest"),
        pytest.param(lambda tree: tree.find(f".//{DSIG}SignatureMethod").set("Algorithm", "x"), id="method"),
        pytest.param(
            lambda tree: tree.find(f".//{DSIG}SignatureMethod").set(
                "Algorithm", "http://www.w3.org/2000/09/xmldsig#hmac-sha1"
            ),
            id="HMAC",
        ),
        pytest.param(lambda tree: tree.find(f".//{DSIG}SignatureValue").clear(), id="no value"),
        pytest.param(lambda tree: tree.find(f".//{DSIG}DigestValue").clear(), id="no digest"),
        pytest.param(
            lambda tree: tree.find(f"{DSIG}Signature").remove(tree.find(f".//{DSIG}SignedInfo")), id="no info"
        ),
        pytest.param(
            lambda tree: tree.find(f".//{DSIG}SignedInfo").append(etree.Element(f"{DSIG}Reference", URI="")),
            id="two references",
        ),
        pytest.param(lambda tree: tree.set("name", "other"), id="attribute of the root"),
        pytest.param(lambda tree: tree.append(etree.Element("more")), id="element at the end"),
        pytest.param(lambda tree: tree[1].set("colloquialVersion", "580.95.06"), id="version"),
        pytest.param(lambda tree: tree[2][0].set("index", "63"), id="index"),
        pytest.param(lambda tree: tree[2].remove(tree[2][0]), id="a value that is gone"),
    ],
)
def test_manifest_that_was_changed(alter: Callable[[Any], object]) -> None:
    tree = etree.fromstring(signed(PLAIN))
    alter(tree)
    refused(SignatureError, "nvidia.rim.signature", lambda: verify(etree.tostring(tree)))


def test_what_stands_beside_the_document_is_outside_of_the_signature_and_not_read() -> None:
    xml = signed(PLAIN)
    around = b'<?xml version="1.0"?>\n<!-- before -->\n' + xml + b"\n<?after?>\n"
    assert verify(around).measurements == verify(xml).measurements


def test_comments_are_outside_of_the_signature_and_not_read() -> None:
    """Canonical XML drops comments, so they change nothing that is signed."""
    xml = changed(b"</ns0:Payload>", b"<!-- index 9 is fine --></ns0:Payload>", signed(PLAIN))
    assert dict(verify(xml).measurements) == VALUES


def test_comment_that_splits_a_certificate_changes_nothing_that_counts() -> None:
    xml = signed(PLAIN)
    at = xml.index(b"X509Certificate>") + 100
    with pytest.raises(Error):
        verify(xml[:at] + b"<!-- -->" + xml[at:])


# --- structure


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="a zero"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(b"<a>", id="not closed"),
        pytest.param(b"<a/>", id="another root"),
        pytest.param(b"\xff\xfe<\0a\0", id="cut in UTF-16"),
        pytest.param(PLAIN[:-30], id="cut"),
        pytest.param(b'<?xml version="1.0" encoding="none"?><a/>', id="unknown encoding"),
        pytest.param(b"<a>" * 5000 + b"</a>" * 5000, id="deep"),
        pytest.param(b" " * (MAX_MANIFEST + 1), id="too long"),
    ],
)
def test_file_that_is_no_manifest(xml: bytes) -> None:
    refused(FormatError, "nvidia.rim.format", lambda: verify(xml))


@pytest.mark.parametrize(
    "declaration",
    [
        pytest.param(b"<!DOCTYPE SoftwareIdentity>", id="type alone"),
        pytest.param(b'<!DOCTYPE SoftwareIdentity SYSTEM "http://127.0.0.1:1/x.dtd">', id="external"),
        pytest.param(
            b'<!DOCTYPE SoftwareIdentity [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>', id="entities"
        ),
        pytest.param(
            b'<!DOCTYPE SoftwareIdentity [<!ENTITY x SYSTEM "file:///etc/hostname">]>', id="external entity"
        ),
    ],
)
def test_document_type(declaration: bytes) -> None:
    error = refused(FormatError, "nvidia.rim.format", lambda: verify(declaration + signed(PLAIN)))
    assert "document type" in error.message


@pytest.mark.parametrize(
    "xml",
    [
        pytest.param(
            b'<?xml version="1.0" encoding="iso-8859-1"?>' + signed(PLAIN), id="another one declared"
        ),
        pytest.param(signed(PLAIN).decode().encode("utf-16"), id="UTF-16"),
        pytest.param(signed(PLAIN).replace(b"GPU", b"GP\xff"), id="no text"),
    ],
)
def test_another_encoding(xml: bytes) -> None:
    error = refused(FormatError, "nvidia.rim.format", lambda: verify(xml))
    assert "UTF-8" in error.message


def test_utf_8_may_be_declared() -> None:
    assert verify(b'<?xml version="1.0" encoding="UTF-8"?>\n' + signed(PLAIN)).version == "580.95.05"


FIRST = b'type="Measurement" index="0" active="True" alternatives="1"'
NINTH = b'type="Measurement" index="9" active="True" alternatives="2"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(FIRST, FIRST.replace(b'"0"', b'"-1"'), "no number", id="negative index"),
        pytest.param(FIRST, FIRST.replace(b'"0"', b'"64"'), "no number", id="index beyond the blocks"),
        pytest.param(
            FIRST,
            FIRST.replace(b'"0"', '"\N{ARABIC-INDIC DIGIT ONE}"'.encode()),
            "no number",
            id="other digits",
        ),
        pytest.param(FIRST, FIRST.replace(b'"0"', b'"9"'), "stands twice", id="index twice"),
        pytest.param(FIRST, FIRST.replace(b"True", b"Maybe"), "neither active", id="active"),
        pytest.param(FIRST, FIRST.replace(b'"1"', b'"0"'), "does not have exactly", id="no alternatives"),
        pytest.param(FIRST, FIRST.replace(b'"1"', b'"2"'), "does not have exactly", id="too few values"),
        pytest.param(NINTH, NINTH.replace(b'"2"', b'"1"'), "does not have exactly", id="too many values"),
        pytest.param(b'"' + b"01" * 48 + b'"', b'"' + b"01" * 47 + b'"', "96 hexadecimal", id="short value"),
        pytest.param(
            b'"' + b"01" * 48 + b'"', b'"' + b"0x" * 48 + b'"', "96 hexadecimal", id="not hexadecimal"
        ),
        pytest.param(
            b'name="Measurement_0" size="48"', b'name="Measurement_0" size="32"', "48 bytes", id="size"
        ),
        pytest.param(b"</ns0:Payload>", b"</ns0:Payload><ns0:Payload/>", "2 Payload", id="two payloads"),
        pytest.param(b"    <ns0:Payload", b"    <ns0:Meta/><ns0:Payload", "2 Meta", id="two metas"),
    ],
)
def test_signed_manifest_that_says_something_impossible(old: bytes, new: bytes, message: str) -> None:
    malformed(changed(old, new), message)


def test_manifest_without_values() -> None:
    malformed(unsigned_rim("GH100", "580.95.05", {}), "no active reference value", "nvidia.rim.content")


@pytest.mark.parametrize("version", ["latest", "", "580", "580.95.05 ", "96.00.9F", "96.00.9G.00.01"])
def test_manifest_of_no_known_version(version: str) -> None:
    document = changed(b'colloquialVersion="580.95.05"', f'colloquialVersion="{version}"'.encode())
    malformed(document, "neither a driver's", "nvidia.rim.content")


def test_manifest_without_a_version() -> None:
    document = changed(b'colloquialVersion="580.95.05"', b"")
    malformed(document, "neither a driver's", "nvidia.rim.content")


def test_values_outside_of_the_payload_do_not_count() -> None:
    stray = changed(
        b"</SoftwareIdentity>", b'<ns0:Resource type="Measurement" index="5"/></SoftwareIdentity>'
    )
    assert dict(verify(signed(stray)).measurements) == VALUES


def test_resources_of_another_type_do_not_count() -> None:
    other = changed(FIRST, FIRST.replace(b"Measurement", b"File"))
    assert set(verify(signed(other)).measurements) == {9}


# --- what is remembered


def test_manifest_that_is_remembered_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    xml = GPU.vbios_rim
    first = verify(xml)

    def explode(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(rim_module, "_read", explode)
    again = verify_rim(xml, roots=development(), at=testing.NOW)
    assert again == first
    with pytest.raises(AssertionError):
        verify_rim(xml + b"\n", roots=development(), at=testing.NOW)


def test_manifest_that_is_remembered_ends_all_the_same() -> None:
    verify(GPU.vbios_rim)
    with pytest.raises(ExpiredError):
        verify_rim(GPU.vbios_rim, roots=development(), at=testing.NOW + timedelta(days=3000))


def test_manifest_that_is_remembered_counts_under_its_roots_alone() -> None:
    verify(GPU.vbios_rim)
    with pytest.raises(ChainError):
        verify_rim(GPU.vbios_rim, roots=NvidiaRoots.nvidia(), at=testing.NOW)


def test_what_is_remembered_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rim_module, "_KNOWN", Memory(2))
    verify(GPU.driver_rim)
    for number in range(3):
        verify_rim(signed(PLAIN) + b" " * number, roots=development(), at=testing.NOW)
    assert len(rim_module._KNOWN._known) == 2
    clear_rim_cache()


# --- properties


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(min_value=0, max_value=len(GPU.vbios_rim)))
def test_no_bytes_raise_anything_else(data: bytes, at: int) -> None:
    xml = GPU.vbios_rim
    for raw in (data, xml[:at] + data, xml[:at] + data + xml[at:]):
        error = error_of(partial(verify, raw))
        assert error is None or error.check.startswith("nvidia.rim.")


digests = st.binary(min_size=48, max_size=48)
tables = st.dictionaries(
    st.integers(min_value=0, max_value=63),
    st.lists(digests, min_size=1, max_size=5).map(tuple),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(tables)
def test_what_is_signed_is_read_back(values: dict[int, tuple[bytes, ...]]) -> None:
    assert dict(verify(signed(unsigned_rim("GH100", "580.95.05", values))).measurements) == values
