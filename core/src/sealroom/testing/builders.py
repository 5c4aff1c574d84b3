# SPDX-License-Identifier: BSD-3-Clause
"""Chains, chips and reports for tests."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sealroom.appraisal import VerifiedEvidence
from sealroom.environments import Environment, simulated_cpu
from sealroom.guest import GuestEvidence
from sealroom.simulated.certificates import SIMULATED_NAMES, Names, VekKind, make_vek
from sealroom.simulated.reports import DEFAULT_TCB, KEY_INFO_VLEK, ReportFields, sign_report
from sealroom.simulated.root import Root, make, new_rsa_key
from sealroom.snp import ProductLine, Roots, TcbVersion, verify_report

EPOCH = datetime(2022, 1, 1, tzinfo=UTC)
"""Start of the life of roots and intermediates."""
ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
"""Start of the life of chip certificates."""
NOW = datetime(2026, 6, 1, tzinfo=UTC)
"""A reference time at which everything here is valid."""
CHIP_ID = {
    line: hashlib.sha512(line.encode()).digest()[: line.chip_id_size].ljust(64, b"\0") for line in ProductLine
}
AMD_LIKE_NAMES = Names(
    unit="Engineering",
    country="US",
    locality="Santa Clara",
    state="CA",
    organisation="Advanced Micro Devices",
    crl_base="https://kdsintf.amd.com",
)
"""For verifiers that compare organisation texts; nothing that ships uses them."""


@functools.lru_cache(maxsize=8)
def rsa_key(which: str) -> rsa.RSAPrivateKey:
    """Return the RSA-4096 key of that name; made at first use, then shared."""
    return new_rsa_key()


def chain(
    line: ProductLine = ProductLine.GENOA,
    *,
    vlek: bool = False,
    names: Names = SIMULATED_NAMES,
    at: datetime = EPOCH,
) -> Root:
    """Return a root with its ASK, and its ASVK if `vlek`; the same one for the same arguments."""
    return _chain(line, vlek, names, at)


@functools.lru_cache(maxsize=16)
def _chain(line: ProductLine, vlek: bool, names: Names, at: datetime) -> Root:
    return make(
        line,
        at=at,
        keys=(rsa_key("ark"), rsa_key("ask")),
        asvk_key=rsa_key("asvk") if vlek else None,
        names=names,
    )


def development_roots(line: ProductLine = ProductLine.GENOA, *, vlek: bool = False) -> Roots:
    """Return the root of `chain` as a relying party takes it."""
    return Roots.development(chain(line, vlek=vlek).pem)


def vek(
    line: ProductLine = ProductLine.GENOA,
    *,
    kind: VekKind = "VCEK",
    key: ec.EllipticCurvePublicKey | None = None,
    tcb: TcbVersion | None = None,
    chip_id: bytes | None = None,
    without_extension: str = "",
    not_before: datetime = ISSUED,
    root: Root | None = None,
    **changes: Any,
) -> bytes:
    """Return a VCEK or VLEK in DER, right or with what `changes` (arguments of `make_vek`) make wrong.

    Args:
        line: Product line.
        kind: VCEK or VLEK.
        key: The chip's public key; a shared one by default.
        tcb: TCB that the certificate is for.
        chip_id: CHIP_ID that the certificate names.
        without_extension: Last part of the OID of an extension to leave out, for example "3.1".
        not_before: Start of its life.
        root: Chain to issue it under.
        changes: Other arguments of `sealroom.simulated.certificates.make_vek`.
    """
    root = root or chain(line, vlek=kind == "VLEK")
    issuer = root.ask if kind == "VCEK" else root.asvk
    if issuer is None:
        raise ValueError("this chain has no ASVK")
    if without_extension:
        changes["extensions"] = {**changes.get("extensions", {}), without_extension: None}
    changes.setdefault("names", root.names)
    return make_vek(
        changes.pop("issuer", issuer),
        key or _chip_key("shared").public_key(),
        line,
        tcb or DEFAULT_TCB[line],
        kind=kind,
        chip_id=chip_id or CHIP_ID[line],
        not_before=not_before,
        **changes,
    )


@functools.lru_cache(maxsize=8)
def _chip_key(which: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip with its certificate, which makes reports of any shape."""

    root: Root
    kind: VekKind
    vek: bytes
    tcb: TcbVersion
    chip_id: bytes
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def line(self) -> ProductLine:
        """Its product line."""
        return self.root.line

    @property
    def certificates(self) -> dict[str, bytes]:
        """What the host would put into the certificate table."""
        issuer = self.root.ask if self.kind == "VCEK" else self.root.asvk
        return {self.kind: self.vek, "ASK": issuer.der if issuer else b"", "ARK": self.root.ark.der}

    @property
    def intermediates(self) -> list[bytes]:
        """ASK (or ASVK) and ARK in DER, as `verify_report` takes them."""
        return [self.certificates["ASK"], self.certificates["ARK"]]

    def fields(self, version: int = 5, **changes: object) -> ReportFields:
        """Return the fields of a report, right but for `changes`."""
        defaults: dict[str, object] = {"chip_id": self.chip_id}
        if self.kind == "VLEK":
            defaults = {"chip_id": bytes(64), "key_info": KEY_INFO_VLEK}
        return ReportFields.for_line(self.line, self.tcb, version=version, **(defaults | changes))

    def report(self, version: int = 5, **changes: object) -> bytes:
        """Return a signed report; `changes` replace fields of `ReportFields` before signing."""
        return sign_report(self.fields(version, **changes).signed_part(), self.key)


def chip(
    line: ProductLine = ProductLine.GENOA,
    *,
    kind: VekKind = "VCEK",
    tcb: TcbVersion | None = None,
    **changes: Any,
) -> Chip:
    """Return a chip; `changes` are those of `vek`. Without any it is the same chip each time."""
    if not changes:
        return _default_chip(line, kind, tcb or DEFAULT_TCB[line])
    return _make_chip(line, kind, tcb or DEFAULT_TCB[line], **changes)


def _make_chip(line: ProductLine, kind: VekKind, tcb: TcbVersion, **changes: Any) -> Chip:
    root = changes.setdefault("root", chain(line, vlek=kind == "VLEK"))
    chip_id = changes.pop("chip_id", None) or CHIP_ID[line]
    certificate = vek(line, kind=kind, tcb=tcb, chip_id=chip_id, **changes)
    return Chip(root, kind, certificate, tcb, chip_id, _chip_key("shared"))


_default_chip = functools.lru_cache(maxsize=16)(_make_chip)


def environment(**changes: Any) -> Environment:
    """Return the environment of the embedded default; `changes` are those of `simulated_cpu`."""
    return simulated_cpu(**({"datasets": ("heartbeats",)} | changes))


def evidence(
    report_data: bytes, expected: Environment | None = None, *, on: Chip | None = None, **changes: object
) -> GuestEvidence:
    """Return evidence that a guest of `expected` would gather; `changes` replace fields of the report."""
    expected, on = expected or environment(), on or chip()
    defaults: Mapping[str, object] = {
        "report_data": report_data,
        "measurement": expected.shape().measurement_bytes[0],
        "host_data": expected.host_data,
        "policy": expected.guest_policy,
    }
    return GuestEvidence("snp", on.report(**(dict(defaults) | changes)), on.certificates, "testing")  # type: ignore[arg-type]


def verified_evidence(
    report_data: bytes = bytes(64),
    expected: Environment | None = None,
    *,
    on: Chip | None = None,
    at: datetime = NOW,
    **changes: object,
) -> VerifiedEvidence:
    """Return evidence of `evidence` after verification under the development root."""
    on = on or chip()
    gathered = evidence(report_data, expected, on=on, **changes)
    report = verify_report(
        gathered.report,
        on.vek,
        roots=Roots.development(on.root.pem),
        at=at,
        intermediates=on.intermediates,
    )
    return VerifiedEvidence(report, report.report.report_data)


def later(**delta: float) -> datetime:
    """Return a time after `NOW`."""
    return NOW + timedelta(**delta)
