# SPDX-License-Identifier: BSD-3-Clause
"""The small pure parts: statuses in words, settings, errors over HTTP, results of a real broker's shape."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sealroom import errors, testing
from sealroom.appraisal import Policy, appraise, ear
from sealroom.cli import run
from sealroom.datasets.messages import DeviceInfo, EnvironmentInfo, ErrorInfo
from sealroom.guest import CocoDeviceProvider, NvmlProvider, SimulatedProvider
from sealroom.kbs.devices import Device, decode_devices
from sealroom.kbs.messages import AttestRequest, parse
from sealroom_jupyter.app import Sealroom
from sealroom_jupyter.attester import Attester, State
from sealroom_jupyter.errors import (
    EvidenceError,
    NotProvenError,
    UnknownDatasetError,
    http_status,
    problem_of,
)
from sealroom_jupyter.ports import Proof
from sealroom_jupyter.real import Gpus, connector, detect, read_token
from sealroom_jupyter.settings import Settings
from sealroom_jupyter.status import TIERS, describe, device_title
from support import gpus
from support.fake_broker import FakeBroker as KbsFake
from unit.jupyter.fakes import START, FakeBroker, FakeClock

SETTINGS = Settings(broker_url="http://broker.example", root=Path("/srv/ark.pem"))


def proof(tier: str) -> Proof:
    return Proof(
        token="t",
        token_sha256="00" * 32,
        tier=tier,
        devices=(DeviceInfo(device="cpu0", tier=tier),),
        environment=EnvironmentInfo(name="simulated-cpu", version="1", digest="sha256:00"),
        proven_at=START,
        expires=START + timedelta(minutes=5),
    )


# -- statuses


@pytest.mark.parametrize("tier", ["affirming", "warning", "simulated"])
def test_a_verified_server_is_called_by_its_tier(tier: str) -> None:
    shown = describe(State(phase="verified", proof=proof(tier)), SETTINGS)
    assert (shown.tier, shown.title) == (tier, TIERS[tier].title)
    assert len(shown.sentences) == 2


@pytest.mark.parametrize("phase", ["starting", "evidence", "unreachable"])
def test_a_server_that_is_not_verified_now_has_no_tier(phase: str) -> None:
    shown = describe(State(phase=phase, proof=proof("affirming")), SETTINGS)  # type: ignore[arg-type]
    assert shown.tier == "none"
    assert shown.title not in (TIERS["affirming"].title, TIERS["simulated"].title)


def test_a_refused_server_is_never_called_by_a_good_tier() -> None:
    assert describe(State(phase="refused", proof=proof("affirming")), SETTINGS).tier == "none"


def test_a_tier_that_is_not_known_is_none() -> None:
    assert describe(State(phase="verified", proof=proof("excellent")), SETTINGS).tier == "none"


def test_verified_without_a_proof_is_none() -> None:
    assert describe(State(phase="verified"), SETTINGS).tier == "none"


def test_status_carries_the_root_the_title_and_the_problem() -> None:
    state = State(phase="verified", proof=proof("simulated"), error=ErrorInfo(message="Hub away."))
    shown = describe(state, SETTINGS, environment_title="Simulated TEE, CPU")
    assert shown.root == "/srv/ark.pem"
    assert shown.environment is not None
    assert shown.environment.title == "Simulated TEE, CPU"
    assert shown.error is not None


def test_simulated_is_said_in_words_and_promises_nothing() -> None:
    words = TIERS["simulated"]
    assert "imulated" in words.title
    assert "can read everything" in words.sentences[1]


@pytest.mark.parametrize(
    ("device", "title"), [("cpu0", "Processor 0"), ("gpu1", "Graphics processor 1"), ("dpu", "dpu")]
)
def test_devices_have_names(device: str, title: str) -> None:
    assert device_title(device) == title


# -- errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.AccessDeniedError("No."), 403),
        (UnknownDatasetError("No."), 404),
        (errors.FormatError("No."), 400),
        (errors.ConfigurationError("No."), 400),
        (errors.IntegrityError("No."), 409),
        (errors.SignatureError("No."), 409),
        (errors.NetworkError("No."), 503),
        (NotProvenError("No."), 503),
        (EvidenceError("No."), 503),
        (errors.ProtocolError("No."), 502),
        (errors.StorageError("No."), 500),
        (errors.Error("No."), 500),
    ],
)
def test_errors_have_a_status(error: errors.Error, status: int) -> None:
    assert http_status(error) == status


def test_a_problem_has_reasons_and_advice() -> None:
    error = errors.AccessDeniedError("No.", reasons=(("grant.none", "None."),), advice="Ask.")
    problem = problem_of(error)
    assert (problem.code, problem.advice, problem.reasons[0].sentence) == ("access_denied", "Ask.", "None.")


# -- settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SEALROOM_BROKER_URL": "http://broker.example/",
        "SEALROOM_STATUS_URL": "http://hub.example/services/sealroom/",
        "SEALROOM_RUN": "/run/me",
        "SEALROOM_DATASETS": "/data/a:/data/b:",
        "SEALROOM_ENVIRONMENT": "/env.toml",
        "SEALROOM_ROOT": "/ark.pem",
        "SEALROOM_SERVER_NAME": "gpu",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Sealroom().to_settings()
    assert settings.broker_url == "http://broker.example"
    assert settings.status_url == "http://hub.example/services/sealroom"
    assert settings.agent_socket == Path("/run/me/agent.sock")
    assert settings.datasets == (Path("/data/a"), Path("/data/b"))
    assert (settings.environment, settings.root) == (Path("/env.toml"), Path("/ark.pem"))
    assert settings.server_name == "gpu"


def test_without_an_environment_everything_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEALROOM_BROKER_URL", "SEALROOM_RUN", "SEALROOM_DATASETS", "SEALROOM_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTERHUB_SERVER_NAME", "from-the-hub")
    settings = Sealroom().to_settings()
    assert (settings.broker_url, settings.run_dir, settings.datasets) == ("", None, ())
    assert settings.agent_socket is None
    assert settings.server_name == "from-the-hub"


def test_every_setting_has_a_help_text() -> None:
    for name, trait in Sealroom.class_own_traits(config=True).items():
        if trait.this_class is Sealroom:
            assert trait.help.strip(), name


# -- the real broker's side


def no_evidence(report_data: bytes) -> NoReturn:
    pytest.fail("evidence was asked for")


def test_without_a_broker_nothing_is_proven_and_it_is_said() -> None:
    with pytest.raises(errors.ConfigurationError, match="No key broker"):
        connector(Settings())(no_evidence)


def test_without_a_processor_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="no source of evidence"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(500), errors.NetworkError),
        (httpx.Response(302, headers={"Location": "http://evil.example"}), errors.NetworkError),
        (httpx.Response(200, text="keys"), errors.ProtocolError),
        (httpx.Response(200, json=["keys"]), errors.ProtocolError),
        (httpx.Response(200, text='{"keys": "' + "x" * (1 << 20) + '"}'), errors.ProtocolError),
    ],
)
def test_keys_that_are_none_are_our_error(answer: httpx.Response, kind: type[errors.Error]) -> None:
    broker = connector(SETTINGS, transport=httpx.MockTransport(lambda request: answer))(no_evidence)
    with pytest.raises(kind):
        broker.jwks()
    broker.close()


def test_a_broker_that_cannot_be_reached_is_our_error() -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("down")

    broker = connector(SETTINGS, transport=httpx.MockTransport(down))(no_evidence)
    with pytest.raises(errors.NetworkError, match="cannot be reached"):
        broker.jwks()
    with pytest.raises(errors.NetworkError):
        broker.attest()
    broker.close()


@pytest.fixture
def no_real_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the simulated GPUs as the only ones, on whatever machine the tests run."""
    monkeypatch.setattr(NvmlProvider, "available", lambda self: "not in this test")
    monkeypatch.setattr(CocoDeviceProvider, "available", lambda self: "not in this test")


def evidence_sent(run_dir: Path) -> tuple[Device, ...]:
    """Attest as the extension does, and return the devices whose evidence the broker got."""
    sent: list[AttestRequest] = []
    served = KbsFake()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/attest"):
            sent.append(parse(AttestRequest, request.content))
        return served(request)

    settings = replace(SETTINGS, run_dir=run_dir)
    broker = connector(settings, transport=httpx.MockTransport(answer))(testing.evidence)
    broker.attest()
    broker.close()
    return decode_devices(sent[-1].tee_evidence.additional_evidence)


@pytest.mark.usefixtures("no_real_gpu")
def test_a_gpu_attests_beside_the_processor(tmp_path: Path) -> None:
    with testing.running_gpus(tmp_path / "gpu.sock"):
        (device,) = evidence_sent(tmp_path)
    assert (device.arch, device.uuid) == ("HOPPER", testing.gpu().uuid)
    assert device.chain_pem == testing.gpu().chain_pem


@pytest.mark.usefixtures("no_real_gpu")
def test_a_server_without_a_gpu_attests_alone(tmp_path: Path) -> None:
    assert evidence_sent(tmp_path) == ()


@pytest.mark.usefixtures("no_real_gpu")
def test_a_gpu_that_gives_no_evidence_is_said_and_nothing_is_sent(tmp_path: Path) -> None:
    with (
        testing.running_gpus(tmp_path / "gpu.sock", alter=lambda report: report[::-1]),
        pytest.raises(EvidenceError, match="The GPU of this server gives no evidence"),
    ):
        evidence_sent(tmp_path)


@pytest.mark.usefixtures("no_real_gpu")
def test_saved_evidence_of_a_server_with_gpus_is_accepted(tmp_path: Path) -> None:
    attester = Attester(
        replace(SETTINGS, run_dir=tmp_path),
        detect=lambda run_dir: SimulatedProvider(tmp_path / "sp.sock"),
        connect=connector(SETTINGS),
        read_token=read_token,
        devices=Gpus(tmp_path),
    )
    processor = testing.running_processor(tmp_path / "sp.sock")
    chips = [testing.gpu(), testing.gpu("BLACKWELL")]
    with processor, testing.running_gpus(tmp_path / "gpu.sock", chips):
        made = attester.evidence(b"n" * 32)
    saved = tmp_path / "saved.evidence.json"
    saved.write_text(made.model_dump_json())
    roots = [testing.chain().pem, testing.gpu_root().device_pem, testing.gpu_root().rim_pem]
    (tmp_path / "roots.pem").write_bytes(b"".join(roots))

    command = ["verify", str(saved), "--root", str(tmp_path / "roots.pem"), "--at", testing.NOW.isoformat()]
    assert run([*command, "--nonce", (b"n" * 32).hex()]) == 0


@pytest.fixture(scope="module")
def signed() -> tuple[str, dict[str, object]]:
    """A real attestation result over simulated evidence, and the keys to verify it."""
    key = ec.generate_private_key(ec.SECP256R1())
    result = appraise(testing.verified_evidence(), environment=testing.environment(), policy=Policy.strict())
    token = ear.issue(
        result,
        key=key,
        kid="k1",
        issuer="http://broker.example",
        nonce="bm9uY2U=",
        tee_pubkey={"kty": "EC"},
        lifetime=timedelta(minutes=5),
        at=testing.NOW,
    )
    return token, dict(ear.jwks({"k1": key.public_key()}))


def test_a_result_is_read_with_its_devices_and_sentences(signed: tuple[str, dict[str, object]]) -> None:
    token, jwks = signed
    read = read_token(token, jwks, testing.NOW)
    assert read.expires == testing.NOW + timedelta(minutes=5)
    assert read.devices[0].device == "cpu0"
    assert read.devices[0].title == "Processor 0"
    assert len(read.devices[0].claims) > 10
    assert all(claim.sentence for claim in read.devices[0].claims)
    assert len(read.token_sha256) == 64


def test_a_result_that_is_too_old_is_refused(signed: tuple[str, dict[str, object]]) -> None:
    token, jwks = signed
    with pytest.raises(errors.FreshnessError):
        read_token(token, jwks, testing.NOW + timedelta(minutes=5))


def test_a_result_of_another_signer_is_refused(signed: tuple[str, dict[str, object]]) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(errors.SignatureError):
        read_token(signed[0], dict(ear.jwks({"k1": other.public_key()})), testing.NOW)


def test_the_fakes_are_of_the_ports_shape() -> None:
    broker = FakeBroker(FakeClock())
    assert broker.read_token("t", {}, datetime.now(UTC)).holds


def test_devices_of_a_result_are_shown_each_with_its_claims() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    environment = gpus.environment(2)
    chips = [testing.gpu(), testing.gpu(seed=b"2" * 32)]
    evidence = gpus.evidence([gpus.verified(chip) for chip in chips], environment)
    token = ear.issue(
        appraise(evidence, environment=environment, policy=Policy.strict()),
        key=key,
        kid="one",
        issuer="broker",
        nonce="bm9uY2U=",
        tee_pubkey={"kty": "EC"},
        lifetime=timedelta(minutes=5),
        at=testing.NOW,
        evidence=evidence,
    )
    proof = read_token(token, ear.jwks({"one": key}), testing.NOW)
    assert [(one.device, one.tier) for one in proof.devices] == [
        ("cpu0", "simulated"),
        ("gpu0", "simulated"),
        ("gpu1", "simulated"),
    ]
    assert [one.title for one in proof.devices] == [
        "Processor 0",
        "Graphics processor 0",
        "Graphics processor 1",
    ]
    checks = {claim.check for claim in proof.devices[2].claims}
    assert {"nvidia.report.signature", "appraisal.gpu.measurements"} <= checks
