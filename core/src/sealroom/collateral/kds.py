# SPDX-License-Identifier: BSD-3-Clause
"""AMD's key distribution service (AMD 57230 rev 1.00): endorsement certificates and revocation lists.

| path | gives |
|---|---|
| `/vcek/v1/<line>/<hwid>?blSPL=&teeSPL=&snpSPL=&ucodeSPL=` | VCEK (DER); Turin: `fmcSPL=` first |
| `/{vcek,vlek}/v1/<line>/cert_chain` | ASK or ASVK, then ARK, in PEM |
| `/{vcek,vlek}/v1/<line>/crl` | revocation list in DER |

The service answers a client about once in ten seconds and 429 in between, so requests are paced over all
processes that share a store, misses of many threads are one request, and what was fetched is kept.

Invariants:

- Nothing is stored or returned that was not verified to the given roots and is not what was asked for.
- A VLEK cannot be fetched (only its cloud provider can), nor a VCEK of a chip whose id is masked.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from urllib.parse import urlsplit

import httpx

from sealroom.collateral import layout
from sealroom.collateral._http import TIMEOUT, Answer, Service
from sealroom.collateral.check import check_ca, check_crl, check_vek, intermediates, vek_validity
from sealroom.collateral.pace import PATIENCE, Client, Clock, Flights, Gate
from sealroom.collateral.store import Fetched, Note, Store
from sealroom.errors import (
    CollateralUnavailableError,
    Error,
    FormatError,
    StorageError,
    VerificationError,
)
from sealroom.snp import ProductLine, RevocationList, Roots, TcbVersion, VekKind, load_certificates

KDS_URL: Final = "https://kdsintf.amd.com"
INTERVAL: Final = 10.0
"""Seconds between two requests of one client."""
AGAIN_SECONDS: Final = 600.0
"""Seconds for which what was asked for in vain is not asked for again."""
MAX_LATELY: Final = 1024
"""Most things that were asked for in vain that are remembered."""
SKEW: Final = timedelta(minutes=5)
"""How far the service's clock may be ahead of ours."""

T = TypeVar("T")


def vcek_path(line: ProductLine, hwid: bytes, tcb: TcbVersion) -> str:
    """Return path and query of a VCEK (AMD 57230 rev 1.00, chapter 4).

    Args:
        line: Product line.
        hwid: Chip id: 8 bytes for Turin, 64 for others; CHIP_ID of a Turin report has 56 zeros after it.
        tcb: TCB, with `fmc` for Turin and without it for others.

    Raises:
        FormatError: Chip id or TCB is not of that line.
    """
    if len(hwid) != line.chip_id_size:
        raise FormatError(
            f"A chip id of {line} has {line.chip_id_size} bytes, not {len(hwid)}.", field="chip id"
        )
    if (tcb.fmc is not None) != (line is ProductLine.TURIN):
        raise FormatError(f"{tcb} is no TCB of {line}: Turin's has fmc, no other has.", field="TCB")
    parts = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.microcode}
    if tcb.fmc is not None:
        parts = {"fmcSPL": tcb.fmc, **parts}
    query = "&".join(f"{name}={value}" for name, value in parts.items())
    return f"/vcek/v1/{line}/{hwid.hex()}?{query}"


def chain_path(line: ProductLine, kind: VekKind) -> str:
    """Return the path of the certificates between a kind of VEK and the root."""
    return f"/{kind.lower()}/v1/{line}/cert_chain"


def crl_path(line: ProductLine, kind: VekKind) -> str:
    """Return the path of the revocation list for a kind of VEK."""
    return f"/{kind.lower()}/v1/{line}/crl"


class KdsFetcher:
    """Fetches from AMD's service into a store; for use by many threads.

    Args:
        store: Where what was fetched is kept.
        base_url: Address of the service or of a relay.
        interval: Seconds between two requests of this machine to that address.
        patience: Seconds after which a request is given up, waiting included.
        timeout: Seconds for each step of a request.
        http: A client to use, for example with a proxy of your own.
        clock: Time and waiting.
        progress: Is told each request and each wait.
        note: Is told what could not be stored.

    Raises:
        ConfigurationError: The address is no HTTP URL.
    """

    def __init__(
        self,
        store: Store,
        base_url: str = KDS_URL,
        *,
        interval: float = INTERVAL,
        patience: float = PATIENCE,
        timeout: float = TIMEOUT,
        http: httpx.Client | None = None,
        clock: Clock | None = None,
        progress: Callable[[str], None] | None = None,
        note: Note = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock or Clock()
        self._service = Service(base_url, "AMD's key distribution service", http=http, timeout=timeout)
        host = hashlib.sha256(urlsplit(base_url).netloc.encode()).hexdigest()[:16]
        gate = Gate(store.path / f".turns-{host}", interval, self._clock)
        self._client = Client(self._service, gate, self._clock, patience=patience, progress=progress)
        self._note = note
        self._flights = Flights()
        self._lately = _Recent(AGAIN_SECONDS, MAX_LATELY)

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def vcek(self, line: ProductLine, hwid: bytes, tcb: TcbVersion, *, roots: Roots) -> bytes:
        """Fetch a VCEK, verify it and keep it.

        Args:
            line: Product line.
            hwid: Chip id, 8 bytes for Turin and 64 for others.
            tcb: The report's REPORTED_TCB.
            roots: The roots that it must lead to.

        Returns:
            The certificate in DER.

        Raises:
            FormatError: Chip id or TCB is not of that line.
            NetworkError: The service cannot be reached or is busy; `CollateralUnavailableError` if it does
                not know the chip, or the chip id is masked.
            VerificationError: What it gave is not authentic, or is for something else.
        """
        path = vcek_path(line, hwid, tcb)
        if not any(hwid):
            raise masked_chip()
        name = layout.vcek_name(roots, line, hwid, tcb)
        return self._flights.share(name, lambda: self._vcek(path, name, line, hwid, tcb, roots))

    def chain(self, line: ProductLine, kind: VekKind, *, roots: Roots) -> bytes:
        """Fetch a line's ASK (for VCEKs) or ASVK (for VLEKs), verify it and keep it; errors as `vcek`."""
        path = chain_path(line, kind)
        return self._flights.share(path, lambda: self._chain(path, line, kind, roots))

    def crl(self, line: ProductLine, kind: VekKind, *, roots: Roots, force: bool = False) -> bytes:
        """Return a revocation list that is current now; fetch it if the stored one is not.

        Args:
            line: Product line.
            kind: VCEK or VLEK; AMD serves a list for each.
            roots: The roots, one of which must have signed it.
            force: Ask the service even if the stored list is current.

        Raises:
            NetworkError: The service cannot be reached, is busy, or gave a stale list.
            VerificationError: What it gave is not authentic, or is of another line.
        """
        name = layout.crl_name(roots, line, kind)
        return self._flights.share(name, lambda: self._crl(name, line, kind, roots, force=force))

    # --- parts ---

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _vcek(
        self, path: str, name: str, line: ProductLine, hwid: bytes, tcb: TcbVersion, roots: Roots
    ) -> bytes:
        def check(data: bytes, *extra: bytes) -> None:
            given = [*intermediates(self._store, layout.line_folder(roots, line)), *extra]
            check_vek(data, roots=roots, intermediates=given, line=line, tcb=tcb, hwid=hwid)

        def stored() -> bytes | None:
            return self._stored_vcek(name, check)

        unknown = CollateralUnavailableError(
            f"AMD's key distribution service knows no VCEK of this {line} chip at {tcb}.",
            advice="Check that the report is genuine and its firmware released; "
            "otherwise ask the operator for the certificate.",
            check="snp.vek.present",
        )
        if self._lately.has(name, self._clock.now()):
            raise unknown
        answer = self._client.ask("GET", path, ready=stored)
        if isinstance(answer, bytes):
            return answer
        if answer.status in (400, 404):
            self._lately.add(name, self._clock.now())
            raise unknown
        data = self._body(answer, "VCEK")
        try:
            check(data)
        except VerificationError as error:
            # AMD has replaced an ASK before: the line's chain may be newer than the pinned one.
            replaced = error.check in ("snp.ask.present", "snp.vek.signature")
            if not replaced or self._lately.has(layout.line_folder(roots, line), self._clock.now()):
                raise
            self._lately.add(layout.line_folder(roots, line), self._clock.now())
            check(data, self.chain(line, VekKind.VCEK, roots=roots))
        self._keep([(name, data)])
        return data

    def _stored_vcek(self, name: str, check: Callable[[bytes], None]) -> bytes | None:
        """Return a stored VCEK that is authentic and valid now."""
        try:
            data = self._store.read(name)
            if data is None:
                return None
            check(data)
        except (FormatError, VerificationError, StorageError) as error:
            self._note(f"{name} is damaged and fetched again: {error.message}")
            return None
        first, last = vek_validity(data)
        return data if first <= self._now() + SKEW and self._now() <= last else None

    def _chain(self, path: str, line: ProductLine, kind: VekKind, roots: Roots) -> bytes:
        answer = self._client.ask("GET", path)
        if not isinstance(answer, Answer):
            raise TypeError("nothing but the service gives a chain")
        certificates = load_certificates(self._body(answer, "certificate chain"))
        if len(certificates) != 2:
            raise FormatError(f"The chain has {len(certificates)} certificates, not 2.", field="cert_chain")
        role = "ASK" if kind is VekKind.VCEK else "ASVK"
        ask, ark = certificates
        check_ca(ark, roots=roots, line=line, role="ARK")
        check_ca(ask, roots=roots, line=line, role=role)
        names = [layout.ca_name(roots, line, "ARK", ark), layout.ca_name(roots, line, role, ask)]
        self._keep(list(zip(names, (ark, ask), strict=True)))
        return ask

    def _crl(self, name: str, line: ProductLine, kind: VekKind, roots: Roots, *, force: bool) -> bytes:
        info = name.removesuffix(".der") + ".json"
        started, old = self._now(), self._stored_crl(name, line, roots)
        known = self._store.fetched(info) if old else None
        fits = known is not None and old is not None and known == Fetched.of(old, known.at, known.etag)
        # A stale list is asked for whole: "not modified" would be no answer.
        etag = known.etag if fits and known and old and not self._stale(RevocationList.from_der(old)) else ""

        def current() -> bytes | None:
            stored = self._stored_crl(name, line, roots)
            if stored is None or self._stale(RevocationList.from_der(stored)):
                return None
            fetched = self._store.fetched(info)
            newer = fetched is not None and fetched.at > started
            return stored if newer or not force else None

        headers = {"If-None-Match": etag} if etag else None
        answer = self._client.ask("GET", crl_path(line, kind), headers=headers, ready=current)
        if isinstance(answer, bytes):
            return answer
        if answer.status == httpx.codes.NOT_MODIFIED and old is not None and etag:
            data = old
        else:
            data = self._body(answer, "revocation list")
            check_crl(data, roots=roots, line=line)
        fresh = RevocationList.from_der(data)
        if self._stale(fresh):
            raise CollateralUnavailableError(
                f"AMD's key distribution service gave a revocation list of {line} that is not current: "
                f"{fresh.this_update:%Y-%m-%d} to {fresh.next_update:%Y-%m-%d}.",
                advice="Check this machine's clock.",
                check="snp.crl.not_stale",
            )
        if old is not None and RevocationList.from_der(old).this_update > fresh.this_update:
            self._note(
                f"The service gave an older revocation list of {line} than the stored one, which is kept."
            )
            data = old
        self._keep([(name, data), (info, Fetched.of(data, self._now(), answer.etag or etag).to_json())])
        return data

    def _stored_crl(self, name: str, line: ProductLine, roots: Roots) -> bytes | None:
        try:
            data = self._store.read(name)
            if data is not None:
                check_crl(data, roots=roots, line=line)
        except Error as error:
            self._note(f"{name} is damaged and fetched again: {error.message}")
            return None
        return data

    def _stale(self, crl: RevocationList) -> bool:
        return crl.this_update > self._now() + SKEW or crl.next_update < self._now()

    def _body(self, answer: Answer, what: str) -> bytes:
        if answer.status != httpx.codes.OK:
            raise self._service.refuse(answer, what)
        return answer.body

    def _keep(self, entries: list[tuple[str, bytes]]) -> None:
        """Store what was verified. Where it cannot be stored it is good all the same."""
        try:
            self._store.write_all(entries)
        except StorageError as error:
            self._note(f"Fetched and not kept: {error.diagnostics()}")


def masked_chip() -> CollateralUnavailableError:
    """Return the error for a report whose chip cannot be looked up."""
    return CollateralUnavailableError(
        "The platform masks CHIP_ID, so its VCEK cannot be looked up.",
        advice="Ask the operator to switch MASK_CHIP_ID off, or for the certificate with the report.",
        check="snp.vek.present",
    )


def missing_vlek() -> CollateralUnavailableError:
    """Return the error for a VLEK that is not here."""
    return CollateralUnavailableError(
        "The report is signed with a VLEK, and its certificate is not here. "
        "AMD gives VLEKs to cloud providers only, so it cannot be fetched.",
        advice="Take the report with its certificate table, where the provider puts the VLEK.",
        check="snp.vek.present",
    )


class _Recent:
    """Remembers what happened lately, the oldest going first."""

    def __init__(self, seconds: float, size: int) -> None:
        self._seconds = seconds
        self._size = size
        self._lock = threading.Lock()
        self._times: OrderedDict[str, float] = OrderedDict()

    def add(self, key: str, now: float) -> None:
        with self._lock:
            self._times[key] = now
            self._times.move_to_end(key)
            while len(self._times) > self._size:
                self._times.popitem(last=False)

    def has(self, key: str, now: float) -> bool:
        with self._lock:
            then = self._times.get(key)
            return then is not None and 0 <= now - then < self._seconds
