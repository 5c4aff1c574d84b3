# SPDX-License-Identifier: BSD-3-Clause
"""Crypt4GH headers: packets that hold the data keys for each reader.

Invariants:

- Packets that this reader's key does not open, of unknown methods or of unknown types are ignored, as the
  format asks; a header without any data key for the reader is an error that names the keys that were tried.
- With `expected_writer`, a packet that opens but was written by somebody else is an error: the format lets
  anyone who knows a reader's public key add a data key and segments of their own (crypt4gh.tex, section
  5.4).
- Lengths are checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from sealroom.crypt4gh.keys import KEY_SIZE, DataKey, PublicKey, SecretKey
from sealroom.errors import FormatError, IntegrityError, VerificationError

MAGIC = b"crypt4gh"
VERSION = 1

# Our own bounds; the format has none. A thousand readers, and room for an edit list of 100,000 lengths.
MAX_PACKETS = 1024
MAX_PACKET_SIZE = 1 << 20
MAX_HEADER_SIZE = 16 << 20

_PREFIX_SIZE = len(MAGIC) + 4 + 4
_METHOD_X25519_CHACHA20 = 0
_TYPE_DATA_KEY = 0
_TYPE_EDIT_LIST = 1
_NONCE_SIZE = 12
_MAC_SIZE = 16


class HeaderKeyError(VerificationError):
    """No packet of a header opens with the given key."""

    code = "header_key"


@dataclass(frozen=True, slots=True)
class Header:
    """A header as it stands in a file, not opened."""

    packets: tuple[bytes, ...] = field(repr=False)
    """Each packet without its length: method, and what the method defines."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Parse a header that is exactly these bytes.

        Raises:
            FormatError: It is not a Crypt4GH version 1 header, or something follows it.
        """
        header = cls.from_prefix(data)
        if header.size != len(data):
            raise FormatError(
                f"{len(data) - header.size} bytes follow the Crypt4GH header.", offset=header.size
            )
        return header

    @classmethod
    def from_prefix(cls, data: bytes) -> Header:
        """Parse the header that these bytes begin with.

        Raises:
            FormatError: They do not begin with a whole Crypt4GH version 1 header.
        """
        count = _parse_prefix(data[:_PREFIX_SIZE])
        packets, offset = [], _PREFIX_SIZE
        for _ in range(count):
            size = _packet_size(data[offset : offset + 4], offset)
            packet = data[offset + 4 : offset + size]
            if len(packet) != size - 4:
                raise FormatError("The Crypt4GH header is cut.", field="packet", offset=len(data))
            packets.append(packet)
            offset += size
            _check_total(offset)
        return cls(tuple(packets))

    @classmethod
    def read(cls, stream: BinaryIO) -> Header:
        """Read a header from a stream and leave the stream behind it.

        Raises:
            FormatError: The stream does not begin with a whole Crypt4GH version 1 header.
        """
        count = _parse_prefix(stream.read(_PREFIX_SIZE))
        packets, offset = [], _PREFIX_SIZE
        for _ in range(count):
            size = _packet_size(stream.read(4), offset)
            packet = stream.read(size - 4)
            if len(packet) != size - 4:
                raise FormatError("The Crypt4GH header is cut.", field="packet", offset=offset)
            packets.append(packet)
            offset += size
            _check_total(offset)
        return cls(tuple(packets))

    def to_bytes(self) -> bytes:
        """Return the header as it stands in a file."""
        prefix = MAGIC + VERSION.to_bytes(4, "little") + len(self.packets).to_bytes(4, "little")
        return prefix + b"".join((len(p) + 4).to_bytes(4, "little") + p for p in self.packets)

    @property
    def size(self) -> int:
        """Bytes that the header takes in the file."""
        return _PREFIX_SIZE + sum(len(packet) + 4 for packet in self.packets)

    @property
    def sha256(self) -> str:
        """Hex digest of the header's bytes, as manifests name it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class OpenedHeader:
    """What a reader's key opened in a header."""

    data_keys: tuple[DataKey, ...]
    """At least one; a segment is encrypted with any of them."""
    edit_list: tuple[int, ...] | None
    """Alternating lengths to skip and to keep, if the header has an edit list."""
    ignored: int
    """Packets for other readers, or of methods and types that are not known."""


def open_header(
    header: Header, secret: SecretKey, *, expected_writer: PublicKey | None = None
) -> OpenedHeader:
    """Open a header with a reader's secret key.

    Args:
        header: The header.
        secret: The reader's key.
        expected_writer: The only writer whose packets are accepted.

    Raises:
        HeaderKeyError: No packet opens with this key.
        IntegrityError: A packet opens but another writer made it, or there is more than one edit list.
        FormatError: An opened packet is malformed or names an unknown data encryption.
    """
    data_keys: list[DataKey] = []
    edit_lists: list[tuple[int, ...]] = []
    ignored = 0
    for number, packet in enumerate(header.packets):
        payload = _open_packet(packet, secret)
        if payload is None:
            ignored += 1
            continue
        _check_writer(packet, expected_writer, number)
        kind = int.from_bytes(payload[:4], "little")
        if kind == _TYPE_DATA_KEY:
            data_keys.append(_parse_data_key(payload))
        elif kind == _TYPE_EDIT_LIST:
            edit_lists.append(_parse_edit_list(payload))
        else:
            ignored += 1
    if len(edit_lists) > 1:
        raise IntegrityError(
            "The header has more than one edit list.", advice="Ask the data owner to seal the file again."
        )
    if not data_keys:
        raise _no_key(header, secret)
    return OpenedHeader(tuple(data_keys), edit_lists[0] if edit_lists else None, ignored)


def make_header(
    data_keys: Iterable[DataKey],
    readers: Sequence[PublicKey],
    *,
    writer: SecretKey | None = None,
    edit_list: Sequence[int] | None = None,
) -> Header:
    """Make a header that each of the readers can open.

    Args:
        data_keys: The keys of the segments, at least one.
        readers: Their public keys, at least one.
        writer: The writer's key; a new one, which nobody keeps, if not given.
        edit_list: Alternating lengths to skip and to keep.
    """
    writer = writer or SecretKey.generate()
    payloads = [_data_key_payload(key) for key in data_keys]
    if not payloads or not readers:
        raise TypeError("a header needs at least one data key and one reader")
    if edit_list is not None:
        lengths = b"".join(n.to_bytes(8, "little") for n in edit_list)
        payloads.append(
            _TYPE_EDIT_LIST.to_bytes(4, "little") + len(edit_list).to_bytes(4, "little") + lengths
        )
    return Header(tuple(_seal_packet(payload, writer, reader) for reader in readers for payload in payloads))


def reencrypt(
    header: Header,
    secret: SecretKey,
    readers: Sequence[PublicKey],
    *,
    expected_writer: PublicKey | None = None,
    writer: SecretKey | None = None,
) -> Header:
    """Make a header for other readers from one that `secret` opens; the file's body stays as it is.

    Packets for anybody else are left out: only `readers` open the result.

    Raises:
        HeaderKeyError: No packet opens with this key.
        IntegrityError: A packet opens but was made by another writer than `expected_writer`.
        FormatError: An opened packet is malformed.
    """
    opened = open_header(header, secret, expected_writer=expected_writer)
    try:
        return make_header(opened.data_keys, readers, writer=writer, edit_list=opened.edit_list)
    finally:
        for key in opened.data_keys:
            key.wipe()


def _parse_prefix(prefix: bytes) -> int:
    if len(prefix) != _PREFIX_SIZE or not prefix.startswith(MAGIC):
        raise FormatError("This is not a Crypt4GH file.", field="magic_number", offset=0)
    version = int.from_bytes(prefix[8:12], "little")
    if version != VERSION:
        raise FormatError(f"Crypt4GH version {version} is not known.", field="version", offset=8)
    count = int.from_bytes(prefix[12:16], "little")
    if not 1 <= count <= MAX_PACKETS:
        raise FormatError(
            f"The Crypt4GH header claims {count} packets.", field="header_packet_count", offset=12
        )
    return count


def _packet_size(data: bytes, offset: int) -> int:
    size = int.from_bytes(data, "little")
    if len(data) != 4 or not 8 <= size <= MAX_PACKET_SIZE:
        raise FormatError(
            "A packet of the Crypt4GH header has an impossible length.", field="length", offset=offset
        )
    return size


def _check_total(size: int) -> None:
    if size > MAX_HEADER_SIZE:
        raise FormatError("The Crypt4GH header is larger than 16 MiB.", field="packet", offset=size)


def _shared_key(reader: PublicKey, writer: PublicKey, shared: bytes) -> ChaCha20Poly1305:
    # libsodium's crypto_kx: the reader is the client, the writer the server (crypt4gh.tex, section 2.2.1).
    return ChaCha20Poly1305(hashlib.blake2b(shared + reader.raw + writer.raw, digest_size=64).digest()[:32])


def _open_packet(packet: bytes, secret: SecretKey) -> bytes | None:
    """Return the payload, or None if this key does not open the packet."""
    method = int.from_bytes(packet[:4], "little")
    sealed = packet[4 + KEY_SIZE :]
    if method != _METHOD_X25519_CHACHA20 or len(sealed) < _NONCE_SIZE + 4 + _MAC_SIZE:
        return None
    writer = PublicKey(packet[4 : 4 + KEY_SIZE])
    try:
        cipher = _shared_key(secret.public, writer, secret.shared_with(writer))
        return cipher.decrypt(sealed[:_NONCE_SIZE], sealed[_NONCE_SIZE:], None)
    except (InvalidTag, FormatError):
        return None


def _seal_packet(payload: bytes, writer: SecretKey, reader: PublicKey) -> bytes:
    nonce = os.urandom(_NONCE_SIZE)
    cipher = _shared_key(reader, writer.public, writer.shared_with(reader))
    method = _METHOD_X25519_CHACHA20.to_bytes(4, "little")
    return method + writer.public.raw + nonce + cipher.encrypt(nonce, payload, None)


def _check_writer(packet: bytes, expected: PublicKey | None, number: int) -> None:
    writer = PublicKey(packet[4 : 4 + KEY_SIZE])
    if expected is not None and writer != expected:
        raise IntegrityError(
            f"Packet {number} of the header was added by somebody else than the data owner "
            f"(writer {writer.fingerprint}, expected {expected.fingerprint}).",
            advice="Do not use this file; tell the data owner.",
        )


def _data_key_payload(key: DataKey) -> bytes:
    return _TYPE_DATA_KEY.to_bytes(4, "little") + (0).to_bytes(4, "little") + key.reveal()


def _parse_data_key(payload: bytes) -> DataKey:
    method = int.from_bytes(payload[4:8], "little")
    if len(payload) < 8 or method != 0:
        raise FormatError(
            f"The file's segments use encryption method {method}, which is not known.",
            field="data_encryption_method",
        )
    # Packets may be padded at their end (section 2.2): the key is the first 32 bytes.
    return DataKey(payload[8 : 8 + KEY_SIZE])


def _parse_edit_list(payload: bytes) -> tuple[int, ...]:
    count = int.from_bytes(payload[4:8], "little")
    lengths = payload[8 : 8 + 8 * count]
    if len(payload) < 8 or len(lengths) != 8 * count:
        raise FormatError("The header's edit list is cut.", field="number_lengths")
    return tuple(int.from_bytes(lengths[i : i + 8], "little") for i in range(0, len(lengths), 8))


def _no_key(header: Header, secret: SecretKey) -> HeaderKeyError:
    count = len(header.packets)
    packets = "1 packet" if count == 1 else f"{count} packets"
    writers = _writers(header)
    written = f", written by {' and '.join(writers[:3])}" if writers else ""
    more = f" and {len(writers) - 3} more" if len(writers) > 3 else ""
    # A packet names its writer and not its reader: how many readers there are is all that can be said.
    return HeaderKeyError(
        f"The header does not open with the key that was tried, {secret.public.fingerprint}. It has room for "
        f"{count} reader{'' if count == 1 else 's'} at most ({packets}{written}{more}).",
        advice="The file was sealed for another key, or its header was changed: ask the data owner.",
    )


def _writers(header: Header) -> list[str]:
    """Return the fingerprints of the keys that packets say they were written with, each once."""
    found = dict.fromkeys(
        PublicKey(packet[4 : 4 + KEY_SIZE]).fingerprint
        for packet in header.packets
        if len(packet) >= 4 + KEY_SIZE
    )
    return list(found)
