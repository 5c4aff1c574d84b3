# SPDX-License-Identifier: BSD-3-Clause
"""Stored OCSP answers under each policy: one thing wrong at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA1, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.checks import Outcome, Trail
from sealroom.errors import Error, FormatError, RevocationUnavailableError, RevokedError, SignatureError
from sealroom.nvidia import (
    OcspPolicy,
    VerifiedDevice,
    VerifiedRim,
    clear_rim_cache,
    verify_rim,
    with_revocation,
)
from sealroom.nvidia.certificates import Certificate
from sealroom.nvidia.ocsp import MAX_ANSWER, MAX_ANSWERS, Answer, check_revocation
from sealroom.simulated.gpu_certificates import EcAuthority
from sealroom.simulated.gpu_ocsp import answer
from support.nvidia import detail, development, error_of, outcome, refused, verify

CHAIN, RIM = "nvidia.chain.ocsp", "nvidia.rim.ocsp"
OFF, SOFT, REQUIRED = OcspPolicy.OFF, OcspPolicy.SOFT, OcspPolicy.REQUIRED
GPU = testing.gpu()
ROOT = testing.gpu_root()
AT = testing.NOW
GOOD = GPU.ocsp(at=AT)


def device(answers: Sequence[bytes], policy: OcspPolicy = REQUIRED, at: Any = AT) -> VerifiedDevice:
    return verify(at=at, ocsp=answers, ocsp_policy=policy)


def manifest(answers: Sequence[bytes], policy: OcspPolicy = REQUIRED) -> VerifiedRim:
    clear_rim_cache()
    return verify_rim(GPU.driver_rim, roots=development(), at=AT, ocsp=answers, ocsp_policy=policy)


def unavailable(answers: Sequence[bytes], message: str, at: Any = AT) -> None:
    """Assert that revocation could not be checked: required refuses, soft says so."""
    error = refused(RevocationUnavailableError, CHAIN, lambda: device(answers, at=at))
    assert message in error.message
    assert "sealroom collateral refresh" in error.advice
    checks = device(answers, SOFT, at).checks
    assert outcome(checks, CHAIN) is Outcome.NOT_ASKED
    assert message in detail(checks, CHAIN)


def brom_answer(responder: EcAuthority | None = None, **changes: Any) -> bytes:
    """Return an answer about the boot ROM alone."""
    issuer = changes.pop("issuer", GPU.chain[2])
    return answer(
        GPU.chain[1].certificate,
        issuer,
        responder or ROOT.responder(GPU.chain[2]),
        at=changes.pop("at", AT),
        **changes,
    )


def built(
    algorithm: HashAlgorithm, signer: EcAuthority, *, certificates: Sequence[EcAuthority] = ()
) -> bytes:
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            GPU.chain[1].certificate,
            GPU.chain[2].certificate,
            algorithm,
            ocsp.OCSPCertStatus.GOOD,
            AT - timedelta(hours=1),
            AT + timedelta(hours=1),
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, signer.certificate)
    )
    if certificates:
        builder = builder.certificates([one.certificate for one in certificates])
    return builder.sign(signer.key, SHA384()).public_bytes(Encoding.DER)


# --- good answers


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
def test_good_answers_about_boot_rom_provisioner_and_identity(policy: OcspPolicy) -> None:
    checks = device(GOOD, policy).checks
    assert outcome(checks, CHAIN) is Outcome.PASSED
    assert detail(checks, CHAIN) == "3 certificates good"


def test_order_does_not_matter_and_answers_about_others_are_passed_over() -> None:
    others = testing.gpu("BLACKWELL").ocsp(at=AT)
    assert outcome(device([*others, *GOOD[::-1]]).checks, CHAIN) is Outcome.PASSED


def test_good_answers_about_the_signer_of_a_manifest() -> None:
    assert outcome(manifest(GPU.rim_ocsp(at=AT)).checks, RIM) is Outcome.PASSED


def test_answer_that_the_issuer_signed_itself() -> None:
    mine = built(SHA384(), GPU.chain[2])
    assert outcome(device([mine, *GOOD[1:]]).checks, CHAIN) is Outcome.PASSED


def test_answer_with_a_nonce() -> None:
    assert outcome(device(GPU.ocsp(at=AT, nonce=bytes(32))).checks, CHAIN) is Outcome.PASSED


# --- off


def test_policy_off_looks_at_nothing_and_says_so() -> None:
    checks = device([b"rubbish"], OFF).checks
    assert outcome(checks, CHAIN) is Outcome.NOT_ASKED
    assert "by policy" in detail(checks, CHAIN)


# --- missing and stale


def test_no_answer() -> None:
    unavailable([], "there is no answer")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_answer_that_is_missing(place: int) -> None:
    about = Certificate.of(GPU.chain[place + 1].certificate).name
    rest = [one for number, one in enumerate(GOOD) if number != place]
    unavailable(rest, f"could not be checked for {about}")


def test_answer_that_is_too_old() -> None:
    unavailable(GOOD, "the answer holds from", at=AT + timedelta(hours=25))


def test_answer_of_a_later_time() -> None:
    unavailable(GOOD, "the answer holds from", at=AT - timedelta(minutes=6))


def test_clocks_may_differ_a_little() -> None:
    assert outcome(device(GOOD, at=AT - timedelta(minutes=4)).checks, CHAIN) is Outcome.PASSED


def test_responder_that_does_not_know_the_certificate() -> None:
    unavailable(GPU.ocsp(at=AT, statuses={1: "unknown"}), "does not know")


def test_answer_that_names_the_certificate_with_sha1() -> None:
    responder = ROOT.responder(GPU.chain[2])
    unavailable([built(SHA1(), responder, certificates=[responder]), *GOOD[1:]], "there is no answer")


def test_a_fresh_answer_beside_an_old_one_counts() -> None:
    old = GPU.ocsp(at=AT - timedelta(days=3))
    assert outcome(device([*old, *GOOD]).checks, CHAIN) is Outcome.PASSED
    assert outcome(device([*GOOD, *old]).checks, CHAIN) is Outcome.PASSED


def test_answer_about_the_same_number_of_another_issuer() -> None:
    """The issuer's name and key are compared, not the serial number alone."""
    strange = brom_answer(ROOT.responder(GPU.chain[3]), issuer=GPU.chain[3])
    unavailable([strange, *GOOD[1:]], "there is no answer")


# --- revoked


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_certificate_that_is_revoked(place: int, policy: OcspPolicy) -> None:
    answers = GPU.ocsp(at=AT, statuses={place: "revoked"})
    error = refused(RevokedError, CHAIN, lambda: device(answers, policy))
    assert "was revoked on" in error.message


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
def test_device_on_hold_is_refused(policy: OcspPolicy) -> None:
    answers = GPU.ocsp(at=AT, statuses={1: "hold"})
    error = refused(RevokedError, CHAIN, lambda: device(answers, policy))
    assert "put on hold" in error.message


def test_revoked_counts_even_where_the_answer_is_old() -> None:
    answers = GPU.ocsp(at=AT - timedelta(days=30), statuses={1: "revoked"})
    refused(RevokedError, CHAIN, lambda: device([*GOOD, *answers], SOFT))


@pytest.mark.parametrize("policy", [SOFT, REQUIRED])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_signer_of_a_manifest_that_is_revoked(place: int, policy: OcspPolicy) -> None:
    answers = GPU.rim_ocsp(at=AT, statuses={place: "revoked"})
    refused(RevokedError, RIM, lambda: manifest(answers, policy))


def test_signer_of_a_manifest_on_hold_is_tolerated_and_named() -> None:
    checks = manifest(GPU.rim_ocsp(at=AT, statuses={0: "hold"})).checks
    assert outcome(checks, RIM) is Outcome.PASSED
    assert "on hold and tolerated: HCC RIM L4 Signer" in detail(checks, RIM)


def test_signer_of_a_manifest_without_an_answer() -> None:
    refused(RevocationUnavailableError, RIM, lambda: manifest([]))
    assert outcome(manifest([], SOFT).checks, RIM) is Outcome.NOT_ASKED


def test_revocation_is_asked_again_about_a_manifest_that_is_remembered() -> None:
    manifest(GPU.rim_ocsp(at=AT))
    answers = GPU.rim_ocsp(at=AT, statuses={0: "revoked"})
    with pytest.raises(RevokedError):
        verify_rim(GPU.driver_rim, roots=development(), at=AT, ocsp=answers, ocsp_policy=SOFT)


# --- asked about afterwards


def test_revocation_may_be_asked_about_afterwards() -> None:
    before = device([], OFF)
    after = with_revocation(before, ocsp=GOOD, ocsp_policy=REQUIRED)

    assert outcome(before.checks, CHAIN) is Outcome.NOT_ASKED
    assert outcome(after.checks, CHAIN) is Outcome.PASSED
    assert [one.id for one in after.checks] == [one.id for one in before.checks]
    assert (after.report, after.chain, after.ueid, after.at) == (
        before.report,
        before.chain,
        before.ueid,
        before.at,
    )


@pytest.mark.parametrize(
    ("answers", "policy", "kind"),
    [
        (GPU.ocsp(at=AT, statuses={1: "revoked"}), SOFT, RevokedError),
        (GPU.ocsp(at=AT - timedelta(days=2)), REQUIRED, RevocationUnavailableError),
        ([], REQUIRED, RevocationUnavailableError),
    ],
)
def test_revocation_that_is_asked_about_afterwards_refuses_as_well(
    answers: Sequence[bytes], policy: OcspPolicy, kind: type[Error]
) -> None:
    before = device([], OFF)
    refused(kind, CHAIN, lambda: with_revocation(before, ocsp=answers, ocsp_policy=policy))


# --- who signed


def refused_signature(answers: Sequence[bytes]) -> None:
    for policy in (SOFT, REQUIRED):
        refused(SignatureError, CHAIN, partial(device, answers, policy))


def test_responder_of_another_issuer() -> None:
    refused_signature([brom_answer(ROOT.responder(GPU.chain[3])), *GOOD[1:]])


def test_responder_of_another_root() -> None:
    other = testing.gpu_root("another")
    refused_signature([brom_answer(other.responder(other.provisioners["GH100"])), *GOOD[1:]])


def test_responder_that_may_not_sign_answers() -> None:
    refused_signature(GPU.ocsp(at=AT, usage=False))


def test_signer_of_reports_signs_no_answers() -> None:
    refused_signature([brom_answer(GPU.chain[0]), *GOOD[1:]])


def test_answer_without_the_responders_certificate() -> None:
    refused_signature([built(SHA384(), ROOT.responder(GPU.chain[2])), *GOOD[1:]])


def test_answer_signed_with_another_key() -> None:
    response = ocsp.load_der_ocsp_response(GOOD[0])
    signature = b""
    while len(signature) != len(response.signature):
        signature = GPU.chain[0].key.sign(response.tbs_response_bytes, ec.ECDSA(SHA384()))
    refused_signature([GOOD[0].replace(response.signature, signature), *GOOD[1:]])


def test_responder_that_had_not_begun_when_it_signed() -> None:
    early = brom_answer(at=ROOT.at - timedelta(days=1), validity=timedelta(days=400))
    refused_signature([early, *GOOD[1:]])


# --- bytes


@pytest.mark.parametrize(
    "answer_bytes",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x03\x0a\x01\x03", id="try later"),
        pytest.param(b"\x30\x03\x0a\x01\x00", id="successful without an answer"),
        pytest.param(GOOD[0] + b"\0", id="a byte after it"),
        pytest.param(GOOD[0][:-1], id="cut short"),
        pytest.param(bytes(MAX_ANSWER + 1), id="too long"),
    ],
)
def test_bytes_that_are_no_answer(answer_bytes: bytes) -> None:
    refused(FormatError, "nvidia.ocsp.format", lambda: Answer.from_der(answer_bytes))
    refused(FormatError, "nvidia.ocsp.format", lambda: device([*GOOD, answer_bytes], SOFT))


def test_too_many_answers() -> None:
    refused(FormatError, "nvidia.ocsp.format", lambda: device(GOOD[:1] * (MAX_ANSWERS + 1)))


def test_signature_with_unused_bits_is_another_encoding() -> None:
    for place, der in enumerate(GOOD):
        signature = ocsp.load_der_ocsp_response(der).signature
        at = der.index(b"\0" + signature)
        changed = der[:at] + b"\1" + der[at + 1 :]
        with pytest.raises(Error):
            device([*GOOD[:place], changed, *GOOD[place + 1 :]])


def test_chain_of_one_has_nothing_to_ask_about() -> None:
    trail = Trail()
    check_revocation([Certificate.of(ROOT.device.certificate)], [], REQUIRED, AT, trail, CHAIN)
    assert [one.outcome for one in trail.results] == [Outcome.PASSED]


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=len(GOOD[0])))
def test_no_bytes_raise_anything_else(data: bytes, at: int) -> None:
    for raw in (data, GOOD[0][:at] + data, GOOD[0][:at] + data + GOOD[0][at + len(data) :]):
        error = error_of(partial(device, [raw, *GOOD[1:]]))
        assert error is None or error.check in ("nvidia.ocsp.format", CHAIN)
