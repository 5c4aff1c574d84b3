# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.appraisal import AttestationResult, DeviceResult, Tier, Trustworthiness, ear
from sealroom.appraisal.result import PolicyReference
from sealroom.errors import Error, ProtocolError
from sealroom.kbs.token import MAX_TOKEN, check_token

NONCE, KEY = "bm9uY2U=", {"kty": "EC", "crv": "P-256", "x": "eA", "y": "eQ"}
RIGHT = {"nonce": NONCE, "tee-pubkey": KEY}


def token(submods: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps({"submods": submods}).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


def submodule(**covered: Any) -> dict[str, Any]:
    return {"ear.veraison.annotated-evidence": {"runtime_data_claims": RIGHT | covered}}


def test_a_result_about_this_server_is_taken() -> None:
    check_token(token({"cpu0": submodule()}), NONCE, KEY)
    check_token(token({"cpu0": submodule(), "gpu0": submodule()}), NONCE, KEY, "{}")
    check_token(token({"cpu0": submodule(**{"additional-evidence": "{}"}), "gpu0": {}}), NONCE, KEY, "{}")


def test_a_result_that_our_verifier_issued_is_taken() -> None:
    devices = tuple(DeviceResult(name, Tier.SIMULATED, Trustworthiness(), ()) for name in ("cpu0", "gpu0"))
    policy = PolicyReference("strict", "1", "00")
    issued = ear.issue(
        AttestationResult(devices, None, policy, testing.NOW, simulated=True),
        key=ec.generate_private_key(ec.SECP256R1()),
        kid="one",
        issuer="https://broker.example",
        nonce=NONCE,
        tee_pubkey=KEY,
        lifetime=timedelta(minutes=5),
        at=testing.NOW,
    )
    check_token(issued, NONCE, KEY)
    with pytest.raises(ProtocolError, match="another nonce"):
        check_token(issued, "b3RoZXI=", KEY)


@pytest.mark.parametrize(
    ("submods", "what"),
    [
        ({"cpu0": submodule(nonce="b3RoZXI=")}, "another nonce"),
        ({"cpu0": submodule(nonce=None)}, "another nonce"),
        ({"cpu0": submodule(**{"tee-pubkey": KEY | {"x": "eg"}})}, "another key"),
        ({"cpu0": submodule(**{"tee-pubkey": KEY | {"d": "eg"}})}, "another key"),
        ({"cpu0": submodule(**{"additional-evidence": "{}"})}, "another device's evidence"),
        ({"cpu0": submodule(), "gpu0": submodule(nonce="b3RoZXI=")}, "another nonce"),
        ({"cpu0": {}, "gpu0": submodule()}, "does not say what the evidence covers"),
        ({"cpu0": {"ear.veraison.annotated-evidence": []}}, "does not say what the evidence covers"),
        ({"cpu0": 7}, "does not say what the evidence covers"),
        ({}, "no submodules"),
        ([], "no submodules"),
        (None, "no submodules"),
    ],
)
def test_a_result_about_something_else_is_refused(submods: Any, what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        check_token(token(submods), NONCE, KEY)


@pytest.mark.parametrize(
    "text",
    ["", "a.b", "a.b.c.d", "e30.!.c", "e30.W10.c", "e30.é.c", "e30." + "W" * MAX_TOKEN + ".c"],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="no attestation result"):
        check_token(text, NONCE, KEY)


@given(st.text() | st.binary().map(lambda body: f"e30.{base64.urlsafe_b64encode(body).decode()}.c"))
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    with contextlib.suppress(Error):
        check_token(text, NONCE, KEY)
