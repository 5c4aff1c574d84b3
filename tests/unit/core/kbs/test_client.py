# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest
from sealroom.errors import (
    AccessDeniedError,
    ConfigurationError,
    Error,
    NetworkError,
    ProtocolError,
)
from sealroom.kbs._http import MAX_ANSWER
from sealroom.kbs.binding import HASH_ALGORITHMS, HashAlgorithm, device_nonce
from sealroom.kbs.calls import IdentityRequest, ReleaseRequest
from sealroom.kbs.client import KbsClient
from sealroom.kbs.devices import decode_devices
from sealroom.kbs.jwe import TeeKey, encrypt
from sealroom.kbs.messages import AttestRequest, InitData, parse
from support.fake_broker import URL, FakeBroker, dataset, error

IDENTITY = IdentityRequest(provider="jupyterhub", token="hub-token-secret")
RELEASE = ReleaseRequest(purpose="DUO:0000042", reader_key="cmVhZGVy", headers={"ecg.npy": "aGVhZGVy"})


@dataclass(frozen=True)
class Evidence:
    """Evidence as a provider gives it; the report is unsigned, which a client does not mind."""

    report: bytes
    tee: str = "snp"
    provider: str = "test"
    certificates: dict[str, bytes] = field(default_factory=dict)


def gather(report_data: bytes) -> Evidence:
    report = bytearray(1184)
    report[0], report[0x188], report[0x50:0x90] = 3, 0x19, report_data
    return Evidence(bytes(report))


def connect(broker: FakeBroker, **options: object) -> KbsClient:
    return KbsClient(URL, gather, http=broker.http(), **options)  # type: ignore[arg-type]


def refuse(status: int, name: str, detail: str, **more: object) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: error(status, name, detail, **more)


@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_evidence_covers_what_the_broker_selected(algorithm: HashAlgorithm) -> None:
    broker = FakeBroker(algorithm=algorithm)
    with connect(broker) as client:
        attested = client.attest()
    assert [attested.token] == broker.tokens
    assert attested.provider == "test"
    assert attested.evidence.report[0x50:0x90]
    (session,) = broker.sessions.values()
    assert attested.nonce == session.challenge.nonce == attested.runtime_data.nonce
    assert session.key == client.tee_pubkey


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA"])
def test_a_release_is_decrypted_with_the_attested_key(kind: str) -> None:
    with connect(FakeBroker(), key=TeeKey.generate(kind)) as client:  # type: ignore[arg-type]
        release = client.release("heartbeats", RELEASE)
    assert release.headers == RELEASE.headers
    assert release.audit_index == 3


def test_the_first_call_attests_by_itself() -> None:
    broker = FakeBroker()
    with connect(broker) as client:
        (offered,) = client.datasets()
    assert offered.id == "heartbeats"
    assert broker.calls == ["auth", "attest", "sealroom/datasets"]


def test_calls_stay_in_one_session() -> None:
    broker = FakeBroker()
    with connect(broker) as client:
        client.attest()
        assert client.identity(IDENTITY).person.name == "Ada"
        client.attest()
        state = client.session()
    assert state.person is not None
    assert len(broker.sessions) == 1


def test_an_expired_session_is_attested_again_and_keeps_its_person() -> None:
    broker = FakeBroker()
    with connect(broker) as client:
        client.identity(IDENTITY)
        broker.expire()
        broker.calls.clear()
        state = client.session()
    assert state.person is not None
    assert broker.calls == ["sealroom/session", "auth", "attest", "sealroom/session"]


@pytest.mark.parametrize("keeps_sessions", [True, False], ids=["new-database", "new-session-each-auth"])
def test_a_lost_session_is_replaced_and_the_person_presented_again(keeps_sessions: bool) -> None:
    broker = FakeBroker(keeps_sessions=keeps_sessions)
    with connect(broker) as client:
        client.identity(IDENTITY)
        broker.forget()
        broker.calls.clear()
        state = client.session()
    assert state.person is not None
    assert broker.calls == ["sealroom/session", "auth", "attest", "sealroom/identity", "sealroom/session"]


def test_a_person_that_was_refused_is_not_presented_again() -> None:
    broker = FakeBroker(answers={"sealroom/identity": refuse(403, "PolicyDeny", "unknown token")})
    with connect(broker) as client:
        with pytest.raises(AccessDeniedError):
            client.identity(IDENTITY)
        broker.forget()
        broker.calls.clear()
        client.session()
    assert "sealroom/identity" not in broker.calls


def test_attesting_only_leaves_the_session_alone() -> None:
    broker = FakeBroker()
    with connect(broker) as client:
        client.identity(IDENTITY)
        before = client.attest_only()
        state = client.session()
    assert before.token
    assert state.person is not None
    assert len(broker.sessions) == 2


def test_a_session_that_stays_refused_is_attested_once_and_then_refused() -> None:
    broker = FakeBroker(answers={"sealroom/session": refuse(401, "AttestationError", "no")})
    with connect(broker) as client, pytest.raises(AccessDeniedError, match="no"):
        client.session()
    assert broker.calls == ["auth", "attest", "sealroom/session"] * 2


def test_a_refusal_says_why_and_whom_to_ask_and_nothing_is_attested_again() -> None:
    reasons = [{"code": "grant.none", "sentence": "You have no grant."}]
    broker = FakeBroker(
        answers={
            "sealroom/datasets/heartbeats/release": refuse(
                403, "PolicyDeny", "You may not use heartbeats.", reasons=reasons, ask="data@heart.example"
            )
        }
    )
    with connect(broker) as client, pytest.raises(AccessDeniedError) as caught:
        client.release("heartbeats", RELEASE)
    assert caught.value.message == "You may not use heartbeats."
    assert caught.value.reasons == (("grant.none", "You have no grant."),)
    assert caught.value.advice == "Ask data@heart.example."
    assert broker.calls.count("auth") == 1


def test_whom_to_ask_is_said_once() -> None:
    detail = "You have no grant. Ask data@heart.example for access."
    broker = FakeBroker(
        answers={"sealroom/session": refuse(403, "PolicyDeny", detail, ask="data@heart.example")}
    )
    with connect(broker) as client, pytest.raises(AccessDeniedError) as caught:
        client.session()
    assert caught.value.diagnostics() == detail


@pytest.mark.parametrize("status", [401, 403])
def test_refused_evidence_says_why(status: int) -> None:
    reasons = [{"code": "signature", "sentence": "The report is not signed."}]
    broker = FakeBroker(
        answers={"attest": refuse(status, "AttestationError", "Not genuine.", reasons=reasons)}
    )
    with connect(broker) as client, pytest.raises(AccessDeniedError, match="Not genuine") as caught:
        client.attest()
    assert caught.value.reasons == (("signature", "The report is not signed."),)
    assert broker.calls == ["auth", "attest"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, NetworkError),
        (400, ProtocolError),
        (404, ProtocolError),
        (413, ProtocolError),
        (429, NetworkError),
        (500, NetworkError),
        (503, NetworkError),
    ],
)
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"type":"x","detail":"because"}'], ids=["empty", "html", "error"]
)
def test_other_answers_are_errors_of_their_kind(status: int, kind: type[Error], body: bytes) -> None:
    answer = httpx.Response(status, content=body, headers={"location": "http://elsewhere.example"})
    broker = FakeBroker(answers={"sealroom/session": lambda _: answer})
    with connect(broker) as client, pytest.raises(kind) as caught:
        client.session()
    assert "html" not in caught.value.message
    assert broker.calls.count("sealroom/session") == 1


def test_what_a_broker_says_is_cut_and_without_control_characters() -> None:
    broker = FakeBroker(answers={"auth": refuse(403, "PolicyDeny", "\x1b[31mred\n" + "x" * 5000)})
    with connect(broker) as client, pytest.raises(AccessDeniedError) as caught:
        client.attest()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) <= 500


def raising(fault: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise fault

    return answer


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("gone"),
        httpx.DecodingError("bad gzip"),
    ],
)
def test_a_broker_that_cannot_be_reached_is_a_network_error_with_advice(fault: Exception) -> None:
    with (
        connect(FakeBroker(answers={"auth": raising(fault)})) as client,
        pytest.raises(NetworkError) as caught,
    ):
        client.attest()
    assert URL in caught.value.message
    assert caught.value.advice


def test_nobody_listening_is_a_network_error() -> None:
    with (
        KbsClient("http://127.0.0.1:9", gather) as client,
        pytest.raises(NetworkError, match="cannot be reached"),
    ):
        client.attest()


def test_an_answer_without_end_is_refused() -> None:
    long = httpx.Response(200, content=(b" " * 2**20 for _ in range(MAX_ANSWER // 2**20 + 2)))
    with (
        connect(FakeBroker(answers={"auth": lambda _: long})) as client,
        pytest.raises(NetworkError, match="longer"),
    ):
        client.attest()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"nonce":7}', b'{"nonce":""}', b"\xff"])
def test_a_malformed_challenge_is_a_protocol_error(body: bytes) -> None:
    broker = FakeBroker(answers={"auth": lambda _: httpx.Response(200, content=body)})
    with connect(broker) as client, pytest.raises(ProtocolError):
        client.attest()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"secret", b'{"protected":"e30"}'])
def test_a_release_that_is_not_encrypted_is_refused(body: bytes) -> None:
    answer = httpx.Response(200, content=body)
    broker = FakeBroker(answers={"sealroom/datasets/heartbeats/release": lambda _: answer})
    with connect(broker) as client, pytest.raises(ProtocolError):
        client.release("heartbeats", RELEASE)


def test_a_release_for_another_key_is_refused() -> None:
    other = httpx.Response(200, json=encrypt(b"{}", TeeKey.generate().public_jwk()))
    broker = FakeBroker(answers={"sealroom/datasets/heartbeats/release": lambda _: other})
    with connect(broker) as client, pytest.raises(ProtocolError, match="this server's key"):
        client.release("heartbeats", RELEASE)


@pytest.mark.parametrize(
    "change", [{"dataset": "other"}, {"headers": {}}, {"headers": {"ecg.npy": "", "b": ""}}]
)
def test_a_release_of_something_else_is_refused(change: dict[str, object]) -> None:
    key = TeeKey.generate()
    content = {
        "dataset": "heartbeats",
        "grant": "g",
        "manifest": "",
        "owner_key": "",
        "headers": {"ecg.npy": ""},
        "audit_index": 0,
        "audit_leaf": "",
    }
    sealed = encrypt(json.dumps({**content, **change}).encode(), key.public_jwk())
    answer = httpx.Response(200, json=sealed)
    broker = FakeBroker(answers={"sealroom/datasets/heartbeats/release": lambda _: answer})
    with connect(broker, key=key) as client, pytest.raises(ProtocolError, match="files that were asked for"):
        client.release("heartbeats", RELEASE)


def test_a_datasets_id_cannot_leave_its_path() -> None:
    broker = FakeBroker()
    with connect(broker) as client, pytest.raises(ProtocolError):
        client.release("../../resource/a/b?c", RELEASE)
    assert broker.calls[-1].startswith("sealroom/datasets/")


@pytest.mark.parametrize("part", ["", "..", ".", "a/b", "a?b", ".a", "é", "x" * 129])
def test_a_resources_name_has_plain_parts(part: str) -> None:
    with connect(FakeBroker()) as client:
        assert client.resource("default", "keys", "a.b-c_1") == b"secret"
        with pytest.raises(ValueError, match="no part of a resource"):
            client.resource("default", part, "key")


@pytest.mark.parametrize("url", ["", "broker", "ftp://broker", "http://", "http://b?x=1", "file:///etc"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        KbsClient(url, gather)


def test_evidence_of_another_tee_is_not_sent_as_snp() -> None:
    broker = FakeBroker()
    with (
        KbsClient(URL, lambda _: Evidence(b"quote", tee="tdx"), http=broker.http()) as client,
        pytest.raises(ProtocolError, match="tdx"),
    ):
        client.attest()
    assert broker.calls == ["auth"]


def test_a_providers_error_is_passed_on() -> None:
    def gone(_: bytes) -> Evidence:
        raise NetworkError("The processor does not answer.")

    with (
        KbsClient(URL, gone, http=FakeBroker().http()) as client,
        pytest.raises(NetworkError, match="processor"),
    ):
        client.attest()


@dataclass(frozen=True)
class GpuEvidence:
    """Evidence of a GPU as a provider gives it."""

    report: bytes
    arch: str = "HOPPER"
    uuid: str = "GPU-1"
    chain_pem: bytes = b"-----BEGIN CERTIFICATE-----"


@dataclass
class Gpus:
    """A source of devices' evidence."""

    count: int = 2
    asked: list[bytes] = field(default_factory=list)

    def evidence(self, nonce: bytes) -> list[GpuEvidence]:
        self.asked.append(nonce)
        return [GpuEvidence(b"\x11\xe0\x01\xff" + nonce, uuid=f"GPU-{n}") for n in range(self.count)]


def attest_with(devices: Gpus | None, algorithm: HashAlgorithm = "sha384") -> AttestRequest:
    """Attest at a broker that checks what the CPU's report covers; return what was sent."""
    broker, bodies = FakeBroker(algorithm=algorithm), []

    def remember(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return broker(request)

    http = httpx.Client(transport=httpx.MockTransport(remember))
    with KbsClient(URL, gather, init_data="a = 1", devices=devices, http=http) as client:
        client.attest()
    return parse(AttestRequest, bodies[-1])


@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_devices_answer_the_first_32_bytes_of_their_digest_and_the_cpu_covers_them(
    algorithm: HashAlgorithm,
) -> None:
    gpus = Gpus()
    sent = attest_with(gpus, algorithm)
    runtime = sent.runtime_data
    (asked,) = gpus.asked
    assert asked == device_nonce(runtime.nonce, runtime.tee_pubkey, algorithm)[:32]
    assert len(asked) == 32
    devices = decode_devices(sent.tee_evidence.additional_evidence)
    assert [device.uuid for device in devices] == ["GPU-0", "GPU-1"]
    assert [device.report[4:36] for device in devices] == [asked, asked]


def test_initdata_is_sent_and_without_devices_there_is_no_additional_evidence() -> None:
    sent = attest_with(None)
    assert sent.init_data == InitData(format="toml", body="a = 1")
    assert sent.tee_evidence.additional_evidence == ""


def test_a_device_that_gives_nothing_is_passed_on() -> None:
    class Silent(Gpus):
        def evidence(self, nonce: bytes) -> list[GpuEvidence]:
            raise NetworkError("The GPU does not answer.")

    with pytest.raises(NetworkError, match="GPU does not answer"):
        attest_with(Silent())


@pytest.mark.parametrize(
    ("covered", "what"),
    [
        ({"nonce": "b3RoZXI="}, "another nonce"),
        ({"tee-pubkey": TeeKey.generate().public_jwk()}, "another key"),
        ({"tee-pubkey": {}}, "another key"),
        ({"additional-evidence": "{}"}, "another device's evidence"),
    ],
    ids=["nonce", "key", "no-key", "devices"],
)
def test_a_result_about_another_server_is_refused(covered: dict[str, object], what: str) -> None:
    with connect(FakeBroker(covered=covered)) as client:
        with pytest.raises(ProtocolError, match=f"not about this server: it names {what}"):
            client.attest()
        with pytest.raises(ProtocolError, match="not about this server"):
            client.session()


def test_many_threads_share_one_session_and_attest_again_once() -> None:
    broker = FakeBroker()
    with connect(broker) as client:
        client.identity(IDENTITY)
        broker.expire()
        broker.calls.clear()
        start = threading.Barrier(8)

        def call(_: int) -> bool:
            start.wait()
            return client.session().person is not None

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(call, range(8)))
    assert broker.calls.count("auth") == broker.calls.count("attest") == 1
    assert len(broker.sessions) == 1


def test_two_sessions_over_one_http_client_do_not_mix() -> None:
    broker = FakeBroker()
    http = broker.http()
    one, other = KbsClient(URL, gather, http=http), KbsClient(URL, gather, http=http)
    one.identity(IDENTITY)
    assert other.session().person is None
    assert one.session().person is not None
    assert not http.cookies


def test_a_given_http_client_is_left_open() -> None:
    http = FakeBroker().http()
    connect(FakeBroker(), key=None).close()
    with KbsClient(URL, gather, http=http) as client:
        client.attest()
    assert not http.is_closed


def test_nothing_secret_is_logged_or_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broker = FakeBroker()
    with connect(broker) as client:
        attested = client.attest()
        client.identity(IDENTITY)
        release = client.release("heartbeats", RELEASE)
        shown = caplog.text + repr(client) + repr(attested) + repr(release) + repr(IDENTITY)
    secrets = [
        "hub-token-secret",
        "ear-signature-secret",
        "aGVhZGVy",
        *broker.sessions,
        client.tee_pubkey["x"],
    ]
    assert not [secret for secret in secrets if secret in shown]


def test_an_offer_with_unknown_fields_of_a_newer_broker_is_understood() -> None:
    answer = httpx.Response(200, json={"datasets": [{**dataset("a"), "new": {}}], "more": 1})
    with connect(FakeBroker(answers={"sealroom/datasets": lambda _: answer})) as client:
        assert client.datasets()[0].id == "a"
