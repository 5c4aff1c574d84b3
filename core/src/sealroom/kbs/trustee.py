# SPDX-License-Identifier: BSD-3-Clause
"""A dataset's key as a static resource of a key broker: "Trustee mode".

Any KBS of protocol 0.4.0, such as Trustee, can hold it: `default/sealroom/<dataset>`. A broker of ours gives
it out as `sealroom/dataset-key/<dataset>` where a grant says so. The server that gets it opens every file of
the dataset by itself; nothing takes the key back but the end of that server.

Four forms are read:

| form | what it is |
|---|---|
| document | canonical JSON: `format`, `dataset`, `secret_key`, `manifest`, `signature`; what we write |
| Crypt4GH key | a secret key file of Crypt4GH that is not locked |
| PKCS #8 | an X25519 private key in PEM, as OpenSSL writes it, not locked |
| raw | the 32 bytes of the X25519 key |

Only the document says which manifest belongs to the key. With the others the copy beside the sealed files is
what there is: its owner's signature is checked, but an older one of the same owner passes too.

Invariants:

- Nothing but `sealroom.errors.Error` leaves a call, and no message quotes the resource.
- A document is for one dataset; the name that it was fetched under counts for nothing.
- The key is in no `repr`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealroom.canonical import canonical_json
from sealroom.crypt4gh import SecretKey, needs_passphrase, read_secret_key
from sealroom.errors import FormatError, ProtocolError

FORMAT: Final = "sealroom-trustee/1"
MAX_RESOURCE: Final = 2 << 20
"""Most bytes of a resource: what a Trustee takes as it is shipped (`payload_request_size`, 2 MiB)."""

REPOSITORY: Final = "default"
KIND: Final = "sealroom"
"""Where a Trustee holds the keys of datasets: `default/sealroom/<dataset>`."""

BROKER_REPOSITORY: Final = "sealroom"
BROKER_KIND: Final = "dataset-key"
"""Where a broker of ours gives them out: `sealroom/dataset-key/<dataset>`."""

_RAW_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64
_CRYPT4GH: Final = b"-----BEGIN CRYPT4GH "
_PKCS8: Final = b"-----BEGIN PRIVATE KEY-----"


class ResourceClient(Protocol):
    """Fetches resources inside an attested session; `sealroom.kbs.client.KbsClient` is one."""

    def resource(self, repository: str, kind: str, tag: str) -> bytes:
        """Return a static resource."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    format: Literal["sealroom-trustee/1"]
    dataset: str = Field(min_length=1, max_length=63)
    secret_key: str = Field(repr=False)
    manifest: str
    signature: str


@dataclass(frozen=True, slots=True)
class DatasetKey:
    """A dataset's key as a resource holds it; nothing is verified yet."""

    secret: SecretKey
    """The X25519 key that the files are sealed to."""
    dataset: str = ""
    """The dataset that the resource says it is for; empty where it says nothing."""
    manifest: bytes = b""
    """The manifest's bytes; empty where the resource has none."""
    signature: bytes = b""
    """The owner's Ed25519 signature over them, 64 bytes."""

    def to_bytes(self) -> bytes:
        """Return the document: the exact bytes to store at a key broker.

        Raises:
            ProtocolError: It is larger than a Trustee takes.
        """
        fields = {
            "format": FORMAT,
            "dataset": self.dataset,
            "secret_key": _base64(self.secret.reveal()),
            "manifest": _base64(self.manifest),
            "signature": _base64(self.signature),
        }
        data = canonical_json(fields)
        if len(data) > MAX_RESOURCE:
            raise ProtocolError(
                f"The dataset's manifest is too large for a resource of at most {MAX_RESOURCE} bytes.",
                advice="Store the key alone; the manifest then comes from beside the sealed files.",
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> DatasetKey:
        """Read a resource in any of its forms.

        Raises:
            ProtocolError: It is none of them, or locked, or larger than `MAX_RESOURCE`.
        """
        if len(data) > MAX_RESOURCE:
            raise ProtocolError(f"The resource is longer than the {MAX_RESOURCE} bytes that are accepted.")
        if len(data) == _RAW_SIZE:
            return cls(SecretKey(data))
        if data.startswith(_CRYPT4GH):
            return cls(_crypt4gh_key(data))
        if data.startswith(_PKCS8):
            return cls(_pkcs8_key(data))
        return _document(data)

    def wipe(self) -> None:
        """Overwrite the key."""
        self.secret.wipe()


class TrusteeSource:
    """Fetches datasets' keys from a key broker.

    Args:
        client: A client of that broker.
        repository: First part of the resources' names.
        kind: Second part of their names.
    """

    def __init__(self, client: ResourceClient, *, repository: str = REPOSITORY, kind: str = KIND) -> None:
        self._client = client
        self._repository = repository
        self._kind = kind

    @classmethod
    def of_broker(cls, client: ResourceClient) -> TrusteeSource:
        """Return the source of the keys that a broker of ours gives out."""
        return cls(client, repository=BROKER_REPOSITORY, kind=BROKER_KIND)

    def fetch(self, dataset: str) -> DatasetKey:
        """Fetch the key of a dataset.

        Raises:
            AccessDeniedError: The key broker refuses.
            NetworkError: It cannot be reached.
            ProtocolError: The resource is no dataset's key, or is the key of another dataset.
        """
        found = DatasetKey.from_bytes(self._client.resource(self._repository, self._kind, dataset))
        if found.dataset not in ("", dataset):
            found.wipe()
            raise ProtocolError(f"The key broker's resource for {dataset} is the key of another dataset.")
        return found


def _document(data: bytes) -> DatasetKey:
    try:
        document = _Document.model_validate_json(data)
        canonical = canonical_json(document.model_dump(mode="json"))
    except (ValidationError, ValueError, RecursionError, FormatError):
        raise _no_key() from None
    if canonical != data:
        raise _no_key()
    secret, manifest, signature = (
        _decoded(text) for text in (document.secret_key, document.manifest, document.signature)
    )
    if len(secret) != _RAW_SIZE or not manifest or len(signature) != _SIGNATURE_SIZE:
        raise _no_key()
    return DatasetKey(SecretKey(secret), document.dataset, manifest, signature)


def _crypt4gh_key(data: bytes) -> SecretKey:
    try:
        if needs_passphrase(data):
            raise ProtocolError(
                "The resource is a Crypt4GH key that is locked with a passphrase.",
                advice="Tell the data owner to store it without one: the key broker protects it.",
            )
        return read_secret_key(data)
    except FormatError:
        raise _no_key() from None


def _pkcs8_key(data: bytes) -> SecretKey:
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        raise _no_key() from None
    if not isinstance(key, X25519PrivateKey):
        raise ProtocolError("The resource is a private key, but not an X25519 key.")
    return SecretKey(key.private_bytes_raw())


def _no_key() -> ProtocolError:
    return ProtocolError(
        "The key broker's resource is no dataset's key.",
        advice="The data owner writes it with `sealroom dataset trustee-resource`.",
    )


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _no_key() from None
    if _base64(data) != text:
        raise _no_key()
    return data


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
