# SPDX-License-Identifier: BSD-3-Clause
"""Simulated GPUs against real ones: the same bytes where they can be, the same structure where not."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from lxml import etree
from sealroom import testing
from sealroom.simulated.gpu import NVDEC0_INDEX, SimulatedGpu
from sealroom.simulated.gpu_certificates import BLACKWELL_DICE, FOREVER, HOPPER_DICE, Life, new_key
from sealroom.simulated.gpu_models import Architecture
from sealroom.simulated.gpu_ocsp import Status
from sealroom.simulated.gpu_reports import CHIP_INFO, FEATURE, FWID, GpuReportFields
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
from signxml.exceptions import InvalidInput
from signxml.exceptions import InvalidSignature as InvalidXmlSignature
from signxml.verifier import SignatureConfiguration, XMLVerifier
from support.gpu_vectors import read, real, take_apart

NONCE = bytes(range(32))
NS = {"ns0": "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"}
HASH = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
ARCHITECTURES: tuple[Architecture, ...] = ("HOPPER", "BLACKWELL", "LS10")
REPORTS = real(
    "hopper_535.86.09",
    "hopper_550.90.07",
    "hopper_570.124.03",
    "hopper_590.12_0",
    "hopper_590.12_multi_1",
    "blackwell_575.32",
)
LIKE: dict[str, tuple[Architecture, dict[str, Any]]] = {
    "hopper_535.86.09": ("HOPPER", {"driver_version": "535.86.09", "vbios_version": "96.00.5E.00.01"}),
    "hopper_550.90.07": ("HOPPER", {"driver_version": "550.90.07"}),
    "hopper_570.124.03": ("HOPPER", {"driver_version": "570.124.03", "vbios_version": "96.00.5E.00.04"}),
    "hopper_590.12_0": ("HOPPER", {"driver_version": "590.12", "feature": "PPCIE"}),
    "blackwell_575.32": ("BLACKWELL", {"driver_version": "575.32"}),
}


def signature_holds(report: bytes, certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(part, "big") for part in (report[-96:-48], report[-48:]))
    try:
        key.verify(encode_dss_signature(r, s), report[:-96], ec.ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


# -- reports


@pytest.mark.parametrize("name", REPORTS)
def test_parts_of_a_real_report_are_laid_out_to_the_same_bytes(name: str) -> None:
    report = read(f"{name}.report.bin")
    parts = take_apart(report)
    fields = GpuReportFields(parts.nonce, parts.responder_nonce, parts.measurements, parts.opaque)
    assert fields.signed_part() + parts.signature + parts.rest == report


@pytest.mark.parametrize("name", real(*LIKE))
def test_report_has_the_length_and_the_fields_of_a_real_one(name: str) -> None:
    architecture, changes = LIKE[name]
    simulated = testing.gpu(architecture, **changes).report(NONCE)
    expected = read(f"{name}.report.bin")
    assert len(simulated) == len(expected)
    shapes = [
        [(kind, len(value)) for kind, value in take_apart(report).opaque] for report in (simulated, expected)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", real("hopper_550.90.07", "blackwell_575.32"))
def test_texts_are_encoded_as_in_a_real_report(name: str) -> None:
    architecture, changes = LIKE[name]
    expected = dict(take_apart(read(f"{name}.report.bin")).opaque)
    opaque = dict(testing.gpu(architecture, **changes).fields(NONCE).opaque)
    for kind in (3, 4, 6, 11, 13, 14, 15, 16, 17, 18, 19):
        assert opaque[kind] == expected[kind], kind


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_report_answers_the_nonce_and_is_signed_by_the_leaf(architecture: Architecture) -> None:
    gpu = testing.gpu(architecture)
    report = gpu.report(NONCE)
    assert report[4:36] == NONCE
    assert report[41] == (31 if architecture == "LS10" else 64)
    assert signature_holds(report, gpu.chain[0].certificate)
    assert not signature_holds(report[:100] + b"\xff" + report[101:], gpu.chain[0].certificate)


def test_same_question_has_the_same_answer() -> None:
    assert testing.gpu().report(NONCE) == testing.gpu().report(NONCE)
    assert testing.gpu().report(NONCE) != testing.gpu().report(bytes(32))


def test_switch_report_is_as_long_as_real_ones() -> None:
    """2172 bytes, as the public samples of LS10 have."""
    gpus = [testing.gpu("HOPPER", feature="PPCIE") for _ in range(8)]
    switch = testing.gpu("LS10", gpus=gpus)
    report = switch.report(NONCE)
    opaque = dict(take_apart(report).opaque)
    assert len(report) == 2172
    assert opaque[6] == b"96.10.6D.00.01"
    assert opaque[22] == switch.pdi
    assert opaque[26][:64] == b"".join(gpu.pdi for gpu in gpus)


def test_gpu_in_protected_pcie_mode_names_its_switches_little_endian() -> None:
    switches = [testing.gpu("LS10", seed=bytes([n]) * 32) for n in range(4)]
    gpu = testing.gpu(feature="PPCIE", switches=switches)
    opaque = dict(gpu.fields(NONCE).opaque)
    assert opaque[21] == b"\xaa"
    assert opaque[FEATURE] == b"\2\0"
    links = [opaque[22][at : at + 8] for at in range(0, 144, 8)]
    assert {link[::-1] for link in links} == {switch.pdi for switch in switches}


@pytest.mark.parametrize(
    ("feature", "value"), [("SPT", b"\0\0"), ("MPT", b"\1\0"), ("PPCIE", b"\2\0"), (None, None)]
)
def test_mode_is_named(feature: Any, value: bytes | None) -> None:
    opaque = dict(testing.gpu("BLACKWELL", feature=feature).fields(NONCE).opaque)
    assert opaque.get(FEATURE) == value
    assert opaque[CHIP_INFO] == b"GB100\0"


# -- mistakes that can be asked for


def test_one_measurement_can_differ_and_the_signature_holds() -> None:
    gpu = testing.gpu()
    parts = take_apart(gpu.report(NONCE, measurements={21: b"x" * 48}))
    right = gpu.measurements
    assert [index for index in range(64) if parts.measurements[index] != right[index]] == [21]
    assert signature_holds(gpu.report(NONCE, measurements={21: b"x" * 48}), gpu.chain[0].certificate)


def test_nvdec0_off_leaves_index_35_without_its_reference() -> None:
    off, on = testing.gpu(), testing.gpu(nvdec0=True)
    assert dict(off.fields(NONCE).opaque)[11] == b"\x55"
    assert dict(on.fields(NONCE).opaque)[11] == b"\xaa"
    assert off.measurements[NVDEC0_INDEX] not in values(off.driver_rim)[NVDEC0_INDEX]
    assert on.measurements[NVDEC0_INDEX] in values(on.driver_rim)[NVDEC0_INDEX]


def test_opaque_fields_can_be_replaced_left_out_and_added() -> None:
    changed = testing.gpu().report(NONCE, opaque={3: b"999.99\0", FWID: None, 99: b"new"})
    before, after = (dict(take_apart(report).opaque) for report in (testing.gpu().report(NONCE), changed))
    assert after == {kind: value for kind, value in before.items() if kind != FWID} | {
        3: b"999.99\0",
        99: b"new",
    }


def test_report_can_be_signed_with_another_key() -> None:
    assert not signature_holds(testing.gpu().report(NONCE, key=new_key()), testing.gpu().chain[0].certificate)


def test_headers_can_be_changed() -> None:
    report = testing.gpu().report(NONCE, request_header=b"\x12\xe0\x01\xff", slot=1)
    assert report[:4] == b"\x12\xe0\x01\xff"
    assert report[36] == 1


# -- certificates


def tree(der: bytes, depth: int = 0) -> list[tuple[int, int, bytes]]:
    """Return depth, tag and, of object identifiers, the value of every element in DER."""
    found, at = [], 0
    while at < len(der):
        tag, size, at = der[at], der[at + 1], at + 2
        if size & 0x80:
            at, size = at + (size & 0x7F), int.from_bytes(der[at : at + (size & 0x7F)], "big")
        body, at = der[at : at + size], at + size
        found.append((depth, tag, body if tag == 6 else b""))
        if tag & 0x20:
            found += tree(body, depth + 1)
    return found


@pytest.mark.parametrize("name", real("hopper_550.90.07", "blackwell_575.32"))
def test_chain_has_the_structure_of_a_real_one(name: str) -> None:
    chain = x509.load_pem_x509_certificates(read(f"{name}.chain.pem"))
    simulated = testing.gpu(LIKE[name][0]).chain_der
    assert len(simulated) == len(chain) == 5
    for ours, theirs in zip(simulated, chain, strict=True):
        expected = theirs.public_bytes(Encoding.DER)
        assert tree(ours) == tree(expected)
        # Signatures in DER differ by up to four bytes, the roots' organisation by three, twice.
        assert abs(len(ours) - len(expected)) <= 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_certificate_is_issued_by_the_next_and_says_simulated(architecture: Architecture) -> None:
    gpu = testing.gpu(architecture)
    chain = [authority.certificate for authority in gpu.chain]
    for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        certificate.verify_directly_issued_by(issuer)
        assert "SIMULATED" in certificate.subject.rfc4514_string()
        assert certificate.not_valid_after_utc == FOREVER
        assert certificate.not_valid_before_utc == testing.gpu_root().at
    assert x509.load_pem_x509_certificates(gpu.chain_pem) == chain
    assert chain[1].serial_number == gpu.serial


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chain_fits_the_drivers_buffer(architecture: Architecture) -> None:
    assert len(testing.gpu(architecture).chain_pem) <= 0x1400


@pytest.mark.parametrize(("architecture", "oid"), [("HOPPER", HOPPER_DICE), ("BLACKWELL", BLACKWELL_DICE)])
def test_firmware_id_of_certificate_and_report_agree(
    architecture: Architecture, oid: x509.ObjectIdentifier
) -> None:
    gpu = testing.gpu(architecture)
    extension = gpu.chain[0].certificate.extensions.get_extension_for_oid(oid).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    fwid = dict(gpu.fields(NONCE).opaque)[FWID]
    assert fwid in extension.value
    assert (extension.value[-48:] == fwid) is (architecture == "HOPPER")


def test_firmware_id_can_be_missing_or_differ() -> None:
    bare = testing.gpu(certified_fwid=None, reported_fwid=b"f" * 48)
    with pytest.raises(x509.ExtensionNotFound):
        bare.chain[0].certificate.extensions.get_extension_for_oid(HOPPER_DICE)
    assert dict(bare.fields(NONCE).opaque)[FWID] == b"f" * 48
    assert FWID not in dict(testing.gpu(reported_fwid=None).fields(NONCE).opaque)


def test_two_gpus_are_two_chips_and_the_same_seed_is_the_same_chip() -> None:
    one, other = testing.gpu(seed=b"1" * 32), testing.gpu(seed=b"2" * 32)
    assert one.serial != other.serial
    assert one.uuid != other.uuid
    assert testing.gpu(seed=b"1" * 32).chain_pem == one.chain_pem
    assert testing.gpu(seed=b"1" * 32).report(NONCE) == one.report(NONCE)


def test_no_key_is_printed() -> None:
    gpu = SimulatedGpu(testing.gpu_root(), seed=b"k" * 32)
    assert "kkkk" not in repr(gpu) + repr(gpu.chain) + repr(gpu.root)


# -- reference values


def values(rim: bytes) -> dict[int, tuple[bytes, ...]]:
    """Return the active reference values of a manifest."""
    return {
        int(line.get("index") or ""): tuple(
            bytes.fromhex(line.get(f"{HASH}{n}") or "") for n in range(int(line.get("alternatives") or ""))
        )
        for line in etree.fromstring(rim).findall(".//ns0:Resource", NS)
        if line.get("active") == "True"
    }


def certificates(rim: bytes) -> list[x509.Certificate]:
    """Return the certificates of a manifest, signer first."""
    found = etree.fromstring(rim).findall(".//{http://www.w3.org/2000/09/xmldsig#}X509Certificate")
    return [x509.load_der_x509_certificate(base64.b64decode(item.text or "")) for item in found]


def verified(rim: bytes, root: x509.Certificate | None = None) -> bytes:
    """Return what a manifest's signature covers, after a check of chain and signature."""
    chain = certificates(rim)
    for certificate, issuer in zip(chain, [*chain[1:], chain[-1]], strict=True):
        certificate.verify_directly_issued_by(issuer)
    assert chain[-1] == (root or testing.gpu_root().rim.certificate)
    configuration = SignatureConfiguration(
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        default_reference_c14n_method=CanonicalizationMethod.CANONICAL_XML_1_1,
        verification_time=testing.NOW,
    )
    result = XMLVerifier().verify(rim, x509_cert=chain[0], expect_config=configuration)
    assert not isinstance(result, list)
    return bytes(result.signed_data)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_reference_value_is_measured(architecture: Architecture) -> None:
    gpu = testing.gpu(architecture, nvdec0=True)
    compared = [index for rim in gpu.rims for index in values(rim)]
    assert len(compared) == len(set(compared)) == (20 if architecture == "LS10" else 33)
    for rim in gpu.rims:
        for index, alternatives in values(rim).items():
            assert gpu.measurements[index] in alternatives


@pytest.mark.parametrize("kind", ["driver", "vbios"])
def test_manifest_is_signed_under_the_root(kind: Any) -> None:
    rim = testing.gpu().rim(kind)
    assert values(verified(rim)) == values(rim)
    with pytest.raises(InvalidXmlSignature):
        verified(rim.replace(b'index="7"', b'index="9"'))
    with pytest.raises(AssertionError):
        verified(rim, root=testing.gpu_root("other").rim.certificate)


@pytest.mark.parametrize("name", real("rim_driver_550.90.07.xml", "rim_vbios_96009F0001.xml"))
def test_manifest_has_the_form_of_a_real_one(name: str) -> None:
    """Every element, attribute, index and algorithm is the same; values, names and digests are not."""
    gpu = testing.gpu(driver_version="550.90.07")
    ours, theirs = (gpu.driver_rim if "driver" in name else gpu.vbios_rim), read(name)
    assert form(ours) == form(theirs)
    lines = [
        [(item.get("index"), item.get("active"), item.get("alternatives"), item.get("size")) for item in
         etree.fromstring(rim).findall(".//ns0:Resource", NS)]
        for rim in (ours, theirs)
    ]  # fmt: skip
    assert lines[0] == lines[1]
    versions = [etree.fromstring(rim).find("ns0:Meta", NS).get("colloquialVersion") for rim in (ours, theirs)]
    assert versions[0] == versions[1]
    assert re.findall(rb'Algorithm="[^"]+"', ours) == re.findall(rb'Algorithm="[^"]+"', theirs)


def form(rim: bytes) -> list[tuple[str, list[str]]]:
    return [(str(element.tag), sorted(element.attrib)) for element in etree.fromstring(rim).iter()]


@pytest.mark.parametrize("name", real("rim_driver_550.90.07.xml"))
def test_manifests_certificates_have_the_structure_of_real_ones(name: str) -> None:
    # Two of the real ones write times before 2050 as GeneralizedTime (0x18), which RFC 5280 does not allow.
    ours, theirs = (
        [
            [(depth, 0x17 if tag == 0x18 else tag, oid) for depth, tag, oid in tree(der)]
            for der in (certificate.public_bytes(Encoding.DER) for certificate in certificates(rim))
        ]
        for rim in (testing.gpu().driver_rim, read(name))
    )
    assert len(ours) == 4
    assert ours == theirs


def test_signer_of_a_manifest_can_be_expired() -> None:
    at = testing.gpu_root().at
    rim = testing.gpu().rim("driver", signer_life=Life(at, at + timedelta(days=30)))
    assert certificates(rim)[0].not_valid_after_utc == at + timedelta(days=30) < testing.NOW
    verified_until = certificates(testing.gpu().driver_rim)[0].not_valid_after_utc
    assert verified_until == at + timedelta(days=730)


def test_manifest_can_be_issued_again_with_another_value_at_index_9() -> None:
    gpu = testing.gpu()
    again, first = values(gpu.rim("vbios", reissued=True)), values(gpu.vbios_rim)
    assert [index for index in first if first[index] != again[index]] == [9]


def test_manifest_can_have_other_values_and_another_version() -> None:
    gpu = testing.gpu()
    rim = gpu.rim("driver", version="1.2", values={21: [b"a" * 48, b"b" * 48], 3: [b"c" * 48], 22: []})
    changed = values(verified(rim))
    assert changed[21] == (b"a" * 48, b"b" * 48)
    assert changed[3] == (b"c" * 48,)
    assert 22 not in changed
    assert b'colloquialVersion="1.2"' in rim


def test_manifest_can_be_signed_with_another_algorithm_or_by_another_issuer() -> None:
    with pytest.raises(InvalidInput):
        verified(testing.gpu().rim("driver", digest="sha256"))
    other = testing.gpu_root("other").rim_issuers["GH100"]
    with pytest.raises(InvalidSignature):
        verified(testing.gpu().rim("driver", issuer=other))


@pytest.mark.parametrize(
    ("gpu", "driver", "vbios"),
    [
        (("HOPPER", {}), "NV_GPU_DRIVER_GH100_580.95.05", "NV_GPU_VBIOS_1010_0200_882_96009F0001"),
        (("BLACKWELL", {}), "NV_GPU_CC_DRIVER_GB100_580.95.05", "NV_GPU_VBIOS_G525_0220_886_970088000F"),
        (("LS10", {}), "", "NV_SWITCH_BIOS_5612_0002_890_96106D0001"),
    ],
)
def test_manifests_have_the_ids_of_the_service(gpu: Any, driver: str, vbios: str) -> None:
    made = testing.gpu(gpu[0], **gpu[1])
    assert (made.driver_rim_id, made.vbios_rim_id) == (driver, vbios)


# -- revocation


@pytest.mark.parametrize(
    ("status", "expected", "reason"),
    [
        ("good", ocsp.OCSPCertStatus.GOOD, None),
        ("revoked", ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.key_compromise),
        ("hold", ocsp.OCSPCertStatus.REVOKED, x509.ReasonFlags.certificate_hold),
        ("unknown", ocsp.OCSPCertStatus.UNKNOWN, None),
    ],
)
def test_answers_name_certificate_status_and_time(
    status: Status, expected: ocsp.OCSPCertStatus, reason: x509.ReasonFlags | None
) -> None:
    gpu = testing.gpu()
    answers = gpu.ocsp(at=testing.NOW, statuses={2: status}, nonce=b"n" * 32)
    loaded = [ocsp.load_der_ocsp_response(answer) for answer in answers]
    assert [answer.certificate_status for answer in loaded] == [
        ocsp.OCSPCertStatus.GOOD,
        expected,
        ocsp.OCSPCertStatus.GOOD,
    ]
    assert loaded[1].revocation_reason == reason
    for place, answer in enumerate(loaded, start=1):
        assert answer.serial_number == gpu.chain[place].certificate.serial_number
        assert (answer.produced_at_utc, answer.this_update_utc) == (testing.NOW, testing.NOW)
        assert answer.next_update_utc == testing.NOW + timedelta(hours=24)
        assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
        assert_signed(answer, gpu.chain[place + 1].certificate)


def assert_signed(answer: ocsp.OCSPResponse, issuer: x509.Certificate) -> None:
    (responder,) = answer.certificates
    responder.verify_directly_issued_by(issuer)
    key = responder.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(SHA384()))


def test_answers_about_reference_values_are_for_the_manifests_chain() -> None:
    gpu, root = testing.gpu(), testing.gpu_root()
    answers = [ocsp.load_der_ocsp_response(answer) for answer in gpu.rim_ocsp(at=testing.NOW)]
    issuers = [root.rim_issuers["GH100"], root.rim_authorities["GH100"], root.rim]
    for answer, issuer in zip(answers, issuers, strict=True):
        assert_signed(answer, issuer.certificate)
    assert answers[1].serial_number == issuers[0].certificate.serial_number


def test_responder_can_lack_the_right_to_sign() -> None:
    answer = ocsp.load_der_ocsp_response(testing.gpu().ocsp(at=testing.NOW, usage=False)[0])
    with pytest.raises(x509.ExtensionNotFound):
        answer.certificates[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage)


@pytest.mark.parametrize("name", real("ocsp_gpu_certificate_l2.der"))
def test_answer_has_the_structure_of_a_real_one(name: str) -> None:
    ours, theirs = testing.gpu().ocsp(at=testing.NOW)[2], read(name)
    assert tree(ours) == tree(theirs)
    inner = [tree(ocsp.load_der_ocsp_response(answer).tbs_response_bytes) for answer in (ours, theirs)]
    assert inner[0] == inner[1]


def test_reference_values_of_two_versions_differ() -> None:
    one, other = (values(testing.gpu(driver_version=version).driver_rim) for version in ("580.1", "580.2"))
    assert one[21] != other[21]
    assert hashlib.sha384(b"SIMULATED GH100 driver 580.1 index 21 alternative 0").digest() in one[21]
