# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of GPUs beside the processor's, from the handshake to the auditor."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom import testing
from sealroom.appraisal import DeviceFiles, ear
from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.verify import LogReport, verify_log
from sealroom.cli.reverify import Reverifier
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, ConfigurationError
from sealroom.kbs.binding import cpu_report_data, device_nonce
from sealroom.kbs.client import snp_evidence
from sealroom.kbs.devices import encode_devices
from sealroom.kbs.jwe import TeeKey
from sealroom.nvidia import NvidiaRoots, VerifiedDevice
from sealroom.simulated.gpu import SimulatedGpu
from sealroom_broker.app import create_app
from sealroom_broker.broker import open_broker
from sealroom_broker.config import load_config
from support import gpus
from support.brokers import World

KEY = TeeKey.generate()
GPU = testing.gpu()
OTHER = testing.gpu(seed=b"o" * 32)
READER = SecretKey.generate()
AUTH = {"version": "0.4.0", "tee": "snp", "extra-params": ""}


@dataclass
class Lab:
    """A development broker that knows simulated GPUs, and servers that have some."""

    world: World
    known: Callable[[SimulatedGpu], DeviceFiles] = gpus.files
    chips: list[SimulatedGpu] = field(default_factory=lambda: [GPU])

    def __post_init__(self) -> None:
        self.expect(1)
        folder, root = self.world.folder / "gpus", testing.gpu_root()
        folder.mkdir()
        (folder / "gpu-device-root.pem").write_bytes(root.device_pem)
        (folder / "gpu-rim-root.pem").write_bytes(root.rim_pem)
        self.restart(f"development_gpu_root = {json.dumps(str(folder))}")

    def expect(self, count: int, **section: Any) -> None:
        """Approve an environment with that many GPUs."""
        self.world.environment = self.world.publish(gpus.environment(count, **section))

    def restart(self, *lines: str) -> None:
        """Start the broker again with more lines in its configuration."""
        world, path = self.world, self.world.config_path
        path.write_text("\n".join(lines) + "\n" + path.read_text())
        world.broker.close()
        config = load_config(path)
        world.broker = open_broker(
            config, clock=world.clock, identity=world.people, references=self.references
        )
        world.app = create_app(world.broker)

    def references(self, _: str, device: VerifiedDevice) -> DeviceFiles:
        chip = next(one for one in (GPU, OTHER, *self.chips) if str(one.serial) == device.ueid)
        return self.known(chip)

    def devices(self, nonce: bytes, **report: Any) -> str:
        return encode_devices([testing.device_evidence(nonce, on=chip, **report) for chip in self.chips])

    def body(self, nonce: str, *, covered: str | None = None, devices: str | None = None) -> dict[str, Any]:
        jwk = KEY.public_jwk()
        if devices is None:
            devices = self.devices(device_nonce(nonce, jwk, size=32))
        data = cpu_report_data(nonce, jwk, devices if covered is None else covered)
        return {
            "init-data": None,
            "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
            "tee-evidence": {
                "primary_evidence": snp_evidence(self.world.evidence(data)),
                "additional_evidence": devices,
            },
        }

    def attest(self, http: httpx.Client | None = None, **options: Any) -> httpx.Response:
        http = http or self.world.http()
        nonce = http.post("/kbs/v0/auth", json=AUTH).json()["nonce"]
        if callable(options.get("devices")):
            options["devices"] = options["devices"](device_nonce(nonce, KEY.public_jwk(), size=32))
        return http.post("/kbs/v0/attest", json=self.body(nonce, **options))

    def result(self, **options: Any) -> ear.EarToken:
        answer = self.attest(**options)
        assert answer.status_code == 200, answer.text
        jwks = self.world.http().get("/kbs/v0/sealroom/jwks").json()
        return ear.verify(answer.json()["token"], jwks=jwks, at=self.world.clock())

    def guest(self) -> Any:
        """Return a client whose server has the GPUs."""
        chips = self.chips

        class Source:
            def evidence(self, nonce: bytes) -> list[Any]:
                return [testing.device_evidence(nonce, on=chip) for chip in chips]

        return self.world.guest(devices=Source())


@pytest.fixture
def lab(world: World) -> Lab:
    return Lab(world)


def tiers(token: ear.EarToken) -> dict[str, str]:
    return {device.device: str(device.tier) for device in token.result.devices}


def failures(token: ear.EarToken) -> list[str]:
    return [claim.check for claim in token.result.failures if claim.check.startswith("appraisal.")]


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["reasons"][0]["code"]


def entries(lab: Lab) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(data) for _, data in lab.world.broker.record.log.entries()]


# --- what is accepted


def test_server_with_its_gpu(lab: Lab) -> None:
    token = lab.result()
    assert tiers(token) == {"cpu0": "simulated", "gpu0": "simulated"}
    assert token.result.failures == ()
    assert token.result.environment is not None
    assert token.result.environment.digest == lab.world.environment.digest


def test_server_with_two_gpus(lab: Lab) -> None:
    lab.expect(2)
    lab.chips = [GPU, OTHER]
    assert tiers(lab.result()) == {"cpu0": "simulated", "gpu0": "simulated", "gpu1": "simulated"}


def test_server_without_the_gpu_of_its_environment_is_contraindicated(lab: Lab) -> None:
    token = lab.result(devices="")
    assert tiers(token) == {"cpu0": "simulated", "gpu0": "contraindicated"}
    assert failures(token) == ["appraisal.gpu.count"]


def test_gpu_that_the_environment_does_not_have_is_shown(lab: Lab) -> None:
    lab.expect(0)
    token = lab.result()
    assert tiers(token) == {"cpu0": "simulated", "gpu0": "contraindicated"}
    assert failures(token) == ["appraisal.gpu.count"]


def test_gpu_with_other_firmware_is_contraindicated(lab: Lab) -> None:
    token = lab.result(devices=lambda nonce: lab.devices(nonce, measurements={3: b"x" * 48}))
    assert failures(token) == ["appraisal.gpu.measurements"]


def test_gpu_of_which_nothing_is_known_is_contraindicated(lab: Lab) -> None:
    lab.known = lambda _: DeviceFiles()
    assert failures(lab.result()) == ["appraisal.gpu.reference", "appraisal.gpu.revocation"]


def test_configured_policy_is_applied_and_named(lab: Lab) -> None:
    path = lab.world.folder / "policy.toml"
    path.write_text('format = "sealroom-policy/1"\nname = "lab"\nversion = "1"\ngpu_ocsp = "soft"\n')
    lab.restart(f"policy = {json.dumps(str(path))}")
    lab.known = lambda chip: DeviceFiles(tuple(chip.rims))
    token = lab.result()
    assert tiers(token) == {"cpu0": "simulated", "gpu0": "simulated"}
    assert (token.result.policy.name, token.result.policy.relaxations) == ("lab", ("gpu_ocsp",))


def test_session_survives_a_restart_with_its_devices(lab: Lab) -> None:
    data = lab.world.seal()
    lab.world.grant(gpu=True)
    guest = lab.guest()
    lab.restart()
    assert guest.release("heartbeats", data.request(READER)).dataset == "heartbeats"


# --- what is refused


def test_cpu_report_that_does_not_cover_the_devices(lab: Lab) -> None:
    assert code(lab.attest(covered="")) == (401, "snp.expected.report_data")


def test_one_character_of_the_devices_changed_on_the_way(lab: Lab) -> None:
    def spaced(nonce: bytes) -> str:
        return lab.devices(nonce).replace("{", "{ ", 1)

    http = lab.world.http()
    nonce = http.post("/kbs/v0/auth", json=AUTH).json()["nonce"]
    text = lab.devices(device_nonce(nonce, KEY.public_jwk(), size=32))
    answer = http.post(
        "/kbs/v0/attest", json=lab.body(nonce, covered=text, devices=text.replace("{", "{ ", 1))
    )
    assert code(answer) == (401, "snp.expected.report_data")
    assert lab.attest(devices=spaced).status_code == 200


def test_devices_left_out_of_what_the_report_covers(lab: Lab) -> None:
    http = lab.world.http()
    nonce = http.post("/kbs/v0/auth", json=AUTH).json()["nonce"]
    text = lab.devices(device_nonce(nonce, KEY.public_jwk(), size=32))
    answer = http.post("/kbs/v0/attest", json=lab.body(nonce, covered=text, devices=""))
    assert code(answer) == (401, "snp.expected.report_data")


def test_gpu_that_answers_an_older_question(lab: Lab) -> None:
    assert code(lab.attest(devices=lambda _: lab.devices(bytes(32)))) == (401, "nvidia.report.nonce")


def test_one_of_two_gpus_answers_an_older_question(lab: Lab) -> None:
    lab.expect(2)

    def mixed(nonce: bytes) -> str:
        fresh = testing.device_evidence(nonce, on=GPU)
        return encode_devices([fresh, testing.device_evidence(bytes(32), on=OTHER)])

    assert code(lab.attest(devices=mixed)) == (401, "nvidia.report.nonce")


def test_altered_report_of_a_gpu_is_refused_and_recorded(lab: Lab) -> None:
    def altered(nonce: bytes) -> str:
        evidence = testing.device_evidence(nonce, on=GPU)
        report = bytearray(evidence.report)
        report[60] ^= 1
        document = json.loads(encode_devices([evidence]))
        document["nvidia"]["device_evidence_list"][0]["evidence"] = base64.b64encode(report).decode()
        return json.dumps(document)

    assert code(lab.attest(devices=altered)) == (401, "nvidia.report.signature")
    assert entries(lab)[-1].decision.reasons[0].code == "nvidia.report.signature"


def test_gpu_under_a_root_that_nobody_knows(lab: Lab) -> None:
    lab.chips = [testing.gpu(root=testing.gpu_root("other"))]
    assert code(lab.attest())[0] == 401


def test_gpu_of_another_architecture_than_was_said(lab: Lab) -> None:
    def renamed(nonce: bytes) -> str:
        return lab.devices(nonce).replace('"HOPPER"', '"BLACKWELL"')

    assert code(lab.attest(devices=renamed)) == (401, "evidence.devices")


def test_revoked_gpu(lab: Lab) -> None:
    def revoked(chip: SimulatedGpu) -> DeviceFiles:
        return DeviceFiles(tuple(chip.rims), tuple(chip.ocsp(at=testing.NOW, statuses={1: "revoked"})))

    lab.known = revoked
    assert code(lab.attest()) == (401, "nvidia.chain.ocsp")


@pytest.mark.parametrize("text", ["{}", "null", "[]", '{"nvidia":{}}', '{"sampledevice":{}}', "{" * 100_000])
def test_what_is_no_evidence_of_devices(lab: Lab, text: str) -> None:
    answer = lab.attest(devices=text)
    assert answer.status_code == 401
    assert answer.json()["type"].endswith("/AttestationError")


def test_simulated_gpu_at_a_broker_that_knows_none(world: World) -> None:
    world.environment = world.publish(gpus.environment(1))
    http = world.http()
    nonce = http.post("/kbs/v0/auth", json=AUTH).json()["nonce"]
    text = encode_devices([testing.device_evidence(device_nonce(nonce, KEY.public_jwk(), size=32))])
    data = cpu_report_data(nonce, KEY.public_jwk(), text)
    body = {
        "init-data": None,
        "runtime-data": {"nonce": nonce, "tee-pubkey": KEY.public_jwk()},
        "tee-evidence": {
            "primary_evidence": snp_evidence(world.evidence(data)),
            "additional_evidence": text,
        },
    }
    answer = http.post("/kbs/v0/attest", json=body)
    assert answer.status_code == 401
    assert code(answer)[1].startswith("nvidia.chain.")


def test_production_broker_takes_no_root_of_simulated_gpus(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text('mode = "production"\ndevelopment_gpu_root = "gpus"\n')
    with pytest.raises(ConfigurationError, match="development_gpu_root"):
        load_config(path)


# --- grants


def test_grant_that_needs_a_gpu(lab: Lab) -> None:
    data = lab.world.seal()
    lab.world.grant(gpu=True)
    answer = lab.guest().release("heartbeats", data.request(READER))
    assert answer.dataset == "heartbeats"
    assert lab.world.owner.grants()[0].gpu


def test_grant_that_needs_a_gpu_on_a_server_of_an_environment_without(lab: Lab) -> None:
    data = lab.world.seal()
    lab.world.grant(gpu=True)
    lab.expect(0)
    with pytest.raises(AccessDeniedError) as caught:
        lab.world.guest().release("heartbeats", data.request(READER))
    assert [rule for rule, _ in caught.value.reasons] == ["grant.gpu"]


# --- the auditor


def audit(lab: Lab, reverify: Reverifier) -> LogReport:
    key = lab.world.broker.record.signer.verifier
    return verify_log(DirectoryReader(lab.world.broker.config.audit), key, reverify=reverify)


def reverifier(lab: Lab, **changes: Any) -> Reverifier:
    root = testing.gpu_root()
    reader = DirectoryReader(lab.world.broker.config.audit)
    options: dict[str, Any] = {
        "gpu_root": NvidiaRoots.development(root.device_pem, root.rim_pem),
        "collateral": lambda digest: reader.get(f"evidence/{digest}"),
    }
    return Reverifier(testing.development_roots(), [lab.world.environment], **(options | changes))


@pytest.fixture
def released(lab: Lab) -> AuditEntry:
    data = lab.world.seal()
    lab.world.grant(gpu=True)
    lab.guest().release("heartbeats", data.request(READER))
    return next(entry for entry in entries(lab) if entry.kind == "release")


def test_entry_names_what_the_gpu_was_verified_with(lab: Lab, released: AuditEntry) -> None:
    assert released.ear is not None
    assert released.ear.devices == {"cpu0": "simulated", "gpu0": "simulated"}
    kept = {kind: len(digests) for kind, digests in released.collateral.items() if kind.startswith("gpu")}
    assert kept == {"gpu0.rim": 2, "gpu0.ocsp": 6}
    stored = {lab.world.owner.audit_file(f"evidence/{digest}") for digest in released.collateral["gpu0.rim"]}
    assert stored == set(GPU.rims)


def test_auditor_judges_the_gpu_again(lab: Lab, released: AuditEntry) -> None:
    # Long after the answers on revocation have ended, and as of the entry's time.
    lab.world.clock.forward(days=900)
    reverify = reverifier(lab)
    report = audit(lab, reverify)
    assert report.ok, report.findings
    assert (report.evidence, reverify.appraised) == (1, 1)
    assert released.time == testing.NOW


def test_auditor_who_lacks_the_root_of_simulated_gpus_cannot_tell(lab: Lab, released: AuditEntry) -> None:
    assert released.kind == "release"
    report = audit(lab, reverifier(lab, gpu_root=None))
    assert {finding.code for finding in report.findings} == {"evidence.unchecked"}


def test_auditor_who_lacks_the_collateral_cannot_tell(lab: Lab, released: AuditEntry) -> None:
    assert released.kind == "release"
    report = audit(lab, reverifier(lab, collateral=None))
    assert {finding.code for finding in report.findings} == {"evidence.unchecked"}


def test_auditor_finds_a_manifest_that_was_changed_later(lab: Lab, released: AuditEntry) -> None:
    path = lab.world.broker.config.audit / "evidence" / released.collateral["gpu0.rim"][0]
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + b" ")
    report = audit(lab, reverifier(lab))
    assert {finding.code for finding in report.findings} == {"collateral.changed"}


def test_auditor_finds_another_judgement_of_a_gpu(lab: Lab, released: AuditEntry) -> None:
    assert released.ear is not None
    other = released.ear.model_copy(update={"devices": {"cpu0": "simulated", "gpu0": "affirming"}})
    entry = released.model_copy(update={"ear": other})
    evidence = lab.world.owner.audit_file(f"evidence/{released.evidence}")
    with pytest.raises(Exception, match="gpu0 simulated now and were recorded as"):
        reverifier(lab)(entry, evidence)


def test_auditor_without_the_manifests_of_the_entry_gets_another_result(
    lab: Lab, released: AuditEntry
) -> None:
    entry = released.model_copy(update={"collateral": {}})
    evidence = lab.world.owner.audit_file(f"evidence/{released.evidence}")
    with pytest.raises(Exception, match="appraised as contraindicated now"):
        reverifier(lab)(entry, evidence)
