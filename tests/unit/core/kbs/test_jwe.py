# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.errors import ProtocolError
from sealroom.kbs.jwe import KeyKind, TeeKey, b64url, b64url_decode, check_public_jwk, encrypt

KINDS: tuple[KeyKind, ...] = ("P-256", "P-521", "RSA")
KEYS = {kind: TeeKey.generate(kind) for kind in KINDS}


def header_of(jwe: Mapping[str, str]) -> bytes:
    return b64url_decode(jwe["protected"], "header")


def with_header(jwe: Mapping[str, str], change: Callable[[dict[str, Any]], Any]) -> dict[str, str]:
    header = json.loads(header_of(jwe))
    change(header)
    return {**jwe, "protected": b64url(json.dumps(header, separators=(",", ":")).encode())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plaintext", [b"", b"key", bytes(100_000)], ids=["empty", "short", "long"])
def test_what_is_encrypted_is_decrypted(kind: KeyKind, plaintext: bytes) -> None:
    assert KEYS[kind].decrypt(encrypt(plaintext, KEYS[kind].public_jwk())) == plaintext


@pytest.mark.parametrize("kind", ["P-256", "P-521"])
def test_the_protected_header_is_compact_and_in_the_order_of_the_guests_client(kind: KeyKind) -> None:
    jwe = encrypt(b"x", KEYS[kind].public_jwk())
    epk = json.loads(header_of(jwe))["epk"]
    expected = (
        f'{{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{{"crv":"{kind}","kty":"EC",'
        f'"x":"{epk["x"]}","y":"{epk["y"]}"}}}}'
    )
    assert header_of(jwe).decode() == expected


def test_the_protected_header_for_an_rsa_key_is_compact() -> None:
    assert header_of(encrypt(b"x", KEYS["RSA"].public_jwk())) == b'{"alg":"RSA-OAEP-256","enc":"A256GCM"}'


@pytest.mark.parametrize("kind", KINDS)
def test_the_message_has_exactly_the_members_that_trustee_sends(kind: KeyKind) -> None:
    jwe = encrypt(b"x", KEYS[kind].public_jwk())
    assert set(jwe) == {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    assert not any("=" in value for value in jwe.values())
    assert len(b64url_decode(jwe["iv"], "iv")) == 12


def test_every_message_has_its_own_key_and_iv() -> None:
    one, other = (encrypt(b"x", KEYS["P-256"].public_jwk()) for _ in range(2))
    assert all(one[member] != other[member] for member in one)


@pytest.mark.parametrize("kind", KINDS)
def test_public_keys_have_the_members_of_the_protocol(kind: KeyKind) -> None:
    members = {"RSA": ["kty", "alg", "n", "e"]}.get(kind, ["kty", "crv", "alg", "x", "y"])
    assert list(KEYS[kind].public_jwk()) == members
    check_public_jwk(KEYS[kind].public_jwk())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", ["encrypted_key", "iv", "ciphertext", "tag"])
def test_a_changed_byte_is_noticed(kind: KeyKind, member: str) -> None:
    jwe = encrypt(b"secret", KEYS[kind].public_jwk())
    data = bytearray(b64url_decode(jwe[member], member))
    data[0] ^= 1
    with pytest.raises(ProtocolError):
        KEYS[kind].decrypt({**jwe, member: b64url(bytes(data))})


def test_a_message_for_another_key_is_refused() -> None:
    jwe = encrypt(b"secret", TeeKey.generate().public_jwk())
    with pytest.raises(ProtocolError, match="this server's key"):
        KEYS["P-256"].decrypt(jwe)


def test_a_message_for_another_kind_of_key_is_refused() -> None:
    jwe = encrypt(b"secret", KEYS["RSA"].public_jwk())
    with pytest.raises(ProtocolError, match="alg"):
        KEYS["P-256"].decrypt(jwe)


def test_a_message_on_another_curve_is_refused() -> None:
    with pytest.raises(ProtocolError, match="another curve"):
        KEYS["P-521"].decrypt(encrypt(b"secret", KEYS["P-256"].public_jwk()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda header: header.update(enc="A128GCM"), "A256GCM"),
        (lambda header: header.pop("enc"), "A256GCM"),
        (lambda header: header.update(alg="dir"), "alg"),
        (lambda header: header.update(alg=["ECDH-ES+A256KW"]), "A256GCM"),
        (lambda header: header.update(alg="RSA1_5"), "alg"),
        (lambda header: header.pop("epk"), "ephemeral"),
        (lambda header: header["epk"].update(d="x"), "ephemeral"),
        (lambda header: header.update(crit=["exp"]), "not understood"),
        (lambda header: header.update(zip="DEF"), "not understood"),
        (lambda header: header.update(apu="eA"), "not understood"),
    ],
    ids=["enc", "no-enc", "dir", "alg-list", "rsa1_5", "no-epk", "private-epk", "crit", "zip", "apu"],
)
def test_another_header_is_refused(change: Callable[[dict[str, Any]], Any], why: str) -> None:
    jwe = encrypt(b"secret", KEYS["P-256"].public_jwk())
    with pytest.raises(ProtocolError, match=why):
        KEYS["P-256"].decrypt(with_header(jwe, change))


def test_an_ephemeral_key_off_the_curve_is_refused() -> None:
    jwe = encrypt(b"secret", KEYS["P-256"].public_jwk())
    off = b64url(b"\1" * 32)
    with pytest.raises(ProtocolError, match="point of its curve"):
        KEYS["P-256"].decrypt(with_header(jwe, lambda header: header["epk"].update(x=off)))


@pytest.mark.parametrize("member", ["header", "unprotected", "aad", "recipients"])
def test_a_member_that_the_tag_does_not_cover_is_refused(member: str) -> None:
    jwe = encrypt(b"secret", KEYS["P-256"].public_jwk())
    with pytest.raises(ProtocolError, match="not covered"):
        KEYS["P-256"].decrypt({**jwe, member: {}})


@pytest.mark.parametrize("member", ["protected", "encrypted_key", "iv", "ciphertext", "tag"])
@pytest.mark.parametrize("value", [None, 7, "a", "!", "YQ==", "é", "YR"], ids=str)
def test_a_member_that_is_no_base64url_is_refused(member: str, value: object) -> None:
    jwe: dict[str, object] = {**encrypt(b"secret", KEYS["P-256"].public_jwk()), member: value}
    with pytest.raises(ProtocolError):
        KEYS["P-256"].decrypt(jwe)


@given(
    member=st.sampled_from(["protected", "encrypted_key", "iv", "ciphertext", "tag"]),
    value=st.binary(max_size=200).map(b64url) | st.text(max_size=50),
)
@settings(deadline=None)
def test_nothing_but_our_error_leaves_decrypt(member: str, value: str) -> None:
    jwe = encrypt(b"secret", KEYS["P-256"].public_jwk())
    try:
        KEYS["P-256"].decrypt({**jwe, member: value})
    except ProtocolError:
        return
    assert jwe[member] == value


EC = KEYS["P-256"].public_jwk()
RSA = KEYS["RSA"].public_jwk()
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key().public_numbers()


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        ({}, "neither"),
        ({**EC, "kty": "OKP"}, "neither"),
        ({**EC, "kty": ["EC"]}, "neither"),
        ({**EC, "crv": "P-384"}, "not supported"),
        ({**EC, "crv": "secp256k1"}, "not supported"),
        ({**EC, "alg": "ECDH-ES"}, "not supported"),
        ({**EC, "use": "enc"}, "not understood"),
        ({**EC, "d": "eA"}, "not understood"),
        ({name: value for name, value in EC.items() if name != "y"}, "lacks"),
        ({**EC, "x": 1}, "not understood"),
        ({**EC, "x": b64url(bytes(32))}, "point"),
        ({**EC, "x": b64url(b"\0" + b64url_decode(EC["x"], ""))}, "length"),
        ({**EC, "x": EC["x"] + "="}, "base64url"),
        ({**RSA, "alg": "RSA1_5"}, "RSA-OAEP-256"),
        ({**RSA, "n": b64url(SMALL.n.to_bytes(128))}, "size"),
        ({**RSA, "n": b64url(b"\xff" * 1024)}, "size"),
        ({**RSA, "e": b64url(b"\xff" * 9)}, "size"),
        ({**RSA, "e": b64url(b"\1")}, "no RSA key"),
        ({**RSA, "e": b64url(b"\2")}, "no RSA key"),
        ({**RSA, "e": b64url(b"")}, "no RSA key"),
        ({**RSA, "n": b64url(b"\x80" + bytes(255))}, "no RSA key"),
        ({**EC, "x": b64url(bytes(32)), "y": b64url(bytes(32))}, "point"),
        ({**EC, "x": b64url(b"\xff" * 32)}, "point"),
        ({**EC, "crv": "P-521"}, "length"),
        ({"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA"}, "neither"),
    ],
)
def test_a_public_key_that_must_not_be_encrypted_to_is_refused(jwk: dict[str, Any], why: str) -> None:
    with pytest.raises(ProtocolError, match=why):
        check_public_jwk(jwk)
    with pytest.raises(ProtocolError, match=why):
        encrypt(b"secret", jwk)


def pem(key: Any) -> bytes:
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def test_a_key_is_read_from_pem() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key = TeeKey.from_pem(pem(private))
    x = private.public_key().public_numbers().x.to_bytes(32)
    assert base64.urlsafe_b64decode(key.public_jwk()["x"] + "=") == x


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not pem",
        pem(ed25519.Ed25519PrivateKey.generate()),
        pem(ec.generate_private_key(ec.SECP384R1())),
    ],
    ids=["empty", "text", "ed25519", "p384"],
)
def test_a_pem_of_another_key_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        TeeKey.from_pem(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_does_not_print_or_pickle_its_secret(kind: KeyKind) -> None:
    key = KEYS[kind]
    assert repr(key).startswith("TeeKey(")
    assert not any(value in repr(key) for value in key.public_jwk().values() if len(value) > 20)
    with pytest.raises(TypeError):
        pickle.dumps(key)
