# SPDX-License-Identifier: BSD-3-Clause
"""Datasets that a server opens with their own key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import encode_signature, sign_manifest
from sealroom.datasets.trustee import open_with_key
from sealroom.datasets.vault import Vault
from sealroom.errors import (
    AccessDeniedError,
    Error,
    FormatError,
    IntegrityError,
    SignatureError,
    StorageError,
)
from sealroom.kbs.trustee import DatasetKey
from support.sealed import PLAIN, Sealed


def copy_of(key: SecretKey) -> SecretKey:
    return SecretKey(key.reveal())


def document(sealed: Sealed) -> DatasetKey:
    data = sealed.manifest.to_bytes()
    return DatasetKey(
        copy_of(sealed.dataset_key), "heartbeats", data, sign_manifest(data, sealed.signing_key)
    )


def bare(sealed: Sealed) -> DatasetKey:
    return DatasetKey(copy_of(sealed.dataset_key))


def opened(sealed: Sealed, resource: DatasetKey, until: datetime | None = None) -> Vault:
    vault = Vault()
    open_with_key(vault, "heartbeats", sealed.directory, resource, owner_key=sealed.owner_key, until=until)
    return vault


def read(vault: Vault, name: str) -> bytes:
    buffer = bytearray(len(PLAIN[name]))
    assert vault.read_into("heartbeats", name, 0, memoryview(buffer)) == len(buffer)
    return bytes(buffer)


@pytest.mark.parametrize("form", [document, bare])
def test_every_file_reads_as_it_was_sealed(sealed: Sealed, form: Callable[[Sealed], DatasetKey]) -> None:
    vault = opened(sealed, form(sealed))
    assert {name: read(vault, name) for name in PLAIN} == PLAIN


@pytest.mark.parametrize("form", [document, bare])
def test_key_is_wiped_when_the_dataset_is_open(sealed: Sealed, form: Callable[[Sealed], DatasetKey]) -> None:
    resource = form(sealed)
    vault = opened(sealed, resource)
    with pytest.raises(RuntimeError):
        resource.secret.reveal()
    assert read(vault, "exact.bin") == PLAIN["exact.bin"]


def test_access_ends_when_it_was_told_to(sealed: Sealed) -> None:
    vault = opened(sealed, document(sealed), until=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(AccessDeniedError, match="ended at"):
        vault.manifest("heartbeats")


def refused(sealed: Sealed, resource: DatasetKey, kind: type[Error], **changes: bytes) -> Error:
    vault = Vault()
    owner_key = changes.get("owner_key", sealed.owner_key)
    with pytest.raises(kind) as caught:
        open_with_key(vault, "heartbeats", sealed.directory, resource, owner_key=owner_key)
    assert not vault.holds("heartbeats")
    with pytest.raises(RuntimeError):
        resource.secret.reveal()
    return caught.value


@pytest.mark.parametrize("form", [document, bare])
def test_manifest_of_another_owner(sealed: Sealed, form: Callable[[Sealed], DatasetKey]) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    refused(sealed, form(sealed), SignatureError, owner_key=other)


def test_owner_key_that_is_none(sealed: Sealed) -> None:
    refused(sealed, document(sealed), SignatureError, owner_key=b"short")


def test_manifest_with_a_changed_byte(sealed: Sealed) -> None:
    resource = document(sealed)
    refused(
        sealed,
        replace(resource, manifest=resource.manifest.replace(b"ECG", b"EKG", 1) + b" "),
        SignatureError,
    )


def test_signed_bytes_that_are_no_manifest(sealed: Sealed) -> None:
    resource = replace(document(sealed), manifest=b"{}", signature=sealed.signing_key.sign(b"{}"))
    refused(sealed, resource, FormatError)


def test_manifest_of_another_dataset_of_the_owner(sealed: Sealed) -> None:
    other = sealed.manifest.model_copy(update={"id": "brainwaves"}).to_bytes()
    resource = replace(document(sealed), manifest=other, signature=sign_manifest(other, sealed.signing_key))
    assert "brainwaves" in refused(sealed, resource, IntegrityError).message


def test_key_of_another_dataset(sealed: Sealed) -> None:
    resource = replace(document(sealed), secret=SecretKey.generate())
    assert "sealed to" in refused(sealed, resource, IntegrityError).message


def test_header_that_was_changed(sealed: Sealed) -> None:
    path = sealed.directory.sealed_file("ecg.bin")
    data = bytearray(path.read_bytes())
    data[sealed.manifest.file("ecg.bin").header_size - 1] ^= 1
    path.write_bytes(data)
    assert "header of ecg.bin" in refused(sealed, document(sealed), IntegrityError).message


def test_file_that_is_not_there(sealed: Sealed) -> None:
    sealed.directory.sealed_file("ecg.bin").unlink()
    refused(sealed, document(sealed), StorageError)


def test_bare_key_without_a_manifest_beside_the_files(sealed: Sealed) -> None:
    (sealed.directory.path / "dataset.json").unlink()
    refused(sealed, bare(sealed), StorageError)


def test_the_documents_manifest_counts_and_not_the_one_beside_the_files(sealed: Sealed) -> None:
    """An older manifest of the same owner lies beside the files: the one that came with the key holds."""
    resource = document(sealed)
    older = sealed.manifest.model_copy(update={"title": "Older"}).to_bytes()
    (sealed.directory.path / "dataset.json").write_bytes(older)
    signature = encode_signature(sign_manifest(older, sealed.signing_key))
    (sealed.directory.path / "dataset.json.sig").write_bytes(signature)
    assert opened(sealed, resource).manifest("heartbeats").title == sealed.manifest.title
    # A bare key cannot tell.
    assert opened(sealed, bare(sealed)).manifest("heartbeats").title == "Older"
