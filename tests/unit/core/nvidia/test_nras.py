# SPDX-License-Identifier: BSD-3-Clause
"""Tokens of NVIDIA's service: the recorded answer signed again with our key, one thing wrong at a time."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sealroom.appraisal import ear
from sealroom.checks import Outcome
from sealroom.errors import (
    AppraisalError,
    ChainError,
    Error,
    ExpiredError,
    FormatError,
    FreshnessError,
    NotYetValidError,
    SignatureError,
)
from sealroom.nvidia.nras import ISSUER, MAX_TOKEN, NrasResult, verify_token
from support.nvidia import detail, error_of, outcome, refused

TOKEN, SUBMODS, NONCE_CHECK, RESULT = (
    f"nvidia.nras.{name}" for name in ("token", "submods", "nonce", "result")
)
AT = datetime(2025, 6, 11, 0, 40, tzinfo=UTC)
ISSUED = int(AT.timestamp()) - 60
NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")


@functools.cache
def key(name: str = "ours") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def jwks() -> Mapping[str, Any]:
    return ear.jwks({"ours": key()})


def token(
    claims: object,
    *,
    algorithm: str = "ES384",
    signer: ec.EllipticCurvePrivateKey | bytes | None = None,
    header: Mapping[str, Any] | None = None,
) -> str:
    headers = {"kid": "ours"} if header is None else dict(header)
    payload = json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, signer or key(), algorithm=algorithm, headers=headers)


COMMON = {"iss": ISSUER, "iat": ISSUED, "nbf": ISSUED, "exp": ISSUED + 3600, "eat_nonce": NONCE.hex()}
DEVICE = {**COMMON, "measres": "success", "hwmodel": "GH100 A01 GSP BROM"}


def answer(
    *, overall: Mapping[str, Any] | None = None, device: Mapping[str, Any] | None = None, **options: Any
) -> bytes:
    """Return a good answer about one device, but for what is replaced."""
    about = token({**DEVICE, **(device or {})})
    digest = hashlib.sha256(about.encode()).hexdigest()
    submods = {"GPU-0": ["DIGEST", ["SHA-256", digest]]}
    claims = {**COMMON, "x-nvidia-overall-att-result": True, "submods": submods, **(overall or {})}
    return json.dumps([["JWT", token(claims, **options)], {"GPU-0": about}]).encode()


def verify(data: bytes, at: datetime = AT, nonce: bytes | None = NONCE, **options: Any) -> NrasResult:
    return verify_token(data, jwks=options.pop("jwks", jwks()), at=at, nonce=nonce, **options)


def without(claims: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {known: value for known, value in claims.items() if known != name}


# --- the recorded answer


@pytest.fixture
def recorded(vectors: Path) -> bytes:
    return (vectors / "nvidia" / "nras_hopper_550.90.07_detached_eat.json").read_bytes()


def payload(of: str) -> dict[str, Any]:
    part = of.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def test_recorded_answer_is_of_a_key_that_is_not_given(recorded: bytes) -> None:
    """Its key is not among the vectors, so its signature is neither confirmed nor believed."""
    error = refused(ChainError, TOKEN, lambda: verify(recorded))
    assert "does not publish" in error.message


def test_digest_in_the_recorded_answer_is_the_one_that_is_compared(recorded: bytes) -> None:
    (_, overall), tokens = json.loads(recorded)
    digest = hashlib.sha256(tokens["GPU-0"].encode()).hexdigest()
    assert payload(overall)["submods"]["GPU-0"] == ["DIGEST", ["SHA-256", digest]]


def signed_again(recorded: bytes) -> bytes:
    (_, overall), tokens = json.loads(recorded)
    about = token(payload(tokens["GPU-0"]))
    claims = payload(overall)
    claims["submods"]["GPU-0"][1][1] = hashlib.sha256(about.encode()).hexdigest()
    return json.dumps([["JWT", token(claims)], {"GPU-0": about}]).encode()


def test_recorded_claims_signed_again_are_accepted(recorded: bytes, vectors: Path) -> None:
    at = datetime.fromtimestamp(1749601858 + 60, UTC)
    result = verify(signed_again(recorded), at)

    decoded = json.loads((vectors / "nvidia" / "nras_hopper_550.90.07_claims.json").read_text())
    assert dict(result.devices["GPU-0"]) == decoded["GPU-0"]
    assert result.devices["GPU-0"]["x-nvidia-gpu-driver-version"] == "550.90.07"
    assert result.expires - result.issued == timedelta(hours=1)
    assert {one.outcome for one in result.checks} == {Outcome.PASSED}


def test_recorded_claims_signed_again_end_after_an_hour(recorded: bytes) -> None:
    at = datetime.fromtimestamp(1749605458, UTC)
    refused(ExpiredError, TOKEN, lambda: verify(signed_again(recorded), at))


# --- good answers


def test_good_answer() -> None:
    result = verify(answer())
    assert [one.id for one in result.checks] == [TOKEN, SUBMODS, NONCE_CHECK, RESULT]
    assert detail(result.checks, SUBMODS) == "GPU-0"


def test_without_a_nonce_freshness_is_not_asked() -> None:
    assert outcome(verify(answer(), nonce=None).checks, NONCE_CHECK) is Outcome.NOT_ASKED


def test_another_service_can_be_named() -> None:
    mine = answer(overall={"iss": "https://nras.example"}, device={"iss": "https://nras.example"})
    assert verify(mine, issuer="https://nras.example").devices.keys() == {"GPU-0"}


# --- signature and issuer


def test_token_signed_with_another_key() -> None:
    refused(SignatureError, TOKEN, lambda: verify(answer(signer=key("other"))))


def test_key_that_is_not_published() -> None:
    refused(ChainError, TOKEN, lambda: verify(answer(header={"kid": "theirs"})))
    refused(ChainError, TOKEN, lambda: verify(answer(header={})))
    refused(ChainError, TOKEN, lambda: verify(answer(), jwks={"keys": [dict(jwks()["keys"][0], kid="x")]}))


def test_another_algorithm() -> None:
    weak = ec.generate_private_key(ec.SECP256R1())
    keys = ear.jwks({"ours": key()})
    refused(SignatureError, TOKEN, lambda: verify(answer(algorithm="ES256", signer=weak), jwks=keys))


def test_token_without_a_signature() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none","kid":"ours"}').rstrip(b"=").decode()
    (_, overall), tokens = json.loads(answer())
    bare = ".".join((head, overall.split(".")[1], ""))
    refused(SignatureError, TOKEN, lambda: verify(json.dumps([["JWT", bare], tokens]).encode()))


def test_token_signed_with_the_public_key_as_a_secret() -> None:
    public = key().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    refused(SignatureError, TOKEN, lambda: verify(answer(algorithm="HS384", signer=public)))


@pytest.mark.parametrize("which", ["overall", "device"])
def test_another_issuer(which: str) -> None:
    error = refused(ChainError, TOKEN, lambda: verify(answer(**{which: {"iss": "https://evil.example"}})))
    assert ISSUER in error.message


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("which", ["overall", "device"])
def test_token_with_a_changed_part(which: str, part: int) -> None:
    (_, overall), tokens = json.loads(answer())
    parts = (overall if which == "overall" else tokens["GPU-0"]).split(".")
    parts[part] = parts[part][:5] + ("A" if parts[part][5] != "A" else "B") + parts[part][6:]
    if which == "overall":
        overall = ".".join(parts)
    else:
        tokens["GPU-0"] = ".".join(parts)
    with pytest.raises(Error):
        verify(json.dumps([["JWT", overall], tokens]).encode())


@pytest.mark.parametrize("which", ["overall", "device"])
@pytest.mark.parametrize("algorithm", ["none", "NONE", "", 7, None, "HS384", "ES256", "es384"])
def test_header_that_names_another_algorithm(which: str, algorithm: object) -> None:
    (_, overall), tokens = json.loads(answer())
    parts = (overall if which == "overall" else tokens["GPU-0"]).split(".")
    raw = json.dumps({"kid": "ours", "alg": algorithm}).encode()
    changed = ".".join((base64.urlsafe_b64encode(raw).rstrip(b"=").decode(), *parts[1:]))
    pair = [["JWT", changed], tokens] if which == "overall" else [["JWT", overall], {"GPU-0": changed}]
    error = error_of(lambda: verify(json.dumps(pair).encode()))
    assert error is not None
    assert error.check == TOKEN


def test_critical_header_that_is_not_known() -> None:
    data = answer(header={"kid": "ours", "crit": ["x"], "x": 1})
    error = error_of(lambda: verify(data))
    assert error is not None
    assert error.check == TOKEN


def test_key_of_another_kind_under_the_right_name_is_none() -> None:
    secret = {"kty": "oct", "kid": "ours", "k": "AAAA", "alg": "HS384"}
    refused(ChainError, TOKEN, lambda: verify(answer(), jwks={"keys": [secret]}))


def test_key_on_another_curve_under_the_right_name() -> None:
    weak = ear.jwks({"ours": key()})["keys"][0]
    other = jwt.algorithms.ECAlgorithm.to_jwk(
        ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True
    )
    error = error_of(lambda: verify(answer(), jwks={"keys": [{**other, "kid": "ours", "alg": weak["alg"]}]}))
    assert error is not None
    assert error.check == TOKEN


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_nonce_of_another_size_is_misuse(size: int) -> None:
    """An empty one would be answered by a token without any."""
    with pytest.raises(ValueError, match="32 bytes"):
        verify(answer(overall={"eat_nonce": ""}, device={"eat_nonce": ""}), nonce=bytes(size))


# --- time


def test_token_that_has_ended() -> None:
    refused(ExpiredError, TOKEN, lambda: verify(answer(), AT + timedelta(hours=1)))


@pytest.mark.parametrize("which", ["overall", "device"])
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_token_of_a_later_time(which: str, claim: str) -> None:
    later = {claim: int(AT.timestamp()) + 300}
    refused(NotYetValidError, TOKEN, lambda: verify(answer(**{which: later})))


def test_device_token_that_has_ended_before_the_overall_one() -> None:
    refused(ExpiredError, TOKEN, lambda: verify(answer(device={"exp": ISSUED + 1})))


@pytest.mark.parametrize("claim", ["exp", "iat", "iss"])
def test_token_without_a_time_or_an_issuer(claim: str) -> None:
    (_, _), tokens = json.loads(answer())
    claims = without({**COMMON, "x-nvidia-overall-att-result": True, "submods": {}}, claim)
    data = json.dumps([["JWT", token(claims)], tokens]).encode()
    refused(SignatureError, TOKEN, lambda: verify(data))


@pytest.mark.parametrize("value", ["tomorrow", None, True, [], 1e300, -1e300])
def test_time_that_is_none(value: object) -> None:
    with pytest.raises(Error) as caught:
        verify(answer(overall={"exp": value}))
    assert caught.value.check == TOKEN


def test_time_without_a_zone_is_misuse() -> None:
    with pytest.raises(TypeError, match="time zone"):
        verify(answer(), datetime(2025, 6, 11))  # noqa: DTZ001


# --- devices


def test_device_token_that_was_swapped() -> None:
    (head, overall), _ = json.loads(answer())
    data = json.dumps([[head, overall], {"GPU-0": token({**DEVICE, "hwmodel": "other"})}]).encode()
    refused(SignatureError, SUBMODS, lambda: verify(data))


@pytest.mark.parametrize("names", [["GPU-1"], ["GPU-0", "GPU-1"]])
def test_device_token_of_another_name(names: list[str]) -> None:
    head, tokens = json.loads(answer())
    data = json.dumps([head, dict.fromkeys(names, tokens["GPU-0"])]).encode()
    refused(SignatureError, SUBMODS, lambda: verify(data))


@pytest.mark.parametrize(
    "submods", [None, [], {}, {"GPU-0": "DIGEST"}, {"GPU-0": ["DIGEST", ["SHA-1", "00"]]}]
)
def test_overall_token_that_does_not_name_the_device(submods: object) -> None:
    refused(SignatureError, SUBMODS, lambda: verify(answer(overall={"submods": submods})))


# --- nonce and result


@pytest.mark.parametrize("which", ["overall", "device"])
@pytest.mark.parametrize("value", ["00" * 32, "", None, 7, "\ud800"])
def test_another_nonce(which: str, value: object) -> None:
    refused(FreshnessError, NONCE_CHECK, lambda: verify(answer(**{which: {"eat_nonce": value}})))


@pytest.mark.parametrize("value", [False, None, "true", 1])
def test_overall_result_that_is_not_true(value: object) -> None:
    refused(AppraisalError, RESULT, lambda: verify(answer(overall={"x-nvidia-overall-att-result": value})))


@pytest.mark.parametrize("value", ["fail", None, True])
def test_device_whose_measurements_are_no_success(value: object) -> None:
    error = refused(AppraisalError, RESULT, lambda: verify(answer(device={"measres": value})))
    assert "GPU-0" in error.message


# --- bytes


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"{}", id="an object"),
        pytest.param(b"[]", id="empty"),
        pytest.param(b'[["JWT"], {}]', id="no overall token"),
        pytest.param(b'[["EAT", "x"], {"GPU-0": "x"}]', id="another kind"),
        pytest.param(b'[["JWT", 7], {"GPU-0": "x"}]', id="a number"),
        pytest.param(b'[["JWT", "x"], {}]', id="no device"),
        pytest.param(b'[["JWT", "x"], {"GPU-0": 7}]', id="a device that is a number"),
        pytest.param(b'[["JWT", "x"], {"GPU-0": "x"}]', id="no JWT"),
        pytest.param(b'[["JWT", "a.b.c"], {"GPU-0": "x"}]', id="no base64"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b" " * (MAX_TOKEN + 1), id="too long"),
        pytest.param(
            json.dumps([["JWT", "x"], {f"GPU-{n}": "x" for n in range(33)}]).encode(), id="too many devices"
        ),
    ],
)
def test_bytes_that_are_no_answer(data: bytes) -> None:
    refused(FormatError, TOKEN, lambda: verify(data))


@pytest.mark.parametrize("keys", [{}, {"keys": []}, {"keys": [{}]}, {"keys": "x"}, {"keys": [{"kty": "EC"}]}])
def test_keys_that_are_no_jwks(keys: Mapping[str, Any]) -> None:
    refused(FormatError, TOKEN, lambda: verify(answer(), jwks=keys))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(json_values)
def test_no_document_raises_anything_else(document: object) -> None:
    for data in (document, [["JWT", document], {"GPU-0": document}]):
        with pytest.raises(Error):
            verify(json.dumps(data).encode())


@given(st.sampled_from(sorted({**COMMON, "submods": 0, "x-nvidia-overall-att-result": 0})), json_values)
def test_no_claim_raises_anything_else(name: str, value: object) -> None:
    error = error_of(lambda: verify(answer(overall={name: value})))
    assert error is None or error.check.startswith("nvidia.nras.")


def raw_token(payload: bytes, header: bytes = b'{"alg":"ES384","kid":"ours"}') -> str:
    """Return a token with these bytes as they are, signed well."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA384).sign(b".".join(parts), key())
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


HUGE = b"9" * 5000


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff", id="no text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"7", id="a number"),
        pytest.param(HUGE, id="a huge number"),
        pytest.param(b'{"exp": ' + HUGE + b"}", id="a huge time"),
        pytest.param(b'{"exp": NaN, "iat": NaN, "iss": "' + ISSUER.encode() + b'"}', id="no number"),
        pytest.param(b'{"exp": Infinity, "iat": 0, "iss": "' + ISSUER.encode() + b'"}', id="for ever"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"a":' * 100_000, id="deep objects"),
        pytest.param(b'{"iss": "\\ud800", "exp": 1, "iat": 1}', id="half a character"),
    ],
)
def test_payload_that_is_signed_and_says_nothing_sensible(payload: bytes) -> None:
    about = raw_token(payload)
    for data in ([["JWT", about], {"GPU-0": about}], [["JWT", token(COMMON)], {"GPU-0": about}]):
        error = error_of(lambda data=data: verify(json.dumps(data).encode()))  # type: ignore[misc]
        assert error is not None
        assert error.check == TOKEN


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(HUGE, id="a huge number"),
        pytest.param(b'{"kid": ' + HUGE + b"}", id="a huge number in it"),
        pytest.param(b'{"kid": "\\ud800"}', id="half a character"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_header_that_says_nothing_sensible(header: bytes) -> None:
    about = raw_token(b"{}", header)
    error = error_of(lambda: verify(json.dumps([["JWT", about], {"GPU-0": about}]).encode()))
    assert error is not None
    assert error.check == TOKEN


def test_document_with_a_huge_number() -> None:
    refused(FormatError, TOKEN, lambda: verify(b'[["JWT", ' + HUGE + b'], {"GPU-0": "x"}]'))
