# SPDX-License-Identifier: BSD-3-Clause
"""Fuzz targets: Crypt4GH, dataset manifests, the audit log."""

from __future__ import annotations

import functools
import hashlib
import io
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz.engine import Target
from sealroom.audit.entry import AuditEntry, AuditPerson, AuditReason, Decision
from sealroom.audit.note import Checkpoint, Signer, VerifierKey, open_note
from sealroom.audit.tlog import (
    decode_bundle,
    encode_entry,
    leaf_hash,
    node_hash,
    split_tile,
    verify_consistency,
    verify_inclusion,
)
from sealroom.crypt4gh import DataKey, Header, SecretKey, keys, make_header, open_header
from sealroom.crypt4gh import header as headers
from sealroom.crypt4gh.keys import read_public_key, read_secret_key, write_public_key, write_secret_key
from sealroom.crypt4gh.segments import CIPHER_SEGMENT, OVERHEAD, SegmentCipher, cipher_size
from sealroom.datasets.manifest import Manifest, decode_signature, encode_signature
from sealroom.datasets.segment_list import RECORD, SegmentList, record_of
from sealroom.errors import Error, FormatError

READER = SecretKey(bytes(range(1, 33)))
WRITER = SecretKey(bytes(range(2, 34)))
DATA_KEY = DataKey(b"k" * 32)
SIGNER = Signer("sealroom.example/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


def _header(data: bytes) -> None:
    try:
        streamed: Header | None = Header.read(io.BytesIO(data))
    except Error:
        streamed = None
    header = Header.from_prefix(data)
    assert streamed == header
    assert header.to_bytes() == data[: header.size]
    open_header(header, READER)
    open_header(Header.from_bytes(data), READER, expected_writer=WRITER.public)


@functools.cache
def _headers() -> list[bytes]:
    one = make_header([DATA_KEY], [READER.public], writer=WRITER)
    edited = make_header([DATA_KEY, DATA_KEY], [READER.public], writer=WRITER, edit_list=(1, 2, 3))
    return [one.to_bytes(), edited.to_bytes()]


def _packet(data: bytes) -> None:
    # The payload is sealed for the reader, so that what is inside is reached.
    packets = tuple(headers._seal_packet(one, WRITER, READER.public) for one in (data, _payloads()[0]))
    opened = open_header(Header(packets), READER, expected_writer=WRITER.public)
    assert opened.data_keys


def _payloads() -> list[bytes]:
    return [bytes(8) + b"k" * 32, b"\1\0\0\0" + b"\2\0\0\0" + bytes(16), b"\7\0\0\0"]


def _key_files(data: bytes) -> None:
    # Deriving a key takes as long as the file asks for, within bounds; what is read is what is tested.
    kept = keys._derive
    keys._derive = lambda kdf, passphrase, salt, rounds: b"d" * 32
    try:
        read_public_key(data)
    except FormatError:
        keys.needs_passphrase(data)
        read_secret_key(data, b"passphrase")
    finally:
        keys._derive = kept


@functools.cache
def _written_keys() -> list[bytes]:
    kept = keys._derive
    keys._derive = lambda kdf, passphrase, salt, rounds: b"d" * 32
    try:
        locked = [
            write_secret_key(READER, b"passphrase", kdf=kdf, comment=b"c")
            for kdf in ("scrypt", "bcrypt", "pbkdf2_hmac_sha256")
        ]
    finally:
        keys._derive = kept
    return [write_public_key(READER.public), write_secret_key(READER), *locked]


def _segment(data: bytes) -> None:
    if len(data) <= OVERHEAD:
        raise FormatError("The target takes a segment.")
    SegmentCipher([DATA_KEY]).decrypt_into(memoryview(data), memoryview(bytearray(len(data) - OVERHEAD)))


@functools.cache
def _sealed_segment() -> bytes:
    out = bytearray(100 + OVERHEAD)
    SegmentCipher([DATA_KEY]).encrypt_into(b"s" * 100, memoryview(out))
    assert len(out) < CIPHER_SEGMENT
    return bytes(out)


def _segment_list(data: bytes) -> None:
    record = record_of(_sealed_segment())
    root = hashlib.sha256(b"\0" + record).hexdigest()
    found = SegmentList(data, name="data.bin", count=1, root=root)
    assert list(found) == [data]


def _manifest(data: bytes) -> None:
    assert Manifest.from_bytes(data).to_bytes() == data


@functools.cache
def _manifests() -> list[bytes]:
    digest = "ab" * 32
    file = {
        "name": "data.bin", "size": 70_000, "cipher_size": cipher_size(70_000), "header_size": 124,
        "header_sha256": digest, "cipher_sha256": digest, "segments_root": digest,
    }  # fmt: skip
    fields: dict[str, object] = {
        "format": "sealroom-dataset/1", "id": "heartbeats", "title": "Heartbeats", "owner": "Heart Centre",
        "contact": "data@heart.example", "description": "Five minutes.", "source": "MIT-BIH", "licence": "x",
        "terms": [{"code": "DUO:0000042", "label": "general research use"}],
        "created": datetime(2026, 11, 2, 10, 0, tzinfo=UTC), "dataset_key": READER.public.to_base64(),
        "writer_key": WRITER.public.to_base64(), "files": [file],
    }  # fmt: skip
    known = Manifest.model_fields.keys()
    return [Manifest.build({name: value for name, value in fields.items() if name in known}).to_bytes()]


def _entry(data: bytes) -> None:
    assert AuditEntry.from_bytes(data).to_bytes() == data


@functools.cache
def _entries() -> list[bytes]:
    entry = AuditEntry(
        time=datetime(2026, 11, 2, 10, 0, 0, 5, tzinfo=UTC),
        kind="refusal",
        person=AuditPerson(subject="u1", name="Ada", issuer="hub"),
        decision=Decision(allowed=False, reasons=(AuditReason(code="grant.none", sentence="No."),)),
    )
    return [entry.to_bytes()]


def _note(data: bytes) -> None:
    checkpoint = Checkpoint.open(data, SIGNER.verifier)
    assert Checkpoint.parse(checkpoint.text()) == checkpoint
    open_note(data, SIGNER.verifier)


def _checkpoint_text(data: bytes) -> None:
    # Signed here, so that the signature is no barrier to the text.
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError("The target takes text.") from error
    Checkpoint.open(SIGNER.sign(text), SIGNER.verifier)


def _note_key(data: bytes) -> None:
    key = VerifierKey.parse(data.decode("utf-8", "replace"))
    assert VerifierKey.parse(str(key)) == key


def _proof(data: bytes) -> None:
    """Take two sizes, then two roots, then a proof."""
    if len(data) < 4 or (len(data) - 4) % 32:
        raise FormatError("The target takes two sizes and hashes.")
    index, size = int.from_bytes(data[:2]), int.from_bytes(data[2:4])
    nodes = split_tile(data[4:], (len(data) - 4) // 32)
    if len(nodes) < 2:
        raise FormatError("The target takes two hashes at least.")
    try:
        verify_consistency(index, nodes[0], size, nodes[1], nodes[2:])
    except Error:
        verify_inclusion(nodes[0], index, size, nodes[2:], nodes[1])


def _proofs() -> list[bytes]:
    leaves = [leaf_hash(bytes((n,))) for n in range(2)]
    return [
        bytes((0, 0, 0, 2)) + leaves[0] + node_hash(*leaves) + leaves[1],
        bytes((0, 1, 0, 2)) + leaves[0] + node_hash(*leaves) + leaves[1],
        bytes((0, 2, 0, 2)) + node_hash(*leaves) * 2,
    ]


def _bundle(data: bytes) -> None:
    assert b"".join(encode_entry(entry) for entry in decode_bundle(data)) == data


TARGETS = {
    "crypt4gh-header": Target(_header, _headers, 2048),
    "crypt4gh-packet": Target(_packet, _payloads, 512),
    "crypt4gh-keys": Target(_key_files, _written_keys, 1024),
    "crypt4gh-segment": Target(_segment, lambda: [_sealed_segment()], 1024),
    "dataset-manifest": Target(_manifest, _manifests, 4096),
    "dataset-signature": Target(decode_signature, lambda: [encode_signature(bytes(64))], 256),
    "dataset-segments": Target(_segment_list, lambda: [record_of(_sealed_segment())], 4 * RECORD),
    "audit-entry": Target(_entry, _entries, 2048),
    "audit-note": Target(_note, lambda: [Checkpoint(SIGNER.name, 7, bytes(range(32))).sign(SIGNER)], 1024),
    "audit-checkpoint": Target(
        _checkpoint_text, lambda: [Checkpoint(SIGNER.name, 7, bytes(range(32))).text().encode()], 512
    ),
    "audit-key": Target(_note_key, lambda: [str(SIGNER.verifier).encode()], 256),
    "audit-proof": Target(_proof, _proofs, 4 + 32 * 20),
    "audit-bundle": Target(
        _bundle, lambda: [b"".join(encode_entry(entry) for entry in (*_entries(), b"", b"x"))], 4096
    ),
}
"""Targets by name."""
