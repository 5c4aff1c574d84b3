# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from sealroom import testing
from sealroom.appraisal import Policy
from sealroom.audit.entry import AuditEntry, AuditPerson, AuditReason, Decision, EarSummary
from sealroom.audit.tlog import bundle_path, tile_path
from sealroom.cli import run
from sealroom.cli.reverify import Reverifier
from sealroom.errors import (
    AppraisalError,
    BindingError,
    ConfigurationError,
    Error,
    ProtocolError,
    VerificationError,
)
from sealroom.kbs.binding import HashAlgorithm, cpu_report_data
from sealroom.kbs.client import snp_evidence
from sealroom.kbs.jwe import TeeKey
from sealroom.kbs.messages import AttestRequest, RuntimeData, TeeEvidence
from sealroom.snp import ProductLine
from support.audit_logs import OTHER, SIGNER, entry, put, write_log
from support.owner_api import OwnerApi, serve, settings

Streams = pytest.CaptureFixture[str]
ADA = AuditPerson(subject="u1", name="Ada", issuer="hub")
NONCE = "bm9uY2U="
ENVIRONMENT = testing.environment()
ROOTS = testing.development_roots()
KEY = TeeKey.generate().public_jwk()


def message(algorithm: HashAlgorithm = "sha384", nonce: str = NONCE, **fields: Any) -> bytes:
    """Return the body of an `attest` call of a guest with a simulated processor."""
    gathered = testing.evidence(cpu_report_data(NONCE, KEY, "", algorithm), ENVIRONMENT, **fields)
    return AttestRequest(
        runtime_data=RuntimeData(nonce=nonce, tee_pubkey=KEY),
        tee_evidence=TeeEvidence(primary_evidence=snp_evidence(gathered)),
    ).to_json()


def release(evidence: bytes, tier: str = "simulated", **fields: Any) -> AuditEntry:
    values = {
        "time": testing.NOW,
        "kind": "release",
        "person": ADA,
        "dataset": "heartbeats",
        "purpose": "DUO:0000042",
        "decision": Decision(allowed=True),
        "environment": ENVIRONMENT.digest,
        "policy": Policy.strict().digest,
        "ear": EarSummary(tier=tier, simulated=True, devices={"cpu0": tier}),
        "evidence": hashlib.sha256(evidence).hexdigest(),
    }
    return AuditEntry(**(values | fields))


@pytest.fixture(scope="module")
def good() -> bytes:
    return message()


# --- evidence again ---


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_evidence_is_verified_and_appraised_again(algorithm: HashAlgorithm) -> None:
    evidence = message(algorithm)
    reverify = Reverifier(ROOTS, [ENVIRONMENT])
    reverify(release(evidence), evidence)
    assert reverify.appraised == 1


def test_without_the_environment_or_the_policy_nothing_is_appraised_again(good: bytes) -> None:
    for reverify, changes in (
        (Reverifier(ROOTS, []), {}),
        (Reverifier(ROOTS, [ENVIRONMENT]), {"policy": "sha256:" + "00" * 32}),
    ):
        reverify(release(good, **changes), good)
        assert reverify.appraised == 0


def test_a_simulated_processor_without_a_named_root_is_unchecked(good: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no development root"):
        Reverifier(None, [])(release(good), good)


def test_a_simulated_processor_that_was_recorded_as_real_is_refused(good: bytes) -> None:
    ear = EarSummary(tier="affirming", simulated=False)
    with pytest.raises(VerificationError):
        Reverifier(ROOTS, [ENVIRONMENT])(release(good, ear=ear), good)


@pytest.mark.parametrize("tier", ["affirming", "warning", "contraindicated"])
def test_another_tier_than_was_recorded_is_refused(good: bytes, tier: str) -> None:
    with pytest.raises(AppraisalError, match=f"appraised as simulated now and was recorded as {tier}"):
        Reverifier(ROOTS, [ENVIRONMENT])(release(good, tier), good)


def test_a_measurement_that_the_environment_does_not_have_is_refused() -> None:
    evidence = message(measurement=bytes(48))
    with pytest.raises(AppraisalError, match="contraindicated now"):
        Reverifier(ROOTS, [ENVIRONMENT])(release(evidence), evidence)


def test_a_message_with_another_nonce_is_refused() -> None:
    evidence = message(nonce="b3RoZXI=")
    with pytest.raises(BindingError):
        Reverifier(ROOTS, [])(release(evidence), evidence)


def test_evidence_is_judged_as_of_the_entrys_time(good: bytes) -> None:
    with pytest.raises(VerificationError):
        Reverifier(ROOTS, [])(release(good, time=testing.NOW.replace(year=2024)), good)


def test_evidence_without_a_certificate_is_refused(good: bytes) -> None:
    content = json.loads(good)
    content["tee-evidence"]["primary_evidence"]["cert_chain"] = None
    evidence = json.dumps(content).encode()
    with pytest.raises(Error, match="no certificate"):
        Reverifier(ROOTS, [])(release(evidence), evidence)


def test_what_is_no_attest_message_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Reverifier(ROOTS, [])(release(b"{}"), b"{}")


# --- the commands ---


@dataclass
class Kept:
    """A served log with its owner's settings."""

    api: OwnerApi
    owner: Path
    log: Path
    root: Path
    environments: Path

    def options(self) -> list[str]:
        return ["--root", str(self.root), "--environments", str(self.environments)]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: bytes) -> Iterator[Kept]:
    log = tmp_path / "log"
    write_log(log, entries(good))
    put(log / "evidence" / hashlib.sha256(good).hexdigest(), good)
    put(tmp_path / "ark.pem", testing.chain().pem)
    put(tmp_path / "environments" / "one.toml", ENVIRONMENT.raw)
    with serve(log) as api:
        owner = settings(tmp_path / "owner", api.url, str(SIGNER.verifier))
        monkeypatch.setenv("SEALROOM_OWNER", str(owner))
        yield Kept(api, owner, log, tmp_path / "ark.pem", tmp_path / "environments")


def entries(evidence: bytes) -> list[bytes]:
    refusal = entry(
        1,
        person=ADA,
        dataset="chest-xray",
        decision=Decision(
            allowed=False, reasons=(AuditReason(code="grant.none", sentence="Ada has no grant."),)
        ),
    )
    return [entry(0, kind="start", decision=Decision(allowed=True)), refusal, release(evidence).to_bytes()]


def test_the_newest_entries_are_shown_with_who_and_why(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "show"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert "3 of 3 entries" in shown
    assert "Ada has no grant." in shown
    assert {"release", "heartbeats", "DUO:0000042", "simulated"} <= set(rows[2])


def test_entries_are_limited_and_filtered(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "show", "--limit", "2", "--json"]) == 0
    assert [one["index"] for one in json.loads(capsys.readouterr().out)] == [1, 2]
    assert run(["audit", "show", "--dataset", "heartbeats", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["index"], one["person"]["name"]) == (2, "Ada")
    assert run(["audit", "show", "--dataset", "none"]) == 0
    assert capsys.readouterr().out == "The log has no such entries.\n"


def test_entries_are_shown_across_bundles(kept: Kept, capsys: Streams) -> None:
    write_log(kept.log, [entry(number) for number in range(300)])
    assert run(["audit", "show", "--limit", "60", "--json"]) == 0
    assert [one["index"] for one in json.loads(capsys.readouterr().out)] == list(range(240, 300))


def test_an_entry_that_is_not_in_the_signed_log_is_not_shown(kept: Kept, capsys: Streams) -> None:
    path = kept.log / bundle_path(0, 3)
    path.write_bytes(path.read_bytes().replace(b"Ada has no grant.", b"Ada has a grant!!"))
    assert run(["audit", "show"]) == 1
    streams = capsys.readouterr()
    assert streams.out == ""
    assert "Entry 1 is not in the log" in streams.err


def test_an_honest_log_passes(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "verify", *kept.options()]) == 0
    shown = capsys.readouterr().out
    assert "1 refusal, 1 release, 1 start" in shown
    assert "verified again: 1, of which appraised again: 1" in shown
    assert shown.endswith("The log is complete and unchanged.\n")


def test_the_result_is_json_where_that_was_asked_for(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "verify", "--json", *kept.options()]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"] is True
    assert result["checkpoint"]["size"] == 3
    assert result["evidence"] == {"verified": 1, "appraised": 1, "compared_by_digest_only": 0}
    assert result["findings"] == []


def test_a_simulated_log_without_its_root_is_no_pass_and_no_refusal(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "verify"]) == 2
    shown = capsys.readouterr().out
    assert "evidence.unchecked" in shown
    assert shown.endswith("this is not a pass.\n")


def test_another_root_refuses_the_evidence(kept: Kept, capsys: Streams) -> None:
    put(kept.root, testing.chain(ProductLine.MILAN).pem)
    assert run(["audit", "verify", *kept.options()]) == 1
    assert "evidence.refused" in capsys.readouterr().out


def test_a_root_of_amd_is_no_development_root(kept: Kept, capsys: Streams) -> None:
    (amd, *_) = sorted(Path(str(files("sealroom.snp") / "roots")).glob("*.der"))
    assert run(["audit", "verify", "--root", str(amd)]) == 64
    assert "AMD" in capsys.readouterr().err


def test_a_tampered_log_is_refused(kept: Kept, capsys: Streams) -> None:
    path = kept.log / bundle_path(0, 3)
    path.write_bytes(path.read_bytes().replace(b'"Ada"', b'"Eva"'))
    assert run(["audit", "verify", *kept.options()]) == 1
    shown = capsys.readouterr().out
    assert "entry.changed" in shown
    assert "NOT what was signed" in shown


def test_tampered_evidence_is_refused(kept: Kept, good: bytes, capsys: Streams) -> None:
    report = json.loads(good)
    report["tee-evidence"]["primary_evidence"]["attestation_report"]["guest_svn"] = 99
    evidence = json.dumps(report).encode()
    write_log(kept.log, entries(evidence))
    put(kept.log / "evidence" / hashlib.sha256(evidence).hexdigest(), evidence)
    assert run(["audit", "verify", *kept.options()]) == 1
    assert "evidence.refused" in capsys.readouterr().out


def test_a_log_signed_by_another_key_is_refused(kept: Kept, good: bytes, capsys: Streams) -> None:
    write_log(kept.log, entries(good), OTHER)
    assert run(["audit", "verify", *kept.options()]) == 1
    assert "not signed by" in capsys.readouterr().err


def test_a_kept_checkpoint_finds_a_fork(kept: Kept, good: bytes, tmp_path: Path, capsys: Streams) -> None:
    saved = tmp_path / "mine.checkpoint"
    assert run(["audit", "verify", "--save", str(saved), *kept.options()]) == 0
    assert saved.read_bytes() == (kept.log / "checkpoint").read_bytes()
    write_log(kept.log, [*entries(good), entry(3)])
    assert run(["audit", "verify", "--save", str(saved), *kept.options()]) == 0
    assert "compared with a checkpoint of 3 entries" in capsys.readouterr().out
    before = saved.read_bytes()
    write_log(kept.log, [*entries(good)[:2], *[entry(number) for number in range(3, 9)]])
    assert run(["audit", "verify", "--save", str(saved), *kept.options()]) == 1
    assert "log.forked" in capsys.readouterr().out
    assert saved.read_bytes() == before
    assert run(["audit", "verify", "--older", str(saved), *kept.options()]) == 1


def test_a_broker_that_goes_away_is_no_finding(kept: Kept, capsys: Streams) -> None:
    kept.api.fail = (503, "Unavailable", "The disk is full.")
    assert run(["audit", "verify", *kept.options()]) == 2
    assert "The disk is full." in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "not a key", "a+b+c"])
def test_a_wrong_log_key_is_64(kept: Kept, content: str, capsys: Streams) -> None:
    (kept.owner.parent / "audit.pub").write_text(content)
    assert run(["audit", "verify"]) == 64
    assert "audit.pub" in capsys.readouterr().err


def test_a_log_key_that_is_not_there_is_64(kept: Kept, capsys: Streams) -> None:
    (kept.owner.parent / "audit.pub").unlink()
    assert run(["audit", "show"]) == 64
    assert "--key" in capsys.readouterr().err


def test_an_exported_log_is_checked_without_the_broker(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    copy = tmp_path / "deep" / "copy"
    assert run(["audit", "export", str(copy)]) == 0
    said = capsys.readouterr().out
    assert f"--log {copy}" in said
    original = {
        str(path.relative_to(kept.log)): path.read_bytes() for path in kept.log.rglob("*") if path.is_file()
    }
    copied = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert copied == {**original, "audit.pub": f"{SIGNER.verifier}\n".encode()}
    kept.api.fail = (500, "Down", "down")
    arguments = ["--log", str(copy), "--key", str(copy / "audit.pub"), *kept.options()]
    assert run(["audit", "verify", *arguments]) == 0
    assert run(["audit", "show", *arguments[:4]]) == 0


def test_a_copy_does_not_vouch_for_itself(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    run(["audit", "export", str(tmp_path / "copy"), "--json"])
    assert json.loads(capsys.readouterr().out)["size"] == 3
    assert run(["audit", "verify", "--log", str(tmp_path / "copy")]) == 64
    assert "--key" in capsys.readouterr().err


def test_an_export_replaces_nothing(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    assert run(["audit", "export", str(tmp_path / "copy")]) == 64
    assert not any((tmp_path / "copy").iterdir())


def test_an_export_that_fails_leaves_nothing(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    (kept.log / tile_path(0, 0, 3)).unlink()
    assert run(["audit", "export", str(tmp_path / "out" / "copy")]) == 1
    assert not any((tmp_path / "out").iterdir())
    assert "Traceback" not in capsys.readouterr().err
