# SPDX-License-Identifier: BSD-3-Clause
"""Properties of verification: no byte may change, only our errors escape, nothing is remembered too long."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import Error, ExpiredError, SignatureError
from sealroom.snp import (
    CaCertificate,
    Outcome,
    ProductLine,
    Report,
    RevocationList,
    Roots,
    Vek,
    VerifiedChain,
    VerifiedReport,
    check_expectations,
    examine_report,
    verify_report,
    verify_vek,
)
from sealroom.snp import verify as module
from sealroom.snp.structure import CURVE_ORDER
from sealroom.snp.verify import clear_chain_cache
from support.snp import make_crl

CHIP = testing.chip()
REPORT = CHIP.report()
ROOTS = Roots.development(CHIP.root.pem)


def verify(report: bytes = REPORT, vek: bytes = CHIP.vek, **changes: object) -> VerifiedReport:
    arguments: dict[str, object] = {
        "roots": ROOTS,
        "at": testing.NOW,
        "intermediates": CHIP.intermediates,
    } | changes
    return verify_report(report, vek, **arguments)  # type: ignore[arg-type]


def flips(data: bytes) -> list[bytes]:
    """Return data with its lowest bit and with its highest bit changed, for every byte."""
    return [
        data[:at] + bytes((data[at] ^ bit,)) + data[at + 1 :]
        for at in range(len(data))
        for bit in (0x01, 0x80)
    ]


def survivors(data: bytes, judge: Callable[[bytes], object]) -> list[int]:
    """Return the offsets at which a changed byte is not noticed."""
    found = []
    for number, changed in enumerate(flips(data)):
        try:
            judge(changed)
        except Error:
            continue
        found.append(number // 2)
    return found


@pytest.mark.parametrize("line", ProductLine)
def test_no_byte_of_a_report_may_change(line: ProductLine) -> None:
    # Outside of the signed part stand R, S and bytes that have to be zero; none is free.
    chip = testing.chip(line)
    roots = Roots.development(chip.root.pem)

    assert (
        survivors(
            chip.report(),
            lambda report: verify_report(
                report, chip.vek, roots=roots, at=testing.NOW, intermediates=chip.intermediates
            ),
        )
        == []
    )


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
def test_no_byte_of_an_endorsement_certificate_may_change(kind: str) -> None:
    # Outside of the signed part stand lengths, the signature algorithm, which has to be the one inside, the
    # count of unused bits, which has to be zero, and the signature itself; none is free.
    chip = testing.chip(kind=kind)  # type: ignore[arg-type]
    roots = Roots.development(chip.root.pem)

    assert (
        survivors(
            chip.vek,
            lambda vek: verify_vek(vek, roots=roots, at=testing.NOW, intermediates=chip.intermediates),
        )
        == []
    )


def test_no_byte_of_an_intermediate_may_change() -> None:
    ask = CHIP.root.ask.der

    assert survivors(ask, lambda changed: verify(intermediates=[changed])) == []


def test_no_byte_of_a_revocation_list_may_change() -> None:
    crl = make_crl(CHIP.root.ark.certificate.subject, testing.rsa_key("ark"), issued=testing.NOW, revoked=[5])

    assert survivors(crl, lambda changed: verify(crls=[changed])) == []


def test_the_other_s_verifies_too() -> None:
    # ECDSA as AMD uses it is malleable: a report's digest must not be used to recognise a replay.
    s = CURVE_ORDER - int.from_bytes(REPORT[0x2E8:0x318], "little")

    assert verify(REPORT[:0x2E8] + s.to_bytes(48, "little") + REPORT[0x318:]).report.signature_s == s


@given(report=st.binary(max_size=1300), vek=st.binary(max_size=300), ask=st.binary(max_size=300))
def test_no_bytes_raise_anything_but_our_errors(report: bytes, vek: bytes, ask: bytes) -> None:
    for arguments in ((report, vek), (REPORT, vek), (report, CHIP.vek)):
        with pytest.raises(Error):
            verify_report(*arguments, roots=ROOTS, at=testing.NOW, intermediates=[ask])


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a copy of data in which some pieces are replaced, left out or put in."""
    changed = data
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        cut = draw(st.integers(0, 4))
        changed = changed[:at] + draw(st.binary(max_size=6)) + changed[at + cut :]
    return changed


CRL = make_crl(CHIP.root.ark.certificate.subject, testing.rsa_key("ark"), issued=testing.NOW, revoked=[5, 6])
PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "report": (Report.from_bytes, REPORT),
    "vcek": (Vek.from_der, CHIP.vek),
    "vlek": (Vek.from_der, testing.chip(ProductLine.TURIN, kind="VLEK").vek),
    "ask": (CaCertificate.from_der, CHIP.root.ask.der),
    "ark": (CaCertificate.from_der, CHIP.root.ark.der),
    "crl": (RevocationList.from_der, CRL),
    "roots": (Roots.development, CHIP.root.pem),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=300)
@given(data=st.data())
def test_no_mutation_raises_anything_but_our_errors(name: str, data: st.DataObject) -> None:
    parse, good = PARSERS[name]
    changed = data.draw(mutations(good))
    try:
        parse(changed)
    except Error as error:
        assert error.message.endswith((".", "…"))  # noqa: PT017
        assert "\n" not in error.message  # noqa: PT017


@pytest.mark.parametrize("name", PARSERS)
def test_no_beginning_of_a_good_one_is_good(name: str) -> None:
    parse, good = PARSERS[name]
    for size in range(0, len(good) - 30, 7):
        with pytest.raises(Error):
            parse(good[:size])


def test_only_verification_makes_verified_reports() -> None:
    verified = verify()

    with pytest.raises(TypeError):
        VerifiedReport(
            verified.report,
            verified.line,
            verified.vek,
            verified.chain,
            verified.roots,
            verified.at,
            verified.checks,
        )
    with pytest.raises(TypeError):
        VerifiedChain(verified.vek, *verified.chain)


def test_what_a_verified_report_says() -> None:
    verified = verify()

    assert verified.report == Report.from_bytes(REPORT)
    assert verified.line is ProductLine.GENOA
    assert [one.role for one in verified.chain] == ["ASK", "ARK"]
    assert verified.roots is ROOTS
    assert verified.at == testing.NOW
    assert verified.simulated


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        verify(at=testing.NOW.replace(tzinfo=None))
    with pytest.raises(TypeError):
        verify_vek(CHIP.vek, roots=ROOTS, at=testing.NOW.replace(tzinfo=None))


def test_times_of_any_zone_are_the_same_moment() -> None:
    east = timezone(timedelta(hours=9))
    end = Vek.from_der(CHIP.vek).certificate.not_after

    assert verify(at=end.astimezone(east)).at == end
    with pytest.raises(ExpiredError):
        verify(at=(end + timedelta(seconds=1)).astimezone(east))


def test_the_first_and_the_last_second_are_valid() -> None:
    certificate = Vek.from_der(CHIP.vek).certificate

    verify(at=certificate.not_before)
    verify(at=certificate.not_after)


def test_validity_is_evaluated_for_a_remembered_chain() -> None:
    clear_chain_cache()
    verify()

    with pytest.raises(ExpiredError):
        verify(at=testing.NOW + timedelta(days=3000))


def test_a_remembered_chain_is_of_its_roots_only() -> None:
    clear_chain_cache()
    verify()

    with pytest.raises(Error):
        verify(roots=Roots.amd())


def test_a_remembered_chain_is_of_its_intermediates_only() -> None:
    clear_chain_cache()
    verify()

    with pytest.raises(Error):
        verify(intermediates=())


def test_failures_are_not_remembered() -> None:
    clear_chain_cache()
    with pytest.raises(SignatureError):
        verify(vek=CHIP.vek[:-1] + bytes((CHIP.vek[-1] ^ 1,)))

    assert len(module._CHAINS._known) == 0


def test_a_remembered_chain_gives_the_same_results() -> None:
    clear_chain_cache()

    assert verify().checks == verify().checks


def test_an_intermediate_in_the_roots_is_enough() -> None:
    roots = Roots.development(CHIP.root.chain_pem)

    assert verify(roots=roots, intermediates=()).chain[0].certificate.der == CHIP.root.ask.der


def test_other_certificates_that_came_along_do_no_harm() -> None:
    other = testing.chain(ProductLine.MILAN)

    verify(intermediates=[other.ask.der, other.ark.der, *CHIP.intermediates])


def test_bytes_like_arguments_are_taken() -> None:
    verify(bytearray(REPORT), memoryview(CHIP.vek))  # type: ignore[arg-type]


def test_a_masked_chip_id_leaves_the_chip_unasked() -> None:
    checks = {one.id: one for one in verify(CHIP.report(chip_id=bytes(64))).checks}

    assert checks["snp.binding.chip_id"].outcome is Outcome.NOT_ASKED
    assert "masks" in checks["snp.binding.chip_id"].detail


def test_examination_of_good_evidence() -> None:
    examination = examine_report(
        REPORT, CHIP.vek, roots=ROOTS, at=testing.NOW, intermediates=CHIP.intermediates
    )

    assert examination.error is None
    assert examination.verified is not None
    assert examination.checks == examination.verified.checks


def test_expectations() -> None:
    report = Report.from_bytes(CHIP.report(report_data=b"d" * 64, host_data=b"h" * 32))

    def outcomes(**expected: bytes) -> list[Outcome]:
        return [one.outcome for one in check_expectations(report, **expected)]

    assert outcomes() == [Outcome.NOT_ASKED, Outcome.NOT_ASKED]
    assert outcomes(report_data=b"d" * 64, host_data=b"h" * 32) == [Outcome.PASSED, Outcome.PASSED]
    assert outcomes(report_data=b"d" * 63 + b"e") == [Outcome.FAILED, Outcome.NOT_ASKED]
    assert outcomes(host_data=b"h" * 31 + b"e") == [Outcome.NOT_ASKED, Outcome.FAILED]


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_an_expectation_of_another_length_is_neither_padded_nor_cut(size: int) -> None:
    report = Report.from_bytes(CHIP.report(report_data=bytes(64)))

    assert check_expectations(report, report_data=bytes(size))[0].outcome is Outcome.FAILED
