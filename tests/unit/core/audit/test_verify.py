# SPDX-License-Identifier: BSD-3-Clause
"""Each test tampers with one thing and expects the finding that names it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealroom.audit.entry import AuditEntry, Decision, EarSummary
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import Checkpoint
from sealroom.audit.tlog import bundle_path, encode_entry, tile_path
from sealroom.audit.verify import LogReport, verify_log
from sealroom.errors import ConfigurationError, FormatError, NetworkError, SignatureError, VerificationError
from support.audit_logs import OTHER, SIGNER, START, entry, put, write_log

ENTRIES = [entry(number) for number in range(600)]
EVIDENCE = b'{"tee-evidence":"raw"}'
EAR = EarSummary(tier="affirming", simulated=False, devices={"cpu0": "affirming"})


def release(number: int, **fields: Any) -> bytes:
    digest = hashlib.sha256(EVIDENCE).hexdigest()
    values = {"kind": "release", "decision": Decision(allowed=True), "ear": EAR, "evidence": digest}
    return entry(number, **(values | fields))


def check(directory: Path, **options: Any) -> LogReport:
    return verify_log(DirectoryReader(directory), SIGNER.verifier, **options)


def codes(report: LogReport) -> set[str]:
    return {finding.code for finding in report.findings}


def indexes(report: LogReport, code: str) -> list[int | None]:
    return [finding.index for finding in report.findings if finding.code == code]


@pytest.mark.parametrize("size", [0, 1, 256, 257, 600])
def test_an_honest_log_has_no_findings(tmp_path: Path, size: int) -> None:
    note = write_log(tmp_path, ENTRIES[:size])
    progress: list[tuple[int, int]] = []
    report = check(tmp_path, progress=lambda done, total: progress.append((done, total)))
    assert report.ok
    assert not report.refused
    assert report.note == note
    assert report.kinds == ({"refusal": size} if size else {})
    assert report.first == (START if size else None)
    assert progress[-1:] == ([(size, size)] if size else [])


# --- the checkpoint ---


def test_a_checkpoint_of_another_key_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:3], OTHER)
    with pytest.raises(SignatureError):
        check(tmp_path)


def test_a_checkpoint_with_another_root_is_refused(tmp_path: Path) -> None:
    note = write_log(tmp_path, ENTRIES[:3])
    put(tmp_path / "checkpoint", note.replace(b"\n3\n", b"\n2\n"))
    with pytest.raises(SignatureError):
        check(tmp_path)


def test_an_older_checkpoint_of_another_key_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:3])
    forged = Checkpoint(OTHER.name, 1, bytes(32)).sign(OTHER)
    with pytest.raises(SignatureError):
        check(tmp_path, older=forged)
    with pytest.raises(FormatError):
        check(tmp_path, older=b"")


# --- entries ---


def changed(_: int, bundle: list[bytes]) -> list[bytes]:
    return [one.replace(b"entry 300", b"ENTRY 300") for one in bundle]


def reordered(number: int, bundle: list[bytes]) -> list[bytes]:
    return [bundle[1], bundle[0], *bundle[2:]] if number == 1 else bundle


def dropped(number: int, bundle: list[bytes]) -> list[bytes]:
    return bundle[:44] + bundle[45:] if number == 1 else bundle


def injected(number: int, bundle: list[bytes]) -> list[bytes]:
    return [*bundle[:44], entry(7777), *bundle[44:]] if number == 1 else bundle


def swapped_across_bundles(number: int, bundle: list[bytes]) -> list[bytes]:
    return (
        [ENTRIES[256], *bundle[1:]] if number == 0 else [ENTRIES[0], *bundle[1:]] if number == 1 else bundle
    )


def test_a_changed_entry_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES, bundles=changed)
    report = check(tmp_path)
    assert indexes(report, "entry.changed") == [300]
    assert "entry.dropped" not in codes(report)
    assert report.refused


def test_an_entry_that_was_replaced_by_a_copy_of_another_is_found(tmp_path: Path) -> None:
    def copied(_: int, bundle: list[bytes]) -> list[bytes]:
        return [ENTRIES[299] if one == ENTRIES[300] else one for one in bundle]

    write_log(tmp_path, ENTRIES, bundles=copied)
    assert indexes(check(tmp_path), "entry.changed") == [300]


@pytest.mark.parametrize(
    ("tamper", "places"), [(reordered, [256, 257]), (swapped_across_bundles, [0, 256])], ids=["near", "far"]
)
def test_reordered_entries_are_found(
    tmp_path: Path, tamper: Callable[[int, list[bytes]], list[bytes]], places: list[int]
) -> None:
    write_log(tmp_path, ENTRIES, bundles=tamper)
    report = check(tmp_path)
    assert indexes(report, "entry.reordered") == places
    assert not codes(report) & {"entry.changed", "entry.dropped"}


def test_a_dropped_entry_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES, bundles=dropped)
    report = check(tmp_path)
    assert 300 in indexes(report, "entry.dropped")
    assert "bundle.short" in codes(report)
    assert "entry.changed" not in codes(report)


def test_dropped_last_entries_are_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES[:7], bundles=lambda _, bundle: bundle[:5])
    assert set(indexes(check(tmp_path), "entry.dropped")) >= {5, 6}


def test_an_injected_entry_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES, bundles=injected)
    report = check(tmp_path)
    assert not report.ok
    assert {"bundle.short", "root.entries"} & codes(report)


def test_a_lost_bundle_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES)
    (tmp_path / bundle_path(1)).unlink()
    report = check(tmp_path)
    assert indexes(report, "bundle.unreadable") == [256]
    assert 256 in indexes(report, "entry.dropped")


def test_a_cut_bundle_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES)
    path = tmp_path / bundle_path(2, 88)
    path.write_bytes(path.read_bytes()[:-1])
    assert not check(tmp_path).ok


@pytest.mark.parametrize("flip", range(0, 200, 7))
def test_any_changed_byte_of_a_small_log_is_found(tmp_path: Path, flip: int) -> None:
    write_log(tmp_path, ENTRIES[:3])
    for path in (bundle_path(0, 3), tile_path(0, 0, 3)):
        original = (tmp_path / path).read_bytes()
        data = bytearray(original)
        data[flip % len(data)] ^= 0x40
        (tmp_path / path).write_bytes(data)
        assert not check(tmp_path).ok, path
        (tmp_path / path).write_bytes(original)
    assert check(tmp_path).ok


def test_an_entry_that_is_none_is_found_even_if_it_was_signed(tmp_path: Path) -> None:
    write_log(tmp_path, [ENTRIES[0], b"not an entry", ENTRIES[1] + b" "])
    assert indexes(check(tmp_path), "entry.unreadable") == [1, 2]


# --- tiles ---


@pytest.mark.parametrize(("level", "index", "width"), [(0, 0, 256), (0, 2, 88), (1, 0, 2)])
def test_a_changed_tile_is_found(tmp_path: Path, level: int, index: int, width: int) -> None:
    write_log(tmp_path, ENTRIES)
    path = tmp_path / tile_path(level, index, width)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    report = check(tmp_path)
    assert codes(report) == {"tile.changed"}
    assert f"Tile {index} of level {level}" in report.findings[0].sentence


def test_a_lost_tile_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES)
    (tmp_path / tile_path(0, 1)).unlink()
    assert codes(check(tmp_path)) == {"tile.unreadable"}


def test_entries_and_tiles_of_another_log_under_this_ones_checkpoint_are_found(tmp_path: Path) -> None:
    note = write_log(tmp_path / "log", ENTRIES)
    other = [*ENTRIES[:300], entry(7777), *ENTRIES[301:]]
    write_log(tmp_path / "other", other)
    put(tmp_path / "other" / "checkpoint", note)
    assert "root.mismatch" in codes(check(tmp_path / "other"))


# --- history ---


def test_a_log_that_has_grown_continues_its_older_checkpoint(tmp_path: Path) -> None:
    for size in (0, 1, 255, 256, 599, 600):
        older = write_log(tmp_path / str(size), ENTRIES[:size])
        write_log(tmp_path / "log", ENTRIES)
        report = check(tmp_path / "log", older=older)
        assert report.ok
        assert report.older is not None
        assert report.older.size == size


def rewritten() -> list[bytes]:
    """Return a history that the log's own key signs, without the entry that somebody wants to be gone."""
    return [*ENTRIES[:300], *ENTRIES[301:], entry(7777)]


def test_a_forked_checkpoint_is_found(tmp_path: Path) -> None:
    older = write_log(tmp_path / "kept", ENTRIES[:400])
    write_log(tmp_path / "log", rewritten())
    assert codes(check(tmp_path / "log", older=older)) == {"log.forked"}


def test_a_fork_of_the_same_size_is_found(tmp_path: Path) -> None:
    older = write_log(tmp_path / "kept", ENTRIES)
    write_log(tmp_path / "log", rewritten())
    assert codes(check(tmp_path / "log", older=older)) == {"log.forked"}


def test_a_rewritten_history_is_not_found_without_an_older_checkpoint(tmp_path: Path) -> None:
    # Why auditors keep checkpoints: the log's own key can sign anything.
    write_log(tmp_path, rewritten())
    assert check(tmp_path).ok


def test_a_log_that_was_cut_is_found(tmp_path: Path) -> None:
    older = write_log(tmp_path / "kept", ENTRIES)
    write_log(tmp_path / "log", ENTRIES[:500])
    assert codes(check(tmp_path / "log", older=older)) == {"log.cut"}


# --- evidence ---


def with_evidence(directory: Path, entries: list[bytes], *evidence: bytes) -> None:
    write_log(directory, entries)
    for one in evidence:
        put(directory / "evidence" / hashlib.sha256(one).hexdigest(), one)


def test_evidence_is_verified_again_for_each_entry_as_of_its_time(tmp_path: Path) -> None:
    with_evidence(tmp_path, [ENTRIES[0], release(1), release(2)], EVIDENCE)
    seen: list[tuple[AuditEntry, bytes]] = []
    report = check(tmp_path, reverify=lambda one, evidence: seen.append((one, evidence)))
    assert report.ok
    assert (report.evidence, report.evidence_skipped) == (2, 0)
    assert [one.time.second for one, _ in seen] == [1, 2]
    assert {evidence for _, evidence in seen} == {EVIDENCE}


def test_without_a_verifier_evidence_is_counted_as_not_verified(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(1)], EVIDENCE)
    report = check(tmp_path)
    assert (report.ok, report.evidence, report.evidence_skipped) == (True, 0, 1)


def refuse(_: AuditEntry, __: bytes) -> None:
    raise VerificationError("The report is not genuine.")


def test_evidence_that_does_not_hold_is_found(tmp_path: Path) -> None:
    with_evidence(tmp_path, [ENTRIES[0], release(1)], EVIDENCE)
    report = check(tmp_path, reverify=refuse)
    assert indexes(report, "evidence.refused") == [1]
    assert "not genuine" in report.findings[0].sentence
    assert report.evidence == 0


def test_evidence_that_could_not_be_verified_is_neither_passed_nor_refused(tmp_path: Path) -> None:
    def unable(_: AuditEntry, __: bytes) -> None:
        raise ConfigurationError("No development root was named.")

    with_evidence(tmp_path, [release(0)], EVIDENCE)
    report = check(tmp_path, reverify=unable)
    assert codes(report) == {"evidence.unchecked"}
    assert not report.ok
    assert not report.refused


def test_evidence_that_the_broker_refused_itself_need_not_hold(tmp_path: Path) -> None:
    digest = hashlib.sha256(EVIDENCE).hexdigest()
    with_evidence(tmp_path, [entry(0, evidence=digest)], EVIDENCE)
    report = check(tmp_path, reverify=refuse)
    assert report.ok
    assert report.evidence_skipped == 1


def test_lost_evidence_is_found(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(0)])
    assert indexes(check(tmp_path), "evidence.missing") == [0]


def test_changed_evidence_is_found(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(0)], EVIDENCE)
    path = tmp_path / "evidence" / hashlib.sha256(EVIDENCE).hexdigest()
    path.write_bytes(EVIDENCE + b" ")
    assert indexes(check(tmp_path), "evidence.changed") == [0]


@pytest.mark.parametrize(
    "lack",
    [{"evidence": ""}, {"ear": None}, {"decision": Decision(allowed=False)}],
    ids=["evidence", "ear", "yes"],
)
def test_a_release_that_rests_on_nothing_is_found(tmp_path: Path, lack: dict[str, Any]) -> None:
    with_evidence(tmp_path, [release(0, **lack)], EVIDENCE)
    assert indexes(check(tmp_path), "release.baseless") == [0]


RIM = b"<SoftwareIdentity/>"
WITH_RIM = {"collateral": {"nvidia.rim": (hashlib.sha256(RIM).hexdigest(),)}}


def test_collateral_that_is_there_is_no_finding(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(0, **WITH_RIM), release(1, **WITH_RIM)], EVIDENCE, RIM)
    report = check(tmp_path, reverify=lambda *_: None)
    assert report.ok
    assert report.evidence == 2


def test_missing_collateral_is_found_for_each_entry(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(0, **WITH_RIM), release(1), release(2, **WITH_RIM)], EVIDENCE)
    report = check(tmp_path, reverify=lambda *_: None)
    assert indexes(report, "collateral.missing") == [0, 2]
    assert report.evidence == 1


def test_changed_collateral_is_found(tmp_path: Path) -> None:
    with_evidence(tmp_path, [release(0, **WITH_RIM)], EVIDENCE)
    put(tmp_path / "evidence" / hashlib.sha256(RIM).hexdigest(), RIM + b" ")
    report = check(tmp_path, reverify=lambda *_: None)
    assert codes(report) == {"collateral.changed"}
    assert report.evidence == 0


# --- reading ---


class Flaky:
    """A reader that loses its connection at one file."""

    def __init__(self, directory: Path, at: str) -> None:
        self._reader, self._at = DirectoryReader(directory), at

    def get(self, path: str) -> bytes:
        if path.startswith(self._at):
            raise NetworkError("The broker cannot be reached.")
        return self._reader.get(path)


@pytest.mark.parametrize("at", ["checkpoint", "tile/entries/001", "tile/0", "tile/1", "evidence"])
def test_a_lost_connection_is_no_finding(tmp_path: Path, at: str) -> None:
    with_evidence(tmp_path, [*ENTRIES[:300], release(300)], EVIDENCE)
    with pytest.raises(NetworkError):
        verify_log(Flaky(tmp_path, at), SIGNER.verifier)


def test_a_very_damaged_log_has_a_bounded_number_of_findings(tmp_path: Path) -> None:
    many = [entry(number) for number in range(1500)]
    write_log(tmp_path, many)
    shutil.rmtree(tmp_path / "tile" / "entries")
    report = check(tmp_path)
    assert len(report.findings) == 1000


def test_an_entry_bundle_with_more_than_its_width_is_found(tmp_path: Path) -> None:
    write_log(tmp_path, ENTRIES)
    path = tmp_path / bundle_path(0)
    path.write_bytes(path.read_bytes() + encode_entry(ENTRIES[0]))
    assert not check(tmp_path).ok
