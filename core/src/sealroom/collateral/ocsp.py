# SPDX-License-Identifier: BSD-3-Clause
"""Questions to an OCSP responder, and what an answer must be to be kept (RFC 6960), in NVIDIA's form.

NVIDIA's responder wants certificate ids in SHA-384 and a critical nonce (RFC 8954).

What this is: the question, and that an answer is to this question. What this is not: the verification of an
answer's signature; that is `sealroom.nvidia.ocsp`, here as when evidence is verified.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from sealroom.checks import Trail
from sealroom.errors import (
    ChainError,
    FormatError,
    FreshnessError,
    RevocationUnavailableError,
    RevokedError,
)
from sealroom.nvidia.certificates import Certificate
from sealroom.nvidia.ocsp import Answer, OcspPolicy, check_revocation

CHECK: Final = "nvidia.ocsp.answer"
_MALFORMED: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)

Pair = Sequence[Certificate]
"""A certificate and its issuer."""


def load_pair(certificate: bytes, issuer: bytes) -> Pair:
    """Parse a certificate and its issuer, given in DER.

    Raises:
        FormatError: One of them is no certificate of NVIDIA's form.
        ChainError: The one is not issued by the other.
    """
    pair = Certificate.from_der(certificate, "certificate"), Certificate.from_der(issuer, "issuer")
    if not pair[0].issued_by(pair[1]):
        raise ChainError(f"{pair[0].name} is not signed by {pair[1].name}.")
    return pair


def question(pair: Pair, nonce: bytes) -> bytes:
    """Return the DER of the question whether a certificate is revoked.

    Args:
        pair: The certificate and its issuer.
        nonce: Random bytes, 32 of them.
    """
    builder = ocsp.OCSPRequestBuilder().add_certificate(pair[0].x509, pair[1].x509, SHA384())
    return builder.add_extension(x509.OCSPNonce(nonce), critical=True).build().public_bytes(Encoding.DER)


def issue_time(data: bytes) -> datetime:
    """Return thisUpdate of an answer, not verified.

    Raises:
        FormatError: It is no answer with a status in it.
    """
    return Answer.from_der(data).response.this_update_utc


def check_answer(data: bytes, pair: Pair, *, at: datetime, nonce: bytes | None = None) -> None:
    """Check that an answer is authentic, about that certificate, and current.

    "Revoked" is an answer like "good": it is kept, and refuses what it is about at every verification.

    Args:
        data: The answer in DER.
        pair: The certificate and its issuer.
        at: The time at which it must be current.
        nonce: The nonce that it must repeat; None for a stored answer.

    Raises:
        FormatError: It is malformed.
        FreshnessError: It repeats another nonce or none.
        ChainError: It is about another certificate.
        SignatureError: It is not signed by a responder that the issuer certified.
        RevocationUnavailableError: It is not current, does not say until when it is, or the responder does
            not know the certificate.
    """
    answer = Answer.from_der(data)
    try:
        if not answer.about(*pair):
            raise ChainError("The OCSP answer is about another certificate.")
        if nonce is not None:
            _check_nonce(answer.response, nonce)
        until = answer.response.next_update_utc
    except _MALFORMED as error:
        raise FormatError("The OCSP answer is malformed.", field="OCSPResponse") from error
    try:
        check_revocation(pair, [data], OcspPolicy.REQUIRED, at, Trail(), CHECK)
    except RevokedError:
        if until is None or at > until:
            raise RevocationUnavailableError(
                "The OCSP answer, which says revoked, is not current.", check=CHECK
            ) from None


def _check_nonce(answer: ocsp.OCSPResponse, nonce: bytes) -> None:
    try:
        given = answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        given = b""
    if not hmac.compare_digest(given, nonce):
        raise FreshnessError("The OCSP answer does not repeat the nonce of the question.")
