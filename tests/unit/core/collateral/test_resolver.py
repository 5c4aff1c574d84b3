# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.collateral import layout
from sealroom.collateral.kds import KdsFetcher
from sealroom.collateral.resolver import EndorsementSource, RevocationPolicy, resolve
from sealroom.collateral.store import Store
from sealroom.errors import (
    CollateralUnavailableError,
    FormatError,
    NetworkError,
    RevocationUnavailableError,
    RevokedError,
    StorageError,
    VerificationError,
)
from sealroom.snp import ProductLine, Roots, VekKind, VerifiedReport, verify_report
from sealroom.testing.services import Fault, Kds, running_kds
from support.vectors import REAL_NOW

from .conftest import FakeTime

GENOA = ProductLine.GENOA
ROOTS = testing.development_roots()
OFF, SOFT, REQUIRED = RevocationPolicy

Verify = Callable[..., VerifiedReport]


@pytest.fixture
def verify(store: Store, notes: list[str]) -> Verify:
    """Resolve and verify a report with what was found."""

    def run(
        report: bytes,
        certificates: dict[str, bytes],
        *,
        roots: Roots = ROOTS,
        at: datetime = testing.NOW,
        fetcher: KdsFetcher | None = None,
        crl: RevocationPolicy = OFF,
        at_store: Store | None = store,
    ) -> VerifiedReport:
        source = EndorsementSource(at_store, fetcher=fetcher, crl=crl, note=notes.append)
        vek, intermediates, crls = source.resolve(report, certificates, roots=roots, at=at)
        return verify_report(report, vek, roots=roots, at=at, intermediates=intermediates, crls=crls)

    return run


def outcome(verified: VerifiedReport, check: str) -> str:
    return next(result.outcome for result in verified.checks if result.id == check)


# --- certificates that come with the evidence ---


@pytest.mark.parametrize("line", list(ProductLine))
def test_certificates_that_came_once_serve_later_reports_without_any(
    verify: Verify, line: ProductLine
) -> None:
    chip, roots = testing.chip(line), testing.development_roots(line)
    verify(chip.report(), chip.certificates, roots=roots)
    assert verify(chip.report(report_data=b"\2" * 64), {}, roots=roots).vek.tcb == chip.tcb


def test_version_2_report_finds_its_certificate_though_it_names_no_line(verify: Verify) -> None:
    for line in ProductLine:
        chip, roots = testing.chip(line), testing.development_roots(line)
        verify(chip.report(version=2), chip.certificates, roots=roots)
        assert verify(chip.report(version=2), {}, roots=roots).line is line


def test_vlek_that_came_once_serves_later_reports_without_any(verify: Verify) -> None:
    chip, roots = testing.chip(kind="VLEK"), testing.development_roots(vlek=True)
    verify(chip.report(), chip.certificates, roots=roots)
    assert verify(chip.report(), {}, roots=roots).vek.kind is VekKind.VLEK


def test_the_vlek_that_signed_is_chosen_among_several(verify: Verify, store: Store) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    roots = testing.development_roots(vlek=True)
    chip = testing.chip(kind="VLEK")
    verify(chip.report(), chip.certificates, roots=roots)
    for _ in range(4):
        other = testing.vek(kind="VLEK", key=ec.generate_private_key(ec.SECP384R1()).public_key())
        store.write(layout.vlek_name(roots, GENOA, chip.tcb, other), other)
    assert verify(chip.report(), {}, roots=roots).vek.certificate.der == chip.vek


def test_nothing_is_written_for_what_is_stored_already(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*.der")}
    verify(chip.report(), chip.certificates)
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*.der")} == before


def test_certificate_of_another_root_is_not_kept(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    with pytest.raises(VerificationError):
        verify(chip.report(), chip.certificates, roots=Roots.amd())
    assert store.names() == []


def test_altered_certificate_is_not_kept(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    altered = chip.vek[:-1] + bytes((chip.vek[-1] ^ 1,))
    with pytest.raises(VerificationError):
        verify(chip.report(), {**chip.certificates, "VCEK": altered})
    assert store.names() == []


def test_certificate_of_another_chip_with_the_evidence_does_not_pass_for_the_stored_one(
    verify: Verify,
) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    with pytest.raises(VerificationError) as caught:
        verify(chip.report(), {**chip.certificates, "VCEK": testing.vek(chip_id=b"\7" * 64)})
    assert caught.value.check == "snp.binding.chip_id"


def test_reissued_certificate_with_the_longer_life_wins(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    name = layout.vcek_name(ROOTS, GENOA, chip.chip_id, chip.tcb)
    verify(chip.report(), chip.certificates)
    newer = testing.vek(not_before=testing.later(days=-1))
    verify(chip.report(), {**chip.certificates, "VCEK": newer})
    assert store.read(name) == newer
    verify(chip.report(), chip.certificates)
    assert store.read(name) == newer


def test_store_that_cannot_be_written_stops_no_verification(
    verify: Verify, store: Store, notes: list[str]
) -> None:
    store.path.write_bytes(b"a file where the folder should be")
    chip = testing.chip()
    assert verify(chip.report(), chip.certificates).vek.certificate.der == chip.vek
    assert "was not kept" in notes[0]


def test_without_a_store_the_evidence_alone_counts(verify: Verify) -> None:
    chip = testing.chip()
    assert verify(chip.report(), chip.certificates, at_store=None).vek.certificate.der == chip.vek
    with pytest.raises(CollateralUnavailableError):
        verify(chip.report(), {}, at_store=None)


# --- what is missing ---


def test_missing_certificate_is_could_not_check_and_says_what_to_do(verify: Verify) -> None:
    with pytest.raises(CollateralUnavailableError, match="not in the store") as caught:
        verify(testing.chip().report(), {})
    assert caught.value.check == "snp.vek.present"
    assert "sealroom collateral fetch" in caught.value.advice


def test_certificate_of_another_tcb_does_not_serve(verify: Verify) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    older = testing.chip(tcb=testing.chip().tcb.__class__(1, 0, 1, 1))
    with pytest.raises(CollateralUnavailableError):
        verify(older.report(), {})


def test_masked_chip_is_said(verify: Verify) -> None:
    with pytest.raises(CollateralUnavailableError, match="masks CHIP_ID"):
        verify(testing.chip().report(chip_id=bytes(64)), {})


def test_missing_vlek_is_said_and_never_fetched(verify: Verify, fetcher: KdsFetcher, kds: Kds) -> None:
    roots = testing.development_roots(vlek=True)
    with pytest.raises(CollateralUnavailableError, match="cloud providers only") as caught:
        verify(testing.chip(kind="VLEK").report(), {}, roots=roots, fetcher=fetcher)
    assert "certificate table" in caught.value.advice
    assert kds.requests == []


def test_malformed_report_without_a_certificate_is_refused_as_malformed(verify: Verify) -> None:
    report = testing.chip().report()
    for data in (b"", report[:-1], report + b"\0", bytes(1184)):
        with pytest.raises(FormatError):
            verify(data, {})


def test_unsigned_report_is_refused(verify: Verify) -> None:
    with pytest.raises(FormatError, match="not signed"):
        verify(testing.chip().report(key_info=7 << 2), {})


def test_damaged_certificate_in_the_store_is_as_none_and_said(
    verify: Verify, store: Store, notes: list[str]
) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    name = layout.vcek_name(ROOTS, GENOA, chip.chip_id, chip.tcb)
    for content in (b"", chip.vek[:700], testing.vek(chip_id=b"\7" * 64)):
        (store.path / name).write_bytes(content)
        with pytest.raises(CollateralUnavailableError):
            verify(chip.report(), {})
        assert "is damaged and not used" in notes[-1]


def test_damaged_intermediate_in_the_store_stops_nothing(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    store.write(layout.ca_name(ROOTS, GENOA, "ASK", b"damaged"), b"damaged")
    assert verify(chip.report(), {}).vek.certificate.der == chip.vek


def test_stored_certificate_that_is_not_valid_at_the_time_is_could_not_check(verify: Verify) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    for at in (testing.EPOCH, testing.later(days=8 * 365)):
        with pytest.raises(CollateralUnavailableError, match="not the reference time"):
            verify(chip.report(), {}, at=at)


# --- the network ---


def test_missing_certificate_is_fetched_if_that_is_allowed(
    verify: Verify, fetcher: KdsFetcher, kds: Kds
) -> None:
    chip = testing.chip()
    assert verify(chip.report(), {}, fetcher=fetcher).vek.hwid == chip.chip_id
    assert verify(chip.report(), {}).vek.hwid == chip.chip_id
    assert [path.split("?")[0].rpartition("/")[2] for path in kds.paths] == [chip.chip_id.hex(), "cert_chain"]


def test_version_2_report_is_looked_for_under_both_lines(
    verify: Verify, fetcher: KdsFetcher, kds: Kds
) -> None:
    chip, roots = (
        testing.chip(),
        Roots.development(testing.chain().pem + testing.chain(ProductLine.MILAN).pem),
    )
    assert verify(chip.report(version=2), {}, fetcher=fetcher, roots=roots).line is GENOA
    assert [path.split("/")[3] for path in kds.paths] == ["Milan", "Genoa", "Genoa"]


def test_certificate_in_the_store_needs_no_network(verify: Verify, fetcher: KdsFetcher, kds: Kds) -> None:
    chip = testing.chip()
    verify(chip.report(), chip.certificates)
    verify(chip.report(), {}, fetcher=fetcher)
    assert kds.requests == []


def test_service_that_cannot_be_reached_is_could_not_check(
    verify: Verify, fetcher: KdsFetcher, kds: Kds
) -> None:
    kds.fail(Fault(drop=True))
    with pytest.raises(NetworkError):
        verify(testing.chip().report(), {}, fetcher=fetcher)


def test_certificate_that_was_issued_after_the_reference_time_is_could_not_check_and_kept(
    verify: Verify, fetcher: KdsFetcher, kds: Kds
) -> None:
    kds.issued = testing.later(seconds=2)
    chip = testing.chip()
    with pytest.raises(CollateralUnavailableError, match="not the reference time") as caught:
        verify(chip.report(), {}, fetcher=fetcher)
    assert "check again" in caught.value.advice
    assert verify(chip.report(), {}, at=testing.later(seconds=3)).vek.hwid == chip.chip_id


def test_forged_report_finds_a_genuine_certificate_and_is_refused(
    verify: Verify, fetcher: KdsFetcher
) -> None:
    report = bytearray(testing.chip().report())
    report[0x90] ^= 1
    with pytest.raises(VerificationError) as caught:
        verify(bytes(report), {}, fetcher=fetcher)
    assert caught.value.check == "snp.report.signature"


# --- revocation ---


@pytest.fixture
def stored_list(store: Store, kds: Kds) -> Store:
    """A store with a current revocation list."""
    store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
    return store


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
def test_current_list_in_the_store_is_used(
    verify: Verify, stored_list: Store, policy: RevocationPolicy
) -> None:
    chip = testing.chip()
    verified = verify(chip.report(), chip.certificates, crl=policy)
    assert outcome(verified, "snp.crl.not_revoked") == "passed"


def test_list_is_not_looked_at_if_it_is_off(verify: Verify, stored_list: Store) -> None:
    chip = testing.chip()
    verified = verify(chip.report(), chip.certificates, crl=OFF)
    assert outcome(verified, "snp.crl.not_revoked") == "not_asked"


def test_missing_list_stops_nothing_under_a_soft_policy(verify: Verify, notes: list[str]) -> None:
    chip = testing.chip()
    verified = verify(chip.report(), chip.certificates, crl=SOFT)
    assert outcome(verified, "snp.crl.not_revoked") == "not_asked"
    assert "is not in the store" in notes[0]


def test_missing_list_is_could_not_check_where_one_is_required(verify: Verify) -> None:
    chip = testing.chip()
    with pytest.raises(RevocationUnavailableError, match="is not in the store") as caught:
        verify(chip.report(), chip.certificates, crl=REQUIRED)
    assert "sealroom collateral refresh" in caught.value.advice


def test_list_for_vceks_does_not_stand_for_the_one_for_vleks(verify: Verify, stored_list: Store) -> None:
    chip, roots = testing.chip(kind="VLEK"), testing.development_roots(vlek=True)
    with pytest.raises(RevocationUnavailableError):
        verify(chip.report(), chip.certificates, roots=roots, crl=REQUIRED)


def test_stale_list_stops_nothing_under_a_soft_policy(
    verify: Verify, stored_list: Store, notes: list[str]
) -> None:
    chip = testing.chip()
    verified = verify(chip.report(), chip.certificates, crl=SOFT, at=testing.later(days=60))
    assert outcome(verified, "snp.crl.not_revoked") == "not_asked"
    assert "is stale" in notes[-1]


def test_stale_list_is_could_not_check_where_one_is_required(verify: Verify, stored_list: Store) -> None:
    chip = testing.chip()
    with pytest.raises(RevocationUnavailableError, match="is stale"):
        verify(chip.report(), chip.certificates, crl=REQUIRED, at=testing.later(days=60))


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
@pytest.mark.parametrize("days", [0, 60])
def test_revoked_ask_is_refused_however_old_the_list(
    verify: Verify, store: Store, kds: Kds, policy: RevocationPolicy, days: int
) -> None:
    kds.revoked = (testing.chain().ask.certificate.serial_number,)
    store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
    chip = testing.chip()
    wanted = RevokedError if policy is SOFT or days == 0 else RevocationUnavailableError
    with pytest.raises(wanted):
        verify(chip.report(), chip.certificates, crl=policy, at=testing.later(days=days))


def test_damaged_list_is_as_none(verify: Verify, stored_list: Store, notes: list[str]) -> None:
    name = layout.crl_name(ROOTS, GENOA, VekKind.VCEK)
    data = stored_list.read(name) or b""
    (stored_list.path / name).write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    chip = testing.chip()
    with pytest.raises(RevocationUnavailableError):
        verify(chip.report(), chip.certificates, crl=REQUIRED)
    assert "is damaged" in notes[0]


def test_stale_list_is_fetched_anew_if_that_is_allowed(
    verify: Verify, store: Store, kds: Kds, fetcher: KdsFetcher, time: FakeTime
) -> None:
    chip = testing.chip()
    kds.crl_at = testing.later(days=-50)
    store.write(layout.crl_name(ROOTS, GENOA, VekKind.VCEK), kds.crl())
    kds.crl_at = testing.later(days=-1)
    verified = verify(chip.report(), chip.certificates, crl=REQUIRED, fetcher=fetcher)
    assert outcome(verified, "snp.crl.not_stale") == "passed"
    assert kds.paths == ["/vcek/v1/Genoa/crl"]


def test_list_that_cannot_be_fetched_stops_nothing_under_a_soft_policy_and_is_not_asked_for_each_time(
    store: Store, kds: Kds, fetcher: KdsFetcher, notes: list[str]
) -> None:
    chip = testing.chip()
    kds.fail(*[Fault(status=500)] * 9)
    source = EndorsementSource(store, fetcher=fetcher, crl=SOFT, note=notes.append)
    for _ in range(3):
        found = source.resolve(chip.report(), chip.certificates, roots=ROOTS, at=testing.NOW)
        assert found.crls == []
    assert len(kds.requests) == 1
    assert "could not be fetched" in notes[0]


# --- the function ---


def test_function_takes_a_directory(tmp_path: Path) -> None:
    chip = testing.chip()
    resolve(chip.report(), chip.certificates, roots=ROOTS, at=testing.NOW, store=tmp_path / "store")
    found = resolve(chip.report(), {}, roots=ROOTS, at=testing.NOW, store=tmp_path / "store")
    assert found.vek == chip.vek
    assert testing.chain().ask.der in found.intermediates


def test_function_fetches_from_the_address_that_it_is_given(tmp_path: Path) -> None:
    chip = testing.chip()
    roots = Roots.development(testing.chain().chain_pem)
    with running_kds() as kds:
        found = resolve(
            chip.report(),
            {},
            roots=roots,
            at=testing.NOW,
            store=tmp_path / "store",
            network=True,
            kds_url=kds.url,
            crl=OFF,
        )
    assert verify_report(chip.report(), found.vek, roots=roots, at=testing.NOW).vek.hwid == chip.chip_id


def test_store_that_cannot_be_read_is_a_storage_error(verify: Verify, store: Store) -> None:
    chip = testing.chip()
    name = layout.vcek_name(ROOTS, GENOA, chip.chip_id, chip.tcb)
    (store.path / name).mkdir(parents=True)
    with pytest.raises(StorageError):
        verify(chip.report(), {})


# --- real evidence ---


@pytest.mark.parametrize(
    ("report", "vek", "now"),
    [
        ("ms-tee/milan_report.bin", "ms-tee/milan_vcek.der", "now>=2026-02-05"),
        ("ms-tee/genoa_report.bin", "ms-tee/genoa_vcek.der", "now>=2026-02-05"),
        ("oak/turin_oc_report.bin", "oak/turin_oc_vcek.der", ""),
        ("sev-attest-tool/genoa_v2_report.bin", "sev-attest-tool/genoa_v2_vcek.der", ""),
        (
            "constellation/aws2_vlek_report.bin",
            "constellation/aws2_vlek.der",
            "now in 2024-12-10..2025-12-10",
        ),
    ],
)
def test_real_report_verifies_from_the_store_alone(
    verify: Verify, vectors: Path, report: str, vek: str, now: str
) -> None:
    data, certificate = ((vectors / "snp" / name).read_bytes() for name in (report, vek))
    kind = "VLEK" if "vlek" in vek else "VCEK"
    at = REAL_NOW[now]
    verify(data, {kind: certificate}, roots=Roots.amd(), at=at)
    assert verify(data, {}, roots=Roots.amd(), at=at).vek.certificate.der == certificate


def test_real_revocation_list_is_used_from_the_store(verify: Verify, vectors: Path, store: Store) -> None:
    data = (vectors / "snp" / "amd-crl" / "milan_vcek_2026-08.crl").read_bytes()
    store.write("amd/milan/crl.der", data)
    report = (vectors / "snp" / "ms-tee" / "milan_report.bin").read_bytes()
    vek = (vectors / "snp" / "ms-tee" / "milan_vcek.der").read_bytes()
    at = REAL_NOW["now in 2026-08-19..2026-10-04"]
    verified = verify(report, {"VCEK": vek}, roots=Roots.amd(), at=at, crl=REQUIRED)
    assert outcome(verified, "snp.crl.not_revoked") == "passed"
