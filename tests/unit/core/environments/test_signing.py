# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from sealroom import testing
from sealroom.environments import (
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    private_pem,
    public_pem,
    sign,
    verify,
)
from sealroom.errors import ConfigurationError, FormatError, SignatureError

KEY = generate_key()
RAW = testing.environment().raw
SIGNATURE = sign(RAW, KEY)


def test_signed_manifest_is_accepted() -> None:
    assert verify(RAW, SIGNATURE, [KEY.public_key()]).name == "simulated-cpu"


def test_one_of_several_publishers_is_enough() -> None:
    keys = [generate_key().public_key(), KEY.public_key()]
    assert verify(RAW, SIGNATURE, keys).digest == testing.environment().digest


def test_signature_file_is_one_line_of_base64() -> None:
    assert SIGNATURE.endswith(b"\n")
    assert SIGNATURE.count(b"\n") == 1
    assert len(base64.b64decode(SIGNATURE)) == 64


def test_every_changed_byte_is_refused() -> None:
    for position in range(0, len(RAW), 7):
        changed = RAW[:position] + bytes([RAW[position] ^ 1]) + RAW[position + 1 :]
        with pytest.raises(SignatureError):
            verify(changed, SIGNATURE, [KEY.public_key()])


def test_other_publisher_is_refused() -> None:
    with pytest.raises(SignatureError, match="not signed by a publisher"):
        verify(RAW, SIGNATURE, [generate_key().public_key()])


def test_no_trusted_publisher_means_nothing_is_accepted() -> None:
    with pytest.raises(SignatureError):
        verify(RAW, SIGNATURE, [])


@pytest.mark.parametrize("signature", [b"", b"!!!!", b"AAAA", SIGNATURE[:-5], SIGNATURE + SIGNATURE, b"\xff"])
def test_malformed_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(FormatError):
        verify(RAW, signature, [KEY.public_key()])


def test_signed_bytes_that_are_no_manifest_are_refused() -> None:
    with pytest.raises(FormatError):
        verify(b"x = 1", base64.b64encode(KEY.sign(b"x = 1")), [KEY.public_key()])


def test_wrong_manifest_is_not_signed() -> None:
    with pytest.raises(FormatError):
        sign(b"x = 1", KEY)


def test_keys_survive_their_files() -> None:
    assert private_pem(load_private_key(private_pem(KEY))) == private_pem(KEY)
    assert load_public_key(public_pem(KEY)) == KEY.public_key()
    assert public_pem(KEY.public_key()) == public_pem(KEY)


def test_key_id_is_short_and_of_the_key() -> None:
    assert len(key_id(KEY.public_key())) == 16
    assert key_id(KEY.public_key()) != key_id(generate_key().public_key())


def test_wrong_private_keys_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    locked = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    for pem in (
        b"",
        public_pem(KEY),
        locked,
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ):
        with pytest.raises(ConfigurationError):
            load_private_key(pem)


def test_wrong_public_keys_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for pem in (
        b"",
        private_pem(KEY),
        other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ):
        with pytest.raises(ConfigurationError):
            load_public_key(pem)
