# SPDX-License-Identifier: BSD-3-Clause
"""The manifest of a sealed dataset (`dataset.json`) and its detached signature (`dataset.json.sig`).

What it is for: Crypt4GH alone does not notice a cut, swapped, duplicated or injected segment, and anybody
can write a file for a public key. The manifest says which bytes the data owner sealed, and the owner signs
it.

Invariants:

- The bytes are canonical JSON (RFC 8785): one manifest has one digest.
- Unknown fields are refused: this is our own format, and a newer one has another `format`.
- Format 2 counts the dataset's versions, and names the manifest that it follows. A SHA-256 over a whole file
  is not in it unless the owner had it made: the Merkle root over the segments' records says the same (ADR
  0010). Format 1 is read as it was.
- Names cannot leave the dataset's directory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_serializer,
    model_validator,
)

from sealroom.canonical import canonical_json
from sealroom.crypt4gh import PublicKey, cipher_size, segment_count
from sealroom.datasets.terms import Term
from sealroom.errors import FormatError, SignatureError

MANIFEST_NAME = "dataset.json"
SIGNATURE_NAME = "dataset.json.sig"
SEALED_SUFFIX = ".c4gh"
SEGMENTS_SUFFIX = ".c4gh.segments"

# Our own bounds: a hundred thousand files of a few hundred bytes each.
MAX_MANIFEST_SIZE = 64 << 20
MAX_FILES = 100_000
_MAX_SIZE = 1 << 50
_MAX_NAME_BYTES = 1024
# 255 bytes is what file systems allow; the longest suffix needs its part.
_MAX_PART_BYTES = 255 - len(SEGMENTS_SUFFIX)

_ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"


def check_name(name: str) -> str:
    """Return a file's name inside a dataset if it is safe to use as a relative path.

    Raises:
        FormatError: It is absolute, climbs, is empty, too long, not normalized, or holds control characters.
    """
    parts = name.split("/")
    wrong = (
        _has_controls(name, allowed="")
        or any(part in ("", ".", "..") or len(part.encode()) > _MAX_PART_BYTES for part in parts)
        or "\\" in name
        or len(name.encode()) > _MAX_NAME_BYTES
        or unicodedata.normalize("NFC", name) != name
    )
    if wrong:
        raise FormatError(
            f"{name!r} is not a usable name of a file in a dataset.",
            field="name",
            advice="Rename it: no backslashes, no control characters, no '..', at most 240 bytes a part.",
        )
    return name


def check_id(dataset: str) -> str:
    """Return a dataset's id if it is one: lower-case letters, digits, `-`, `_` and `.`, at most 63.

    Raises:
        FormatError: It is not.
    """
    if not re.fullmatch(_ID_PATTERN, dataset):
        raise FormatError(
            f"{dataset!r} is not a usable id of a dataset.",
            field="id",
            advice="Use lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit.",
        )
    return dataset


def _has_controls(text: str, *, allowed: str) -> bool:
    # Cc: control characters, which a terminal would obey; Cs: lone surrogates, which UTF-8 cannot carry.
    return any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in text)


def _plain_text(text: str) -> str:
    if _has_controls(text, allowed="\n\t"):
        raise ValueError("control characters are not allowed")
    return text


def _valid_name(name: str) -> str:
    try:
        return check_name(name)
    except FormatError as error:
        raise ValueError("not a usable file name") from error


def _valid_key(text: str) -> str:
    try:
        if PublicKey.from_base64(text).to_base64() != text:
            raise ValueError("not in standard form")
    except FormatError as error:
        raise ValueError(error.message) from error
    return text


_Line = Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(_plain_text)]
_Text = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_plain_text)]
_Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Size = Annotated[int, Field(ge=0, le=_MAX_SIZE, strict=True)]
_Key = Annotated[str, AfterValidator(_valid_key)]


class FileEntry(BaseModel):
    """A file of the dataset: what it is called, how large it is, and which sealed bytes stand for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_valid_name)]
    """Relative path with `/`; the sealed file is this with `.c4gh` behind it."""
    media_type: _Line = "application/octet-stream"
    size: _Size
    """Plaintext bytes."""
    header_size: _Size
    """Bytes of the Crypt4GH header in the sealed file."""
    header_sha256: _Sha256
    cipher_size: _Size
    """Bytes behind the header."""
    cipher_sha256: _Sha256 | None = None
    """SHA-256 of the bytes behind the header; in format 1 only, and there always."""
    sha256: _Sha256 | None = None
    """SHA-256 of the sealed file as it stands, if the owner had it made; not in format 1."""
    segments_root: _Sha256
    """Merkle root over the records of the file's segments (see `segment_list`)."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> FileEntry:
        if self.cipher_size != cipher_size(self.size):
            raise ValueError("cipher_size does not follow from size")
        return self

    @property
    def segments(self) -> int:
        """Number of segments."""
        return segment_count(self.size)


class Manifest(BaseModel):
    """What the data owner sealed, under which terms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["sealroom-dataset/1", "sealroom-dataset/2"] = "sealroom-dataset/2"
    """Name and version of this format."""
    id: Annotated[str, StringConstraints(pattern=_ID_PATTERN)]
    title: _Line
    description: _Text = ""
    owner: _Line
    """Who answers for the dataset."""
    contact: Annotated[str, StringConstraints(max_length=300), AfterValidator(_plain_text)] = ""
    """Whom a researcher asks for access."""
    source: _Text = ""
    """Where the data come from, with a citation."""
    licence: Annotated[str, StringConstraints(max_length=300), AfterValidator(_plain_text)] = ""
    terms: tuple[Term, ...] = ()
    """Data use terms."""
    created: AwareDatetime
    """When it was sealed; whole seconds, UTC."""
    dataset_key: _Key
    """X25519 public key that the files are sealed to, base64."""
    writer_key: _Key
    """X25519 public key of the only writer whose header packets are accepted, base64."""
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=MAX_FILES)]
    """Sorted by name."""
    version: Annotated[int, Field(ge=1, le=1 << 31, strict=True)] | None = None
    """Counts from 1 with every change of the dataset; not in format 1."""
    previous: _Sha256 | None = None
    """SHA-256 of the manifest that this one follows; not in the first version."""

    @field_serializer("created")
    def _write_created(self, value: datetime) -> str:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @model_validator(mode="after")
    def _names_sorted(self) -> Manifest:
        names = [entry.name for entry in self.files]
        if names != sorted(set(names)):
            raise ValueError("files are not sorted by name, or a name stands there twice")
        return self

    @model_validator(mode="after")
    def _fields_fit_the_format(self) -> Manifest:
        first = self.format == "sealroom-dataset/1"
        if first != (self.version is None) or any((e.cipher_sha256 is None) == first for e in self.files):
            raise ValueError("a field is missing, or is not one of this format")
        if first and any(entry.sha256 is not None for entry in self.files):
            raise ValueError("sha256 is not a field of this format")
        if (self.previous is None) != (self.version in (None, 1)):
            raise ValueError("the first version follows no other, and every later one does")
        return self

    @classmethod
    def build(cls, fields: Mapping[str, object]) -> Manifest:
        """Make a manifest from its fields.

        Raises:
            FormatError: A field cannot be used.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise _format_error(error) from error

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse a manifest. This does not verify who made it: see `verify_manifest`.

        Raises:
            FormatError: It is not a manifest of a known format in canonical form.
        """
        if len(data) > MAX_MANIFEST_SIZE:
            raise FormatError("The dataset's manifest is larger than 64 MiB.")
        try:
            manifest = cls.model_validate_json(data)
            canonical = manifest.to_bytes()
        except ValidationError as error:
            raise _format_error(error) from error
        except (ValueError, RecursionError) as error:
            raise FormatError("The dataset's manifest is malformed.") from error
        if canonical != data:
            raise FormatError("The dataset's manifest is not in canonical form.")
        return manifest

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, which are what is signed."""
        # Only what a format does not have, or what was not made, is None: it is left out.
        return canonical_json(self.model_dump(mode="json", exclude_none=True))

    @property
    def size(self) -> int:
        """Plaintext bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def sha256(self) -> str:
        """Hex digest of the canonical bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def writer(self) -> PublicKey:
        """The only accepted writer of header packets."""
        return PublicKey.from_base64(self.writer_key)

    def file(self, name: str) -> FileEntry:
        """Return a file's entry.

        Raises:
            FormatError: The dataset has no such file.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise FormatError(
            f"The dataset {self.id} has no file {name!r}.",
            field="name",
            advice="It has: " + ", ".join(e.name for e in self.files[:20]) + ".",
        )


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest's bytes with their signature, not verified yet."""

    data: bytes
    signature: bytes

    def verify(self, owner_key: bytes) -> Manifest:
        """Verify and parse, see `verify_manifest`."""
        return verify_manifest(self.data, self.signature, owner_key)


def sign_manifest(data: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the detached signature over a manifest's bytes: plain Ed25519, as OpenSSL makes it.

    Raises:
        FormatError: The bytes are not a manifest.
    """
    Manifest.from_bytes(data)
    return key.sign(data)


def verify_manifest(data: bytes, signature: bytes, owner_key: bytes) -> Manifest:
    """Return the manifest if this owner signed it.

    Args:
        data: The manifest's bytes.
        signature: 64 bytes.
        owner_key: The owner's Ed25519 public key, 32 bytes.

    Raises:
        SignatureError: The signature is not by this key over these bytes.
        FormatError: The bytes are signed and not a manifest of a known format.
    """
    # 1. The signature covers the bytes; nothing is parsed before it holds.
    try:
        Ed25519PublicKey.from_public_bytes(owner_key).verify(signature, data)
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            "The dataset's manifest does not carry the data owner's signature.",
            advice="Do not use the dataset; tell the data owner.",
        ) from error
    # 2. The bytes are a manifest in canonical form.
    return Manifest.from_bytes(data)


def encode_signature(signature: bytes) -> bytes:
    """Return the content of the signature's file: one line of base64."""
    return base64.b64encode(signature) + b"\n"


def decode_signature(data: bytes) -> bytes:
    """Parse the content of the signature's file.

    Raises:
        FormatError: It is not one line of base64 of 64 bytes.
    """
    try:
        signature = base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("The manifest's signature is not base64.") from error
    if len(signature) != 64:
        raise FormatError("The manifest's signature does not have 64 bytes.")
    return signature


def _format_error(error: ValidationError) -> FormatError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if where == "format":
        return FormatError(
            "The dataset's manifest is of a format that is not known.",
            field="format",
            advice="Update Sealroom, or ask the data owner for a manifest of format sealroom-dataset/2.",
        )
    place = f"field {where!r}: " if where else ""
    return FormatError(f"The dataset's manifest is malformed: {place}{first['msg']}.", field=where)
