# SPDX-License-Identifier: BSD-3-Clause
"""What is known to go wrong with signed XML, tried on reference manifests."""

from __future__ import annotations

import copy
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from lxml import etree
from sealroom import testing
from sealroom.errors import ChainError, FormatError, SignatureError
from sealroom.nvidia import VerifiedRim, clear_rim_cache, verify_rim
from sealroom.nvidia.rim import MAX_MANIFEST
from sealroom.simulated.gpu_certificates import EcAuthority, Life, new_key
from sealroom.simulated.gpu_rim import SWID, sign_rim, unsigned_rim
from sealroom.simulated.gpu_root import SIGNER_LIFE
from signxml.algorithms import (
    CanonicalizationMethod,
    DigestAlgorithm,
    SignatureConstructionMethod,
    SignatureMethod,
)
from signxml.signer import XMLSigner
from support.nvidia import development, error_of, refused, reissue

ROOT = testing.gpu_root()
SIGNER = ROOT.signer("GH100", Life(ROOT.at, ROOT.at + SIGNER_LIFE))
ISSUERS = [ROOT.rim_issuers["GH100"], ROOT.rim_authorities["GH100"], ROOT.rim]
VALUES = {0: (b"\1" * 48,), 9: (b"\2" * 48, b"\3" * 48)}
EVIL = {0: (b"\xee" * 48,), 9: (b"\xee" * 48,)}
PLAIN = unsigned_rim("GH100", "580.95.05", VALUES)
GOOD = sign_rim(PLAIN, SIGNER, ISSUERS)
DSIG = "http://www.w3.org/2000/09/xmldsig#"
DSIG11 = "http://www.w3.org/2009/xmldsig11#"
SIGNATURE, FORMAT = "nvidia.rim.signature", "nvidia.rim.format"


def verify(xml: bytes) -> VerifiedRim:
    clear_rim_cache()
    return verify_rim(xml, roots=development(), at=testing.NOW)


def tree(xml: bytes = GOOD) -> Any:
    return etree.fromstring(xml)


def ds(name: str) -> str:
    return f"{{{DSIG}}}{name}"


def unsigned(xml: bytes) -> None:
    """Assert that a manifest is refused for its signature."""
    refused(SignatureError, SIGNATURE, lambda: verify(xml))


def test_the_manifest_that_the_attacks_start_from_is_good() -> None:
    assert dict(verify(GOOD).measurements) == VALUES


# --- other algorithms


def signed_with(method: SignatureMethod, key: Any) -> bytes:
    """Return the manifest with other values, signed with another algorithm; the genuine chain is put in."""
    maker = XMLSigner(
        method=SignatureConstructionMethod.enveloped,
        signature_algorithm=method,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=CanonicalizationMethod.CANONICAL_XML_1_1,
    )
    made = maker.sign(tree(unsigned_rim("GH100", "580.95.05", EVIL)), key=key)
    signature = made.find(ds("Signature"))
    for old in signature.findall(ds("KeyInfo")):
        signature.remove(old)
    signature.append(copy.deepcopy(tree().find(f".//{ds('KeyInfo')}")))
    return bytes(etree.tostring(made))


@pytest.mark.parametrize("form", [PublicFormat.SubjectPublicKeyInfo, PublicFormat.UncompressedPoint])
def test_hmac_with_the_public_key_as_its_secret(form: PublicFormat) -> None:
    encoding = Encoding.X962 if form is PublicFormat.UncompressedPoint else Encoding.PEM
    secret = SIGNER.key.public_key().public_bytes(encoding, form)
    unsigned(signed_with(SignatureMethod.HMAC_SHA384, secret))


def test_rsa_below_a_genuine_chain() -> None:
    unsigned(signed_with(SignatureMethod.RSA_SHA384, rsa.generate_private_key(65537, 2048)))


@pytest.mark.parametrize("method", [SignatureMethod.ECDSA_SHA256, SignatureMethod.ECDSA_SHA512])
def test_the_right_key_with_another_hash(method: SignatureMethod) -> None:
    unsigned(signed_with(method, SIGNER.key))


def test_another_key_below_a_genuine_chain() -> None:
    unsigned(signed_with(SignatureMethod.ECDSA_SHA384, new_key()))


@pytest.mark.parametrize(
    "algorithm", ["", "none", "http://www.w3.org/2000/09/xmldsig#dsa-sha1", "http://www.w3.org/TR/1999/x"]
)
def test_algorithm_that_is_none(algorithm: str) -> None:
    made = tree()
    made.find(f".//{ds('SignatureMethod')}").set("Algorithm", algorithm)
    unsigned(etree.tostring(made))


# --- other transforms


XSLT = '<x:stylesheet xmlns:x="http://www.w3.org/1999/XSL/Transform" version="1.0"/>'
XPATH = "<ds:XPath>not(ancestor-or-self::Payload)</ds:XPath>"


@pytest.mark.parametrize(
    ("algorithm", "content"),
    [
        pytest.param("http://www.w3.org/TR/1999/REC-xslt-19991116", XSLT, id="XSLT"),
        pytest.param("http://www.w3.org/TR/1999/REC-xpath-19991116", XPATH, id="XPath"),
        pytest.param("http://www.w3.org/2002/06/xmldsig-filter2", "", id="XPath filter"),
        pytest.param(f"{DSIG}base64", "", id="base64"),
        pytest.param(f"{DSIG}enveloped-signature", "", id="enveloped twice"),
        pytest.param("http://www.w3.org/2001/10/xml-exc-c14n#", "", id="exclusive"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_transform_that_does_not_belong_there(algorithm: str, content: str, place: int) -> None:
    made = tree()
    transform = f'<ds:Transform xmlns:ds="{DSIG}" Algorithm="{algorithm}">{content}</ds:Transform>'
    made.find(f".//{ds('Transforms')}").insert(place, etree.fromstring(transform))
    error = refused(SignatureError, SIGNATURE, lambda: verify(etree.tostring(made)))
    assert "canonical XML 1.1" in error.message


@pytest.mark.parametrize("uri", ["#xpointer(/)", "#", "http://127.0.0.1:1/", "file:///etc/hostname", None])
def test_reference_to_something_else(uri: str | None) -> None:
    made = tree()
    reference = made.find(f".//{ds('Reference')}")
    del reference.attrib["URI"]
    if uri is not None:
        reference.set("URI", uri)
    unsigned(etree.tostring(made))


# --- signature wrapping


def test_signed_manifest_inside_of_another() -> None:
    made = tree(unsigned_rim("GH100", "580.95.05", EVIL))
    inner = tree()
    signature = inner.find(ds("Signature"))
    inner.remove(signature)
    made.append(inner)
    made.append(signature)
    unsigned(etree.tostring(made))


def test_signed_manifest_inside_of_the_signature_of_another() -> None:
    made = tree(unsigned_rim("GH100", "580.95.05", EVIL))
    signature = copy.deepcopy(tree().find(ds("Signature")))
    etree.SubElement(signature, ds("Object")).append(tree(PLAIN))
    made.append(signature)
    unsigned(etree.tostring(made))


def test_reference_to_the_id_of_a_signed_manifest_inside() -> None:
    made = tree(unsigned_rim("GH100", "580.95.05", EVIL))
    signature = copy.deepcopy(tree().find(ds("Signature")))
    signature.find(f".//{ds('Reference')}").set("URI", "#genuine")
    inner = tree(PLAIN)
    inner.set("Id", "genuine")
    etree.SubElement(signature, ds("Object")).append(inner)
    made.append(signature)
    unsigned(etree.tostring(made))


def test_payload_moved_into_the_signature_and_replaced() -> None:
    made = tree()
    payload = made.find(f"{{{SWID}}}Payload")
    evil = tree(unsigned_rim("GH100", "580.95.05", EVIL)).find(f"{{{SWID}}}Payload")
    made.replace(payload, evil)
    etree.SubElement(made.find(ds("Signature")), ds("Object")).append(payload)
    unsigned(etree.tostring(made))


def test_payload_added_before_the_signed_one() -> None:
    made = tree()
    made.insert(1, tree(unsigned_rim("GH100", "580.95.05", EVIL)).find(f"{{{SWID}}}Payload"))
    unsigned(etree.tostring(made))


def test_object_in_the_signature_is_outside_of_what_is_signed_and_not_read() -> None:
    """The enveloped transform takes the whole signature away before anything is read."""
    made = tree()
    evil = tree(unsigned_rim("GH100", "580.95.05", EVIL)).find(f"{{{SWID}}}Payload")
    etree.SubElement(made.find(ds("Signature")), ds("Object")).append(evil)
    assert dict(verify(etree.tostring(made)).measurements) == VALUES


def test_manifest_of_references_inside_of_the_signature() -> None:
    made = tree()
    manifest = etree.SubElement(
        etree.SubElement(made.find(ds("Signature")), ds("Object")), ds("Manifest"), Id="m"
    )
    manifest.append(copy.deepcopy(made.find(f".//{ds('Reference')}")))
    unsigned(etree.tostring(made))


def test_second_signature_inside_of_the_first() -> None:
    made = tree()
    signature = made.find(ds("Signature"))
    etree.SubElement(signature, ds("Object")).append(copy.deepcopy(signature))
    unsigned(etree.tostring(made))


def test_second_signature_beside_the_first() -> None:
    made = tree()
    made.insert(0, copy.deepcopy(made.find(ds("Signature"))))
    unsigned(etree.tostring(made))


def test_signature_of_another_manifest() -> None:
    made, other = tree(), tree(sign_rim(unsigned_rim("GH100", "580.95.05", EVIL), SIGNER, ISSUERS))
    made.replace(made.find(ds("Signature")), other.find(ds("Signature")))
    unsigned(etree.tostring(made))


def test_signature_as_the_root() -> None:
    made = tree()
    signature = made.find(ds("Signature"))
    made.remove(signature)
    etree.SubElement(signature, ds("Object")).append(made)
    refused(FormatError, FORMAT, lambda: verify(etree.tostring(signature)))


# --- keys and certificates that are put in


def test_key_value_with_another_key() -> None:
    made = tree()
    point = new_key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    value = etree.SubElement(made.find(f".//{ds('KeyInfo')}"), ds("KeyValue"))
    inner = etree.SubElement(value, f"{{{DSIG11}}}ECKeyValue")
    etree.SubElement(inner, f"{{{DSIG11}}}NamedCurve", URI="urn:oid:1.3.132.0.34")
    etree.SubElement(inner, f"{{{DSIG11}}}PublicKey").text = b64encode(point)
    unsigned(etree.tostring(made))


def test_der_encoded_key_value_with_another_key() -> None:
    made = tree()
    key = new_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    value = etree.SubElement(made.find(f".//{ds('KeyInfo')}"), f"{{{DSIG11}}}DEREncodedKeyValue")
    value.text = b64encode(key)
    unsigned(etree.tostring(made))


def test_chain_of_the_same_names_below_another_root() -> None:
    twin = testing.gpu_root("another")
    signer = twin.signer("GH100", Life(twin.at, twin.at + SIGNER_LIFE))
    issuers = [twin.rim_issuers["GH100"], twin.rim_authorities["GH100"], twin.rim]
    xml = sign_rim(unsigned_rim("GH100", "580.95.05", EVIL), signer, issuers)
    refused(ChainError, "nvidia.rim.root", lambda: verify(xml))
    # The same with the genuine root at its end.
    xml = sign_rim(unsigned_rim("GH100", "580.95.05", EVIL), signer, [*issuers[:2], ROOT.rim])
    refused(ChainError, "nvidia.rim.links", lambda: verify(xml))


def test_certificate_of_another_signer_put_before_the_genuine_chain() -> None:
    own = reissue(EcAuthority(SIGNER.certificate, new_key()), EcAuthority(SIGNER.certificate, new_key()))
    xml = sign_rim(unsigned_rim("GH100", "580.95.05", EVIL), own, [SIGNER, *ISSUERS])
    refused(ChainError, "nvidia.rim.links", lambda: verify(xml))


def test_certificate_in_an_object_of_the_signature_is_one_too_many() -> None:
    made = tree()
    stranger = reissue(EcAuthority(SIGNER.certificate, new_key()), ISSUERS[0])
    signature = made.find(ds("Signature"))
    holder = etree.SubElement(signature, ds("Object"))
    etree.SubElement(holder, ds("X509Certificate")).text = stranger.pem.decode().split("-----")[2]
    refused(ChainError, "nvidia.rim.root", lambda: verify(etree.tostring(made)))


# --- what is signed and does not say what it has to


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"ns2:Hash0", b"Hash0", id="hash without a namespace"),
        pytest.param(b"ns2:Hash0", b"ns0:Hash0", id="hash in another namespace"),
        pytest.param(b"ns2:Hash0", b"ns2:hash0", id="hash of another name"),
        pytest.param(b' index="', b' ns2:index="', id="index in a namespace"),
        pytest.param(b' active="True"', b' active="true"', id="active in another spelling"),
        pytest.param(b"ns0:Payload", b"ns2:Payload", id="payload in another namespace"),
        pytest.param(b"ns0:Meta", b"ns2:Meta", id="meta in another namespace"),
        pytest.param(b' index="9"', ' index="٩"'.encode(), id="index in other digits"),
    ],
)
def test_signed_manifest_with_other_names(old: bytes, new: bytes) -> None:
    document = PLAIN.replace(old, new)
    assert document != PLAIN
    refused(FormatError, FORMAT, lambda: verify(sign_rim(document, SIGNER, ISSUERS)))


def test_signed_lines_in_another_namespace_are_none() -> None:
    document = PLAIN.replace(b"<ns0:Resource", b"<Resource xmlns='urn:x'")
    refused(FormatError, "nvidia.rim.content", lambda: verify(sign_rim(document, SIGNER, ISSUERS)))


def test_relative_namespace_which_canonical_xml_refuses() -> None:
    unsigned(GOOD.replace(b"<ns0:Entity ", b"<ns0:Entity xmlns:q='q' "))


def test_comment_inside_of_a_hash_is_no_xml() -> None:
    xml = GOOD.replace(b"01" * 48, b"01" * 24 + b"<!-- -->" + b"01" * 24, 1)
    assert xml != GOOD
    refused(FormatError, FORMAT, lambda: verify(xml))


def test_instruction_inside_of_the_document_is_signed() -> None:
    unsigned(GOOD.replace(b"</ns0:Payload>", b"<?php ?></ns0:Payload>"))


# --- documents that are written otherwise


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(rb'"(Measurement)"', rb"'\1'", id="other quotation marks"),
        pytest.param(rb'(type="Measurement") (index="0")', rb"\2  \n \1", id="attributes in another order"),
        pytest.param(rb'"48"/>', b'"48"></ns0:Resource>', id="end tags"),
        pytest.param(rb'index="9"', b'index="&#57;"', id="character references"),
        pytest.param(rb"(?<=\"48\"/>)\n", b"<![CDATA[\n]]>", id="CDATA"),
        pytest.param(rb"</ns0:Payload>", b"<!-- note --></ns0:Payload>", id="comments"),
        pytest.param(rb"<ns0:Entity ", b'<ns0:Entity xmlns:ns0="%s" ' % SWID.encode(), id="a prefix again"),
        pytest.param(rb"\A", b'<?xml version="1.0" encoding="UTF-8"?>', id="a declaration"),
        pytest.param(rb"\A", b"\xef\xbb\xbf", id="a byte order mark"),
        pytest.param(rb"(?<=</SoftwareIdentity>)", b"\n<!-- after --><?after?>\n", id="something after it"),
    ],
)
def test_the_same_document_written_otherwise_is_the_same(old: bytes, new: bytes) -> None:
    """What canonical XML makes equal is equal, and what is read comes from the canonical form."""
    xml, count = re.subn(old, new, GOOD)
    assert count
    assert dict(verify(xml).measurements) == VALUES


# --- encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "cp037"])
def test_document_type_in_another_encoding(encoding: str) -> None:
    text = f"<?xml version='1.0'?><!DOCTYPE SoftwareIdentity [<!ENTITY a 'b'>]>{GOOD.decode()}"
    refused(FormatError, FORMAT, lambda: verify(text.encode(encoding)))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037"])
def test_manifest_in_another_encoding(encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>{GOOD.decode()}"
    refused(FormatError, FORMAT, lambda: verify(text.encode(encoding)))


@pytest.mark.parametrize("encoding", ["UTF-7", "ISO-8859-1", "US-ASCII", "UTF-16", "x", ""])
def test_declaration_of_another_encoding(encoding: str) -> None:
    for quote in ("'", '"'):
        head = f"<?xml version={quote}1.0{quote} encoding={quote}{encoding}{quote}?>".encode()
        refused(FormatError, FORMAT, partial(verify, head + GOOD))


def test_bytes_that_are_no_utf_8() -> None:
    for bad in (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"):
        xml = GOOD.replace(b"</SoftwareIdentity>", b"<!--" + bad + b"--></SoftwareIdentity>")
        error = refused(FormatError, FORMAT, partial(verify, xml))
        assert "UTF-8" in error.message


# --- size


def laughs(place: str) -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    return (
        f'<!DOCTYPE SoftwareIdentity [<!ENTITY l0 "ha">{entities}]>'.encode()
        + GOOD.replace(b'name="GH100"', b'name="&l11;"', 1)
        if place == "attribute"
        else f'<!DOCTYPE SoftwareIdentity [<!ENTITY l0 "ha">{entities}]>'.encode()
        + GOOD.replace(b"</ns0:Payload>", b"&l11;</ns0:Payload>", 1)
    )


@pytest.mark.parametrize("place", ["attribute", "content"])
def test_entities_that_grow(place: str) -> None:
    error = refused(FormatError, FORMAT, lambda: verify(laughs(place)))
    assert "document type" in error.message


def test_the_longest_file_that_is_read() -> None:
    room = MAX_MANIFEST - len(GOOD)
    assert dict(verify(GOOD + b" " * room).measurements) == VALUES
    error = refused(FormatError, FORMAT, lambda: verify(GOOD + b" " * (room + 1)))
    assert "longer than" in error.message


@pytest.mark.parametrize("where", ["signature", "payload"])
def test_deep_nesting(where: str) -> None:
    deep = b"<a>" * 400 + b"</a>" * 400
    end = b"</ds:Signature>" if where == "signature" else b"</ns0:Payload>"
    assert GOOD.count(end) == 1
    wrapped = b"<ds:Object>" + deep + b"</ds:Object>" if where == "signature" else deep
    refused(FormatError, FORMAT, lambda: verify(GOOD.replace(end, wrapped + end)))


def test_many_elements() -> None:
    error = error_of(lambda: verify(GOOD.replace(b"</ns0:Payload>", b"<a/>" * 100_000 + b"</ns0:Payload>")))
    assert isinstance(error, SignatureError)


def test_many_certificates() -> None:
    made = tree()
    data = made.find(f".//{ds('X509Data')}")
    for _ in range(20):
        data.append(copy.deepcopy(data[0]))
    refused(FormatError, FORMAT, lambda: verify(etree.tostring(made)))


# --- signatures that are put together wrongly


def without(path: str) -> Callable[[Any], None]:
    def alter(made: Any) -> None:
        found = made.find(f".//{ds(path)}")
        found.getparent().remove(found)

    return alter


def with_text(path: str, text: str | None) -> Callable[[Any], None]:
    def alter(made: Any) -> None:
        made.find(f".//{ds(path)}").text = text

    return alter


@pytest.mark.parametrize(
    "alter",
    [
        *(
            pytest.param(without(name), id=f"no {name}")
            for name in (
                "SignatureMethod",
                "CanonicalizationMethod",
                "Reference",
                "Transforms",
                "DigestMethod",
                "DigestValue",
                "SignatureValue",
            )
        ),
        *(
            pytest.param(with_text(name, text), id=f"{name} {text!r}")
            for name in ("SignatureValue", "DigestValue")
            for text in (None, "", "AAAA", "é", "a", "=", "A" * 128, "A" * 100_000)
        ),
    ],
)
def test_signature_that_is_put_together_wrongly(alter: Callable[[Any], None]) -> None:
    made = tree()
    alter(made)
    unsigned(etree.tostring(made))


def test_message_about_a_strange_document_is_one_printable_line() -> None:
    xml = '<a xmlns="x&#10;y\u202e\u2028z"/>'.encode()
    error = refused(FormatError, FORMAT, lambda: verify(xml))
    assert error.message.isprintable()


def test_numbers_beyond_the_order_are_no_signature() -> None:
    assert isinstance(SIGNER.key, ec.EllipticCurvePrivateKey)
    for value in (bytes(96), b"\xff" * 96):
        made = tree()
        made.find(f".//{ds('SignatureValue')}").text = b64encode(value)
        unsigned(etree.tostring(made))
