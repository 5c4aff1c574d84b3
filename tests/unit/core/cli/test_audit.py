# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
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


def exported(kept: Kept) -> dict[str, bytes]:
    """Return what a complete copy has."""
    original = {
        str(path.relative_to(kept.log)): path.read_bytes() for path in kept.log.rglob("*") if path.is_file()
    }
    return {**original, "audit.pub": f"{SIGNER.verifier}\n".encode()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest_path() -> str:
    return f"environments/{ENVIRONMENT.digest.removeprefix('sha256:')}.toml"


def test_an_exported_log_is_checked_without_the_broker(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    copy = tmp_path / "deep" / "copy"
    assert run(["audit", "export", str(copy)]) == 0
    said = capsys.readouterr().out
    assert f"audit verify {copy}" in said
    assert "manifest of sha256:" in said
    assert files_of(copy) == exported(kept)
    kept.api.fail = (500, "Down", "down")
    key = ["--key", str(kept.owner.parent / "audit.pub")]
    assert run(["audit", "verify", str(copy), *key, *kept.options()]) == 0
    assert run(["audit", "verify", "--log", str(copy), *key, *kept.options()]) == 0
    assert run(["audit", "show", "--log", str(copy), *key]) == 0


def test_manifests_of_environments_go_along(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    kept.api.environments[ENVIRONMENT.digest] = ENVIRONMENT.raw
    copy, again = tmp_path / "copy", tmp_path / "again"
    assert run(["audit", "export", str(copy), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["environments"], said["environments_missing"], said["findings"]) == (1, [], [])
    assert files_of(copy) == {**exported(kept), manifest_path(): ENVIRONMENT.raw}
    kept.api.fail = (500, "Down", "down")
    # Without --environments, the copy's own are used, so that the evidence is appraised again.
    assert run(["audit", "verify", str(copy), "--root", str(kept.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"]["appraised"] == 1
    # A copy of the copy is the same.
    assert run(["audit", "export", str(again), "--log", str(copy)]) == 0
    assert files_of(again) == files_of(copy)


def test_another_environments_manifest_is_not_taken(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    kept.api.environments[ENVIRONMENT.digest] = testing.environment(version="99").raw
    assert run(["audit", "export", str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["environments_missing"] == [ENVIRONMENT.digest]
    assert not (tmp_path / "copy" / "environments").exists()


def test_a_copy_does_not_vouch_for_itself(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Streams
) -> None:
    copy = tmp_path / "copy"
    run(["audit", "export", str(copy), "--json"])
    assert json.loads(capsys.readouterr().out)["size"] == 3
    # The owner's own key is from elsewhere.
    assert run(["audit", "verify", str(copy), *kept.options()]) == 0
    monkeypatch.delenv("SEALROOM_OWNER")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(copy)
    for named in ([str(copy)], ["--log", str(copy)]):
        assert run(["audit", "verify", *named, *kept.options()]) == 64
        assert "--key" in capsys.readouterr().err


def test_a_copy_is_named_once(kept: Kept) -> None:
    assert run(["audit", "verify", str(kept.log), "--log", str(kept.log)]) == 64


def test_an_export_replaces_nothing(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    assert run(["audit", "export", str(tmp_path / "copy")]) == 64
    assert not any((tmp_path / "copy").iterdir())


def test_an_interrupted_export_goes_on_where_it_ended(
    kept: Kept, tmp_path: Path, good: bytes, capsys: Streams
) -> None:
    evidence = hashlib.sha256(good).hexdigest()
    out = tmp_path / "out"
    kept.api.fail_after = ("audit/evidence/", (503, "Unavailable", "The disk is full."))
    assert run(["audit", "export", str(out / "copy")]) == 2
    assert "The disk is full." in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".copy.partial"]
    kept.api.fail_after = kept.api.fail = None
    kept.api.asked.clear()
    assert run(["audit", "export", str(out / "copy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["continued"], said["findings"]) == (1, [])
    assert [path.name for path in out.iterdir()] == ["copy"]
    assert files_of(out / "copy") == exported(kept)
    asked = [path for _, path, _ in kept.api.asked]
    assert not any("tile/entries" in path for path in asked), "the bundle was there"
    assert any(evidence in path for path in asked)


def test_what_an_interrupted_export_left_is_taken_only_if_it_is_right(
    kept: Kept, tmp_path: Path, good: bytes, capsys: Streams
) -> None:
    evidence, partial = hashlib.sha256(good).hexdigest(), tmp_path / ".copy.partial"
    put(partial / "evidence" / evidence, b"half of i")
    put(partial / bundle_path(0, 3), (kept.log / bundle_path(0, 3)).read_bytes().replace(b'"Ada"', b'"Eva"'))
    put(partial / tile_path(0, 0, 3), bytes(96))
    put(partial / "checkpoint", (kept.log / "checkpoint").read_bytes())
    put(partial / "checkpoint.new", b"rest")
    assert run(["audit", "export", str(tmp_path / "copy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["continued"], said["findings"]) == (0, [])
    assert files_of(tmp_path / "copy") == exported(kept)


def test_an_interrupted_export_keeps_to_its_checkpoint(
    kept: Kept, tmp_path: Path, good: bytes, capsys: Streams
) -> None:
    note = (kept.log / "checkpoint").read_bytes()
    put(tmp_path / ".copy.partial" / "checkpoint", note)
    write_log(kept.log, [*entries(good), entry(3)])
    assert run(["audit", "export", str(tmp_path / "copy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] == 3
    assert (tmp_path / "copy" / "checkpoint").read_bytes() == note


def test_what_another_logs_export_left_is_not_continued(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    write_log(tmp_path / ".copy.partial", [entry(0)], OTHER)
    assert run(["audit", "export", str(tmp_path / "copy")]) == 2
    assert "is of another log" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()


def test_a_damaged_log_is_copied_and_said_to_be_damaged(
    kept: Kept, tmp_path: Path, good: bytes, capsys: Streams
) -> None:
    (kept.log / "evidence" / hashlib.sha256(good).hexdigest()).unlink()
    path = kept.log / bundle_path(0, 3)
    path.write_bytes(path.read_bytes().replace(b'"Ada"', b'"Eva"'))
    assert run(["audit", "export", str(tmp_path / "copy")]) == 1
    said = capsys.readouterr().out
    assert "entry.changed" in said
    assert "evidence.missing" in said
    assert run(["audit", "verify", str(tmp_path / "copy"), *kept.options()]) == 1


def test_a_log_without_a_tile_is_not_copied(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    (kept.log / tile_path(0, 0, 3)).unlink()
    assert run(["audit", "export", str(tmp_path / "out" / "copy")]) == 1
    assert not (tmp_path / "out" / "copy").exists()
    assert "Traceback" not in capsys.readouterr().err


# --- one entry ---


def test_an_entry_is_shown_in_full(kept: Kept, good: bytes, capsys: Streams) -> None:
    assert run(["audit", "show", "2"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Ada (u1 at hub)",
        "simulated (simulated)",
        ENVIRONMENT.digest,
        f"evidence/{hashlib.sha256(good).hexdigest()}",
        "Entry 2 stands in the log of 3 entries",
    ):
        assert part in shown, part
    assert run(["audit", "show", "1"]) == 0
    shown = capsys.readouterr().out
    assert "grant.none" in shown
    assert "refused" in shown


def test_an_entry_is_shown_as_json_with_its_leaf(kept: Kept, good: bytes, capsys: Streams) -> None:
    assert run(["audit", "show", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["index"], shown["leaf"]) == (2, release(good).leaf_hash().hex())
    assert shown["checkpoint"]["size"] == 3


def test_an_entry_that_is_not_there_is_not_shown(kept: Kept, capsys: Streams) -> None:
    assert run(["audit", "show", "3"]) == 1
    assert "The log has no entry 3: it has 3." in capsys.readouterr().err
    assert run(["audit", "show", "-1"]) == 64


def test_an_entry_that_was_changed_is_not_shown(kept: Kept, capsys: Streams) -> None:
    path = kept.log / bundle_path(0, 3)
    path.write_bytes(path.read_bytes().replace(b"Ada has no grant.", b"Ada has a grant!!"))
    assert run(["audit", "show", "1"]) == 1
    assert capsys.readouterr().out == ""


def test_an_entry_by_its_index_is_not_filtered(kept: Kept) -> None:
    assert run(["audit", "show", "1", "--person", "Ada"]) == 64


@pytest.mark.parametrize(
    ("arguments", "indexes"),
    [
        (["--person", "Ada"], [1, 2]),
        (["--person", "u1"], [1, 2]),
        (["--person", "Ad"], []),
        (["--kind", "start"], [0]),
        (["--kind", "start", "--kind", "release"], [0, 2]),
        (["--since", "2026-11-01T00:00:01+00:00"], [1]),
        (["--until", "2026-11-01T00:00:00+00:00"], [0, 2]),
        (["--since", "2026-07-01", "--person", "Ada"], [1]),
        (["--until", "2026-06-02"], [2]),
        (["--since", "-1h"], []),
    ],
    ids=str,
)
def test_entries_are_filtered(kept: Kept, arguments: list[str], indexes: list[int], capsys: Streams) -> None:
    assert run(["audit", "show", "--json", *arguments]) == 0
    assert [one["index"] for one in json.loads(capsys.readouterr().out)] == indexes


@pytest.mark.parametrize("arguments", [["--since", "yesterday"], ["--until", "+1d"], ["--kind", "gift"]])
def test_a_wrong_filter_is_64(kept: Kept, arguments: list[str]) -> None:
    assert run(["audit", "show", *arguments]) == 64


# --- proofs ---


def test_a_proof_is_written_and_checked_offline(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    path = tmp_path / "mine.tlog-proof"
    assert run(["audit", "proof", "2", "--out", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    kept.api.fail = (500, "Down", "down")
    key = ["--key", str(kept.owner.parent / "audit.pub")]
    assert run(["audit", "check-proof", str(path), *key]) == 0
    shown = capsys.readouterr().out
    assert "heartbeats" in shown
    assert "Entry 2 stands in the log of 3 entries" in shown
    assert run(["audit", "check-proof", str(path), *key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index"] == 2


def test_a_proof_has_a_name_of_its_own(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["audit", "proof", "0"]) == 0
    assert (tmp_path / "entry-0.tlog-proof").is_file()
    assert run(["audit", "proof", "0"]) == 64


def test_a_tampered_proof_is_refused(kept: Kept, tmp_path: Path, good: bytes, capsys: Streams) -> None:
    path = tmp_path / "mine.tlog-proof"
    run(["audit", "proof", "2", "--out", str(path)])
    honest = path.read_bytes()
    other = release(good, purpose="DUO:0000006").to_bytes()
    ours, theirs = (base64.b64encode(one) for one in (release(good).to_bytes(), other))
    assert ours in honest
    for changed in (
        honest.replace(ours, theirs),
        honest.replace(b"index 2", b"index 1"),
        honest.replace(b"\n3\n", b"\n4\n"),
    ):
        assert changed != honest
        path.write_bytes(changed)
        capsys.readouterr()
        assert run(["audit", "check-proof", str(path)]) == 1
        assert capsys.readouterr().out == ""


def test_a_proof_of_another_key_is_refused(kept: Kept, tmp_path: Path, capsys: Streams) -> None:
    path, key = tmp_path / "mine.tlog-proof", tmp_path / "other.pub"
    run(["audit", "proof", "2", "--out", str(path)])
    key.write_text(f"{OTHER.verifier}\n")
    assert run(["audit", "check-proof", str(path), "--key", str(key)]) == 1
    assert "not signed by" in capsys.readouterr().err


def test_a_forked_log_does_not_prove_what_it_proved(
    kept: Kept, tmp_path: Path, good: bytes, capsys: Streams
) -> None:
    """The proof that a person kept and the log's own forked checkpoint contradict each other."""
    path = tmp_path / "mine.tlog-proof"
    run(["audit", "proof", "2", "--out", str(path)])
    forked = write_log(kept.log, [*entries(good)[:2], entry(2)])
    head, _, _ = path.read_bytes().partition(b"\n\n")
    path.write_bytes(head + b"\n\n" + forked)
    assert run(["audit", "check-proof", str(path)]) == 1
    assert "Entry 2 is not in the log with this root" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no proof", bytes(300_000)])
def test_what_is_no_proof_is_refused(kept: Kept, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.tlog-proof"
    path.write_bytes(content)
    assert run(["audit", "check-proof", str(path)]) == 1


def test_there_is_no_proof_of_an_entry_that_is_not_there(kept: Kept, tmp_path: Path) -> None:
    assert run(["audit", "proof", "3", "--out", str(tmp_path / "mine")]) == 1
    assert not (tmp_path / "mine").exists()
