# SPDX-License-Identifier: BSD-3-Clause
"""Stored OCSP answers (RFC 6960): is a certificate of a chain revoked?

Answers are bytes that somebody fetched before; nothing is asked here. A policy says what their absence means.

Invariants:

- "Could not check" is an error of its own and never "good".
- An answer counts only if it is about this certificate and its issuer, signed by a responder that the issuer
  itself certified, and its window of time holds the reference time.
- Answers that fit no certificate of the chain are passed over: one set serves several chains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealroom.checks import Trail
from sealroom.errors import FormatError, RevocationUnavailableError, RevokedError, SignatureError
from sealroom.nvidia.certificates import Certificate, has_whole_bits, understood

MAX_ANSWER: Final = 16384
MAX_ANSWERS: Final = 64
SKEW: Final = timedelta(minutes=5)
"""By how much the clocks of responder and verifier may differ."""
_MALFORMED: Final = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    Warning,
)


_NONCE: Final = frozenset({"1.3.6.1.5.5.7.48.1.2"})
"""The nonce of whoever fetched an answer: stored answers are fresh by their times, so it is not compared."""
_NO_CHECK: Final = frozenset({"1.3.6.1.5.5.7.48.1.5"})
"""A responder's certificate that is not itself asked about (RFC 6960, 4.2.2.2.1)."""
_SHA2: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
"""Hash algorithms that name a certificate or sign an answer; NVIDIA's responder uses SHA-384."""


class OcspPolicy(StrEnum):
    """What is done about revocation."""

    OFF = "off"
    """Answers are not looked at, and the result says so."""
    SOFT = "soft"
    """Answers that are there count; where one is missing or stale, the result says so."""
    REQUIRED = "required"
    """Every certificate needs a fresh, good answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A parsed answer, not yet verified."""

    response: ocsp.OCSPResponse

    @classmethod
    def from_der(cls, der: bytes) -> Answer:
        """Parse an answer.

        Raises:
            FormatError: It is no OCSP answer with a status in it.
        """
        if len(der) > MAX_ANSWER:
            raise _bad(f"An OCSP answer of {len(der)} bytes is longer than the {MAX_ANSWER} that are read.")
        try:
            response = ocsp.load_der_ocsp_response(der)
            if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                raise _bad(f"The OCSP responder answered {response.response_status.name} and no status.")
            if response.public_bytes(Encoding.DER) != der or not _is_whole(response, der):
                raise _bad("An OCSP answer is not in DER, or something follows it.")
            # Parsed lazily by the library: what is malformed shows here.
            _ = (response.serial_number, response.certificate_status, response.this_update_utc)
            _ = (response.hash_algorithm, response.next_update_utc)
            _ = (response.revocation_reason, response.revocation_time_utc)
            for extensions in (response.extensions, response.single_extensions):
                if not understood(extensions, _NONCE):
                    raise _bad("An OCSP answer has a critical extension that is not known here.")
        except _MALFORMED:
            raise _bad("This is no OCSP answer.") from None
        return cls(response)

    def about(self, certificate: Certificate, issuer: Certificate) -> bool:
        """Return whether the answer is about this certificate of this issuer."""
        if self.response.serial_number != certificate.x509.serial_number:
            return False
        if not isinstance(self.response.hash_algorithm, _SHA2):
            return False
        name = hashes.Hash(self.response.hash_algorithm)
        name.update(issuer.x509.subject.public_bytes())
        key = hashes.Hash(self.response.hash_algorithm)
        key.update(issuer.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
        return (
            self.response.issuer_name_hash == name.finalize()
            and self.response.issuer_key_hash == key.finalize()
        )


def check_revocation(
    chain: Sequence[Certificate],
    answers: Sequence[bytes],
    policy: OcspPolicy,
    at: datetime,
    trail: Trail,
    check: str,
    *,
    tolerate_hold: bool = False,
) -> None:
    """Check that no certificate of a chain is revoked.

    Args:
        chain: Certificates and their issuers in order, the root last; the root itself is not asked about.
        answers: OCSP answers in DER, in any order.
        policy: What is done.
        at: The reference time.
        trail: Takes the result.
        check: Id of the check.
        tolerate_hold: A certificate that is on hold only counts as good; the result says so.

    Raises:
        FormatError: An answer is malformed.
        RevokedError: A certificate is revoked.
        RevocationUnavailableError: Every certificate needs an answer, and one has none that holds.
        SignatureError: An answer is not signed by who may sign it.
    """
    if policy is OcspPolicy.OFF:
        trail.not_asked(check, "revocation is not asked about, by policy")
        return
    if len(answers) > MAX_ANSWERS:
        raise _bad(f"{len(answers)} OCSP answers are more than the {MAX_ANSWERS} that are read.")
    parsed = [_parsed(bytes(der)) for der in answers]
    missing: list[str] = []
    held: list[str] = []
    for certificate, issuer in pairwise(chain):
        reason = _status_of(certificate, issuer, parsed, at, check, tolerate_hold=tolerate_hold, held=held)
        if reason:
            missing.append(f"{certificate.name}: {reason}")
    if missing:
        sentence = f"Revocation could not be checked for {missing[0]}"
        if policy is OcspPolicy.REQUIRED:
            raise RevocationUnavailableError(
                f"{sentence}.",
                advice="Fetch fresh answers with `sealroom collateral refresh`, or give them with --ocsp.",
                check=check,
            )
        trail.not_asked(check, sentence)
        return
    detail = f"{len(chain) - 1} certificates good"
    trail.passed(check, f"{detail}; on hold and tolerated: {', '.join(held)}" if held else detail)


def _status_of(
    certificate: Certificate,
    issuer: Certificate,
    answers: Sequence[Answer],
    at: datetime,
    check: str,
    *,
    tolerate_hold: bool,
    held: list[str],
) -> str:
    """Return why nothing is known; empty if the certificate is good."""
    reason = "there is no answer"
    good = False
    for answer in answers:
        if not answer.about(certificate, issuer):
            continue
        _check_signature(answer, issuer, at, check)
        response = answer.response
        begins, ends = response.this_update_utc, response.next_update_utc
        if response.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            on_hold = response.revocation_reason is x509.ReasonFlags.certificate_hold
            if not (on_hold and tolerate_hold):
                when = response.revocation_time_utc
                raise RevokedError(
                    f"{certificate.name} was {'put on hold' if on_hold else 'revoked'}"
                    f"{f' on {when:%Y-%m-%d}' if when else ''}.",
                    advice="Do not use this device until its maker says that it is good.",
                    check=check,
                )
            held.append(certificate.name)
        elif response.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            reason = "the responder does not know it"
            continue
        # Differences of times cannot overflow, whatever times an answer says.
        if ends is None or begins - at > SKEW or at > ends:
            reason = f"the answer holds from {begins:%Y-%m-%d %H:%M} to " + (
                f"{ends:%Y-%m-%d %H:%M} UTC" if ends else "no stated end"
            )
            continue
        good = True
    return "" if good else reason


def _check_signature(answer: Answer, issuer: Certificate, at: datetime, check: str) -> None:
    try:
        responder = _verified_responder(answer.response.public_bytes(Encoding.DER), issuer.der)
        if responder is None:
            return
        begins, ends = responder.not_valid_before_utc, responder.not_valid_after_utc
        # The responder signed at thisUpdate; its certificate has to hold then, and is often short-lived.
        signed = answer.response.this_update_utc
    except (*_MALFORMED, InvalidSignature):
        raise SignatureError(
            f"An OCSP answer is not signed by a responder that {issuer.name} certified.", check=check
        ) from None
    if begins - min(signed, at) > SKEW or signed > ends:
        raise SignatureError(
            "The certificate of an OCSP responder was not valid when the answer was signed.", check=check
        )


@lru_cache(maxsize=256)
def _parsed(der: bytes) -> Answer:
    return Answer.from_der(der)


@lru_cache(maxsize=256)
def _verified_responder(der: bytes, issuer_der: bytes) -> x509.Certificate | None:
    """Verify the signature of an answer; return the responder's certificate, or None if the issuer signed.

    Raises:
        ValueError: The responder may not sign.
        InvalidSignature: A signature does not verify.
    """
    response = ocsp.load_der_ocsp_response(der)
    issuer = x509.load_der_x509_certificate(issuer_der)
    responder = _responder(response, issuer)
    signer = responder or issuer
    key = signer.public_key()
    algorithm = response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(algorithm, _SHA2):
        raise ValueError("the answer is signed with another algorithm than ECDSA with SHA-2")
    key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    return responder


def _responder(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> x509.Certificate | None:
    named, key_hash = response.responder_name, response.responder_key_hash
    for candidate in (issuer, *response.certificates):
        key = (
            candidate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            if isinstance(candidate.public_key(), ec.EllipticCurvePublicKey)
            else b""
        )
        # RFC 6960, 4.2.1: the key hash is SHA-1.
        fits = (
            candidate.subject == named
            if named is not None
            else (hashlib.sha1(key, usedforsecurity=False).digest() == key_hash)
        )
        if not fits:
            continue
        if candidate == issuer:
            return None
        candidate.verify_directly_issued_by(issuer)
        if not _may_answer(candidate.extensions):
            raise ValueError("the responder may not sign OCSP answers")
        return candidate
    raise ValueError("the responder's certificate is not in the answer")


def _may_answer(extensions: x509.Extensions) -> bool:
    """Return whether a certificate is for OCSP answers (RFC 6960, 4.2.2.2) and for signatures."""
    uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.OCSP_SIGNING not in uses or not understood(extensions, _NO_CHECK):
        return False
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        return True


def _is_whole(response: ocsp.OCSPResponse, der: bytes) -> bool:
    signatures = [response.signature, *(one.signature for one in response.certificates)]
    # RFC 5280, 4.1.2.2: serial numbers are positive.
    return all(has_whole_bits(der, signature) for signature in signatures) and all(
        one.serial_number > 0 for one in response.certificates
    )


def _bad(message: str) -> FormatError:
    return FormatError(message, field="ocsp", check="nvidia.ocsp.format")
