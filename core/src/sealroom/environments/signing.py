# SPDX-License-Identifier: BSD-3-Clause
"""Detached signatures of manifests: Ed25519 over the manifest's exact bytes.

The signature file `<manifest>.sig` is one line: the 64 bytes of the signature in standard base64. Keys are
PEM (PKCS#8 and SubjectPublicKeyInfo), so `openssl pkeyutl -verify -rawin` can check a signature too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sealroom.environments.manifest import Environment
from sealroom.errors import ConfigurationError, FormatError, SignatureError

SIGNATURE_SIZE = 64


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the content of the signature file for a manifest, which must be valid."""
    Environment.from_toml(manifest)
    return base64.b64encode(key.sign(manifest)) + b"\n"


def verify(manifest: bytes, signature: bytes, keys: Sequence[Ed25519PublicKey]) -> Environment:
    """Return the environment if one of the publisher keys signed it.

    Args:
        manifest: The manifest's bytes.
        signature: The signature file's bytes.
        keys: Publishers that the caller trusts; none means no manifest is accepted.

    Raises:
        FormatError: The signature or the manifest is malformed.
        SignatureError: No key of `keys` signed this manifest.
    """
    try:
        value = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error as error:
        raise FormatError("The environment's signature is not one line of base64.") from error
    if len(value) != SIGNATURE_SIZE:
        raise FormatError(f"The environment's signature has {len(value)} bytes, not {SIGNATURE_SIZE}.")
    for key in keys:
        try:
            key.verify(value, manifest)
        except InvalidSignature:
            continue
        return Environment.from_toml(manifest)
    raise SignatureError(
        "The environment manifest is not signed by a publisher that is trusted here.",
        advice="Ask its publisher for the signature that belongs to this version, or for their key.",
    )


def generate_key() -> Ed25519PrivateKey:
    """Return a new publisher key."""
    return Ed25519PrivateKey.generate()


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a private key in PEM, to be kept in a file with mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """Return a public key in PEM."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: Ed25519PublicKey) -> str:
    """Return a short name for a publisher key: the first 16 hex digits of its SHA-256."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def load_private_key(pem: bytes) -> Ed25519PrivateKey:
    """Read a private key in PEM."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError("The signing key is not an unencrypted key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError("The signing key is not an Ed25519 key.")
    return key


def load_public_key(pem: bytes) -> Ed25519PublicKey:
    """Read a public key in PEM."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError("The publisher key is not a public key in PEM.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError("The publisher key is not an Ed25519 key.")
    return key
