# SPDX-License-Identifier: BSD-3-Clause
"""What is in a store, in words: for `sealroom collateral show`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sealroom.collateral.bundle import ordered
from sealroom.collateral.check import Checker, vek_validity
from sealroom.collateral.layout import Entry, Kind
from sealroom.collateral.store import Store
from sealroom.errors import ConfigurationError, Error
from sealroom.snp import CaCertificate, RevocationList

State = Literal["good", "old", "replaced", "damaged", "unchecked"]


@dataclass(frozen=True, slots=True)
class Row:
    """One entry."""

    name: str
    """Its name."""
    state: State
    """good; old: past its end, or for later; replaced by a newer manifest; damaged; or unchecked, because
    nobody named its root."""
    what: str
    """What it is."""
    about: str
    """Whose it is."""
    until: datetime | None
    """Until when it holds; None if it does not say."""
    problem: str = ""
    """Why it is damaged or could not be checked."""

    @property
    def until_text(self) -> str:
        """Until when it holds, in words."""
        return f"{self.until:%Y-%m-%d %H:%M}" if self.until else ""

    def as_json(self) -> dict[str, object]:
        """Return the row for JSON."""
        until = self.until.isoformat() if self.until else None
        return {
            "name": self.name,
            "state": self.state,
            "what": self.what,
            "for": self.about,
            "until": until,
            "problem": self.problem,
        }


def listing(store: Store, checker: Checker, at: datetime) -> list[Row]:
    """Check every entry of a store and say what it is.

    Args:
        store: The store.
        checker: Says what is authentic.
        at: The present.

    Raises:
        StorageError: The store cannot be read.
    """
    rows = []
    for entry in ordered([Entry.parse(name) for name in store.names()]):
        data = store.read(entry.name)
        if data is not None:
            rows.append(_row(store, checker, entry, data, at))
    return sorted(rows, key=lambda row: row.name)


def _row(store: Store, checker: Checker, entry: Entry, data: bytes, at: datetime) -> Row:
    what, about = str(entry.kind), _about(entry)
    try:
        checker.check(entry, data)
        since, until = _period(entry, data)
        if entry.kind is Kind.RIM:
            current = store.fetched(f"{entry.name.rpartition('/')[0]}/current.json")
            state: State = "good" if current and current.sha256 == entry.digest else "replaced"
        else:
            state = "good" if (since is None or since <= at) and (until is None or at <= until) else "old"
        return Row(entry.name, state, what, about, until)
    except ConfigurationError as error:
        return Row(entry.name, "unchecked", what, about, None, error.message)
    except Error as error:
        return Row(entry.name, "damaged", what, about, None, error.message)


def _about(entry: Entry) -> str:
    if entry.line is None:
        return entry.rim_id or f"certificate {entry.digest[:16]}…"
    parts = [str(entry.line)]
    if entry.hwid is not None:
        parts.append(f"chip {entry.hwid[:8].hex()}…")
    if entry.tcb is not None:
        parts.append(str(entry.tcb))
    if entry.role:
        parts.append(entry.role)
    if entry.kind in (Kind.CRL, Kind.CRL_INFO):
        parts.append("VLEK" if entry.vlek else "VCEK")
    return ", ".join(parts) + (" (simulated)" if entry.fingerprint else "")


def _period(entry: Entry, data: bytes) -> tuple[datetime | None, datetime | None]:
    if entry.kind in (Kind.VCEK, Kind.VLEK):
        return vek_validity(data)
    if entry.kind is Kind.CA:
        certificate = CaCertificate.from_der(data).certificate
        return certificate.not_before, certificate.not_after
    if entry.kind is Kind.CRL:
        crl = RevocationList.from_der(data)
        return crl.this_update, crl.next_update
    if entry.kind is Kind.OCSP:
        from sealroom.nvidia.ocsp import Answer

        response = Answer.from_der(data).response
        return response.this_update_utc, response.next_update_utc
    return None, None
