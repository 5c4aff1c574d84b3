# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from sealroom import testing
from sealroom.collateral import layout
from sealroom.collateral.check import check_rim, rim_certificates
from sealroom.collateral.devices import DeviceSource
from sealroom.collateral.nvidia import OcspFetcher, RimFetcher, stored_rim
from sealroom.collateral.store import Store
from sealroom.errors import (
    ChainError,
    CollateralUnavailableError,
    Error,
    FormatError,
    FreshnessError,
    NetworkError,
    RevocationUnavailableError,
    RevokedError,
    SignatureError,
)
from sealroom.nvidia import NvidiaRoots, OcspPolicy, VerifiedDevice, compare, verify_device, verify_rim
from sealroom.simulated.gpu_certificates import Life
from sealroom.testing.services import (
    Fault,
    OcspResponder,
    RimService,
    running_ocsp,
    running_rim_service,
)

from .conftest import FakeTime

GPU = testing.gpu()
DRIVER, VBIOS = GPU.driver_rim_id, GPU.vbios_rim_id
NONCE = bytes(range(32))


@pytest.fixture
def roots() -> NvidiaRoots:
    root = testing.gpu_root()
    return NvidiaRoots.development(root.device_pem, root.rim_pem)


@pytest.fixture
def service() -> Iterator[RimService]:
    with running_rim_service({DRIVER: GPU.driver_rim, VBIOS: GPU.vbios_rim}) as running:
        yield running


@pytest.fixture
def rims(store: Store, time: FakeTime, service: RimService, notes: list[str]) -> Iterator[RimFetcher]:
    made = RimFetcher(store, service.url, clock=time.clock, note=notes.append)
    yield made
    made.close()


@pytest.fixture
def responder() -> Iterator[OcspResponder]:
    with running_ocsp([GPU], at=testing.NOW) as running:
        yield running


@pytest.fixture
def ocsp(store: Store, time: FakeTime, responder: OcspResponder, notes: list[str]) -> Iterator[OcspFetcher]:
    made = OcspFetcher(store, responder.url, clock=time.clock, note=notes.append)
    yield made
    made.close()


# --- manifests ---


def test_manifest_is_verified_and_kept(
    rims: RimFetcher, store: Store, service: RimService, roots: NvidiaRoots
) -> None:
    data = rims.rim(DRIVER, roots=roots)
    assert data == GPU.driver_rim
    folder = layout.rim_folder(roots, DRIVER)
    assert store.read(f"{folder}/{hashlib.sha256(data).hexdigest()}.xml") == data
    assert verify_rim(data, roots=roots, at=testing.NOW).version == GPU.driver_version
    assert service.paths == [f"/v1/rim/{DRIVER}"]


def test_young_manifest_is_not_asked_for_again(
    rims: RimFetcher, service: RimService, time: FakeTime, roots: NvidiaRoots
) -> None:
    rims.rim(DRIVER, roots=roots)
    time.forward(hours=23)
    rims.rim(DRIVER, roots=roots)
    assert len(service.requests) == 1
    time.forward(hours=2)
    rims.rim(DRIVER, roots=roots)
    assert len(service.requests) == 2


def test_reissued_manifest_replaces_the_older_one_which_stays(
    rims: RimFetcher, store: Store, service: RimService, time: FakeTime, roots: NvidiaRoots, notes: list[str]
) -> None:
    old = rims.rim(VBIOS, roots=roots)
    service.rims[VBIOS] = GPU.rim("vbios", reissued=True)
    time.forward(hours=25)
    new = rims.rim(VBIOS, roots=roots)
    assert new == service.rims[VBIOS] != old
    found = stored_rim(store, VBIOS, roots=roots)
    assert found is not None
    assert found[0] == new
    files = [name for name in store.names() if name.endswith(".xml")]
    assert {store.read(name) for name in files} == {old, new}
    assert "has issued the manifest" in notes[-1]


def test_manifest_that_cannot_be_refreshed_is_used_and_said(
    rims: RimFetcher, service: RimService, time: FakeTime, roots: NvidiaRoots, notes: list[str]
) -> None:
    data = rims.rim(DRIVER, roots=roots)
    time.forward(days=3)
    service.fail(Fault(status=500))
    assert rims.rim(DRIVER, roots=roots) == data
    assert "is used" in notes[-1]


def test_manifest_that_nvidia_does_not_have_is_said(rims: RimFetcher, roots: NvidiaRoots) -> None:
    with pytest.raises(CollateralUnavailableError, match="has published no reference manifest") as caught:
        rims.rim("NV_GPU_DRIVER_GH100_999.1", roots=roots)
    assert caught.value.check == "nvidia.rim.present"


def test_service_that_cannot_be_reached_is_a_network_error(
    rims: RimFetcher, service: RimService, roots: NvidiaRoots
) -> None:
    service.fail(Fault(drop=True))
    with pytest.raises(NetworkError):
        rims.rim(DRIVER, roots=roots)


def test_damaged_manifest_is_noticed_and_fetched_again(
    rims: RimFetcher, store: Store, service: RimService, roots: NvidiaRoots, notes: list[str]
) -> None:
    data = rims.rim(DRIVER, roots=roots)
    name = next(name for name in store.names() if name.endswith(".xml"))
    (store.path / name).write_bytes(data.replace(b"active", b"absent", 1))
    assert rims.rim(DRIVER, roots=roots) == data
    assert store.read(name) == data
    assert len(service.requests) == 2
    assert "is damaged" in notes[0]


def test_manifest_whose_signer_has_ended_is_kept_and_refused_by_verification_alone(
    rims: RimFetcher, service: RimService, roots: NvidiaRoots
) -> None:
    life = Life(testing.later(days=-90), testing.later(days=-30))
    service.rims[DRIVER] = GPU.rim("driver", signer_life=life)
    data = rims.rim(DRIVER, roots=roots)
    with pytest.raises(Error) as caught:
        verify_rim(data, roots=roots, at=testing.NOW)
    assert caught.value.check == "nvidia.rim.validity"


def body(**changes: object) -> bytes:
    document = {
        "id": DRIVER,
        "rim": base64.b64encode(GPU.driver_rim).decode(),
        "sha256": hashlib.sha256(GPU.driver_rim).hexdigest(),
        "rim_format": "TCG",
    }
    return json.dumps(document | changes).encode()


ALTERED = GPU.driver_rim.replace(b'alternatives="1"', b'alternatives="2"', 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        body(id=VBIOS),
        body(sha256="0" * 64),
        body(sha256=None),
        body(rim="%%%"),
        body(rim=None),
        body(rim_format="CORIM"),
    ],
    ids=[
        "empty",
        "a list",
        "no members",
        "no text",
        "another id",
        "another digest",
        "no digest",
        "no base64",
        "no manifest",
        "another form",
    ],
)
def test_malformed_answer_is_refused(
    rims: RimFetcher, store: Store, service: RimService, roots: NvidiaRoots, answer: bytes
) -> None:
    service.fail(Fault(body=answer))
    with pytest.raises(FormatError):
        rims.rim(DRIVER, roots=roots)
    assert store.names() == []


def test_right_answer_of_that_form_is_taken(
    rims: RimFetcher, service: RimService, roots: NvidiaRoots
) -> None:
    service.fail(Fault(body=body()))
    assert rims.rim(DRIVER, roots=roots) == GPU.driver_rim


@pytest.mark.parametrize(
    "manifest",
    [
        ALTERED,
        testing.gpu(root=testing.gpu_root("another")).driver_rim,
        GPU.vbios_rim,
        GPU.rim("driver", version="999.99.99"),
        b"<SoftwareIdentity/>",
    ],
    ids=["altered", "another root", "of the VBIOS", "another version", "not signed"],
)
def test_manifest_that_is_not_the_genuine_one_is_refused(
    rims: RimFetcher, store: Store, service: RimService, roots: NvidiaRoots, manifest: bytes
) -> None:
    service.rims[DRIVER] = manifest
    with pytest.raises(Error):
        rims.rim(DRIVER, roots=roots)
    assert store.names() == []


@pytest.mark.parametrize("rim_id", ["", "../x", "a/b", "a" * 200, "x\n"])
def test_id_that_is_none_is_refused_without_a_request(
    rims: RimFetcher, service: RimService, roots: NvidiaRoots, rim_id: str
) -> None:
    with pytest.raises(FormatError):
        rims.rim(rim_id, roots=roots)
    assert service.requests == []


def test_certificates_of_a_manifest_are_limited() -> None:
    one = b"<X509Certificate>AAAA</X509Certificate>"
    with pytest.raises(FormatError, match="9 certificates"):
        rim_certificates(one * 9)
    with pytest.raises(FormatError, match="0 certificates"):
        rim_certificates(b"<xml/>")
    with pytest.raises(FormatError, match="does not decode"):
        rim_certificates(b"<X509Certificate>AAA</X509Certificate>")
    with pytest.raises(FormatError, match="is malformed"):
        check_rim(one, roots=NvidiaRoots.nvidia(), rim_id="x")


# --- OCSP ---


def chain() -> list[bytes]:
    return GPU.chain_der


def test_answers_about_a_chain_are_verified_and_kept(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    answers = ocsp.answers(chain(), roots=roots, first=1)
    assert len(answers) == len(responder.requests) == 3
    assert {store.read(name) for name in store.names()} == set(answers)
    verified = verify_device(
        GPU.report(NONCE),
        chain(),
        roots=roots,
        at=testing.NOW,
        nonce=NONCE,
        ocsp=answers,
        ocsp_policy=OcspPolicy.REQUIRED,
    )
    assert verified.simulated


def test_question_has_the_form_that_nvidias_responder_wants(
    ocsp: OcspFetcher, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.x509 import ocsp as pyca

    ocsp.answer(chain()[1], chain()[2], roots=roots)
    asked = responder.requests[0]
    question = pyca.load_der_ocsp_request(asked.body)
    nonce = question.extensions.get_extension_for_class(x509.OCSPNonce)
    assert (asked.method, asked.path) == ("POST", "/")
    assert asked.headers["content-type"] == "application/ocsp-request"
    assert isinstance(question.hash_algorithm, SHA384)
    assert question.serial_number == GPU.serial
    assert nonce.critical
    assert len(nonce.value.nonce) == 32


def test_current_answer_is_not_asked_for_again_and_an_old_one_is(
    ocsp: OcspFetcher, responder: OcspResponder, time: FakeTime, roots: NvidiaRoots
) -> None:
    first = ocsp.answer(chain()[1], chain()[2], roots=roots)
    time.forward(hours=23)
    assert ocsp.answer(chain()[1], chain()[2], roots=roots) == first
    assert len(responder.requests) == 1
    time.forward(hours=2)
    responder.at = time.datetime
    assert ocsp.answer(chain()[1], chain()[2], roots=roots) != first
    assert len(responder.requests) == 2


def test_revoked_is_an_answer_that_is_kept_and_refuses(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    responder.statuses[GPU.serial] = "revoked"
    answers = ocsp.answers(chain(), roots=roots, first=1)
    assert len(store.names()) == 3
    with pytest.raises(RevokedError):
        verify_device(
            GPU.report(NONCE),
            chain(),
            roots=roots,
            at=testing.NOW,
            nonce=NONCE,
            ocsp=answers,
            ocsp_policy=OcspPolicy.SOFT,
        )


def refused(ocsp: OcspFetcher, store: Store, roots: NvidiaRoots) -> Error:
    with pytest.raises(Error) as caught:
        ocsp.answer(chain()[1], chain()[2], roots=roots)
    assert store.names() == []
    return caught.value


def test_unknown_is_no_answer(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    responder.statuses[GPU.serial] = "unknown"
    assert isinstance(refused(ocsp, store, roots), RevocationUnavailableError)


def test_answer_without_our_nonce_is_refused(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    responder.nonces = False
    assert isinstance(refused(ocsp, store, roots), FreshnessError)


def test_replayed_answer_is_refused(ocsp: OcspFetcher, responder: OcspResponder, roots: NvidiaRoots) -> None:
    replay = ocsp.answer(chain()[1], chain()[2], roots=roots)
    responder.fail(Fault(body=replay))
    with pytest.raises(FreshnessError):
        ocsp.answer(chain()[1], chain()[2], roots=roots, force=True)


def test_answer_about_another_certificate_is_refused(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    responder.fail(Fault(body=GPU.ocsp(at=testing.NOW)[1]))
    assert isinstance(refused(ocsp, store, roots), ChainError)


def test_answer_of_another_time_is_refused(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    for at in (testing.later(hours=-25), testing.later(hours=1)):
        responder.at = at
        assert isinstance(refused(ocsp, store, roots), RevocationUnavailableError)


def test_answer_of_a_responder_whose_clock_is_ahead_a_little_is_taken(
    ocsp: OcspFetcher, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    responder.at = testing.later(minutes=3)
    assert ocsp.answer(chain()[1], chain()[2], roots=roots)


@pytest.mark.parametrize("data", [b"", b"\x30\x03\x0a\x01\x06", b"<html>", bytes(100_000)])
def test_answer_that_is_none_is_refused(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots, data: bytes
) -> None:
    responder.fail(Fault(body=data))
    assert isinstance(refused(ocsp, store, roots), FormatError)


def test_answer_with_a_flipped_bit_is_refused(
    ocsp: OcspFetcher, store: Store, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    alter: Callable[[bytes], bytes] = lambda data: data.replace(  # noqa: E731 - a change of one byte
        b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x02", b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x03", 1
    )
    responder.fail(Fault(alter=alter))
    assert isinstance(refused(ocsp, store, roots), SignatureError | FreshnessError | FormatError)


def test_chain_that_is_none_is_refused_without_a_request(
    ocsp: OcspFetcher, responder: OcspResponder, roots: NvidiaRoots
) -> None:
    with pytest.raises(ChainError):
        ocsp.answer(chain()[1], chain()[3], roots=roots)
    with pytest.raises(FormatError):
        ocsp.answer(b"x", chain()[3], roots=roots)
    assert responder.requests == []


# --- what a device needs ---


@pytest.fixture
def device(roots: NvidiaRoots) -> VerifiedDevice:
    return verify_device(GPU.report(NONCE), chain(), roots=roots, at=testing.NOW, nonce=NONCE)


def test_everything_for_a_device_is_fetched_then_found_offline(
    store: Store,
    rims: RimFetcher,
    ocsp: OcspFetcher,
    responder: OcspResponder,
    service: RimService,
    device: VerifiedDevice,
    notes: list[str],
    roots: NvidiaRoots,
) -> None:
    root = testing.gpu_root()
    signer = root.signer(GPU.model.certified_as, Life(root.at, root.at + timedelta(days=730)))
    responder.know(signer.certificate, root.rim_issuers[GPU.model.certified_as], root)
    online = DeviceSource(store, rims=rims, ocsp=ocsp, note=notes.append).files("gpu0", device)
    asked = len(responder.requests) + len(service.requests)
    offline = DeviceSource(store, note=notes.append).files("gpu0", device)
    assert offline == online
    assert len(offline.rims) == 2
    assert len(offline.ocsp) == 6
    assert len(responder.requests) + len(service.requests) == asked
    verified = [verify_rim(one, roots=roots, at=testing.NOW, ocsp=offline.ocsp) for one in offline.rims]
    assert {result.outcome for result in compare(device, verified)} <= {"passed", "not_asked"}
    assert notes == []


def test_what_is_missing_for_a_device_is_left_out(
    store: Store, device: VerifiedDevice, notes: list[str]
) -> None:
    files = DeviceSource(store, note=notes.append).files("gpu0", device)
    assert files.rims == files.ocsp == ()


def test_answers_past_their_end_are_left_out_offline(
    store: Store, ocsp: OcspFetcher, roots: NvidiaRoots
) -> None:
    ocsp.answers(chain(), roots=roots, first=1)
    source = DeviceSource(store)
    assert len(source.ocsp(chain(), roots=roots, at=testing.NOW)) == 3
    assert source.ocsp(chain(), roots=roots, at=testing.later(hours=25)) == []


def test_services_that_fail_are_told_and_stop_nothing(
    store: Store,
    rims: RimFetcher,
    ocsp: OcspFetcher,
    responder: OcspResponder,
    service: RimService,
    device: VerifiedDevice,
    notes: list[str],
) -> None:
    service.fail(*[Fault(status=500)] * 9)
    responder.fail(*[Fault(drop=True)] * 9)
    files = DeviceSource(store, rims=rims, ocsp=ocsp, note=notes.append).files("gpu0", device)
    assert files.rims == files.ocsp == ()
    assert len(notes) == 5
