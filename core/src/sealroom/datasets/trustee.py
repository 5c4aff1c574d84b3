# SPDX-License-Identifier: BSD-3-Clause
"""Open a dataset with its own key, which came from a key broker as a resource: "Trustee mode".

What a broker of ours does at a release, this process does itself: verify the manifest, compare every header
with it, and re-encrypt the headers to a key of its own. Nobody decides on the person and nothing is recorded:
a Trustee knows machines, not people.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import Manifest, SignedManifest
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.vault import Vault
from sealroom.errors import IntegrityError


class KeyResource(Protocol):
    """A dataset's key as it came; `sealroom.kbs.trustee.DatasetKey` is one."""

    @property
    def secret(self) -> SecretKey:
        """The X25519 key that the files are sealed to."""

    @property
    def manifest(self) -> bytes:
        """The manifest's bytes; empty where the resource has none."""

    @property
    def signature(self) -> bytes:
        """The signature over them."""


def open_with_key(
    vault: Vault,
    dataset: str,
    directory: DatasetDirectory,
    resource: KeyResource,
    *,
    owner_key: bytes,
    until: datetime | None = None,
) -> Manifest:
    """Open a dataset in a vault with the key that a key broker gave out, and wipe the key.

    Args:
        vault: Where the dataset is opened.
        dataset: The id of the dataset that was asked for.
        directory: Where its sealed files lie.
        resource: Its key; wiped at the end, also where this fails.
        owner_key: The data owner's Ed25519 public key, 32 bytes, got from the owner: it is what makes the
            manifest, and with it every sealed byte, the owner's.
        until: When access ends, if the data owner said so; the key broker does not.

    Returns:
        The manifest that holds.

    Raises:
        SignatureError: The manifest is not signed by this owner.
        IntegrityError: It is the manifest of another dataset, the key is not the one that its files are
            sealed to, or a header is not the owner's.
        FormatError: A header or the manifest is malformed.
        StorageError: The sealed files or the manifest are not there.
    """
    try:
        # 1. The manifest: the one that was stored with the key, else the one beside the files.
        if resource.manifest:
            signed = SignedManifest(resource.manifest, resource.signature)
        else:
            signed = directory.read_manifest()
        # 2. The owner's, and of this dataset.
        manifest = signed.verify(owner_key)
        if manifest.id != dataset:
            raise IntegrityError(f"The manifest that came for {dataset} is the one of {manifest.id}.")
        # 3. The key, the headers, and the vault.
        vault.add_with_key(manifest, directory, resource.secret, until=until)
    finally:
        resource.secret.wipe()
    return manifest
