# SPDX-License-Identifier: BSD-3-Clause
"""Certificates and OCSP answers that no library makes: put together by hand, signed with the right key."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.errors import (
    ChainError,
    Error,
    ExpiredError,
    FormatError,
    NotYetValidError,
    RevocationUnavailableError,
    SignatureError,
)
from sealroom.nvidia import OcspPolicy, VerifiedDevice
from sealroom.simulated.gpu_certificates import EcAuthority, Key, Life, der, leaf, new_key
from support.nvidia import NONCE, error_of, outcome, refused, reissue, verify

GPU, ROOT, AT = testing.gpu(), testing.gpu_root(), testing.NOW
CHAIN, GOOD = GPU.chain_der, GPU.ocsp(at=AT)
OCSP, FORMAT = "nvidia.chain.ocsp", "nvidia.chain.format"
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
STRANGE = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
VERSION, SERIAL, VALIDITY = 0, 1, 4
"""Places in a certificate's signed part."""


def elements(content: bytes) -> list[bytes]:
    """Return the elements that follow one another."""
    found = []
    while content:
        size, start = content[1], 2
        if size >= 0x80:
            start = 2 + size - 0x80
            size = int.from_bytes(content[2:start], "big")
        found.append(content[: start + size])
        content = content[start + size :]
    return found


def inside(element: bytes) -> bytes:
    return element[2 if element[1] < 0x80 else 2 + element[1] - 0x80 :]


def sign(body: bytes, key: Key) -> bytes:
    signature = key.sign(body, ec.ECDSA(SHA384()))
    return der(0x30, body, ECDSA_SHA384, der(0x03, b"\0", signature))


def crafted(place: int, part: int, value: bytes) -> list[bytes]:
    """Return the chain with one part of a certificate replaced, and signed by its issuer."""
    parts = elements(inside(GPU.chain[place].certificate.tbs_certificate_bytes))
    parts[part] = value
    chain = list(CHAIN)
    chain[place] = sign(der(0x30, *parts), GPU.chain[place + 1].key)
    return chain


def serial(*octets: int) -> bytes:
    return der(0x02, bytes(octets))


def validity(begins: bytes, ends: bytes) -> bytes:
    return der(0x30, der(0x18, begins), der(0x18, ends))


def test_crafting_changes_nothing_by_itself() -> None:
    number = elements(inside(GPU.chain[0].certificate.tbs_certificate_bytes))[SERIAL]
    assert verify(chain=crafted(0, SERIAL, number)).ueid == str(GPU.serial)


# --- certificates


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("number", [serial(0), serial(0xFF), serial(0x80, 0), serial(0, 1), der(0x02)])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_serial_number_that_is_not_positive_or_not_in_der(place: int, number: bytes, action: str) -> None:
    """The library warns about some; the answer does not depend on what the program does with warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        refused(FormatError, FORMAT, lambda: verify(chain=crafted(place, SERIAL, number)))


@pytest.mark.parametrize(
    "number", [b"\xa0\x03\x02\x01\x00", b"\xa0\x03\x02\x01\x01", b"\xa0\x03\x02\x01\x03"]
)
def test_certificate_of_another_version(number: bytes) -> None:
    assert error_of(lambda: verify(chain=crafted(0, VERSION, number))) is not None


@pytest.mark.parametrize(
    ("begins", "ends", "kind"),
    [
        (b"00000101000000Z", b"99991231235959Z", FormatError),
        (b"20260230000000Z", b"99991231235959Z", FormatError),
        (b"20260101000000+0000", b"99991231235959Z", FormatError),
        (b"20260101000000.5Z", b"99991231235959Z", FormatError),
        (b"00010101000000Z", b"00010101000000Z", ExpiredError),
        (b"99991231235959Z", b"99991231235959Z", NotYetValidError),
    ],
)
def test_strange_times_of_a_certificate(begins: bytes, ends: bytes, kind: type[Error]) -> None:
    error = error_of(lambda: verify(chain=crafted(0, VALIDITY, validity(begins, ends))))
    # Times before 2050 are no GeneralizedTime in X.509, and the library may say so.
    assert isinstance(error, kind | FormatError)


def test_times_that_are_the_wrong_way_round() -> None:
    chain = crafted(1, VALIDITY, validity(b"20990101000000Z", b"20500101000000Z"))
    refused(NotYetValidError, "nvidia.chain.validity", lambda: verify(chain=chain))


def test_extension_that_stands_twice() -> None:
    parts = elements(inside(GPU.chain[0].certificate.tbs_certificate_bytes))
    extensions = elements(inside(inside(parts[7])))
    twice = der(0xA3, der(0x30, *extensions, extensions[-1]))
    refused(FormatError, FORMAT, lambda: verify(chain=crafted(0, 7, twice)))


@pytest.mark.parametrize("oid", ["551d0f", "551d13", "551d25"])
def test_extension_that_does_not_parse(oid: str) -> None:
    parts = elements(inside(GPU.chain[0].certificate.tbs_certificate_bytes))
    kept = [one for one in elements(inside(inside(parts[7]))) if bytes.fromhex(oid) not in one]
    broken = der(0x30, der(0x06, bytes.fromhex(oid)), der(0x04, b"\x0c\x01x"))
    refused(FormatError, FORMAT, lambda: verify(chain=crafted(0, 7, der(0xA3, der(0x30, *kept, broken)))))


def test_signer_that_the_root_issued_itself_has_no_boot_rom_however_often_the_root_stands() -> None:
    made = leaf("GH100", "GSP", GPU.chain[0].key, ROOT.device, Life(AT), fwid=None)
    for count in range(1, 4):
        chain = [made.der, *[ROOT.device.der] * count]
        refused(ChainError, "nvidia.chain.present", lambda chain=chain: verify(chain=chain))  # type: ignore[misc]


# --- OCSP answers


def required(first: bytes, policy: OcspPolicy = OcspPolicy.REQUIRED) -> VerifiedDevice:
    return verify(ocsp=[first, *GOOD[1:]], ocsp_policy=policy)


def about_boot_rom(
    responder: EcAuthority, change: Callable[[ocsp.OCSPResponseBuilder], ocsp.OCSPResponseBuilder]
) -> bytes:
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            GPU.chain[1].certificate,
            GPU.chain[2].certificate,
            SHA384(),
            ocsp.OCSPCertStatus.GOOD,
            AT - timedelta(hours=1),
            AT + timedelta(hours=1),
            None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
    )
    return change(builder).sign(responder.key, SHA384()).public_bytes(Encoding.DER)


RESPONDER = ROOT.responder(GPU.chain[2])


def same(builder: ocsp.OCSPResponseBuilder) -> ocsp.OCSPResponseBuilder:
    return builder


def with_responder(*, drop: Sequence[str] = (), add: Sequence[tuple[x509.ExtensionType, bool]] = ()) -> bytes:
    return about_boot_rom(reissue(RESPONDER, GPU.chain[2], drop=drop, add=add), same)


def test_answer_that_is_made_here_is_good() -> None:
    assert outcome(required(with_responder()).checks, OCSP) is Outcome.PASSED


@pytest.mark.parametrize("critical", [True, False])
def test_extension_of_an_answer_that_is_not_known(critical: bool) -> None:
    answer = about_boot_rom(RESPONDER, lambda builder: builder.add_extension(STRANGE, critical=critical))
    error = error_of(lambda: required(answer, OcspPolicy.SOFT))
    assert (error is None) is not critical
    assert error is None or error.check == "nvidia.ocsp.format"


@pytest.mark.parametrize("critical", [True, False])
def test_nonce_of_an_answer_is_passed_over(critical: bool) -> None:
    nonce = x509.OCSPNonce(bytes(32))
    answer = about_boot_rom(RESPONDER, lambda builder: builder.add_extension(nonce, critical=critical))
    assert outcome(required(answer).checks, OCSP) is Outcome.PASSED


USAGE, USES = "2.5.29.15", "2.5.29.37"


def with_uses(*uses: x509.ObjectIdentifier) -> bytes:
    return with_responder(drop=[USES], add=[(x509.ExtendedKeyUsage(uses), False)])


NOT_FOR_SIGNATURES = x509.KeyUsage(False, False, True, False, False, False, False, False, False)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(with_responder(drop=[USES]), id="no use"),
        pytest.param(with_uses(ExtendedKeyUsageOID.SERVER_AUTH), id="another use"),
        pytest.param(with_uses(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE), id="any use"),
        pytest.param(with_responder(drop=[USAGE], add=[(NOT_FOR_SIGNATURES, True)]), id="not for signatures"),
        pytest.param(with_responder(add=[(STRANGE, True)]), id="a critical extension that is not known"),
    ],
)
def test_responder_that_may_not_answer(answer: bytes) -> None:
    for policy in (OcspPolicy.SOFT, OcspPolicy.REQUIRED):
        refused(SignatureError, OCSP, lambda policy=policy: required(answer, policy))  # type: ignore[misc]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(with_responder(drop=[USAGE]), id="no key usage"),
        pytest.param(with_responder(add=[(STRANGE, False)]), id="an extension that is not known"),
        pytest.param(with_responder(add=[(x509.OCSPNoCheck(), True)]), id="not to be asked about"),
    ],
)
def test_responder_that_may_answer(answer: bytes) -> None:
    assert outcome(required(answer).checks, OCSP) is Outcome.PASSED


def test_issuer_that_issued_another_certificate_of_its_own_name_and_key() -> None:
    """Same name and key as the issuer, so it is the issuer's answer, whatever the certificate is for."""
    twin = reissue(EcAuthority(GPU.chain[2].certificate, GPU.chain[2].key), GPU.chain[2])
    error = error_of(lambda: required(about_boot_rom(twin, same)))
    assert error is None or error.check == OCSP


TIMES = (b"00010101000000Z", b"20260101000000Z", b"99991231235959Z")


@pytest.mark.parametrize(("begins", "ends"), [*itertools.product(TIMES, TIMES)])
def test_strange_times_of_an_answer(begins: bytes, ends: bytes) -> None:
    """Nothing overflows, and only a window that holds the reference time is good."""
    body = ocsp.load_der_ocsp_response(GOOD[0]).tbs_response_bytes
    made, until = (time.strftime("%Y%m%d%H%M%SZ").encode() for time in (AT, AT + timedelta(hours=24)))
    assert body.count(made) == 2
    changed = body.replace(made, begins).replace(until, ends)
    basic = elements(inside(basic_response(GOOD[0])))
    signature = RESPONDER.key.sign(changed, ec.ECDSA(SHA384()))
    answer = response(der(0x30, changed, basic[1], der(0x03, b"\0", signature), basic[3]))
    error = error_of(lambda: required(answer))
    if (begins, ends) == TIMES[1:]:
        assert error is None
    else:
        assert isinstance(error, RevocationUnavailableError | SignatureError | FormatError)


def basic_response(answer: bytes) -> bytes:
    return inside(elements(inside(inside(elements(inside(answer))[1])))[1])


def response(basic: bytes) -> bytes:
    kind = bytes.fromhex("06092b0601050507300101")
    return der(0x30, der(0x0A, b"\0"), der(0xA0, der(0x30, kind, der(0x04, basic))))


def test_answer_with_two_statuses() -> None:
    """One that says good of this certificate and something else of another is read by nobody here."""
    body = elements(inside(ocsp.load_der_ocsp_response(GOOD[0]).tbs_response_bytes))
    single = elements(inside(body[-1]))
    body[-1] = der(0x30, *single, *single)
    changed = der(0x30, *body)
    basic = elements(inside(basic_response(GOOD[0])))
    signature = RESPONDER.key.sign(changed, ec.ECDSA(SHA384()))
    answer = response(der(0x30, changed, basic[1], der(0x03, b"\0", signature), basic[3]))
    refused(FormatError, "nvidia.ocsp.format", lambda: required(answer))


def test_answer_signed_by_nobody_with_another_key() -> None:
    basic = elements(inside(basic_response(GOOD[0])))
    signature = new_key().sign(basic[0], ec.ECDSA(SHA384()))
    answer = response(der(0x30, basic[0], basic[1], der(0x03, b"\0", signature), basic[3]))
    refused(SignatureError, OCSP, lambda: required(answer))


def test_evidence_of_the_crafted_is_good_before() -> None:
    assert outcome(required(GOOD[0]).checks, OCSP) is Outcome.PASSED
    assert verify(nonce=NONCE).simulated
