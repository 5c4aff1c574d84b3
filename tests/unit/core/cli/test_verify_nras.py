# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify` on answers of NVIDIA's own service, signed with a key of the test's."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_USAGE
from sealroom.nvidia.nras import ISSUER
from unit.core.cli.verifying import NONCE, Bench, bench, failures, outcomes

__all__ = ["bench"]

KEY = ec.generate_private_key(ec.SECP384R1())


def token(claims: dict[str, Any]) -> str:
    at = int(testing.NOW.timestamp()) - 60
    common = {"iss": ISSUER, "iat": at, "nbf": at, "exp": at + 3600, "eat_nonce": NONCE.hex()}
    return jwt.encode(common | claims, KEY, algorithm="ES384", headers={"kid": "test"})


def answer(**device: Any) -> bytes:
    """Return an answer about one GPU; `device` are claims of its token."""
    about = token({"measres": "success", **device})
    digest = ["DIGEST", ["SHA-256", hashlib.sha256(about.encode()).hexdigest()]]
    overall = token({"x-nvidia-overall-att-result": True, "submods": {"GPU-0": digest}})
    return json.dumps([["JWT", overall], {"GPU-0": about}]).encode()


@pytest.fixture
def jwks(bench: Bench) -> list[str]:
    return ["--jwks", bench.save("jwks.json", json.dumps(ear.jwks({"test": KEY.public_key()})).encode())]


def test_a_good_answer(jwks: list[str], bench: Bench) -> None:
    evidence = bench.save("nras.json", answer())

    status, printed = bench.text(evidence, *jwks, "--nonce", NONCE.hex())
    _, result = bench.json(evidence, *jwks)

    assert status == EXIT_OK
    assert "ACCEPTED: NVIDIA's attestation service signed this result" in printed
    assert (result["kind"], result["devices"]) == ("token of NVIDIA's attestation service", [])
    assert outcomes(result)["nvidia.nras.nonce"] == "not_asked"
    assert failures(result) == []


def test_another_nonce(jwks: list[str], bench: Bench) -> None:
    status, result = bench.json(bench.save("nras.json", answer()), *jwks, "--nonce", "00" * 32)

    assert status == EXIT_REFUSED
    assert failures(result) == ["nvidia.nras.nonce"]


def test_a_device_that_the_service_does_not_find_good(jwks: list[str], bench: Bench) -> None:
    status, result = bench.json(bench.save("nras.json", answer(measres="fail")), *jwks)

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("appraisal", "nvidia.nras.result")


def test_an_answer_that_has_ended(jwks: list[str], bench: Bench) -> None:
    later = (testing.NOW + timedelta(hours=2)).isoformat()

    status, result = bench.json(bench.save("nras.json", answer()), *jwks, at=later)

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "expired"


def test_a_token_of_another_device(jwks: list[str], bench: Bench) -> None:
    document = json.loads(answer())
    document[1]["GPU-0"] = json.loads(answer(hwmodel="another"))[1]["GPU-0"]

    status, result = bench.json(bench.save("nras.json", json.dumps(document).encode()), *jwks)

    assert status == EXIT_REFUSED
    assert failures(result) == ["nvidia.nras.submods"]


@pytest.mark.parametrize(
    "option",
    [["--report-data", "00" * 64], ["--host-data", "00" * 32], ["--environment", "x"], ["--policy", "x"]],
    ids=lambda option: option[0],
)
def test_it_is_compared_with_a_nonce_only(option: list[str], jwks: list[str], bench: Bench) -> None:
    assert bench.text(bench.save("nras.json", answer()), *jwks, *option)[0] == EXIT_USAGE
