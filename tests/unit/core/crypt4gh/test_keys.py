# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.crypt4gh import (
    DataKey,
    PublicKey,
    SecretKey,
    needs_passphrase,
    read_public_key,
    read_secret_key,
    write_public_key,
    write_secret_key,
)
from sealroom.errors import Error, FormatError


@pytest.fixture(scope="module")
def secret() -> SecretKey:
    return SecretKey.generate()


def rewrite(pem: bytes, old: bytes, new: bytes) -> bytes:
    """Return a key file whose decoded content has some bytes replaced."""
    first, text, last = pem.strip().splitlines()
    raw = base64.b64decode(text)
    assert old in raw
    return b"\n".join([first, base64.b64encode(raw.replace(old, new, 1)), last])


def test_public_key_file_round_trips(secret: SecretKey) -> None:
    assert read_public_key(write_public_key(secret.public)) == secret.public


def test_secret_key_file_without_passphrase_round_trips(secret: SecretKey) -> None:
    data = write_secret_key(secret, comment=b"dataset heartbeats")
    assert not needs_passphrase(data)
    assert read_secret_key(data) == secret


@pytest.mark.parametrize("kdf", ["scrypt", "bcrypt", "pbkdf2_hmac_sha256"])
def test_secret_key_file_with_passphrase_round_trips(secret: SecretKey, kdf: str) -> None:
    data = write_secret_key(secret, b"open sesame", kdf=kdf)  # type: ignore[arg-type]
    assert needs_passphrase(data)
    assert read_secret_key(data, b"open sesame") == secret
    assert secret.reveal() not in base64.b64decode(data.splitlines()[1])


def test_wrong_passphrase_is_refused(secret: SecretKey) -> None:
    data = write_secret_key(secret, b"right")
    with pytest.raises(FormatError, match="does not open"):
        read_secret_key(data, b"wrong")


def test_missing_passphrase_says_so(secret: SecretKey) -> None:
    with pytest.raises(FormatError, match="locked") as caught:
        read_secret_key(write_secret_key(secret, b"right"))
    assert "passphrase" in caught.value.diagnostics()


def test_empty_passphrase_with_bcrypt_is_refused(secret: SecretKey) -> None:
    with pytest.raises(FormatError, match="empty passphrase"):
        read_secret_key(write_secret_key(secret, b"right", kdf="bcrypt"), b"")


def test_too_many_rounds_are_refused(secret: SecretKey) -> None:
    data = write_secret_key(secret, b"right", kdf="pbkdf2_hmac_sha256")
    hostile = rewrite(data, (100_000).to_bytes(4, "big"), (0xFFFFFFFF).to_bytes(4, "big"))
    with pytest.raises(FormatError, match="4294967295 rounds"):
        read_secret_key(hostile, b"right")


def test_zero_rounds_are_refused(secret: SecretKey) -> None:
    data = write_secret_key(secret, b"right", kdf="bcrypt")
    with pytest.raises(FormatError, match="0 rounds"):
        read_secret_key(rewrite(data, (100).to_bytes(4, "big"), bytes(4)), b"right")


def test_unknown_key_derivation_is_refused(secret: SecretKey) -> None:
    with pytest.raises(FormatError, match="not known") as caught:
        read_secret_key(rewrite(write_secret_key(secret, b"right"), b"scrypt", b"argon2"), b"right")
    assert caught.value.field == "kdf"


def test_unknown_cipher_is_refused(secret: SecretKey) -> None:
    hostile = rewrite(write_secret_key(secret, b"right"), b"chacha20_poly1305", b"chacha20_poly1306")
    with pytest.raises(FormatError, match="cipher"):
        read_secret_key(hostile, b"right")


def test_cipher_without_key_derivation_is_refused(secret: SecretKey) -> None:
    hostile = rewrite(write_secret_key(secret), b"\x00\x04none\x00\x04none", b"\x00\x04none\x00\x04nine")
    with pytest.raises(FormatError, match="cipher"):
        read_secret_key(hostile)


def test_public_key_given_as_secret_is_refused(secret: SecretKey) -> None:
    with pytest.raises(FormatError, match="not a Crypt4GH secret key"):
        read_secret_key(write_public_key(secret.public))


def test_secret_key_given_as_public_is_refused_without_showing_it(secret: SecretKey) -> None:
    data = write_secret_key(secret)
    with pytest.raises(FormatError, match="not a Crypt4GH public key") as caught:
        read_public_key(data)
    assert data.splitlines()[1].decode() not in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_of_wrong_length_is_refused(size: int) -> None:
    for kind in (PublicKey, SecretKey, DataKey):
        with pytest.raises(FormatError, match="32 bytes"):
            kind(bytes(size))


@given(st.binary(max_size=300))
def test_no_bytes_make_a_key_parser_raise_anything_else(data: bytes) -> None:
    pem = (
        b"-----BEGIN CRYPT4GH PRIVATE KEY-----\n" + base64.b64encode(b"c4gh-v1" + data) + b"\n-----END X-----"
    )
    for file in (data, pem):
        for parse in (read_public_key, read_secret_key, needs_passphrase):
            try:
                parse(file)
            except Error:
                continue


def test_secrets_are_not_printed(secret: SecretKey) -> None:
    data_key = DataKey(secret.reveal())
    for shown in (repr(secret), str(secret), repr(data_key), f"{data_key}", repr([secret, data_key])):
        assert secret.reveal().hex() not in shown
        assert str(secret.reveal()) not in shown
        assert "not shown" in shown


def test_secrets_are_not_pickled_or_copied(secret: SecretKey) -> None:
    for key in (secret, DataKey.generate()):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(key)
        with pytest.raises(TypeError, match="not pickled"):
            copy.copy(key)


def test_wiped_keys_cannot_be_used() -> None:
    secret, data_key = SecretKey.generate(), DataKey.generate()
    held = secret._raw, data_key._raw
    secret.wipe()
    data_key.wipe()
    assert all(not any(raw) for raw in held)
    with pytest.raises(RuntimeError, match="wiped"):
        secret.reveal()
    with pytest.raises(RuntimeError, match="wiped"):
        secret.shared_with(SecretKey.generate().public)
    with pytest.raises(RuntimeError, match="wiped"):
        data_key.reveal()


def test_public_key_as_base64_round_trips_and_names_itself(secret: SecretKey) -> None:
    assert PublicKey.from_base64(secret.public.to_base64()) == secret.public
    assert secret.public.fingerprint.startswith("SHA256:")
    assert secret.public.fingerprint in repr(secret.public)
    with pytest.raises(FormatError, match="not base64"):
        PublicKey.from_base64("no base64!")


def test_point_of_small_order_is_refused(secret: SecretKey) -> None:
    with pytest.raises(FormatError, match="usable"):
        secret.shared_with(PublicKey(bytes(32)))
