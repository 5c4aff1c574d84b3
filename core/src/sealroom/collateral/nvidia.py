# SPDX-License-Identifier: BSD-3-Clause
"""NVIDIA's services: reference integrity manifests (RIM) and OCSP answers.

| request | gives |
|---|---|
| `GET /v1/rim/<id>` at the RIM service | JSON: `id`, `rim` (base64), `sha256` of what it decodes to |
| `POST /` at the OCSP responder, `application/ocsp-request` | an answer that holds for about 24 hours |

Manifests are issued again under the same id, with other reference values. So one in the store is asked for
again after some hours; the older ones stay, because evidence of their time was judged by them.

Invariants:

- Nothing is stored or returned whose signature does not lead to the given roots.
- A manifest that could not be refreshed is used on, and said; an OCSP answer past its nextUpdate never is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import httpx

from sealroom.collateral import layout
from sealroom.collateral._http import TIMEOUT, Answer, Service
from sealroom.collateral.check import check_rim
from sealroom.collateral.kds import SKEW
from sealroom.collateral.ocsp import check_answer, issue_time, load_pair, question
from sealroom.collateral.pace import PATIENCE, Client, Clock, Flights, Gate
from sealroom.collateral.store import Fetched, Note, Store
from sealroom.errors import (
    CollateralUnavailableError,
    Error,
    FormatError,
    NetworkError,
    RevocationUnavailableError,
    StorageError,
    VerificationError,
)

if TYPE_CHECKING:
    from sealroom.nvidia import NvidiaRoots

RIM_URL: Final = "https://rim.attestation.nvidia.com"
OCSP_URL: Final = "https://ocsp.ndis.nvidia.com"
MAX_AGE: Final = timedelta(hours=24)
"""Age at which a manifest is asked for again."""
NONCE_SIZE: Final = 32


class _Fetcher:
    """What the two fetchers share."""

    def __init__(
        self,
        store: Store,
        base_url: str,
        what: str,
        *,
        patience: float = PATIENCE,
        timeout: float = TIMEOUT,
        http: httpx.Client | None = None,
        clock: Clock | None = None,
        progress: Callable[[str], None] | None = None,
        note: Note = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock or Clock()
        self._service = Service(base_url, what, http=http, timeout=timeout)
        # NVIDIA names no limit; only an answer that says "busy" makes us wait.
        gate = Gate(None, 0.0, self._clock)
        self._client = Client(self._service, gate, self._clock, patience=patience, progress=progress)
        self._note = note
        self._flights = Flights()

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _ask(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str]
    ) -> Answer:
        answer = self._client.ask(method, path, content=content, headers=headers)
        if not isinstance(answer, Answer):
            raise TypeError("nothing but the service answers")
        return answer

    def _keep(self, entries: list[tuple[str, bytes]]) -> None:
        """Store what was verified. Where it cannot be stored it is good all the same."""
        try:
            self._store.write_all(entries)
        except StorageError as error:
            self._note(f"Fetched and not kept: {error.diagnostics()}")


class RimFetcher(_Fetcher):
    """Fetches reference manifests into a store; for use by many threads.

    Args:
        store: Where what was fetched is kept.
        base_url: Address of the service or of a relay.
        max_age: Age at which a stored manifest is asked for again.
        options: `patience`, `timeout`, `http`, `clock`, `progress` and `note`, as for `KdsFetcher`.
    """

    def __init__(
        self, store: Store, base_url: str = RIM_URL, *, max_age: timedelta = MAX_AGE, **options: object
    ) -> None:
        super().__init__(store, base_url, "NVIDIA's RIM service", **options)  # type: ignore[arg-type]
        self._max_age = max_age

    def rim(self, rim_id: str, *, roots: NvidiaRoots, force: bool = False) -> bytes:
        """Return a manifest: the stored one if it is young enough, else the one that the service has now.

        Args:
            rim_id: Its id.
            roots: The roots that it must lead to.
            force: Ask the service whatever the age.

        Raises:
            FormatError: The id, or what the service gave, is malformed.
            NetworkError: There is none in the store, and the service cannot be reached;
                `CollateralUnavailableError` if it has none with that id.
            VerificationError: What it gave is not authentic, or is for another version.
        """
        folder = layout.rim_folder(roots, rim_id)
        return self._flights.share(folder, lambda: self._rim(folder, rim_id, roots, force=force))

    def _rim(self, folder: str, rim_id: str, roots: NvidiaRoots, *, force: bool) -> bytes:
        found = stored_rim(self._store, rim_id, roots=roots, note=self._note)
        if found is not None and not force and self._young(found[1].at):
            return found[0]
        try:
            answer = self._ask("GET", f"/v1/rim/{rim_id}", headers=_conditions(found))
            if answer.status == httpx.codes.NOT_MODIFIED and found is not None and found[1].etag:
                data = found[0]
            else:
                data = self._manifest(answer, rim_id)
                check_rim(data, roots=roots, rim_id=rim_id)
        except NetworkError as error:
            if found is None:
                raise
            self._note(f"The manifest {rim_id} of {found[1].at:%Y-%m-%d %H:%M} UTC is used: {error.message}")
            return found[0]
        if found is not None and data != found[0]:
            self._note(f"NVIDIA has issued the manifest {rim_id} again; the older one stays in the store.")
        current = Fetched.of(data, self._now(), answer.etag)
        entries = [(f"{folder}/{current.sha256}.xml", data), (f"{folder}/current.json", current.to_json())]
        self._keep(entries)
        return data

    def _young(self, fetched: datetime) -> bool:
        return fetched - SKEW <= self._now() < fetched + self._max_age

    def _manifest(self, answer: Answer, rim_id: str) -> bytes:
        """Take the manifest out of an answer."""
        if answer.status in (httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND):
            raise CollateralUnavailableError(
                f"NVIDIA has published no reference manifest {rim_id}.",
                advice="NVIDIA publishes some late: try again in some days, or use a version that has one.",
                check="nvidia.rim.present",
            )
        if answer.status != httpx.codes.OK:
            raise self._service.refuse(answer, "reference manifest")
        try:
            document = json.loads(answer.body)
            named, text, digest = document["id"], document["rim"], document["sha256"]
            data = base64.b64decode(text, validate=True)
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
            raise FormatError("The RIM service's answer is malformed.", field="rim") from error
        if named != rim_id:
            raise FormatError("The RIM service answered with another manifest's id.", field="id")
        if not isinstance(digest, str) or hashlib.sha256(data).hexdigest() != digest.lower():
            raise FormatError("The manifest does not have the SHA-256 that the service says.", field="sha256")
        if document.get("rim_format", "TCG") != "TCG":
            raise FormatError("The manifest is not in TCG's form.", field="rim_format")
        return data


class OcspFetcher(_Fetcher):
    """Fetches OCSP answers into a store; for use by many threads.

    Args:
        store: Where what was fetched is kept.
        base_url: Address of the responder or of a relay.
        options: `patience`, `timeout`, `http`, `clock`, `progress` and `note`, as for `KdsFetcher`.
    """

    def __init__(self, store: Store, base_url: str = OCSP_URL, **options: object) -> None:
        super().__init__(store, base_url, "NVIDIA's OCSP responder", **options)  # type: ignore[arg-type]

    def answers(
        self, chain: Sequence[bytes], *, roots: NvidiaRoots, first: int = 0, force: bool = False
    ) -> list[bytes]:
        """Return answers about the certificates of a chain, but for its root.

        Args:
            chain: Certificates in DER, each issued by the next.
            roots: The roots; they say in which part of the store the answers are kept.
            first: Index of the first certificate that is asked about: 1 for a device's chain, since the leaf
                is made anew by the device, 0 for that of a manifest.
            force: Ask the responder even where a stored answer is current.

        Raises:
            FormatError: A certificate or an answer is malformed.
            NetworkError: The responder cannot be reached.
            VerificationError: An answer is not authentic, or not to our question;
                `RevocationUnavailableError` if it is not current.
        """
        return [
            self.answer(chain[index], chain[index + 1], roots=roots, force=force)
            for index in range(first, len(chain) - 1)
        ]

    def answer(self, certificate: bytes, issuer: bytes, *, roots: NvidiaRoots, force: bool = False) -> bytes:
        """Return a current answer about one certificate; errors as `answers`.

        Args:
            certificate: The certificate in DER.
            issuer: Its issuer's certificate in DER.
            roots: The roots.
            force: Ask the responder even if the stored answer is current.
        """
        name = layout.ocsp_name(roots, certificate)
        return self._flights.share(name, lambda: self._answer(name, certificate, issuer, force=force))

    def _answer(self, name: str, certificate: bytes, issuer: bytes, *, force: bool) -> bytes:
        pair, now = load_pair(certificate, issuer), self._now()
        if not force:
            stored = self._store.read(name)
            try:
                if stored is not None:
                    check_answer(stored, pair, at=now)
                    return stored
            except RevocationUnavailableError:
                pass
            except (FormatError, VerificationError) as error:
                self._note(f"{name} is damaged and fetched again: {error.message}")
        nonce = secrets.token_bytes(NONCE_SIZE)
        headers = {"Content-Type": "application/ocsp-request", "Accept": "application/ocsp-response"}
        answer = self._ask("POST", "/", content=question(pair, nonce), headers=headers)
        if answer.status != httpx.codes.OK:
            raise self._service.refuse(answer, "OCSP answer")
        # The responder's clock may be ahead of ours.
        issued = issue_time(answer.body)
        at = issued if now < issued <= now + SKEW else now
        check_answer(answer.body, pair, at=at, nonce=nonce)
        self._keep([(name, answer.body)])
        return answer.body


def stored_rim(
    store: Store, rim_id: str, *, roots: NvidiaRoots, note: Note = lambda _: None
) -> tuple[bytes, Fetched] | None:
    """Return the current manifest in a store with when it was fetched; None if it is missing or damaged.

    Raises:
        FormatError: The id is malformed.
        StorageError: The store cannot be read.
    """
    folder = layout.rim_folder(roots, rim_id)
    fetched = store.fetched(f"{folder}/current.json")
    if fetched is None:
        return None
    name = f"{folder}/{fetched.sha256}.xml"
    data = store.read(name)
    if data is None:
        return None
    try:
        if hashlib.sha256(data).hexdigest() != fetched.sha256:
            raise FormatError("It does not have the content that its name says.", field=name)
        check_rim(data, roots=roots, rim_id=rim_id)
    except Error as error:
        note(f"{name} is damaged: {error.message}")
        return None
    return data, fetched


def _conditions(found: tuple[bytes, Fetched] | None) -> dict[str, str]:
    conditions = {"Accept": "application/json"}
    if found is not None and found[1].etag:
        conditions["If-None-Match"] = found[1].etag
    return conditions
