# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.appraisal import NO_EXPECTATION, AttestationResult, Policy, Tier, appraise, ear
from sealroom.errors import Error, FormatError, FreshnessError, ProtocolError, SignatureError
from support import gpus

KEY = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
JWKS = ear.jwks({"one": KEY, "two": P384})
TEE_KEY = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "eA", "y": "eQ"}
ENVIRONMENT = testing.environment()
EVIDENCE = testing.verified_evidence(b"n" * 64, ENVIRONMENT)
RESULT = appraise(EVIDENCE, environment=ENVIRONMENT, policy=Policy.strict())
LIFETIME = timedelta(minutes=5)


def issue(result: AttestationResult = RESULT, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "key": KEY,
        "kid": "one",
        "issuer": "https://broker.example",
        "nonce": "bm9uY2U=",
        "tee_pubkey": TEE_KEY,
        "lifetime": LIFETIME,
        "at": testing.NOW,
        "evidence": EVIDENCE,
    }
    return ear.issue(result, **(arguments | changes))


def verify(token: str, **changes: Any) -> ear.EarToken:
    arguments: dict[str, Any] = {"jwks": JWKS, "at": testing.NOW}
    return ear.verify(token, **(arguments | changes))


def claims(token: str) -> dict[str, Any]:
    return dict(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==")))


def encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def signed(change: Callable[[dict[str, Any]], object], **headers: object) -> str:
    """A genuinely signed token with other claims or headers."""
    content = claims(issue())
    change(content)
    payload = json.dumps(content).encode()
    return jwt.PyJWS().encode(payload, KEY, algorithm="ES256", headers={"kid": "one", **headers})


TOKEN = issue()


# --- round trips


@pytest.mark.parametrize(("kid", "key", "algorithm"), [("one", KEY, "ES256"), ("two", P384, "ES384")])
def test_result_survives_a_token(kid: str, key: ec.EllipticCurvePrivateKey, algorithm: str) -> None:
    token = issue(key=key, kid=kid)
    verified = verify(token)
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert verified.result == RESULT
    assert verified.kid == kid
    assert verified.nonce == "bm9uY2U="
    assert verified.tee_pubkey == TEE_KEY
    assert verified.issuer == "https://broker.example"
    assert (verified.issued, verified.expires) == (testing.NOW, testing.NOW + LIFETIME)
    assert verified.token == token


def test_refusal_and_missing_environment_survive_a_token() -> None:
    bad = testing.verified_evidence(b"n" * 64, ENVIRONMENT, measurement=b"x" * 48)
    refusal = appraise(bad, environment=ENVIRONMENT, policy=Policy.strict())
    assert verify(issue(refusal)).result == refusal
    unnamed = appraise(EVIDENCE, environment=NO_EXPECTATION, policy=Policy.strict())
    assert verify(issue(unnamed)).result == unnamed


def test_claims_have_trustees_names() -> None:
    content = claims(TOKEN)
    assert content["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
    assert {"iat", "exp", "iss", "ear.verifier-id", "submods"} <= set(content)
    device = content["submods"]["cpu0"]
    assert device["ear.status"] == "contraindicated"
    assert device["ear.trustworthiness-vector"]["hardware"] == 97
    assert device["ear.appraisal-policy-id"] == Policy.strict().digest
    annotated = device["ear.veraison.annotated-evidence"]
    assert annotated["runtime_data_claims"] == {"nonce": "bm9uY2U=", "tee-pubkey": TEE_KEY}
    assert annotated["report_data"] == (b"n" * 64).hex()
    assert annotated["snp"]["measurement"] == ENVIRONMENT.shape().measurements[0]


def test_simulated_result_says_so_beside_the_status() -> None:
    content = claims(TOKEN)
    assert content["sealroom.tier"] == "simulated"
    assert content["sealroom.simulated"] is True
    assert content["sealroom.environment"]["digest"] == ENVIRONMENT.digest


# --- devices


def with_gpus(count: int = 1, *, genuine: bool = False, **report: Any) -> tuple[AttestationResult, Any]:
    environment = gpus.environment(count)
    chips = [testing.gpu(seed=bytes([number]) * 32) for number in range(count)]
    devices = [gpus.verified(chip, genuine=genuine, **report) for chip in chips]
    evidence = gpus.evidence(devices, environment, genuine=genuine)
    values = gpus.values(environment, genuine=genuine)
    return appraise(evidence, environment=values, policy=Policy.strict()), evidence


@pytest.mark.parametrize("genuine", [False, True])
@pytest.mark.parametrize("report", [{}, {"measurements": {3: bytes(48)}}], ids=["good", "bad"])
def test_results_of_devices_survive_a_token(genuine: bool, report: dict[str, Any]) -> None:
    result, evidence = with_gpus(2, genuine=genuine, **report)
    assert [device.device for device in result.devices] == ["cpu0", "gpu0", "gpu1"]
    verified = verify(issue(result, evidence=evidence))
    assert verified.result == result
    assert verified.nonce == "bm9uY2U="


def test_result_of_a_missing_gpu_survives_a_token() -> None:
    environment = gpus.environment(1)
    result = appraise(gpus.evidence((), environment), environment=environment, policy=Policy.strict())
    assert verify(issue(result)).result == result


def test_devices_are_submodules_with_trustees_names() -> None:
    result, evidence = with_gpus(genuine=True)
    device = claims(issue(result, evidence=evidence))["submods"]["gpu0"]
    assert device["ear.status"] == "affirming"
    assert device["ear.trustworthiness-vector"]["executables"] == 3
    annotated = device["ear.veraison.annotated-evidence"]
    assert annotated["report_data"] == gpus.NONCE.hex()
    assert annotated["runtime_data_claims"]["nonce"] == "bm9uY2U="
    gpu = annotated["nvidia"]
    assert gpu["arch"] == "Hopper"
    assert gpu["config"]["driver_version"] == gpus.DRIVER
    assert gpu["config"]["vbios_version"] == gpus.VBIOS.lower()
    assert gpu["config"]["feature"] == "SPT"
    assert gpu["ueid"] == evidence.devices[0].device.ueid
    assert [one["kind"] for one in gpu["references"]] == ["driver", "vbios"]


def test_token_of_the_largest_server_is_accepted() -> None:
    result, evidence = with_gpus(8)
    assert verify(issue(result, evidence=evidence)).result == result


@pytest.mark.parametrize("tier", ["affirming", "warning"])
def test_simulated_result_with_a_device_that_is_believed_is_refused(tier: str) -> None:
    def change(content: dict[str, Any]) -> None:
        gpu = json.loads(json.dumps(content["submods"]["cpu0"]))
        content["submods"]["gpu0"] = gpu | {"sealroom.tier": tier, "ear.status": tier}

    with pytest.raises(ProtocolError, match="does not follow"):
        verify(signed(change))


def test_evidence_is_optional() -> None:
    token = issue(evidence=None)
    assert "snp" not in claims(token)["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    assert verify(token).result == RESULT


def test_token_fits_into_a_header() -> None:
    assert len(TOKEN) < 12 * 1024


def test_token_is_not_printed() -> None:
    assert TOKEN not in repr(verify(TOKEN))


# --- time and nonce are parameters


@pytest.mark.parametrize("after", [LIFETIME, LIFETIME + timedelta(days=400)])
def test_old_token_is_refused(after: timedelta) -> None:
    with pytest.raises(FreshnessError, match="too old"):
        verify(TOKEN, at=testing.NOW + after)


def test_token_is_good_until_its_last_second() -> None:
    assert verify(TOKEN, at=testing.NOW + LIFETIME - timedelta(seconds=1)).result == RESULT


def test_token_from_the_future_is_refused() -> None:
    with pytest.raises(FreshnessError, match="from the future"):
        verify(TOKEN, at=testing.NOW - timedelta(seconds=61))


def test_clocks_may_differ_a_little() -> None:
    assert verify(TOKEN, at=testing.NOW - timedelta(seconds=59)).result == RESULT


def test_other_nonce_is_refused() -> None:
    assert verify(TOKEN, nonce="bm9uY2U=").nonce == "bm9uY2U="
    with pytest.raises(FreshnessError, match="another nonce"):
        verify(TOKEN, nonce="b3RoZXI=")


# --- signatures


def test_every_changed_character_of_the_payload_is_refused() -> None:
    head, body, signature = TOKEN.split(".")
    for position in range(0, len(body), 97):
        other = "A" if body[position] != "A" else "B"
        with pytest.raises(Error):
            verify(f"{head}.{body[:position]}{other}{body[position + 1 :]}.{signature}")


def test_changed_signature_is_refused() -> None:
    head, body, signature = TOKEN.split(".")
    for position in (0, 40, 80):
        other = "A" if signature[position] != "A" else "B"
        with pytest.raises(SignatureError):
            verify(f"{head}.{body}.{signature[:position]}{other}{signature[position + 1 :]}")


def test_empty_signature_is_refused() -> None:
    with pytest.raises(SignatureError):
        verify(TOKEN.rsplit(".", 1)[0] + ".")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "HS256", "RS256", "EdDSA", "ES256K", "", None])
def test_other_algorithms_are_refused(name: str | None) -> None:
    token = f"{encode({'alg': name, 'kid': 'one', 'typ': 'JWT'})}.{encode(claims(TOKEN))}."
    with pytest.raises((SignatureError, FormatError)):
        verify(token)


def test_hmac_with_the_public_key_is_refused() -> None:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    message = f"{encode({'alg': 'HS256', 'kid': 'one'})}.{encode(claims(TOKEN))}"
    mac = base64.urlsafe_b64encode(hmac.digest(pem, message.encode(), hashlib.sha256)).rstrip(b"=").decode()
    with pytest.raises(SignatureError, match="not allowed"):
        verify(f"{message}.{mac}")


def test_algorithm_of_another_curve_is_refused() -> None:
    """The header says ES384, the key is on P-256."""
    head = encode({"alg": "ES384", "kid": "one", "typ": "JWT"})
    _, body, signature = TOKEN.split(".")
    with pytest.raises(SignatureError):
        verify(f"{head}.{body}.{signature}")


def test_key_in_the_header_is_ignored() -> None:
    attacker = ec.generate_private_key(ec.SECP256R1())
    jwk = ear.jwks({"one": attacker})["keys"][0]
    forged = jwt.encode(claims(TOKEN), attacker, algorithm="ES256", headers={"kid": "one", "jwk": jwk})
    with pytest.raises(SignatureError, match="does not verify"):
        verify(forged)


def test_unknown_kid_is_refused_even_with_a_key_in_the_header() -> None:
    attacker = ec.generate_private_key(ec.SECP256R1())
    jwk = ear.jwks({"new": attacker})["keys"][0]
    forged = jwt.encode(claims(TOKEN), attacker, algorithm="ES256", headers={"kid": "new", "jwk": jwk})
    with pytest.raises(SignatureError, match="not the verifier's"):
        verify(forged)


def test_missing_kid_is_refused() -> None:
    with pytest.raises(SignatureError, match="not the verifier's"):
        verify(jwt.encode(claims(TOKEN), KEY, algorithm="ES256"))


def test_key_of_another_verifier_is_refused() -> None:
    with pytest.raises(SignatureError):
        verify(TOKEN, jwks=ear.jwks({"one": P384}))


def test_no_keys_means_no_token_is_accepted() -> None:
    with pytest.raises(SignatureError):
        verify(TOKEN, jwks={"keys": []})


@pytest.mark.parametrize("header", [{"crit": ["exp"], "exp": 1}, {"crit": []}, {"b64": False}])
def test_unknown_extensions_are_refused(header: dict[str, object]) -> None:
    _, body, signature = TOKEN.split(".")
    changed = encode({"alg": "ES256", "kid": "one", "typ": "JWT", **header})
    with pytest.raises((SignatureError, FormatError)):
        verify(f"{changed}.{body}.{signature}")


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c", "....", "\x00", "é.é.é", "x" * 300_000])
def test_text_that_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(FormatError):
        verify(token)


# --- signed, and still wrong


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("submods"),
        lambda c: c.update(submods={}),
        lambda c: c.pop("exp"),
        lambda c: c.pop("iat"),
        lambda c: c.update(exp="soon"),
        lambda c: c.update(exp=10**30),
        lambda c: c.update(eat_profile="tag:example"),
        lambda c: c.update({"sealroom.tier": "affirming"}),
        lambda c: c.update({"sealroom.tier": "best"}),
        lambda c: c["submods"]["cpu0"].update({"ear.status": "affirming"}),
        lambda c: c["submods"]["cpu0"].update({"sealroom.checks": [["x"]]}),
        lambda c: c["submods"]["cpu0"].update({"sealroom.checks": [["x", "maybe"]]}),
        lambda c: c["submods"]["cpu0"].pop("ear.veraison.annotated-evidence"),
        lambda c: (
            c.update({"sealroom.tier": "affirming"}),
            c["submods"]["cpu0"].update({"sealroom.tier": "affirming", "ear.status": "affirming"}),
        ),
    ],
)
def test_signed_nonsense_is_a_protocol_error(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(ProtocolError):
        verify(signed(change))


def test_claims_of_a_newer_verifier_are_tolerated() -> None:
    token = signed(lambda c: (c.update(new=1), c["submods"]["cpu0"].update({"sealroom.new": {}})))
    assert verify(token).result == RESULT


def test_check_of_a_newer_verifier_keeps_its_sentence() -> None:
    token = signed(lambda c: c["submods"]["cpu0"]["sealroom.checks"].append(["new.check", "passed", "New."]))
    claim = verify(token).result.devices[0].claims[-1]
    assert (claim.check, claim.sentence) == ("new.check", "New.")


def test_check_of_a_newer_verifier_without_a_sentence_names_itself() -> None:
    token = signed(lambda c: c["submods"]["cpu0"]["sealroom.checks"].append(["new.check", "failed"]))
    assert verify(token).result.devices[0].claims[-1].sentence == "new.check: failed."


@given(st.text(max_size=300))
@settings(deadline=None)
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    head, body, signature = TOKEN.split(".")
    for token in (text, f"{text}.{body}.{signature}", f"{head}.{text}.{signature}", f"{head}.{body}.{text}"):
        with contextlib.suppress(Error):
            verify(token)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["alg", "kid", "jwk", "crit", "typ", "b64"]), inner)
        ),
    )
)
@settings(deadline=None)
def test_no_header_raises_anything_but_our_error(header: object) -> None:
    _, body, signature = TOKEN.split(".")
    with contextlib.suppress(Error):
        verify(f"{encode(header)}.{body}.{signature}")


@given(
    st.sampled_from(sorted(claims(TOKEN))),
    st.none()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
@settings(deadline=None, max_examples=60)
def test_no_signed_claim_raises_anything_but_our_error(name: str, value: object) -> None:
    with contextlib.suppress(Error):
        verify(signed(lambda c: c.update({name: value})))


def test_tier_of_a_verified_token_is_the_results() -> None:
    assert verify(TOKEN).result.tier is Tier.SIMULATED
