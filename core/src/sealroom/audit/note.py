# SPDX-License-Identifier: BSD-3-Clause
"""Signed notes and checkpoints: how the log's operator signs a tree head.

C2SP signed-note v1.0.0 with Ed25519 (signature type 0x01), and C2SP tlog-checkpoint. Signatures of other keys
(witnesses, a key that is being rotated in) are ignored, as signed-note demands; the one of the known key must
be there and right.

Invariants:

- Text is returned only after its signature was verified.
- Nothing but `sealroom.errors.Error` leaves these calls, whatever the bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sealroom.errors import FormatError, SignatureError

MAX_NOTE: Final = 64 * 1024
"""Our own bound; our signature line has about 120 bytes, those of post-quantum witnesses up to 7 kB."""

MAX_SIGNATURES: Final = 16
"""signed-note: verifiers must accept at least 16."""

_ED25519 = b"\x01"  # signed-note, signature types
_HASH_SIZE = 32
_DASH = "\N{EM DASH} "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A log's public key with its name, as auditors keep it."""

    name: str
    """The key's name; for a log, its origin."""
    public: bytes
    """Ed25519 public key, 32 bytes."""

    def __post_init__(self) -> None:
        if not self.name or "+" in self.name or any(char.isspace() or ord(char) < 0x20 for char in self.name):
            raise FormatError("A note key's name is empty or has a space or a plus in it.", field="name")
        if len(self.public) != _HASH_SIZE:
            raise FormatError("An Ed25519 public key has 32 bytes.", field="public")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Parse the text form, `<name>+<key id>+<base64>` (signed-note, verifier keys).

        Raises:
            FormatError: It is something else, of another signature type, or its key id is not the key's.
        """
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise FormatError("This is not a note verifier key: it has no name, id and key.", field="vkey")
        name, key_id, encoded = parts
        try:
            raw = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise FormatError("The note verifier key is not base64.", field="vkey") from error
        if raw[:1] != _ED25519:
            raise FormatError("The note verifier key is not an Ed25519 key.", field="vkey")
        key = cls(name, raw[1:])
        if key.key_id.hex() != key_id:
            raise FormatError("The note verifier key's id does not belong to its key.", field="vkey")
        return key

    @property
    def key_id(self) -> bytes:
        """The 4 bytes that stand before each signature."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"


@dataclass(frozen=True, slots=True)
class Signer:
    """The log's private key with its name."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """Return the signed note of a text.

        Raises:
            FormatError: The text does not end in a newline or has other control characters.
        """
        _check_text(text)
        blob = self.verifier.key_id + self.private.sign(text.encode())
        return f"{text}\n{_DASH}{self.name} {base64.b64encode(blob).decode()}\n".encode()


def open_note(note: bytes, key: VerifierKey) -> str:
    """Return the text of a note that this key signed.

    Raises:
        FormatError: It is not a signed note.
        SignatureError: The key did not sign it, or not this text.
    """
    text, signatures = _split(note)
    ours = [blob[4:] for name, blob in signatures if name == key.name and blob[:4] == key.key_id]
    if not ours:
        raise SignatureError(f"The note is not signed by {key}.", check="note.signature")
    public = Ed25519PublicKey.from_public_bytes(key.public)
    for signature in ours:
        try:
            public.verify(signature, text.encode())
        except InvalidSignature:
            raise SignatureError("The note's signature is wrong.", check="note.signature") from None
    return text


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(ord(char) < 0x20 and char != "\n" for char in text):
        raise FormatError(
            "A note's text ends in a newline and has no other control characters.", field="text"
        )


def _split(note: bytes) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > MAX_NOTE:
        raise FormatError("The signed note is too long.", field="note")
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise FormatError("The signed note is not UTF-8.", field="note", offset=error.start) from error
    text, separator, tail = whole.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise FormatError("The signed note has no signatures.", field="note")
    text += "\n"
    _check_text(text)
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise FormatError(f"The signed note has more than {MAX_SIGNATURES} signatures.", field="note")
    return text, [_signature(line) for line in lines]


def _signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        blob = b""
    if not line.startswith(_DASH) or not name or len(blob) < 5:
        raise FormatError("The signed note has a signature line of another form.", field="note")
    return name, blob


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: the log, how many entries it has, and what they hash to."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the note text (tlog-checkpoint, note text)."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, signer: Signer) -> bytes:
        """Return the signed checkpoint."""
        return signer.sign(self.text())

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Parse a note text. Extension lines are accepted and dropped: they are opaque.

        Raises:
            FormatError: It is something else.
        """
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise FormatError("The checkpoint does not have three lines.", field="checkpoint")
        origin, size, encoded = lines[:3]
        try:
            root = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            root = b""
        if not _SIZE.fullmatch(size) or not size.isascii() or len(root) != _HASH_SIZE:
            raise FormatError("The checkpoint's size or root hash is malformed.", field="checkpoint")
        return cls(origin, int(size), root)

    @classmethod
    def open(cls, note: bytes, key: VerifierKey) -> Checkpoint:
        """Verify and parse a signed checkpoint.

        Raises:
            FormatError: It is no checkpoint.
            SignatureError: The key did not sign it, or it is the checkpoint of another log.
        """
        checkpoint = cls.parse(open_note(note, key))
        if checkpoint.origin != key.name:
            raise SignatureError(
                f"The checkpoint is of the log {checkpoint.origin!r}, not {key.name!r}.",
                check="checkpoint.origin",
            )
        return checkpoint
