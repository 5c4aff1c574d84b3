# SPDX-License-Identifier: BSD-3-Clause
"""What a verification needs: from the evidence, else from the store, else from the network.

```python
vek, intermediates, crls = resolve(report, certificates, roots=Roots.amd(), at=now, store=Store(folder))
verified = verify_report(report, vek, roots=Roots.amd(), at=now, intermediates=intermediates, crls=crls)
```

What this is: a search. What this is not: a judgement; what it gives is verified by whoever asked.

Invariants:

- Without `network` nothing is fetched.
- "Not here and not to be had" is `CollateralUnavailableError` or another `NetworkError`, never an empty
  answer that somebody could take for a pass.
- Certificates that came with the evidence are stored once they verified to the roots.
- What does not decide about a verification (a store that is full, a stale entry under a soft policy) is
  told to `note` and stops nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sealroom.collateral import layout
from sealroom.collateral.check import check_ca, check_crl, check_vek, intermediates, vek_validity
from sealroom.collateral.store import Note, Store
from sealroom.errors import (
    ChainError,
    CollateralUnavailableError,
    Error,
    FormatError,
    NetworkError,
    RevocationUnavailableError,
    StorageError,
    VerificationError,
)
from sealroom.snp import (
    CaCertificate,
    ProductLine,
    Report,
    RevocationList,
    Roots,
    Vek,
    VekKind,
    VerifiedChain,
    choose_vek,
    verify_vek,
)
from sealroom.snp.fields import KeyInfo

if TYPE_CHECKING:
    from sealroom.collateral.kds import KdsFetcher

MAX_VLEKS: Final = 32
"""Most stored VLEKs of one line and TCB that are tried."""
RETRY_CRL: Final = timedelta(minutes=10)
"""Time after a failed attempt to fetch a revocation list during which it is not tried again."""
_LOG: Final = logging.getLogger("sealroom.collateral")


class RevocationPolicy(StrEnum):
    """What revocation lists decide."""

    OFF = "off"
    """They are not looked at."""
    SOFT = "soft"
    """What the list in the store says counts; a missing or stale one stops nothing."""
    REQUIRED = "required"
    """Without a current list nothing is accepted."""


class Endorsements(NamedTuple):
    """What `sealroom.snp.verify_report` takes beside a report."""

    vek: bytes
    """The VCEK or VLEK in DER."""
    intermediates: list[bytes]
    """ASK, ASVK and ARK in DER; not trusted by themselves."""
    crls: list[bytes]
    """Revocation lists in DER; empty if the policy does not ask for any."""

    def beside(self, certificates: Mapping[str, bytes]) -> dict[str, tuple[bytes, ...]]:
        """Return what did not come with the evidence by kind: `snp.vek`, `snp.ask`, `snp.crl`.

        Whoever keeps evidence keeps this beside it, so that the verification can be repeated.

        Args:
            certificates: What came with the evidence.
        """
        came = set(certificates.values())
        kinds = {"snp.vek": [self.vek], "snp.ask": self.intermediates, "snp.crl": self.crls}
        found = {kind: tuple(one for one in files if one not in came) for kind, files in kinds.items()}
        return {kind: files for kind, files in found.items() if files}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a report says about the key that signed it."""

    report: Report
    raw: bytes
    lines: tuple[ProductLine, ...]
    kind: VekKind


class EndorsementSource:
    """Finds what belongs to reports; for use by many threads.

    Args:
        store: Where to look, and where to keep; None looks at the evidence alone.
        fetcher: Fetches what is missing; None fetches nothing.
        crl: What revocation lists decide.
        note: Is told what was left undone; logged without it.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        fetcher: KdsFetcher | None = None,
        crl: RevocationPolicy = RevocationPolicy.OFF,
        note: Note = _LOG.warning,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._crl = crl
        self._note = note
        self._failed: dict[str, datetime] = {}
        self._said: dict[str, datetime] = {}

    @property
    def has_store(self) -> bool:
        """Whether anything but the evidence is looked at."""
        return self._store is not None

    def resolve(
        self,
        report: bytes,
        certificates: Mapping[str, bytes],
        *,
        roots: Roots,
        at: datetime,
        fetch: bool = True,
    ) -> Endorsements:
        """Find the endorsement certificate of a report, what leads to a root, and revocation lists.

        Args:
            report: The bytes that claim to be a report.
            certificates: Certificates in DER by kind that came with it.
            roots: The roots that will be trusted.
            at: The reference time, with a time zone.
            fetch: Whether the fetcher, if there is one, is used for this report.

        Returns:
            What to verify the report with. It may be wrong: verification says so.

        Raises:
            FormatError: There is no certificate with the report, and it is malformed.
            NetworkError: The certificate could not be fetched; `CollateralUnavailableError` if it is not here
                and is not to be fetched.
            RevocationUnavailableError: Revocation lists are required, and no current one is here.
            VerificationError: What the service gave is not authentic.
            StorageError: The store cannot be read.
        """
        given = [certificates[kind] for kind in ("ASK", "ASVK", "ARK") if certificates.get(kind)]
        fetcher = self._fetcher if fetch else None
        vek = choose_vek(report, certificates)
        if vek:
            chain, leading = self._given(vek, given, roots)
            if chain is None:
                # Not authentic: verification refuses it and says why.
                return Endorsements(vek, given, [])
            self._keep(chain, roots)
            line, kind = chain.vek.line, chain.vek.kind
        else:
            wanted = _wanted(report, roots)
            vek, line, kind = self._find(wanted, given, roots, at, fetcher)
            leading = [*given, *(one for one in self._intermediates(roots, line) if one not in given)]
        return Endorsements(vek, leading, self._lists(vek, leading, line, kind, roots, at, fetcher))

    # --- certificates ---

    def _intermediates(self, roots: Roots, line: ProductLine) -> list[bytes]:
        if self._store is None:
            return []
        return intermediates(self._store, layout.line_folder(roots, line))

    def _given(
        self, vek: bytes, given: list[bytes], roots: Roots
    ) -> tuple[VerifiedChain | None, list[bytes]]:
        """Return the verified chain of a certificate that came with evidence, and what leads to the root."""
        try:
            at, genuine = vek_validity(vek)[0], _genuine(given, roots)
            try:
                return verify_vek(vek, roots=roots, at=at, intermediates=genuine), given
            except ChainError as error:
                if error.check != "snp.ask.present":
                    raise
            leading = [*genuine, *self._intermediates(roots, Vek.from_der(vek).line)]
            return verify_vek(vek, roots=roots, at=at, intermediates=leading), [*given, *leading]
        except Error:
            return None, given

    def _keep(self, chain: VerifiedChain, roots: Roots) -> None:
        if self._store is None:
            return
        try:
            self._keep_chain(self._store, chain, roots)
        except StorageError as error:
            self._note(f"A certificate that came with evidence was not kept: {error.diagnostics()}")

    def _keep_chain(self, store: Store, chain: VerifiedChain, roots: Roots) -> None:
        vek, data = chain.vek, chain.vek.certificate.der
        if vek.hwid is None:
            name = layout.vlek_name(roots, vek.line, vek.tcb, data)
        else:
            name = layout.vcek_name(roots, vek.line, vek.hwid, vek.tcb)
        missing = []
        if chain.ask not in roots.intermediates:
            ask = chain.ask.certificate.der
            missing.append((layout.ca_name(roots, vek.line, chain.ask.role, ask), ask))
        missing.append((name, data))
        entries = [(name, data) for name, data in missing if not _holds(store, name, data)]
        if entries:
            store.write_all(entries)

    def _find(
        self,
        wanted: _Wanted,
        given: Sequence[bytes],
        roots: Roots,
        at: datetime,
        fetcher: KdsFetcher | None,
    ) -> tuple[bytes, ProductLine, VekKind]:
        """Return a certificate for a report that came without one."""
        if wanted.kind is VekKind.VLEK:
            return *self._stored_vlek(wanted, given, roots, at), VekKind.VLEK
        if wanted.report.chip_id_masked:
            from sealroom.collateral.kds import masked_chip

            raise masked_chip()
        expired = ""
        for line in wanted.lines:
            data = self._stored_vcek(wanted, line, given, roots)
            if data is None:
                continue
            first, last = vek_validity(data)
            if first <= at <= last:
                return data, line, VekKind.VCEK
            expired = f"The stored VCEK holds from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
        if fetcher is None:
            raise CollateralUnavailableError(
                f"{expired}, which is not the reference time."
                if expired
                else "The report came without the processor's certificate, and it is not in the store.",
                advice="Fetch it with `sealroom collateral fetch`, or import a bundle that has it."
                if not expired
                else "Use the certificate that came with the evidence at its time.",
                check="snp.vek.present",
            )
        return self._fetched(fetcher, wanted, roots, at)

    def _stored_vcek(
        self, wanted: _Wanted, line: ProductLine, given: Sequence[bytes], roots: Roots
    ) -> bytes | None:
        """Return a stored VCEK that is authentic and the report's; a damaged one is as good as none."""
        if self._store is None:
            return None
        report = wanted.report
        hwid = report.chip_id[: line.chip_id_size]
        name = layout.vcek_name(roots, line, hwid, report.reported_tcb)
        data = self._store.read(name)
        if data is None:
            return None
        try:
            leading = [*_genuine(given, roots), *self._intermediates(roots, line)]
            check_vek(data, roots=roots, intermediates=leading, line=line, tcb=report.reported_tcb, hwid=hwid)
        except (FormatError, VerificationError) as error:
            self._note(f"{name} is damaged and not used: {error.message}")
            return None
        return data

    def _stored_vlek(
        self, wanted: _Wanted, given: Sequence[bytes], roots: Roots, at: datetime
    ) -> tuple[bytes, ProductLine]:
        """Return the stored VLEK whose key signed the report."""
        for line in wanted.lines if self._store is not None else ():
            folder = layout.vlek_folder(roots, line, wanted.report.reported_tcb)
            leading = [*_genuine(given, roots), *self._intermediates(roots, line)]
            for data in self._read_all(folder):
                with suppress(Error):
                    vek = verify_vek(data, roots=roots, at=at, intermediates=leading).vek
                    if vek.signed(wanted.raw, wanted.report.signature_r, wanted.report.signature_s):
                        return data, line
        from sealroom.collateral.kds import missing_vlek

        raise missing_vlek()

    def _read_all(self, folder: str) -> Iterable[bytes]:
        if self._store is None:
            return
        for name in self._store.names(folder, below=False)[:MAX_VLEKS]:
            data = self._store.read(name)
            if data is not None:
                yield data

    def _fetched(
        self, fetcher: KdsFetcher, wanted: _Wanted, roots: Roots, at: datetime
    ) -> tuple[bytes, ProductLine, VekKind]:
        report, unknown = wanted.report, None
        for line in wanted.lines:
            hwid = report.chip_id[: line.chip_id_size]
            try:
                data = fetcher.vcek(line, hwid, report.reported_tcb, roots=roots)
            except CollateralUnavailableError as error:
                # A report of version 2 does not name its line: the next one may know the chip.
                unknown = error
                continue
            first, last = vek_validity(data)
            if not first <= at <= last:
                raise CollateralUnavailableError(
                    f"AMD's certificate for this chip holds from {first:%Y-%m-%d %H:%M:%S} to "
                    f"{last:%Y-%m-%d %H:%M:%S} UTC, which is not the reference time.",
                    advice="If it was issued just now, check again: it is in the store.",
                    check="snp.vek.present",
                )
            return data, line, VekKind.VCEK
        if unknown is None:
            raise CollateralUnavailableError("The roots have none for the report's product line.")
        raise unknown

    # --- revocation ---

    def _lists(
        self,
        vek: bytes,
        leading: Sequence[bytes],
        line: ProductLine,
        kind: VekKind,
        roots: Roots,
        at: datetime,
        fetcher: KdsFetcher | None,
    ) -> list[bytes]:
        if self._crl is RevocationPolicy.OFF:
            return []
        data = self._current_list(line, kind, roots, at, fetcher)
        if data is None:
            return []
        if self._crl is RevocationPolicy.SOFT and not _speaks_for(data, at):
            # Stale: it clears nobody, but whom it revokes stays revoked.
            try:
                verify_vek(vek, roots=roots, at=at, intermediates=leading, crls=[data])
            except RevocationUnavailableError:
                return []
            except Error:
                return [data]
        return [data]

    def _current_list(
        self, line: ProductLine, kind: VekKind, roots: Roots, at: datetime, fetcher: KdsFetcher | None
    ) -> bytes | None:
        """Return a list that speaks for the reference time; else, under a soft policy, what there is."""
        name = layout.crl_name(roots, line, kind)
        stored = self._stored_list(name, line, roots)
        if stored is not None and _speaks_for(stored, at):
            return stored
        why = "is stale or from after the reference time" if stored is not None else "is not in the store"
        if fetcher is not None and self._may_try(name, at):
            try:
                return fetcher.crl(line, kind, roots=roots)
            except (NetworkError, VerificationError, FormatError) as error:
                self._failed[name] = at
                why = f"could not be fetched: {error.message}"
        if self._crl is RevocationPolicy.REQUIRED:
            raise RevocationUnavailableError(
                f"The revocation list of {line} {why}.".replace("..", "."),
                advice="Get one with `sealroom collateral refresh`, or import a newer bundle.",
                check="snp.crl.not_stale",
            )
        self._say_sometimes(
            name, at, f"The revocation list of {line} {why}; revocation was not checked with a current one."
        )
        return stored

    def _stored_list(self, name: str, line: ProductLine, roots: Roots) -> bytes | None:
        if self._store is None:
            return None
        data = self._store.read(name)
        if data is None:
            return None
        try:
            check_crl(data, roots=roots, line=line)
        except (FormatError, VerificationError) as error:
            self._note(f"{name} is damaged and not used: {error.message}")
            return None
        return data

    def _say_sometimes(self, name: str, at: datetime, sentence: str) -> None:
        said = self._said.get(name)
        if said is None or abs(at - said) > RETRY_CRL:
            self._said[name] = at
            self._note(sentence)

    def _may_try(self, name: str, at: datetime) -> bool:
        failed = self._failed.get(name)
        return failed is None or abs(at - failed) > RETRY_CRL


def resolve(
    report: bytes,
    certificates: Mapping[str, bytes],
    *,
    roots: Roots,
    at: datetime,
    store: Store | Path | None,
    network: bool = False,
    kds_url: str = "",
    crl: RevocationPolicy = RevocationPolicy.SOFT,
    note: Note = _LOG.warning,
) -> Endorsements:
    """Find what belongs to one report; see `EndorsementSource.resolve` for arguments and errors.

    Args:
        report: The bytes that claim to be a report.
        certificates: Certificates in DER by kind that came with it.
        roots: The roots that will be trusted.
        at: The reference time, with a time zone.
        store: The store or its directory; None looks at the evidence alone.
        network: Whether what is missing may be fetched.
        kds_url: Address of AMD's service or of a relay; AMD's without it.
        crl: What revocation lists decide.
        note: Is told what was left undone.
    """
    place = Store(store) if isinstance(store, Path) else store
    if not network or place is None:
        source = EndorsementSource(place, crl=crl, note=note)
        return source.resolve(report, certificates, roots=roots, at=at)
    from sealroom.collateral.kds import KDS_URL, KdsFetcher

    fetcher = KdsFetcher(place, kds_url or KDS_URL, note=note)
    try:
        source = EndorsementSource(place, fetcher=fetcher, crl=crl, note=note)
        return source.resolve(report, certificates, roots=roots, at=at)
    finally:
        fetcher.close()


def _wanted(raw: bytes, roots: Roots) -> _Wanted:
    """Read what a report says about its key; unverified, so a lie finds a certificate that does not fit."""
    report = Report.from_bytes(raw)
    key_info = report.key_info
    if key_info.signing_key == KeyInfo.NONE:
        raise FormatError(
            "The report is not signed: SIGNING_KEY says none (offset 0x48).",
            field="SIGNING_KEY",
            offset=0x48,
            check="snp.report.signing_key",
        )
    kind = VekKind.VLEK if key_info.signing_key == KeyInfo.VLEK else VekKind.VCEK
    if report.line is not None:
        lines: tuple[ProductLine, ...] = (report.line,)
    elif report.reported_tcb.fmc is not None:
        lines = (ProductLine.TURIN,)
    else:
        lines = (ProductLine.MILAN, ProductLine.GENOA)
    return _Wanted(report, bytes(raw), tuple(one for one in lines if roots.ark(one)), kind)


def _genuine(given: Sequence[bytes], roots: Roots) -> list[bytes]:
    """Return those ASK and ASVK among given certificates that a root signed."""
    found = []
    for data in given:
        with suppress(Error):
            certificate = CaCertificate.from_der(data)
            if certificate.role != "ARK":
                check_ca(data, roots=roots, line=certificate.line, role=certificate.role)
                found.append(data)
    return found


def _speaks_for(crl: bytes, at: datetime) -> bool:
    parsed = RevocationList.from_der(crl)
    return parsed.this_update <= at <= parsed.next_update


def _holds(store: Store, name: str, data: bytes) -> bool:
    """Tell whether the store has a good entry: these bytes, or another that has not ended before them."""
    stored = store.read(name)
    if stored is None or stored == data:
        return stored is not None
    with suppress(FormatError):
        # Reissued for the same chip and TCB: the key is the same, and the longer life wins.
        return vek_validity(stored)[1] >= vek_validity(data)[1]
    return False
