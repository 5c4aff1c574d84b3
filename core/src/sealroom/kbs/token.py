# SPDX-License-Identifier: BSD-3-Clause
"""What a guest checks of the attestation result that it gets back: that it is about this guest.

What this is: the comparison of the token's nonce, key and device evidence with what was sent. What this is
not: a check of the signature (`sealroom.appraisal.ear.verify` with the broker's keys does that).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from sealroom.errors import ProtocolError

MAX_TOKEN: Final = 256 * 1024
_PARTS: Final = 3
_ANNOTATED, _RUNTIME = "ear.veraison.annotated-evidence", "runtime_data_claims"
_CPU: Final = "cpu0"
_NOT_ABOUT: Final = "The broker's attestation result is not about this server: it names another {}."


def check_token(token: str, nonce: str, tee_pubkey: Mapping[str, str], additional_evidence: str = "") -> None:
    """Check that an attestation result is about the evidence that was sent.

    Args:
        token: The EAR token.
        nonce: The challenge's nonce, as the string that was sent.
        tee_pubkey: The public JWK that was sent.
        additional_evidence: The devices' evidence that was sent.

    Raises:
        ProtocolError: It is no attestation result, or of another nonce, key or devices. A broker that mixes
            up its sessions would otherwise have this server believe, and show, the result of another.
    """
    submodules = _claims(token).get("submods")
    if not isinstance(submodules, dict) or not submodules:
        raise ProtocolError("The broker's attestation result has no submodules.")
    covered = {name: _runtime_data(submodule) for name, submodule in submodules.items()}
    if covered.get(_CPU, next(iter(covered.values()))) is None:
        raise ProtocolError("The broker's attestation result does not say what the evidence covers.")
    for runtime in covered.values():
        if runtime is None:
            continue
        if runtime.get("nonce") != nonce:
            raise ProtocolError(_NOT_ABOUT.format("nonce"))
        if runtime.get("tee-pubkey") != dict(tee_pubkey):
            raise ProtocolError(_NOT_ABOUT.format("key"))
        # Trustee repeats the devices' evidence here; where it stands it has to be ours.
        if runtime.get("additional-evidence", additional_evidence) != additional_evidence:
            raise ProtocolError(_NOT_ABOUT.format("device's evidence"))


def _runtime_data(submodule: object) -> Mapping[str, Any] | None:
    annotated = submodule.get(_ANNOTATED) if isinstance(submodule, dict) else None
    runtime = annotated.get(_RUNTIME) if isinstance(annotated, dict) else None
    return runtime if isinstance(runtime, dict) else None


def _claims(token: str) -> Mapping[str, Any]:
    parts = token.split(".")
    if len(token) > MAX_TOKEN or len(parts) != _PARTS:
        raise ProtocolError("The broker's answer holds no attestation result.")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = json.loads(payload)
    except (binascii.Error, ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise ProtocolError("The broker's answer holds no attestation result.")
    return claims
