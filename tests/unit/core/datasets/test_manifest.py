# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sealroom.canonical import canonical_json
from sealroom.datasets.manifest import (
    Manifest,
    check_id,
    check_name,
    decode_signature,
    encode_signature,
    sign_manifest,
    verify_manifest,
)
from sealroom.datasets.terms import LABELS, term
from sealroom.errors import Error, FormatError, SignatureError
from support.sealed import Sealed


@pytest.fixture
def fields(sealed: Sealed) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(sealed.manifest.to_bytes())
    return loaded


def refused(fields: dict[str, Any]) -> str:
    with pytest.raises(FormatError) as caught:
        Manifest.from_bytes(canonical_json(fields))
    return caught.value.field


def test_bytes_round_trip_and_are_canonical(sealed: Sealed) -> None:
    data = sealed.manifest.to_bytes()
    assert Manifest.from_bytes(data) == sealed.manifest
    assert (
        data
        == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    assert b"\n" not in data


def test_signature_verifies(sealed: Sealed) -> None:
    signed = sealed.directory.read_manifest()
    assert signed.verify(sealed.owner_key) == sealed.manifest


def test_signature_is_what_openssl_verifies(sealed: Sealed, tmp_path: Path) -> None:
    signed = sealed.directory.read_manifest()
    (tmp_path / "data").write_bytes(signed.data)
    (tmp_path / "sig").write_bytes(signed.signature)
    (tmp_path / "key.pem").write_bytes(
        sealed.signing_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", "data"]
    subprocess.run([*command, "-sigfile", "sig"], check=True, capture_output=True, cwd=tmp_path)


def test_signature_by_somebody_else_is_refused(sealed: Sealed) -> None:
    other = Ed25519PrivateKey.generate()
    data = sealed.manifest.to_bytes()
    with pytest.raises(SignatureError, match="data owner's signature"):
        verify_manifest(data, other.sign(data), sealed.owner_key)


def test_changed_manifest_is_refused(sealed: Sealed) -> None:
    signed = sealed.directory.read_manifest()
    with pytest.raises(SignatureError):
        verify_manifest(signed.data.replace(b"208", b"209"), signed.signature, sealed.owner_key)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_owner_key_of_wrong_length_is_refused(sealed: Sealed, size: int) -> None:
    signed = sealed.directory.read_manifest()
    with pytest.raises(SignatureError):
        verify_manifest(signed.data, signed.signature, bytes(size))


def test_signed_bytes_that_are_no_manifest_are_refused(sealed: Sealed) -> None:
    with pytest.raises(FormatError):
        verify_manifest(b"{}", sealed.signing_key.sign(b"{}"), sealed.owner_key)


def test_only_manifests_are_signed(sealed: Sealed) -> None:
    with pytest.raises(FormatError):
        sign_manifest(b"{}", sealed.signing_key)


def test_other_order_of_keys_is_refused(sealed: Sealed) -> None:
    fields = dict(reversed(json.loads(sealed.manifest.to_bytes()).items()))
    data = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(FormatError, match="canonical"):
        Manifest.from_bytes(data)


def test_spaces_are_refused(sealed: Sealed) -> None:
    with pytest.raises(FormatError, match="canonical"):
        Manifest.from_bytes(sealed.manifest.to_bytes() + b"\n")


def test_field_given_twice_is_refused(sealed: Sealed) -> None:
    data = sealed.manifest.to_bytes()
    with pytest.raises(FormatError):
        Manifest.from_bytes(data[:-1] + b',"title":"another"}')


def test_newer_format_says_to_update(fields: dict[str, Any]) -> None:
    fields["format"] = "sealroom-dataset/3"
    with pytest.raises(FormatError, match="not known") as caught:
        Manifest.from_bytes(canonical_json(fields))
    assert "Update" in caught.value.advice


def test_unknown_field_is_refused(fields: dict[str, Any]) -> None:
    fields["extra"] = 1
    assert refused(fields) == "extra"


@pytest.mark.parametrize("field", ["id", "title", "owner", "files", "created", "writer_key", "dataset_key"])
def test_missing_field_is_refused(fields: dict[str, Any], field: str) -> None:
    del fields[field]
    assert refused(fields) == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "../etc"),
        ("id", "Heartbeats"),
        ("title", ""),
        ("title", "red \x1b[31m"),
        ("created", "2026-11-02T10:00:00"),
        ("writer_key", "AAAA"),
        ("dataset_key", "not base64"),
        ("files", []),
        ("terms", [{"code": "GO:1", "label": "x"}]),
    ],
    ids=[
        "id climbs",
        "id in capitals",
        "empty title",
        "escape sequence",
        "time without zone",
        "short key",
        "key not base64",
        "no files",
        "no DUO term",
    ],
)
def test_unusable_value_is_refused(fields: dict[str, Any], field: str, value: object) -> None:
    fields[field] = value
    assert refused(fields).startswith(field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../ecg.bin"),
        ("size", -1),
        ("size", True),
        ("size", 7),
        ("cipher_size", 7),
        ("header_sha256", "AB" * 32),
        ("segments_root", "ab" * 31),
    ],
    ids=[
        "name climbs",
        "negative size",
        "size is a truth value",
        "size does not fit the cipher",
        "cipher does not fit the size",
        "digest in capitals",
        "digest too short",
    ],
)
def test_unusable_value_of_a_file_is_refused(fields: dict[str, Any], field: str, value: object) -> None:
    fields["files"][0][field] = value
    assert refused(fields).startswith("files.0")


def test_files_out_of_order_are_refused(fields: dict[str, Any]) -> None:
    fields["files"].reverse()
    with pytest.raises(FormatError, match="sorted"):
        Manifest.from_bytes(canonical_json(fields))


def test_file_named_twice_is_refused(fields: dict[str, Any]) -> None:
    fields["files"].insert(0, fields["files"][0])
    with pytest.raises(FormatError, match="twice"):
        Manifest.from_bytes(canonical_json(fields))


@pytest.mark.parametrize("name", ["a", "a.npy", "a/b/c.npy", "Ärzte/größe.csv", ".hidden", "a..b", "x" * 241])
def test_usable_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        ".",
        "..",
        "a/../b",
        "./a",
        "a\0b",
        "a\nb",
        "a\\b",
        "x" * 242,
        "y/" * 520 + "z",
        "A\u0308rzte",
        "a\udcff",
    ],
)
def test_unusable_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        check_name(name)


@pytest.mark.parametrize("dataset", ["", "A", "-a", ".a", "a/b", "..", "a" * 64, "a b"])
def test_unusable_ids_are_refused(dataset: str) -> None:
    with pytest.raises(FormatError):
        check_id(dataset)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise_anything_else(data: bytes) -> None:
    for parse in (Manifest.from_bytes, decode_signature):
        try:
            parse(data)
        except Error:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), value=json_values)
def test_no_value_makes_the_parser_raise_anything_else(data: st.DataObject, value: object) -> None:
    fields: dict[str, Any] = {
        "format": "sealroom-dataset/1", "id": "a", "title": "t", "owner": "o",
        "created": "2026-11-02T10:00:00Z",
        "dataset_key": "A" * 43 + "=", "writer_key": "A" * 43 + "=", "files": [{"name": "a"}],
    }  # fmt: skip
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    try:
        Manifest.from_bytes(json.dumps(fields).encode())
    except Error:
        return


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(FormatError):
        Manifest.from_bytes(b"[" * 100_000)


def test_signature_file_round_trips_and_refuses_other_lengths() -> None:
    assert decode_signature(encode_signature(b"s" * 64)) == b"s" * 64
    with pytest.raises(FormatError, match="64"):
        decode_signature(encode_signature(b"s" * 63))


def test_unknown_file_names_those_that_there_are(sealed: Sealed) -> None:
    assert sealed.manifest.file("ecg.bin").segments == 5
    with pytest.raises(FormatError) as caught:
        sealed.manifest.file("nothing")
    assert "labels/beats.csv" in caught.value.advice


def test_terms_are_known_by_code() -> None:
    assert term("DUO:0000042").label == LABELS["DUO:0000042"] == "general research use"
    with pytest.raises(FormatError, match="DUO:9999999"):
        term("DUO:9999999")


@pytest.fixture
def first_format(fields: dict[str, Any]) -> dict[str, Any]:
    """The same dataset as format 1 described it."""
    del fields["version"]
    fields["format"] = "sealroom-dataset/1"
    for entry in fields["files"]:
        entry["cipher_sha256"] = "ab" * 32
    return fields


def test_manifest_of_the_first_format_is_read_as_it_was(first_format: dict[str, Any]) -> None:
    data = canonical_json(first_format)
    manifest = Manifest.from_bytes(data)
    assert manifest.to_bytes() == data
    assert manifest.version is None
    assert manifest.files[0].cipher_sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("field", "value"), [("version", 1), ("previous", "ab" * 32)], ids=["version", "previous"]
)
def test_field_of_the_second_format_in_the_first_is_refused(
    first_format: dict[str, Any], field: str, value: object
) -> None:
    first_format[field] = value
    with pytest.raises(FormatError):
        Manifest.from_bytes(canonical_json(first_format))


def test_first_format_without_a_digest_is_refused(first_format: dict[str, Any]) -> None:
    del first_format["files"][1]["cipher_sha256"]
    with pytest.raises(FormatError, match="missing"):
        Manifest.from_bytes(canonical_json(first_format))


def test_digest_of_the_first_format_in_the_second_is_refused(fields: dict[str, Any]) -> None:
    fields["files"][0]["cipher_sha256"] = "ab" * 32
    with pytest.raises(FormatError, match="not one of this format"):
        Manifest.from_bytes(canonical_json(fields))


@pytest.mark.parametrize(
    "changes",
    [{"version": 0}, {"version": 2}, {"previous": "ab" * 32}, {"version": True}, {"version": None}],
    ids=["nought", "later without previous", "first with previous", "truth value", "null"],
)
def test_versions_that_do_not_fit_are_refused(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        Manifest.from_bytes(canonical_json({**fields, **changes}))


def test_later_version_names_the_one_before(fields: dict[str, Any]) -> None:
    data = canonical_json({**fields, "version": 2, "previous": "ab" * 32})
    assert Manifest.from_bytes(data).to_bytes() == data
