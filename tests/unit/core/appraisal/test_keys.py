# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sealroom.appraisal import keys
from sealroom.errors import FormatError

P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())


def one(**changes: object) -> dict[str, Any]:
    entry: dict[str, object] = dict(keys.jwks({"k": P256})["keys"][0])
    entry.update(changes)
    return {"keys": [{name: value for name, value in entry.items() if value is not None}]}


@pytest.mark.parametrize("key", [P256, P384], ids=["P-256", "P-384"])
def test_published_key_is_found_again(key: ec.EllipticCurvePrivateKey) -> None:
    assert keys.find_key(keys.jwks({"k": key}), "k") == key.public_key()


def test_private_half_is_not_published() -> None:
    entry = keys.jwks({"k": P256})["keys"][0]
    assert set(entry) == {"kty", "crv", "x", "y", "kid", "alg", "use"}


def test_other_libraries_read_the_set() -> None:
    found = jwt.PyJWKSet.from_json(json.dumps(keys.jwks({"k": P384})))["k"]
    assert found.key.public_numbers() == P384.public_key().public_numbers()


def test_thumbprint_is_that_of_rfc_7638() -> None:
    entry = keys.public_jwk(P256)
    assert list(entry) == sorted(entry)
    assert len(base64.urlsafe_b64decode(keys.thumbprint(P256) + "=")) == 32
    assert keys.thumbprint(P256) == keys.thumbprint(P256.public_key())
    assert keys.thumbprint(P256) != keys.thumbprint(P384)


def test_unknown_id_is_not_found() -> None:
    assert keys.find_key(keys.jwks({"k": P256}), "other") is None


def test_two_keys_with_one_id_are_refused() -> None:
    with pytest.raises(FormatError, match="two keys"):
        keys.find_key({"keys": one()["keys"] * 2}, "k")


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "RSA"},
        {"crv": "P-521"},
        {"crv": None},
        {"crv": ["P-256"]},
        {"use": "enc"},
        {"alg": "ES384"},
        {"x": None},
        {"x": 5},
        {"x": "AAAA"},
        {"x": "é" * 43},
        {"x": "A" * 43},
        {"y": keys.public_jwk(P256)["y"] + "="},
    ],
    ids=str,
)
def test_wrong_key_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        keys.find_key(one(**changes), "k")


@pytest.mark.parametrize("document", [None, [], {}, {"keys": {}}, "keys"])
def test_document_that_is_no_set_is_refused(document: object) -> None:
    with pytest.raises(FormatError, match="no list of keys"):
        keys.find_key(document, "k")


def test_other_curves_are_a_programming_mistake() -> None:
    with pytest.raises(ValueError, match="secp521r1"):
        keys.jwks({"k": ec.generate_private_key(ec.SECP521R1())})
