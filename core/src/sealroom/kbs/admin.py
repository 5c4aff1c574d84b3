# SPDX-License-Identifier: BSD-3-Clause
"""The data owner's side of the broker, `/kbs/v0/sealroom/admin/…`: datasets, grants and the audit log.

Every call carries `Authorization: Bearer <owner token>`; a wrong or missing one is 401.

| call | request | answer |
|---|---|---|
| `POST datasets` | `DatasetRegistration` | `OwnedDataset` |
| `GET datasets` | - | `OwnedDatasets` |
| `POST grants` | `GrantSpec` | `Grant` |
| `GET grants[?dataset=ID]` | - | `Grants` |
| `PATCH grants/<id>` | `GrantChange` | `Grant` |
| `DELETE grants/<id>` | - | `Grant` with `withdrawn` set; withdrawing again changes nothing |
| `GET requests[?dataset=ID&state=STATE]` | - | `AccessRequestList` |
| `GET requests/<id>` | - | `AccessRequest` |
| `POST requests/<id>/grant` | `RequestGrant` | `AccessRequest` |
| `POST requests/<id>/refuse` | `RequestRefusal` | `AccessRequest` |
| `GET explain?dataset=ID&session=ID[&purpose=DUO:…]` | - | `Explanation`, in the owner's words |
| `DELETE datasets/<id>/key` | `StatedReason`, or `?reason=` | `OwnedDataset` with `destroyed` set |
| `GET projects` | - | `Projects` |
| `POST projects/<name>/halt` | `StatedReason` | `Project` |
| `POST projects/<name>/resume` | `StatedReason` | `Project` |
| `GET environments/<digest>` | - | the manifest of an approved environment, as TOML |
| `GET audit/key` | - | the log's verifier key, as text |
| `GET audit/<path>` | - | a file of the log: `checkpoint`, `tile/…`, `evidence/<sha256>` |

`AuditReader` makes the log's files a `sealroom.audit.tlog.Reader`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from sealroom.errors import AccessDeniedError, ConfigurationError, ProtocolError
from sealroom.kbs._http import Answer, Transport
from sealroom.kbs.calls import (
    AccessRequest,
    AccessRequestList,
    DatasetRegistration,
    Explanation,
    Grant,
    GrantChange,
    GrantSpec,
    Project,
    Projects,
    RequestGrant,
    RequestRefusal,
    RequestState,
    StatedReason,
)
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
    keep_until: datetime | None = None
    """When the permit ends and the key is destroyed."""
    destroyed: datetime | None = None
    """When the broker destroyed the key; it must be registered again to be used."""


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

    def change_grant(self, grant: str, change: GrantChange) -> Grant:
        """Narrow or extend a grant; running servers have the new terms at their next look at the broker.

        Raises:
            ProtocolError: The broker does not take it; the message says why.
            AccessDeniedError: The token is wrong or may not do this.
        """
        body = change.model_dump_json(exclude_defaults=True).encode()
        path = f"/grants/{quote(grant, safe='')}"
        return parse(Grant, self._call("PATCH", path, f"the change of grant {grant}", body).body)

    def projects(self) -> tuple[Project, ...]:
        """Return the projects that grants name."""
        return parse(Projects, self._call("GET", "/projects", "the list of projects").body).projects

    def halt_project(self, project: str, reason: str) -> Project:
        """Halt a project: nothing is released by its grants, and running servers lose its datasets.

        Raises:
            ProtocolError: No grant is of this project.
            AccessDeniedError: The token is wrong or may not do this.
        """
        return self._turn(project, "halt", reason)

    def resume_project(self, project: str, reason: str) -> Project:
        """Let a halted project go on.

        Raises:
            ProtocolError: No grant is of this project.
            AccessDeniedError: The token is wrong or may not do this.
        """
        return self._turn(project, "resume", reason)

    def destroy_key(self, dataset: str, reason: str) -> OwnedDataset:
        """Destroy the broker's key of a dataset: to be used again, it must be registered again.

        Raises:
            ProtocolError: There is no such dataset, or traces of the key could not be removed yet.
            AccessDeniedError: The token is wrong or may not do this.
        """
        path = f"/datasets/{quote(dataset, safe='')}/key"
        return parse(OwnedDataset, self._call("DELETE", path, "the end of the key", _reason(reason)).body)

    def withdraw_grant(self, grant: str) -> Grant:
        """Withdraw a grant; running servers lose the data at their next look at the broker."""
        path = f"/grants/{quote(grant, safe='')}"
        return parse(Grant, self._call("DELETE", path, f"to withdraw the grant {grant}").body)

    def requests(self, dataset: str = "", state: RequestState | None = None) -> tuple[AccessRequest, ...]:
        """Return people's requests for access, the newest first.

        Args:
            dataset: Only those for this dataset.
            state: Only those that stand so.
        """
        asked = {"dataset": dataset, "state": state or ""}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items() if value)
        answer = self._call("GET", f"/requests{'?' if query else ''}{query}", "the list of requests")
        return parse(AccessRequestList, answer.body, limit=len(answer.body)).requests

    def request(self, request: str) -> AccessRequest:
        """Return one request.

        Raises:
            ProtocolError: There is none that this token may see.
        """
        path = f"/requests/{quote(request, safe='')}"
        return parse(AccessRequest, self._call("GET", path, f"the request {request}").body)

    def grant_request(self, request: str, terms: RequestGrant) -> AccessRequest:
        """Give what a person asked for: a grant for exactly this person.

        Raises:
            ProtocolError: The broker does not take it, or somebody has answered it already.
            AccessDeniedError: The token is wrong or may not do this.
        """
        path, body = f"/requests/{quote(request, safe='')}/grant", terms.model_dump_json().encode()
        return parse(AccessRequest, self._call("POST", path, "the grant", body).body)

    def refuse_request(self, request: str, answer: str) -> AccessRequest:
        """Refuse what a person asked for, with a sentence for them.

        Raises:
            ProtocolError: Somebody has answered it already.
            AccessDeniedError: The token is wrong or may not do this.
        """
        path = f"/requests/{quote(request, safe='')}/refuse"
        body = RequestRefusal(answer=answer).model_dump_json().encode()
        return parse(AccessRequest, self._call("POST", path, "the answer", body).body)

    def explain(self, dataset: str, session: str, purpose: str | None = None) -> Explanation:
        """Return what the broker would decide for a server that it has seen, in the owner's words.

        Args:
            dataset: What the server would be given.
            session: The id of the server's session, as a request names it.
            purpose: A DUO code; None asks whether any purpose would do.
        """
        asked = {"dataset": dataset, "session": session, "purpose": purpose}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in asked.items() if value)
        return parse(Explanation, self._call("GET", f"/explain?{query}", "the explanation").body)

    def environment(self, digest: str) -> bytes:
        """Return the manifest of an environment that the broker approves now.

        Raises:
            ProtocolError: The broker approves none with this digest.
        """
        return self._call("GET", f"/environments/{quote(digest, safe='')}", "the environment").body

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

    def _turn(self, project: str, how: str, reason: str) -> Project:
        path = f"/projects/{quote(project, safe='')}/{how}"
        return parse(
            Project, self._call("POST", path, f"to {how} the project {project}", _reason(reason)).body
        )

    def _call(self, method: str, path: str, what: str, body: bytes | None = None) -> Answer:
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = self._transport.send(method, _ADMIN + path, body=body, headers=headers)
        problem = answer.problem(what)
        if isinstance(problem, AccessDeniedError) and answer.status == httpx.codes.UNAUTHORIZED:
            raise AccessDeniedError(problem.message, reasons=problem.reasons, advice=_WRONG_TOKEN)
        if problem is not None:
            raise problem
        return answer


def _reason(reason: str) -> bytes:
    try:
        return StatedReason(reason=reason).model_dump_json().encode()
    except ValidationError:
        raise ConfigurationError("A reason has between 1 and 2000 characters.") from None


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
