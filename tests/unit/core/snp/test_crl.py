# SPDX-License-Identifier: BSD-3-Clause
"""Revocation lists by themselves; what they mean for a report is in test_negative.py."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from sealroom import testing
from sealroom.errors import FormatError, RevocationUnavailableError, RevokedError, SignatureError
from sealroom.snp import Outcome, ProductLine, RevocationList, Roots, verify_crl, verify_report
from sealroom.snp.crl import MAX_CRL
from support.snp import make_crl, replace_once, resign, utc

ISSUED = utc(2026, 5, 1)


def crl(**changes: object) -> bytes:
    values: dict[str, object] = {"issued": ISSUED} | changes
    return make_crl(testing.chain().ark.certificate.subject, testing.rsa_key("ark"), **values)  # type: ignore[arg-type]


def test_what_a_list_says() -> None:
    parsed = RevocationList.from_der(crl(revoked=[5, 1 << 100]))

    assert parsed.issuer.common_name == "ARK-Genoa"
    assert (parsed.this_update, parsed.next_update) == (ISSUED, ISSUED + timedelta(days=46))
    assert parsed.revoked == ((5, ISSUED), (1 << 100, ISSUED))


def test_an_empty_list() -> None:
    assert RevocationList.from_der(crl()).revoked == ()


def test_a_list_by_itself_verifies() -> None:
    parsed = verify_crl(crl(revoked=[5]), roots=testing.development_roots(), at=testing.NOW)

    assert parsed.revoked[0][0] == 5


@pytest.mark.parametrize(
    ("at", "check"),
    [(ISSUED - timedelta(seconds=1), "snp.crl.not_future"), (utc(2027), "snp.crl.not_stale")],
)
def test_a_list_outside_of_its_time(at: datetime, check: str) -> None:
    with pytest.raises(RevocationUnavailableError) as caught:
        verify_crl(crl(), roots=testing.development_roots(), at=at)

    assert caught.value.check == check


@pytest.mark.parametrize("at", [ISSUED, ISSUED + timedelta(days=46)])
def test_the_first_and_last_moment_count(at: datetime) -> None:
    verify_crl(crl(), roots=testing.development_roots(), at=at)


def test_a_list_of_a_stranger_could_not_be_checked() -> None:
    with pytest.raises(RevocationUnavailableError) as caught:
        verify_crl(crl(), roots=Roots.amd(), at=testing.NOW)

    assert caught.value.check == "snp.crl.issuer"


def test_a_list_signed_by_another_key_is_refused() -> None:
    forged = make_crl(testing.chain().ark.certificate.subject, testing.rsa_key("other"), issued=ISSUED)

    with pytest.raises(SignatureError):
        verify_crl(forged, roots=testing.development_roots(), at=testing.NOW)


def test_a_list_that_revokes_the_root_is_refused() -> None:
    with pytest.raises(RevokedError) as caught:
        verify_crl(crl(revoked=[0x020000]), roots=testing.development_roots(), at=testing.NOW)

    assert "020000" in caught.value.message
    assert "2026-05-01" in caught.value.message


def test_lists_of_other_lines_are_left_out() -> None:
    chip = testing.chip()
    other = make_crl(
        testing.chain(ProductLine.MILAN).ark.certificate.subject, testing.rsa_key("ark"), issued=ISSUED
    )

    verified = verify_report(
        chip.report(),
        chip.vek,
        roots=testing.development_roots(),
        at=testing.NOW,
        intermediates=chip.intermediates,
        crls=[other, crl()],
    )

    assert {one.id: one.outcome for one in verified.checks}["snp.crl.not_stale"] is Outcome.PASSED


def test_without_lists_revocation_is_not_asked() -> None:
    checks = testing.verified_evidence().cpu.checks

    outcomes = {one.id: one.outcome for one in checks if one.id.startswith("snp.crl.")}
    assert set(outcomes.values()) == {Outcome.NOT_ASKED}
    assert len(outcomes) == 6


def test_an_asvk_is_revoked_as_an_ask_is() -> None:
    chip = testing.chip(kind="VLEK")

    with pytest.raises(RevokedError):
        verify_report(
            chip.report(),
            chip.vek,
            roots=testing.development_roots(vlek=True),
            at=testing.NOW,
            intermediates=chip.intermediates,
            crls=[crl(revoked=[0x020101])],
        )


def test_a_version_1_list_is_refused() -> None:
    with pytest.raises(FormatError):
        RevocationList.from_der(resign(crl(), testing.rsa_key("ark"), lambda content: content[3:]))


def test_a_list_of_another_version_is_refused() -> None:
    with pytest.raises(FormatError):
        RevocationList.from_der(
            resign(crl(), testing.rsa_key("ark"), replace_once(b"\x02\x01\x01", b"\x02\x01\x02"))
        )


def test_a_critical_extension_of_an_entry_is_refused() -> None:
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(5)
        .revocation_date(ISSUED)
        .add_extension(x509.CertificateIssuer([x509.DNSName("elsewhere.invalid")]), critical=True)
        .build()
    )
    from cryptography.hazmat.primitives.hashes import SHA384
    from cryptography.hazmat.primitives.serialization import Encoding
    from sealroom.simulated.certificates import pss

    der = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(testing.chain().ark.certificate.subject)
        .last_update(ISSUED)
        .next_update(ISSUED + timedelta(days=46))
        .add_revoked_certificate(entry)
        .sign(testing.rsa_key("ark"), SHA384(), rsa_padding=pss())
        .public_bytes(Encoding.DER)
    )

    with pytest.raises(FormatError) as caught:
        RevocationList.from_der(der)

    assert caught.value.check == "snp.crl.format"


def test_a_list_that_is_too_long_is_not_read() -> None:
    with pytest.raises(FormatError):
        RevocationList.from_der(bytes(MAX_CRL + 1))


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        verify_crl(crl(), roots=testing.development_roots(), at=testing.NOW.replace(tzinfo=None))
