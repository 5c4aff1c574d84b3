# SPDX-License-Identifier: BSD-3-Clause
"""Fuzz targets: what reads SEV-SNP evidence and certificates."""

from __future__ import annotations

import functools
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.engine import Target
from sealroom import testing
from sealroom.cli._evidence import Evidence, recognise
from sealroom.errors import FormatError
from sealroom.guest.messages import ReportRequest, ReportResponse, read_certificates
from sealroom.kbs.evidence import snp_from_json, snp_to_json
from sealroom.simulated.reports import SIGNED, sign_report
from sealroom.snp import (
    CaCertificate,
    GuestPolicy,
    ProductLine,
    Report,
    RevocationList,
    Roots,
    Vek,
    choose_vek,
    examine_report,
    load_certificates,
    verify_crl,
    verify_report,
    verify_vek,
)
from sealroom.snp.bundle import EvidenceBundle, report_data_for
from sealroom.snp.hcl import HclReport
from sealroom.snp.idblock import (
    ID_AUTH_SIZE,
    ID_BLOCK_SIZE,
    IdAuth,
    IdBlock,
    sign_id_block,
    verify_id_block,
)
from sealroom.snp.table import build_certificate_table, parse_certificate_table, split_extended_report
from support.snp import make_crl, utc
from support.vectors import VECTORS


@functools.cache
def _chip(line: ProductLine = ProductLine.GENOA, kind: str = "VCEK") -> testing.Chip:
    return testing.chip(line, kind="VLEK" if kind == "VLEK" else "VCEK")


@functools.cache
def _roots() -> Roots:
    return Roots.development(_chip().root.chain_pem)


def recorded(*patterns: str) -> list[bytes]:
    """Return the test vectors that match; none where the folder of vectors is absent."""
    paths: Iterable[Path] = (path for pattern in patterns for path in sorted(VECTORS.glob(pattern)))
    return [path.read_bytes() for path in paths]


def _reports() -> list[bytes]:
    lines = (ProductLine.GENOA, ProductLine.MILAN, ProductLine.TURIN)
    made = [_chip(line).report(version) for line in lines for version in (3, 2, 5)]
    made.append(_chip(kind="VLEK").report())
    return [*made, *recorded("snp/ms-tee/*report.bin", "snp/trustee/*report*.bin")]


def _parse_report(data: bytes) -> None:
    report = Report.from_bytes(data)
    assert report.to_bytes() == data


def _verify_report(data: bytes) -> None:
    chip = _chip()
    examined = examine_report(data, chip.vek, roots=_roots(), at=testing.NOW)
    assert all(check.detail.isprintable() for check in examined.checks)
    verify_report(data, chip.vek, roots=_roots(), at=testing.NOW)
    assert examined.verified


def _signed_report(data: bytes) -> None:
    # Signed again, so that the signature is no barrier to what is checked beside it.
    chip = _chip()
    if len(data) != SIGNED:
        raise FormatError("The target takes the signed part.")
    verify_report(sign_report(data, chip.key), chip.vek, roots=_roots(), at=testing.NOW)


def _veks() -> list[bytes]:
    made = [_chip(line, kind).vek for line in ProductLine for kind in ("VCEK", "VLEK")]
    return [*made, *recorded("snp/ms-tee/*vcek.der", "snp/simulated/genoa_noext_*_vek.der")]


def _parse_vek(data: bytes) -> None:
    Vek.from_der(data)
    verify_vek(data, roots=Roots.development(_pem_of_every_root()), at=testing.NOW)


@functools.cache
def _pem_of_every_root() -> bytes:
    chains = [testing.chain(line, vlek=True) for line in ProductLine]
    return b"".join(one.chain_pem + (one.asvk.pem if one.asvk else b"") for one in chains)


def _authorities() -> list[bytes]:
    chain = testing.chain(vlek=True)
    assert chain.asvk is not None
    return [chain.ask.der, chain.asvk.der, chain.ark.der]


def _intermediates(data: bytes) -> None:
    CaCertificate.from_der(data)
    chip = _chip()
    verify_vek(
        chip.vek,
        roots=Roots.development(chip.root.pem),
        at=testing.NOW,
        intermediates=[data, chip.root.ask.der],
    )


def _crls() -> list[bytes]:
    root = _chip().root
    name, key = root.ark.certificate.subject, root.ark.key
    made = make_crl(name, key, issued=utc(2026, 5, 20), revoked=(0x020001,))
    return [made, make_crl(name, key, issued=utc(2026, 5, 20)), *recorded("snp/amd-crl/*.crl")]


def _crl(data: bytes) -> None:
    RevocationList.from_der(data)
    verify_crl(data, roots=_roots(), at=testing.NOW)


def _tables() -> list[bytes]:
    held = _chip().certificates
    return [build_certificate_table(held), build_certificate_table({"VCEK": held["VCEK"]}), bytes(24)]


def _table(data: bytes) -> None:
    found = parse_certificate_table(data)
    assert parse_certificate_table(build_certificate_table(found)) == found or not found


def _extended(data: bytes) -> None:
    report, certificates = split_extended_report(data)
    choose_vek(report, certificates)


def _hcl() -> list[bytes]:
    runtime = b'{"keys":[],"vm-configuration":{}}'
    report = _chip().report(3, report_data=hashlib.sha256(runtime).digest().ljust(64, b"\0"))
    head = struct.pack("<IIIII", 20 + len(runtime), 1, 2, 1, len(runtime))
    return [b"HCLA".ljust(0x20, b"\0") + report + head + runtime, *recorded("snp/trustee-azure/*.bin")]


def _json_reports() -> list[bytes]:
    made = [
        snp_to_json(_chip(line).report(version), _chip(line).certificates)
        for line, version in ((ProductLine.MILAN, 3), (ProductLine.TURIN, 5), (ProductLine.GENOA, 2))
    ]
    # Short ones come further: most of the text is certificates.
    made += [{**one, "cert_chain": None} for one in made]
    return [json.dumps(one, separators=(",", ":")).encode() for one in made]


def _json_report(data: bytes) -> None:
    report, certificates = snp_from_json(parse_json(data))
    assert len(report) == 1184
    assert snp_from_json(json.loads(json.dumps(snp_to_json(report, certificates))))[0] == report


def parse_json(data: bytes) -> object:
    """Return parsed JSON; what is none is refused as our parsers do, since it is not what is tested."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("The target takes JSON.") from error


def _bundles() -> list[bytes]:
    chip = _chip()
    report = chip.report(report_data=report_data_for(b"n" * 32))
    full = EvidenceBundle(
        b"n" * 32,
        report,
        chip.certificates,
        runtime_data={"x": {}},
        provider="sev-guest",
        created="2026-06-01",
    )
    return [full.to_json(), EvidenceBundle(b"n" * 16, report, {}).to_json()]


def _bundle(data: bytes) -> None:
    bundle = EvidenceBundle.from_json(data)
    assert EvidenceBundle.from_json(bundle.to_json()) == bundle


def _file(data: bytes) -> None:
    found = recognise(data)
    if isinstance(found, Evidence):
        found.vek()
        found.others()


def _certificate_files() -> list[bytes]:
    return [_chip().root.chain_pem, _chip().root.pem, _chip().vek, *recorded("snp/amd-roots/*.pem")]


def _certificate_file(data: bytes) -> None:
    load_certificates(data)
    Roots.from_pem(data)


def _guest_messages() -> list[bytes]:
    request = ReportRequest(b"r" * 64, 1, 2).to_bytes()
    response = ReportResponse(0, _chip().report()).to_bytes()
    return [request, response, ReportResponse(0x16).to_bytes(), *_tables()]


def _guest_message(data: bytes) -> None:
    if len(data) == 0x60:
        assert ReportRequest.from_bytes(data).to_bytes() == data
    elif len(data) < 0x600:
        ReportResponse.from_bytes(data)
    else:
        read_certificates(data)


def _id_block(data: bytes) -> None:
    verified = verify_id_block(data[:ID_BLOCK_SIZE], data[ID_BLOCK_SIZE:])
    assert verified.block.to_bytes() == data[:ID_BLOCK_SIZE]
    assert IdAuth.from_bytes(data[ID_BLOCK_SIZE:]).to_bytes() == data[ID_BLOCK_SIZE:]


@functools.cache
def _id_blocks() -> list[bytes]:
    block = IdBlock(b"l" * 48, GuestPolicy(0x30000), guest_svn=1)
    key, author = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    return [block.to_bytes() + sign_id_block(block, key, by).to_bytes() for by in (author, None)]


TARGETS = {
    "snp-report": Target(_parse_report, _reports, 1400),
    "snp-verify": Target(_verify_report, _reports, 1400),
    "snp-verify-signed": Target(_signed_report, lambda: [one[:SIGNED] for one in _reports()], SIGNED),
    "snp-vek": Target(_parse_vek, _veks, 2048),
    "snp-intermediate": Target(_intermediates, _authorities, 2048),
    "snp-crl": Target(_crl, _crls, 2048),
    "snp-table": Target(_table, _tables),
    "snp-extended": Target(_extended, lambda: [_reports()[0] + one for one in _tables()]),
    "snp-hcl": Target(HclReport.from_bytes, _hcl, 4096),
    "snp-json": Target(_json_report, _json_reports, 20_000),
    "snp-id-block": Target(_id_block, _id_blocks, ID_BLOCK_SIZE + ID_AUTH_SIZE),
    "snp-bundle": Target(_bundle, _bundles, 16384),
    "certificates": Target(_certificate_file, _certificate_files),
    "evidence-file": Target(_file, lambda: [*_bundles(), *_hcl(), *_json_reports(), *_reports()], 16384),
    "guest-messages": Target(_guest_message, _guest_messages),
}
"""Targets by name."""
