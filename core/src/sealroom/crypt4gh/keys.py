# SPDX-License-Identifier: BSD-3-Clause
"""X25519 key pairs, data keys, and the `c4gh-v1` key files that other Crypt4GH tools read and write.

Read, too: Ed25519 keys of OpenSSH, converted as other Crypt4GH tools do it (RFC 7748, section 4.1), and
X25519 keys as PKCS#8 and SubjectPublicKeyInfo.

Invariants:

- A secret never appears in `repr`, in an error or in a pickle.
- `wipe` overwrites the copy that the object holds. Python and OpenSSL may hold others until they reuse the
  memory, so this is best effort and says so.
- Key derivation rounds come from the file and are bounded, so that a hostile key file cannot stall the
  reader.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from typing import Literal, NoReturn

import bcrypt
from cryptography.exceptions import InternalError, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from sealroom.errors import FormatError

KEY_SIZE = 32

_MAGIC = b"c4gh-v1"
_PUBLIC = "CRYPT4GH PUBLIC KEY"
_SECRET = "CRYPT4GH PRIVATE KEY"  # noqa: S105 - a PEM label
_SSH_PUBLIC = b"ssh-ed25519 "
_SSH_SECRET = "OPENSSH PRIVATE KEY"  # noqa: S105 - a PEM label
_FOREIGN_SECRET = (_SSH_SECRET, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY")
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_NONCE_SIZE = 12
_SALT_SIZE = 16

Kdf = Literal["scrypt", "bcrypt", "pbkdf2_hmac_sha256"]

# What crypt4gh 1.8.6 writes (keys/kdf.py): scrypt's cost is fixed, its round count is written as 0.
_WRITTEN_ROUNDS: dict[Kdf, int] = {"scrypt": 0, "bcrypt": 100, "pbkdf2_hmac_sha256": 100_000}
# Our own bounds, a hundred times what is written: minutes at worst, not days.
_MAX_ROUNDS: dict[Kdf, int] = {"scrypt": 0xFFFFFFFF, "bcrypt": 10_000, "pbkdf2_hmac_sha256": 10_000_000}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An X25519 public key."""

    raw: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_SIZE:
            raise FormatError(
                f"An X25519 public key has {KEY_SIZE} bytes, not {len(self.raw)}.", field="public_key"
            )

    @classmethod
    def from_base64(cls, text: str) -> PublicKey:
        """Parse standard base64, as manifests and messages carry it."""
        try:
            return cls(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise FormatError("A public key is not base64.", field="public_key") from error

    def to_base64(self) -> str:
        """Return standard base64."""
        return base64.b64encode(self.raw).decode()

    @property
    def fingerprint(self) -> str:
        """A short name for people, in the form that OpenSSH uses."""
        digest = hashlib.sha256(self.raw).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint})"


class SecretKey:
    """An X25519 secret key; not printed, not pickled, can be wiped."""

    __slots__ = ("_key", "_raw", "public")

    public: PublicKey
    """The public half."""

    def __init__(self, raw: bytes | bytearray) -> None:
        if len(raw) != KEY_SIZE:
            raise FormatError(
                f"An X25519 secret key has {KEY_SIZE} bytes, not {len(raw)}.", field="secret_key"
            )
        self._raw = bytearray(raw)
        self._key: X25519PrivateKey | None = X25519PrivateKey.from_private_bytes(bytes(raw))
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> SecretKey:
        """Make a new key from the system's random source."""
        return cls(os.urandom(KEY_SIZE))

    def reveal(self) -> bytes:
        """Return the secret itself, to store or send it under protection."""
        self._alive()
        return bytes(self._raw)

    def shared_with(self, peer: PublicKey) -> bytes:
        """Return the X25519 shared secret.

        Raises:
            FormatError: The peer's key is a point of small order, which no honest writer has.
        """
        try:
            return self._alive().exchange(X25519PublicKey.from_public_bytes(peer.raw))
        except ValueError as error:
            raise FormatError("A public key in the header is not a usable X25519 point.") from error

    def wipe(self) -> None:
        """Overwrite the secret; every later use is a `RuntimeError`."""
        self._raw[:] = bytes(len(self._raw))
        self._key = None

    def _alive(self) -> X25519PrivateKey:
        if self._key is None:
            raise RuntimeError("this secret key was wiped")
        return self._key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and hmac.compare_digest(self._raw, other._raw)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SecretKey of {self.public.fingerprint}, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled")


class DataKey:
    """The key of a file's segments; not printed, not pickled, can be wiped."""

    __slots__ = ("_raw", "_wiped")

    def __init__(self, raw: bytes | bytearray | memoryview) -> None:
        if len(raw) != KEY_SIZE:
            raise FormatError(f"A data key has {KEY_SIZE} bytes, not {len(raw)}.", field="data_key")
        self._raw = bytearray(raw)
        self._wiped = False

    @classmethod
    def generate(cls) -> DataKey:
        """Make a new key from the system's random source."""
        return cls(os.urandom(KEY_SIZE))

    def reveal(self) -> bytes:
        """Return the key itself, to put it into a header packet or a cipher."""
        if self._wiped:
            raise RuntimeError("this data key was wiped")
        return bytes(self._raw)

    def wipe(self) -> None:
        """Overwrite the key; every later use is a `RuntimeError`."""
        self._raw[:] = bytes(len(self._raw))
        self._wiped = True

    def __repr__(self) -> str:
        return "<DataKey, not shown>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a data key is not pickled")


def read_public_key(data: bytes) -> PublicKey:
    """Parse a Crypt4GH public key file, or one of OpenSSH or in PEM form.

    Raises:
        FormatError: It is not one.
    """
    if data.startswith(_SSH_PUBLIC):
        return _ssh_public_key(data)
    label, raw = _read_pem(data)
    if label == "PUBLIC KEY":
        return _spki_public_key(data)
    if label != _PUBLIC:
        raise FormatError(f"This file holds a {label.lower()}, not a Crypt4GH public key.")
    return PublicKey(raw)


def write_public_key(key: PublicKey) -> bytes:
    """Return a Crypt4GH public key file."""
    return _write_pem(_PUBLIC, key.raw)


def needs_passphrase(data: bytes) -> bool:
    """Tell whether a secret key file is locked with a passphrase.

    Raises:
        FormatError: It is not a Crypt4GH secret key file.
    """
    label, _ = _read_pem(data)
    if label in _FOREIGN_SECRET:
        return _foreign_needs_passphrase(data, label)
    kdf, _, _ = _read_secret_fields(data)
    return kdf != b"none"


def read_secret_key(data: bytes, passphrase: bytes | None = None) -> SecretKey:
    """Parse a Crypt4GH secret key file, of any of its key derivations, or one of OpenSSH or PKCS#8.

    Raises:
        FormatError: It is not one, needs a passphrase that was not given, or the passphrase is wrong.
    """
    label, _ = _read_pem(data)
    if label in _FOREIGN_SECRET:
        return _foreign_secret_key(data, passphrase)
    kdf, options, rest = _read_secret_fields(data)
    cipher, rest = _take_string(rest, "cipher")
    blob, _comment = _take_string(rest, "key")
    if kdf == b"none":
        if cipher != b"none":
            raise FormatError("The key file names a cipher but no key derivation.", field="cipher")
        return SecretKey(blob)
    if cipher != b"chacha20_poly1305":
        raise FormatError("The key file is locked with a cipher that is not known.", field="cipher")
    if passphrase is None:
        raise FormatError("The key file is locked.", advice="Give its passphrase.")
    if len(options) < 4 + 1:
        raise FormatError("The key file's derivation options are too short.", field="kdf_options")
    rounds, salt = int.from_bytes(options[:4], "big"), options[4:]
    locked_with = ChaCha20Poly1305(_derive(_known_kdf(kdf), passphrase, salt, rounds))
    try:
        return SecretKey(locked_with.decrypt(blob[:_NONCE_SIZE], blob[_NONCE_SIZE:], None))
    except (InvalidTag, ValueError) as error:
        raise FormatError("The passphrase does not open this key file.") from error


def write_secret_key(
    key: SecretKey, passphrase: bytes | None = None, *, kdf: Kdf = "scrypt", comment: bytes | None = None
) -> bytes:
    """Return a Crypt4GH secret key file, locked if a passphrase is given."""
    if passphrase is None:
        fields = [b"none", b"none", key.reveal()]
    else:
        salt, nonce = os.urandom(_SALT_SIZE), os.urandom(_NONCE_SIZE)
        rounds = _WRITTEN_ROUNDS[kdf]
        lock = ChaCha20Poly1305(_derive(kdf, passphrase, salt, rounds))
        blob = nonce + lock.encrypt(nonce, key.reveal(), None)
        fields = [kdf.encode(), rounds.to_bytes(4, "big") + salt, b"chacha20_poly1305", blob]
    if comment is not None:
        fields.append(comment)
    return _write_pem(_SECRET, _MAGIC + b"".join(len(f).to_bytes(2, "big") + f for f in fields))


def _foreign_needs_passphrase(data: bytes, label: str) -> bool:
    if label != _SSH_SECRET:
        return label == "ENCRYPTED PRIVATE KEY"
    # openssh-key-v1: the cipher's name follows the magic word (PROTOCOL.key, section 1).
    _, raw = _read_pem(data)
    return not raw.startswith(b"openssh-key-v1\0\0\0\0\x04none")


def _foreign_secret_key(data: bytes, passphrase: bytes | None) -> SecretKey:
    label, _ = _read_pem(data)
    locked = _foreign_needs_passphrase(data, label)
    if locked and passphrase is None:
        raise FormatError("The key file is locked.", advice="Give its passphrase.")
    load = load_ssh_private_key if label == _SSH_SECRET else load_pem_private_key
    try:
        key = load(data, passphrase if locked else None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError, InvalidTag, OverflowError) as error:
        raise FormatError(
            "The key file is malformed, or the passphrase does not open it."
            if locked
            else "The key file is malformed."
        ) from error
    if isinstance(key, X25519PrivateKey):
        return SecretKey(key.private_bytes_raw())
    if isinstance(key, Ed25519PrivateKey) and label == _SSH_SECRET:
        # RFC 8032, section 5.1.5: the scalar is the first half of the seed's SHA-512; X25519 clamps it.
        return SecretKey(hashlib.sha512(key.private_bytes_raw()).digest()[:KEY_SIZE])
    raise FormatError("The key file holds a key of another kind than X25519, or Ed25519 of OpenSSH.")


def _ssh_public_key(data: bytes) -> PublicKey:
    try:
        key = load_ssh_public_key(data.strip())
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise FormatError("This is not a public key file of OpenSSH.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise FormatError("The key file holds a key of another kind than Ed25519.")
    # RFC 7748, section 4.1: u = (1 + y) / (1 - y); the sign of x, in the last bit, does not matter.
    prime = 2**255 - 19
    y = int.from_bytes(key.public_bytes_raw(), "little") & ((1 << 255) - 1)
    if y >= prime or y == 1:
        raise FormatError("The key file holds no usable Ed25519 key.")
    u = (1 + y) * pow(1 - y, -1, prime) % prime
    return PublicKey(u.to_bytes(KEY_SIZE, "little"))


def _spki_public_key(data: bytes) -> PublicKey:
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise FormatError("This is not a public key in PEM form.") from error
    if not isinstance(key, X25519PublicKey):
        raise FormatError("The key file holds a key of another kind than X25519.")
    return PublicKey(key.public_bytes_raw())


def _read_secret_fields(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the key derivation's name and options, and what follows them."""
    label, raw = _read_pem(data)
    if label != _SECRET or not raw.startswith(_MAGIC):
        raise FormatError(f"This file holds a {label.lower()}, not a Crypt4GH secret key.")
    kdf, rest = _take_string(raw[len(_MAGIC) :], "kdf")
    if kdf == b"none":
        return kdf, b"", rest
    options, rest = _take_string(rest, "kdf_options")
    return kdf, options, rest


def _known_kdf(name: bytes) -> Kdf:
    for known in _WRITTEN_ROUNDS:
        if name == known.encode():
            return known
    raise FormatError("The key file's key derivation is not known.", field="kdf")


def _derive(kdf: Kdf, passphrase: bytes, salt: bytes, rounds: int) -> bytes:
    if rounds > _MAX_ROUNDS[kdf] or (kdf != "scrypt" and rounds < 1):
        raise FormatError(
            f"The key file asks for {rounds} rounds, which is out of bounds.", field="kdf_options"
        )
    if kdf == "scrypt":
        return hashlib.scrypt(passphrase, salt=salt, n=1 << 14, r=8, p=1, dklen=KEY_SIZE)
    if not passphrase:
        raise FormatError("An empty passphrase cannot open or lock a key file.")
    if kdf == "bcrypt":
        return bcrypt.kdf(passphrase, salt, KEY_SIZE, rounds, ignore_few_rounds=True)
    return hashlib.pbkdf2_hmac("sha256", passphrase, salt, rounds, dklen=KEY_SIZE)


def _take_string(data: bytes, field: str) -> tuple[bytes, bytes]:
    size = int.from_bytes(data[:2], "big")
    if len(data) < 2 + size:
        raise FormatError("The key file ends too early.", field=field)
    return data[2 : 2 + size], data[2 + size :]


def _read_pem(data: bytes) -> tuple[str, bytes]:
    lines = [line.strip() for line in data.splitlines() if line.strip()]
    if len(lines) < 3 or not (begin := _BEGIN.fullmatch(lines[0])) or not lines[-1].startswith(b"-----END "):
        raise FormatError("This is not a key file: it has no BEGIN and END line.")
    label = begin[1].decode("ascii")
    try:
        return label, base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("The key file's text is not base64.") from error


def _write_pem(label: str, raw: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (
        label.encode(),
        base64.b64encode(raw),
        label.encode(),
    )
