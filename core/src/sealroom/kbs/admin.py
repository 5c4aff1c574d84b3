# SPDX-License-Identifier: BSD-3-Clause
"""The data owner's side of the broker, `/kbs/v0/sealroom/admin/…`: datasets, grants and the audit log.

Every call carries `Authorization: Bearer <owner token>`; a wrong or missing one is 401.

| call | request | answer |
|---|---|---|
| `POST datasets` | `DatasetRegistration` | `OwnedDataset` |
| `GET datasets` | - | `OwnedDatasets` |
| `POST grants` | `GrantSpec` | `Grant` |
| `GET grants[?dataset=ID]` | - | `Grants` |
| `DELETE grants/<id>` | - | `Grant` with `withdrawn` set; withdrawing again changes nothing |
| `GET audit/key` | - | the log's verifier key, as text |
| `GET audit/<path>` | - | a file of the log: `checkpoint`, `tile/…`, `evidence/<sha256>` |

`AuditReader` makes the log's files a `sealroom.audit.tlog.Reader`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict

from sealroom.errors import AccessDeniedError, ConfigurationError, ProtocolError
from sealroom.kbs._http import Answer, Transport
from sealroom.kbs.calls import DatasetRegistration, Grant, GrantSpec
from sealroom.kbs.client import DEFAULT_TIMEOUT
from sealroom.kbs.messages import PREFIX, parse

_ADMIN = PREFIX + "/sealroom/admin"
_WRONG_TOKEN = "Check the owner's token: `sealroom-broker token` makes a new one."  # noqa: S105 - advice


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class OwnedDataset(_Answer):
    """A registered dataset."""

    id: str
    title: str
    manifest_sha256: str
    files: int
    size: int
    """Plaintext bytes of all files."""
    registered: datetime


class OwnedDatasets(_Answer):
    """All datasets that this broker holds."""

    datasets: tuple[OwnedDataset, ...]


class Grants(_Answer):
    """Grants, the oldest first; withdrawn ones are among them."""

    grants: tuple[Grant, ...]


class OwnerClient:
    """A data owner's connection to a broker. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        http: httpx.Client | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        Args:
            base_url: The broker's address, without `/kbs/v0`.
            token: The owner's token.
            http: A client to use, for example with a certificate authority of your own.
            timeout: Seconds for each step of a request.

        Raises:
            ConfigurationError: `base_url` is no HTTP URL, or the token no token.
        """
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            # Refused here, because an HTTP library would quote it in its own error.
            raise ConfigurationError("The owner's token has characters that no token has.")
        self._transport = Transport(base_url, http, timeout)
        self._token = token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"OwnerClient({self._transport.base_url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def register_dataset(self, registration: DatasetRegistration) -> OwnedDataset:
        """Register a dataset, or a newer manifest of one.

        Raises:
            ProtocolError: The broker does not take it; the message says why.
            AccessDeniedError: The token is wrong or may not do this.
        """
        body = registration.model_dump_json().encode()
        return parse(OwnedDataset, self._call("POST", "/datasets", "the dataset", body).body)

    def datasets(self) -> tuple[OwnedDataset, ...]:
        """Return the datasets that the broker holds."""
        return parse(OwnedDatasets, self._call("GET", "/datasets", "the list of datasets").body).datasets

    def add_grant(self, grant: GrantSpec) -> Grant:
        """Add a grant.

        Raises:
            ProtocolError: The broker does not take it; the message says why.
            AccessDeniedError: The token is wrong or may not do this.
        """
        body = grant.model_dump_json().encode()
        return parse(Grant, self._call("POST", "/grants", "the grant", body).body)

    def grants(self, dataset: str = "") -> tuple[Grant, ...]:
        """Return all grants, or those for one dataset."""
        query = f"?dataset={quote(dataset, safe='')}" if dataset else ""
        return parse(Grants, self._call("GET", f"/grants{query}", "the list of grants").body).grants

    def withdraw_grant(self, grant: str) -> Grant:
        """Withdraw a grant; running servers lose the data at their next look at the broker."""
        path = f"/grants/{quote(grant, safe='')}"
        return parse(Grant, self._call("DELETE", path, f"to withdraw the grant {grant}").body)

    def audit_key(self) -> str:
        """Return the log's verifier key as the broker gives it.

        It is worth keeping only from a first look: a broker that lies about its log lies about its key too.
        """
        text = self._call("GET", "/audit/key", "the audit log's key").body
        try:
            return text.decode().strip()
        except UnicodeDecodeError:
            raise ProtocolError("The broker's audit key is not text.") from None

    def audit_file(self, path: str) -> bytes:
        """Return a file of the audit log."""
        return self._call("GET", f"/audit/{quote(path)}", f"the audit log's {path}").body

    def _call(self, method: str, path: str, what: str, body: bytes | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = self._transport.send(method, _ADMIN + path, body=body, headers=headers)
        problem = answer.problem(what)
        if isinstance(problem, AccessDeniedError) and answer.status == httpx.codes.UNAUTHORIZED:
            raise AccessDeniedError(problem.message, reasons=problem.reasons, advice=_WRONG_TOKEN)
        if problem is not None:
            raise problem
        return answer


class AuditReader:
    """The files of a broker's audit log, through its owner API."""

    def __init__(self, client: OwnerClient) -> None:
        self._client = client

    def get(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            Error: It is not there, or the broker cannot be reached.
        """
        return self._client.audit_file(path)
