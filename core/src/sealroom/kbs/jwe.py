# SPDX-License-Identifier: BSD-3-Clause
"""Flattened JWE (RFC 7516) to a key made inside the attested guest, readable by CoCo's guest components.

Traps, each with a test: CoCo's client recomputes the AAD by writing the parsed header again, so `protected`
must be compact JSON in the order alg, enc, epk{crv, kty, x, y}; and `epk` must stand in the protected header.
On reading, the AAD is the received text (RFC 7516, section 5.2), so any correct writer is understood.

Key management: RSA-OAEP-256, or ECDH-ES+A256KW on P-256 and P-521; content: A256GCM. RSA1_5, which the
protocol deprecates, is absent because of its padding oracle.

Invariants:

- `TeeKey` does not print or pickle its secret.
- Nothing but `sealroom.errors.ProtocolError` leaves `decrypt` and `encrypt`, whatever the message or public
  key.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import struct
from collections.abc import Mapping
from typing import Final, Literal, NoReturn

from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

from sealroom.errors import ProtocolError

KeyKind = Literal["P-256", "P-521", "RSA"]
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

ECDH: Final = "ECDH-ES+A256KW"
OAEP: Final = "RSA-OAEP-256"
A256GCM: Final = "A256GCM"

_KEY_SIZE = 32
_IV_SIZE = 12  # RFC 7518, section 5.3
_TAG_SIZE = 16
_RSA_BITS = (2048, 4096)  # At least what RFC 7518, section 4.3 demands; at most our own bound on work.
_MAX_RSA_EXPONENT = 2**32
_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-521": (ec.SECP521R1(), 66),
}
_MEMBERS = {"EC": {"kty", "crv", "alg", "x", "y"}, "RSA": {"kty", "alg", "n", "e"}}
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
_CANNOT_OPEN = "The broker's answer cannot be opened with this server's key."


def b64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def b64url_decode(text: object, what: str) -> bytes:
    """Decode base64url without padding.

    Raises:
        ProtocolError: It is something else; the sentence calls it `what`.
    """
    if not isinstance(text, str) or not text.isascii():
        raise ProtocolError(f"{what} is not base64url.")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolError(f"{what} is not base64url.") from None
    if b64url(data) != text:
        raise ProtocolError(f"{what} is not base64url.")
    return data


class TeeKey:
    """A key pair made inside the guest; its public half is covered by the evidence."""

    __slots__ = ("_private",)

    def __init__(self, private: PrivateKey) -> None:
        check_public_jwk(_public_jwk(private.public_key()))
        self._private = private

    @classmethod
    def generate(cls, kind: KeyKind = "P-256") -> TeeKey:
        """Make a new key; P-256 is what CoCo's client makes by default."""
        if kind == "RSA":
            return cls(rsa.generate_private_key(public_exponent=65537, key_size=2048))
        return cls(ec.generate_private_key(_CURVES[kind][0]))

    @classmethod
    def from_pem(cls, pem: bytes) -> TeeKey:
        """Read an unencrypted private key, as CoCo's guest components hand it out with a token.

        Raises:
            ProtocolError: It is no usable private key.
        """
        try:
            key = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
            raise ProtocolError("The TEE key is not a PEM private key.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise ProtocolError("The TEE key is neither an EC nor an RSA key.")
        return cls(key)

    def public_jwk(self) -> dict[str, str]:
        """Return the public half as the protocol sends it."""
        return _public_jwk(self._private.public_key())

    def decrypt(self, jwe: Mapping[str, object]) -> bytes:
        """Open a flattened JWE.

        Raises:
            ProtocolError: It is not one, uses another algorithm, was made for another key, or was changed.
        """
        protected, header = _protected_header(jwe)
        cek = self._unwrap(header, b64url_decode(jwe.get("encrypted_key"), "The JWE's encrypted_key"))
        iv = b64url_decode(jwe.get("iv"), "The JWE's iv")
        tag = b64url_decode(jwe.get("tag"), "The JWE's tag")
        ciphertext = b64url_decode(jwe.get("ciphertext"), "The JWE's ciphertext")
        if len(iv) != _IV_SIZE or len(tag) != _TAG_SIZE:
            raise ProtocolError("The JWE's iv or tag has another length than A256GCM's.")
        try:
            return AESGCM(cek).decrypt(iv, ciphertext + tag, protected.encode())
        except InvalidTag:
            raise ProtocolError(_CANNOT_OPEN) from None

    def _unwrap(self, header: Mapping[str, object], encrypted_key: bytes) -> bytes:
        key, alg = self._private, header["alg"]
        if isinstance(key, rsa.RSAPrivateKey) and alg == OAEP:
            try:
                cek = key.decrypt(encrypted_key, _OAEP)
            except ValueError:
                raise ProtocolError(_CANNOT_OPEN) from None
        elif isinstance(key, ec.EllipticCurvePrivateKey) and alg == ECDH:
            epk = _load_public(_epk(header, _public_jwk(key.public_key())["crv"]))
            assert isinstance(epk, ec.EllipticCurvePublicKey)  # noqa: S101 - `_epk` made it so
            try:
                cek = keywrap.aes_key_unwrap(_concat_kdf(key.exchange(ec.ECDH(), epk)), encrypted_key)
            except (keywrap.InvalidUnwrap, ValueError):
                raise ProtocolError(_CANNOT_OPEN) from None
        else:
            raise ProtocolError("The JWE's alg does not fit this server's key.")
        if len(cek) != _KEY_SIZE:
            raise ProtocolError("The JWE's content key has another length than A256GCM's.")
        return cek

    def __repr__(self) -> str:
        return f"TeeKey({self.public_jwk()['alg']}, private)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A TEE key stays in the process that made it.")


def check_public_jwk(jwk: Mapping[str, str]) -> PublicKey:
    """Check that a guest's public key is one that a secret may be encrypted to.

    Raises:
        ProtocolError: Another kind of key or algorithm, a missing or unknown member, a point off the curve,
            an RSA modulus of less than 2048 bits. An unknown member is refused because Trustee would drop it
            before hashing, and the binding would differ.
    """
    return _load_public(jwk)


def encrypt(plaintext: bytes, jwk: Mapping[str, str]) -> dict[str, str]:
    """Encrypt to a guest's key as a flattened JWE that CoCo's guest components can read.

    Raises:
        ProtocolError: The key is not usable, see `check_public_jwk`.
    """
    key = _load_public(jwk)
    cek = os.urandom(_KEY_SIZE)
    header: dict[str, object]
    if isinstance(key, rsa.RSAPublicKey):
        header = {"alg": OAEP, "enc": A256GCM}
        try:
            encrypted_key = key.encrypt(cek, _OAEP)
        except ValueError:
            raise ProtocolError("The TEE key is no RSA key.") from None
    else:
        ephemeral = ec.generate_private_key(key.curve)
        point = _public_jwk(ephemeral.public_key())
        header = {
            "alg": ECDH,
            "enc": A256GCM,
            "epk": {name: point[name] for name in ("crv", "kty", "x", "y")},
        }
        encrypted_key = keywrap.aes_key_wrap(_concat_kdf(ephemeral.exchange(ec.ECDH(), key)), cek)
    protected = b64url(json.dumps(header, separators=(",", ":")).encode())
    iv = os.urandom(_IV_SIZE)
    sealed = AESGCM(cek).encrypt(iv, plaintext, protected.encode())
    return {
        "protected": protected,
        "encrypted_key": b64url(encrypted_key),
        "iv": b64url(iv),
        "ciphertext": b64url(sealed[:-_TAG_SIZE]),
        "tag": b64url(sealed[-_TAG_SIZE:]),
    }


def _protected_header(jwe: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    unknown = set(jwe) - {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
    if unknown:
        # An `epk` in the unprotected header, as some libraries write it, would not be authenticated.
        raise ProtocolError("The JWE has a member that is not covered by its tag.")
    protected = jwe.get("protected")
    raw = b64url_decode(protected, "The JWE's protected header")
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise ProtocolError("The JWE's protected header is not JSON.") from None
    if not isinstance(header, dict) or set(header) - {"alg", "enc", "epk"}:
        raise ProtocolError("The JWE's protected header has a member that is not understood.")
    if header.get("enc") != A256GCM or not isinstance(header.get("alg"), str):
        raise ProtocolError("The JWE's enc is not A256GCM.")
    return str(protected), header


def _epk(header: Mapping[str, object], crv: str) -> dict[str, str]:
    epk = header.get("epk")
    if not isinstance(epk, dict) or set(epk) != {"crv", "kty", "x", "y"} or epk.get("crv") != crv:
        raise ProtocolError("The JWE's ephemeral key is missing or on another curve than this server's key.")
    return {**epk, "alg": ECDH}


def _load_public(jwk: Mapping[str, str]) -> PublicKey:
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in _MEMBERS:
        raise ProtocolError("The TEE key is neither an EC nor an RSA key.")
    if set(jwk) != _MEMBERS[kty] or not all(isinstance(value, str) for value in jwk.values()):
        raise ProtocolError("The TEE key lacks a member or has one that is not understood.")
    return _load_rsa(jwk) if kty == "RSA" else _load_ec(jwk)


def _load_rsa(jwk: Mapping[str, str]) -> rsa.RSAPublicKey:
    if jwk["alg"] != OAEP:
        raise ProtocolError(f"The TEE key's alg is not {OAEP}.")
    n = int.from_bytes(b64url_decode(jwk["n"], "The TEE key's n"))
    e = int.from_bytes(b64url_decode(jwk["e"], "The TEE key's e"))
    if not _RSA_BITS[0] <= n.bit_length() <= _RSA_BITS[1] or e > _MAX_RSA_EXPONENT:
        raise ProtocolError("The TEE key's RSA modulus or exponent has a size that is not accepted.")
    if n % 2 == 0:
        # Such a key loads and then fails at the first use, when the release is in the log already.
        raise ProtocolError("The TEE key is no RSA key.")
    try:
        return rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        raise ProtocolError("The TEE key is no RSA key.") from None


def _load_ec(jwk: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    if jwk["alg"] != ECDH or jwk["crv"] not in _CURVES:
        raise ProtocolError("The TEE key's alg or curve is not supported.")
    curve, size = _CURVES[jwk["crv"]]
    x, y = b64url_decode(jwk["x"], "The TEE key's x"), b64url_decode(jwk["y"], "The TEE key's y")
    if len(x) != size or len(y) != size:
        raise ProtocolError("The TEE key's coordinates have another length than the curve's.")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), curve).public_key()
    except ValueError:
        raise ProtocolError("The TEE key is not a point of its curve.") from None


def _public_jwk(key: PublicKey) -> dict[str, str]:
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "alg": OAEP, "n": _b64url_int(numbers.n), "e": _b64url_int(numbers.e)}
    for name, (curve, size) in _CURVES.items():
        if key.curve.name == curve.name:
            point = key.public_numbers()
            x, y = b64url(point.x.to_bytes(size)), b64url(point.y.to_bytes(size))
            return {"kty": "EC", "crv": name, "alg": ECDH, "x": x, "y": y}
    raise ProtocolError("The TEE key's curve is not supported.")


def _b64url_int(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8))


def _concat_kdf(shared: bytes) -> bytes:
    """RFC 7518, section 4.6.2: AlgorithmID is the `alg` value, PartyUInfo and PartyVInfo are empty."""
    alg = ECDH.encode()
    info = struct.pack(">I", len(alg)) + alg + struct.pack(">III", 0, 0, _KEY_SIZE * 8)
    return ConcatKDFHash(hashes.SHA256(), _KEY_SIZE, info).derive(shared)
