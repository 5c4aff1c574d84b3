# SPDX-License-Identifier: BSD-3-Clause
"""Make OCSP answers in the form of NVIDIA's: SHA-384 certificate id, responder in the answer, 24 hours."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509 import ocsp

from sealroom.simulated.certificates import issue_time
from sealroom.simulated.gpu_certificates import EcAuthority, der

Status = Literal["good", "revoked", "hold", "unknown"]
VALIDITY = timedelta(hours=24)
_ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_BASIC_RESPONSE = bytes.fromhex("06092b0601050507300101")


def answer(
    certificate: x509.Certificate,
    issuer: EcAuthority,
    responder: EcAuthority,
    *,
    at: datetime,
    status: Status = "good",
    validity: timedelta = VALIDITY,
    nonce: bytes | None = None,
) -> bytes:
    """Return an answer in DER.

    Args:
        certificate: What the answer is about.
        issuer: Its issuer.
        responder: Who signs; a certificate of the issuer's.
        at: When the answer is made.
        status: What it says; `hold` is revoked for `certificateHold`, which can be lifted.
        validity: For how long it holds.
        nonce: The nonce of the question, if it had one.
    """
    this_update = issue_time(at)
    revoked = status in ("revoked", "hold")
    reason = x509.ReasonFlags.certificate_hold if status == "hold" else x509.ReasonFlags.key_compromise
    statuses = {"good": ocsp.OCSPCertStatus.GOOD, "unknown": ocsp.OCSPCertStatus.UNKNOWN}
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            certificate,
            issuer.certificate,
            SHA384(),
            statuses.get(status, ocsp.OCSPCertStatus.REVOKED),
            this_update,
            this_update + validity,
            this_update - timedelta(days=1) if revoked else None,
            reason if revoked else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
        .certificates([responder.certificate])
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return _made_at(builder.sign(responder.key, SHA384()), responder, this_update)


def _made_at(signed: ocsp.OCSPResponse, responder: EcAuthority, at: datetime) -> bytes:
    # The builder writes the present as producedAt: put the time that was asked for, and sign again.
    present, wanted = (
        der(0x18, time.strftime("%Y%m%d%H%M%SZ").encode()) for time in (signed.produced_at_utc, at)
    )
    body = signed.tbs_response_bytes
    body = body.replace(present, wanted, 1)
    signature = responder.key.sign(body, ec.ECDSA(SHA384(), deterministic_signing=True))
    basic = der(
        0x30,
        body,
        _ECDSA_SHA384,
        der(0x03, b"\0", signature),
        der(0xA0, der(0x30, responder.der)),
    )
    return der(0x30, der(0x0A, b"\0"), der(0xA0, der(0x30, _BASIC_RESPONSE, der(0x04, basic))))
