# SPDX-License-Identifier: BSD-3-Clause
"""One thing wrong at a time, in generated evidence: the check that is there for it refuses, and no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sealroom import testing
from sealroom.errors import (
    BindingError,
    ChainError,
    Error,
    ExpiredError,
    FormatError,
    NotYetValidError,
    RevocationUnavailableError,
    RevokedError,
    SignatureError,
    VerificationError,
)
from sealroom.simulated.certificates import SIMULATED_NAMES, make_vek
from sealroom.simulated.reports import DEFAULT_TCB, pack_tcb, sign_report
from sealroom.snp import (
    REPORT_CHECKS,
    Outcome,
    ProductLine,
    Roots,
    TcbVersion,
    examine_report,
    verify_report,
)
from sealroom.snp.checks import CheckResult
from support.snp import make_crl, replace_once, resign, utc

GENOA, MILAN, TURIN = ProductLine.GENOA, ProductLine.MILAN, ProductLine.TURIN


@dataclass(frozen=True)
class Given:
    """What one verification is given."""

    report: bytes
    vek: bytes
    roots: Roots
    at: datetime = testing.NOW
    intermediates: Sequence[bytes] = ()
    crls: Sequence[bytes] = field(default=())


def given(
    chip: testing.Chip | None = None,
    *,
    report: bytes | None = None,
    vek: bytes | None = None,
    roots: Roots | None = None,
    at: datetime = testing.NOW,
    intermediates: Sequence[bytes] | None = None,
    crls: Sequence[bytes] = (),
    **fields: object,
) -> Given:
    """Return good evidence of a chip, but for what is replaced."""
    chip = chip or testing.chip()
    return Given(
        chip.report(**fields) if report is None else report,  # type: ignore[arg-type]
        chip.vek if vek is None else vek,
        roots or Roots.development(chip.root.pem),
        at,
        chip.intermediates if intermediates is None else intermediates,
        crls,
    )


def patched(offset: int, data: bytes) -> bytes:
    """Return a good report with some bytes replaced after it was signed."""
    report = bytearray(testing.chip().report())
    report[offset : offset + len(data)] = data
    return bytes(report)


def vek_with(change: Callable[[bytes], bytes], line: ProductLine = GENOA) -> bytes:
    """Return a VCEK whose signed part is changed and signed again."""
    return resign(testing.chip(line).vek, testing.rsa_key("ask"), change)


def swapped_extension(suffix: str, value: bytes | None, kind: str = "VCEK") -> Given:
    """Return evidence whose certificate has another value of one of AMD's extensions, or none."""
    return given(testing.chip(kind=kind, extensions={suffix: value}))  # type: ignore[arg-type]


def p256() -> Given:
    """Return a report that a certified P-256 key signed."""
    chip = testing.chip()
    key = ec.generate_private_key(ec.SECP256R1())
    vek = make_vek(
        chip.root.ask, key.public_key(), GENOA, chip.tcb, chip_id=chip.chip_id, not_before=testing.EPOCH
    )
    return given(report=sign_report(chip.fields().signed_part(), key), vek=vek)


def other_root(role: str) -> list[bytes]:
    """Return intermediates of which the ASK or the ARK comes from a chain of its own with the same names."""
    from sealroom.simulated.root import make

    own, other = (
        testing.chip(),
        make(GENOA, at=testing.EPOCH, keys=(testing.rsa_key("other"), testing.rsa_key("ask"))),
    )
    return [other.ask.der, own.root.ark.der] if role == "ask" else [own.root.ask.der, other.ark.der]


def changed_ask(change: Callable[[bytes], bytes]) -> list[bytes]:
    """Return an ASK whose signed part is changed and signed again by the root."""
    return [resign(testing.chain().ask.der, testing.rsa_key("ark"), change)]


def crl(**changes: object) -> bytes:
    """Return a revocation list of the root, current at `NOW`."""
    values: dict[str, object] = {"issued": testing.NOW - timedelta(days=1)} | changes
    return make_crl(testing.chain().ark.certificate.subject, testing.rsa_key("ark"), **values)  # type: ignore[arg-type]


def tcb(line: ProductLine, **changes: int) -> bytes:
    """Return a packed TCB of a line with components added to."""
    default = DEFAULT_TCB[line]
    parts = default.components()
    return pack_tcb(TcbVersion(**(parts | {name: parts[name] + add for name, add in changes.items()})), line)


def reserved_on(line: ProductLine, offset: int) -> Given:
    """Return evidence of a line with a byte of the report set before it was signed."""
    return given(testing.chip(line), patches={offset: b"\x01"})


def certified_above(line: ProductLine, component: str) -> Given:
    """Return a report and a certificate for the same chip with newer firmware in one component."""
    newer = TcbVersion(**(DEFAULT_TCB[line].components() | {component: 200}))
    return given(testing.chip(line, tcb=newer), report=testing.chip(line).report())


CN_SHA512 = bytes.fromhex("0609608648016503040203")
CN_SHA384 = bytes.fromhex("0609608648016503040202")
MINUTE = timedelta(minutes=1)

CASES: Mapping[str, Mapping[str, tuple[type[Error], Callable[[], Given]]]] = {
    "snp.report.length": {
        "one byte missing": (FormatError, lambda: given(report=testing.chip().report()[:-1])),
        "one byte more": (FormatError, lambda: given(report=testing.chip().report() + b"\0")),
        "empty": (FormatError, lambda: given(report=b"")),
    },
    "snp.report.version": {
        "version 1": (FormatError, lambda: given(version=1)),
        "version 6": (FormatError, lambda: given(version=6)),
        "version above 16 bits": (FormatError, lambda: given(report=patched(3, b"\x01"))),
    },
    "snp.report.signature_algo": {
        "algorithm 0": (FormatError, lambda: given(signature_algo=0)),
        "algorithm 2": (FormatError, lambda: given(signature_algo=2)),
    },
    "snp.report.policy": {
        "bit 17 clear": (FormatError, lambda: given(policy=0x10000)),
        "bit 26 set": (FormatError, lambda: given(policy=0x30000 | 1 << 26)),
        "bit 63 set": (FormatError, lambda: given(policy=0x30000 | 1 << 63)),
    },
    "snp.report.vmpl": {
        "level 4": (FormatError, lambda: given(vmpl=4)),
        "level fffffffe": (FormatError, lambda: given(vmpl=0xFFFFFFFE)),
    },
    "snp.report.key_info": {
        "signing key 2": (FormatError, lambda: given(key_info=2 << 2)),
        "signing key 6": (FormatError, lambda: given(key_info=6 << 2)),
        "bit 5 set": (FormatError, lambda: given(key_info=1 << 5)),
    },
    "snp.report.reserved": {
        f"byte at {offset:#x}": (FormatError, partial(given, patches={offset: b"\x01"}))
        for offset in (0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F)
    },
    "snp.report.version_fields": {
        "launch mitigations in version 4": (FormatError, lambda: given(version=4, launch_mit_vector=1)),
        "current mitigations in version 3": (FormatError, lambda: given(version=3, current_mit_vector=1)),
        "cpuid in version 2": (FormatError, lambda: given(version=2, cpuid=(0x19, 0x11, 0))),
    },
    "snp.report.signature_encoding": {
        "byte above r": (FormatError, lambda: given(report=patched(0x2D0, b"\x01"))),
        "byte above s": (FormatError, lambda: given(report=patched(0x318, b"\x01"))),
        "last byte": (FormatError, lambda: given(report=patched(0x49F, b"\x01"))),
    },
    "snp.report.signature_range": {
        "r zero": (FormatError, lambda: given(report=patched(0x2A0, bytes(48)))),
        "s zero": (FormatError, lambda: given(report=patched(0x2E8, bytes(48)))),
        "r all ones": (FormatError, lambda: given(report=patched(0x2A0, b"\xff" * 48))),
    },
    "snp.report.product_line": {
        "family 17h": (FormatError, lambda: given(cpuid=(0x17, 0x01, 0))),
        "family 19h model 20h": (FormatError, lambda: given(cpuid=(0x19, 0x20, 0))),
        "family 19h model b0h": (FormatError, lambda: given(cpuid=(0x19, 0xB0, 0))),
        "family 1ah model 12h": (FormatError, lambda: given(cpuid=(0x1A, 0x12, 0))),
    },
    "snp.report.signing_key": {
        "none": (SignatureError, lambda: given(key_info=7 << 2)),
    },
    "snp.vek.present": {
        "no certificate": (ChainError, lambda: given(vek=b"")),
    },
    "snp.vek.der": {
        "one byte missing": (FormatError, lambda: given(vek=testing.chip().vek[:-1])),
        "one byte more": (FormatError, lambda: given(vek=testing.chip().vek + b"\0")),
        "a sentence": (FormatError, lambda: given(vek=b"This is no certificate.")),
        "too long": (FormatError, lambda: given(vek=b"\x30" * 10000)),
        "negative serial": (
            FormatError,
            lambda: given(vek=vek_with(replace_once(b"\x02\x01\x00", b"\x02\x01\xff"))),
        ),
        "serial not in shortest form": (
            FormatError,
            lambda: given(vek=vek_with(replace_once(b"\x02\x01\x00", b"\x02\x02\x00\x00"))),
        ),
        "time without a date": (
            FormatError,
            lambda: given(vek=vek_with(replace_once(b"260101000000Z", b"261301000000Z"))),
        ),
        "time with an offset": (
            FormatError,
            lambda: given(vek=vek_with(replace_once(b"260101000000Z", b"2601010000+01"))),
        ),
    },
    "snp.vek.version": {
        "version 1": (FormatError, lambda: given(vek=vek_with(lambda content: content[5:]))),
        "version 2": (
            FormatError,
            lambda: given(vek=vek_with(replace_once(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01"))),
        ),
    },
    "snp.vek.signature_algorithm": {
        "salt 32": (FormatError, lambda: given(testing.chip(salt=32))),
        "sha-512 inside only": (FormatError, lambda: given(vek=vek_with(replace_once(CN_SHA384, CN_SHA512)))),
        "sha-512 outside only": (
            FormatError,
            lambda: given(
                vek=resign(
                    testing.chip().vek,
                    testing.rsa_key("ask"),
                    lambda content: content,
                    algorithm=replace_once(CN_SHA384, CN_SHA512),
                )
            ),
        ),
        "trailer field 2": (
            FormatError,
            lambda: given(vek=with_trailer_field(2)),
        ),
        "signature of 511 bytes": (FormatError, lambda: given(vek=short_signature())),
    },
    "snp.vek.names": {
        "subject of a root": (
            ChainError,
            lambda: given(vek=vek_with(replace_once(b"SEV-VCEK", b"ARK-VCEK"))),
        ),
        "issuer of an unknown line": (
            ChainError,
            lambda: given(vek=vek_with(replace_once(b"SEV-Genoa", b"SEV-Rhone"))),
        ),
        "vlek issued as a vcek": (
            ChainError,
            lambda: given(vek=vek_with(replace_once(b"SEV-VCEK", b"SEV-VLEK"))),
        ),
        "subject of another organisation": (
            ChainError,
            lambda: given(
                vek=vek_with(lambda c: c[::-1].replace(b"Sealroom"[::-1], b"SEALROOM"[::-1], 1)[::-1])
            ),
        ),
    },
    "snp.vek.key": {
        "p-256": (ChainError, p256),
        "no point on the curve": (ChainError, lambda: given(vek=vek_with(off_the_curve))),
    },
    "snp.vek.extensions": {
        "unknown one of amd's": (FormatError, lambda: swapped_extension("3.10", b"\x02\x01\x00")),
        "level of two bytes": (FormatError, lambda: swapped_extension("3.1", b"\x02\x02\x01\x00")),
        "level that is negative": (FormatError, lambda: swapped_extension("3.1", b"\x02\x01\xff")),
        "level with a byte after it": (FormatError, lambda: swapped_extension("3.1", b"\x02\x01\x0a\x00")),
        "reserved level set": (FormatError, lambda: swapped_extension("3.5", b"\x02\x01\x01")),
        "struct version 2": (FormatError, lambda: swapped_extension("1", b"\x02\x01\x02")),
        "product name as utf-8": (FormatError, lambda: swapped_extension("2", b"\x0c\x05Genoa")),
        "product name not ascii": (FormatError, lambda: swapped_extension("2", b"\x16\x05Geno\xe4")),
        "twice": (FormatError, lambda: given(vek=vek_with(duplicate_extension))),
        "critical and unknown": (FormatError, lambda: given(vek=vek_with(critical_extension))),
    },
    "snp.vek.required_extensions": {
        f"{name} missing": (ChainError, partial(swapped_extension, suffix, None))
        for suffix, name in {
            "1": "structVersion",
            "2": "productName",
            "3.1": "blSPL",
            "3.2": "teeSPL",
            "3.3": "snpSPL",
            "3.8": "ucodeSPL",
        }.items()
    }
    | {
        "fmcSPL missing on turin": (ChainError, lambda: given(testing.chip(TURIN, extensions={"3.9": None}))),
        "fmcSPL on genoa": (ChainError, lambda: swapped_extension("3.9", b"\x02\x01\x01")),
    },
    "snp.vek.kind": {
        "vcek without chip id": (ChainError, lambda: swapped_extension("4", None)),
        "vcek with a provider": (ChainError, lambda: swapped_extension("5", b"\x16\x01a")),
        "vlek without a provider": (ChainError, lambda: swapped_extension("5", None, "VLEK")),
        "vlek with a chip id": (ChainError, lambda: swapped_extension("4", bytes(64), "VLEK")),
    },
    "snp.vek.hwid": {
        "63 bytes": (FormatError, lambda: swapped_extension("4", bytes(63))),
        "66 bytes that are no octet string": (
            FormatError,
            lambda: swapped_extension("4", b"\x02\x40" + bytes(64)),
        ),
        "64 bytes on turin": (FormatError, lambda: given(testing.chip(TURIN, extensions={"4": bytes(64)}))),
    },
    "snp.vek.product_name": {
        "another line": (ChainError, lambda: swapped_extension("2", b"\x16\x08Milan-B0")),
        "stepping of three": (ChainError, lambda: swapped_extension("2", b"\x16\x09Genoa-B01")),
        "empty": (ChainError, lambda: swapped_extension("2", b"\x16\x00")),
        "line with something after it": (ChainError, lambda: swapped_extension("2", b"\x16\x06Genoa2")),
    },
    "snp.ask.present": {
        "none came along": (ChainError, lambda: given(intermediates=())),
        "only the root came along": (ChainError, lambda: given(intermediates=[testing.chain().ark.der])),
        "asvk for a vcek": (
            ChainError,
            lambda: given(intermediates=[asvk_der(), testing.chain(vlek=True).ark.der]),
        ),
    },
    "snp.ask.format": {
        "no certificate": (FormatError, lambda: given(intermediates=[b"ASK"])),
        "no certificate authority": (
            ChainError,
            lambda: given(
                intermediates=changed_ask(
                    replace_once(b"\x30\x06\x01\x01\xff\x02\x01\x00", b"\x30\x06\x01\x01\x00\x02\x01\x00")
                )
            ),
        ),
        "may not sign certificates": (
            ChainError,
            lambda: given(intermediates=changed_ask(replace_once(b"\x03\x02\x02\x04", b"\x03\x02\x02\x80"))),
        ),
        "critical extension that is unknown": (
            FormatError,
            lambda: given(
                intermediates=changed_ask(replace_once(b"\x06\x03\x55\x1d\x13", b"\x06\x03\x55\x1d\x1e"))
            ),
        ),
        "issued by another line": (
            ChainError,
            lambda: given(intermediates=changed_ask(replace_once(b"ARK-Genoa", b"ARK-Milan"))),
        ),
        "name of nobody": (
            ChainError,
            lambda: given(intermediates=changed_ask(replace_once(b"SEV-Genoa", b"SEV-Rhone"))),
        ),
        "key with exponent 3": (
            FormatError,
            lambda: given(
                intermediates=changed_ask(
                    replace_once(b"\x02\x03\x01\x00\x01\xa3", b"\x02\x03\x01\x00\x03\xa3")
                )
            ),
        ),
        "seventeen certificates": (FormatError, lambda: given(intermediates=[testing.chain().ask.der] * 17)),
    },
    "snp.ark.pinned": {
        "root of its own": (ChainError, lambda: given(intermediates=other_root("ark"))),
        "amd's roots asked for": (
            ChainError,
            lambda: given(
                testing.chip(root=testing.chain(names=testing.AMD_LIKE_NAMES)),
                roots=Roots.amd(),
            ),
        ),
        "root of another line": (ChainError, lambda: given(roots=testing.development_roots(MILAN))),
    },
    "snp.ask.signature": {
        "signed by another root": (SignatureError, lambda: given(intermediates=other_root("ask"))),
        "changed after signing": (
            SignatureError,
            lambda: given(intermediates=[flipped(testing.chain().ask.der, -1)]),
        ),
    },
    "snp.vek.signature": {
        "signed by the root": (SignatureError, lambda: given(vek=signed_by("ark"))),
        "signed by the asvk": (SignatureError, lambda: given(vek=signed_by("asvk"))),
        "signed by a stranger": (SignatureError, lambda: given(vek=signed_by("other"))),
        "changed after signing": (SignatureError, lambda: given(vek=flipped(testing.chip().vek, -1))),
    },
    "snp.vek.validity": {
        "expired": (ExpiredError, lambda: given(testing.chip(not_after=testing.NOW - MINUTE))),
        "not yet valid": (NotYetValidError, lambda: given(testing.chip(not_before=testing.NOW + MINUTE))),
    },
    "snp.ask.validity": {
        "expired": (
            ExpiredError,
            lambda: given(intermediates=changed_ask(replace_once(b"470101000000Z", b"260101000000Z"))),
        ),
        "not yet valid": (
            NotYetValidError,
            lambda: given(intermediates=changed_ask(replace_once(b"220101000000Z", b"300101000000Z"))),
        ),
    },
    "snp.ark.validity": {
        "expired": (
            ExpiredError,
            lambda: given(testing.chip(not_after=utc(2049)), at=utc(2048), intermediates=long_ask()),
        ),
        "not yet valid": (
            NotYetValidError,
            lambda: given(
                testing.chip(not_before=utc(2000), not_after=utc(2030)),
                at=utc(2021),
                intermediates=changed_ask(replace_once(b"220101000000Z", b"000101000000Z")),
            ),
        ),
    },
    "snp.crl.format": {
        "one byte more": (FormatError, lambda: given(crls=[crl() + b"\0"])),
        "no list": (FormatError, lambda: given(crls=[b"list"])),
        "no next update": (FormatError, lambda: given(crls=[without_next_update()])),
        "critical extension that is unknown": (
            FormatError,
            lambda: given(crls=[crl(extensions=[(x509.DeltaCRLIndicator(1), True)])]),
        ),
    },
    "snp.crl.issuer": {
        "only a list of another line": (
            RevocationUnavailableError,
            lambda: given(
                crls=[make_crl(SIMULATED_NAMES.of("ARK-Milan"), testing.rsa_key("ark"), issued=testing.NOW)]
            ),
        ),
    },
    "snp.crl.signature": {
        "signed by the intermediate": (
            SignatureError,
            lambda: given(
                crls=[
                    make_crl(
                        testing.chain().ark.certificate.subject, testing.rsa_key("ask"), issued=testing.NOW
                    )
                ]
            ),
        ),
        "changed after signing": (SignatureError, lambda: given(crls=[flipped(crl(), -1)])),
    },
    "snp.crl.not_revoked": {
        "intermediate revoked": (RevokedError, lambda: given(crls=[crl(revoked=[0x020001])])),
        "root revoked": (RevokedError, lambda: given(crls=[crl(revoked=[0x020000])])),
        "revoked in a stale list": (
            RevokedError,
            lambda: given(crls=[crl(issued=utc(2025), revoked=[0x020001]), crl()]),
        ),
    },
    "snp.crl.not_future": {
        "issued tomorrow": (
            RevocationUnavailableError,
            lambda: given(crls=[crl(issued=testing.NOW + timedelta(days=1))]),
        ),
    },
    "snp.crl.not_stale": {
        "next list was due yesterday": (
            RevocationUnavailableError,
            lambda: given(crls=[crl(issued=utc(2026), next_update=testing.NOW - timedelta(days=1))]),
        ),
    },
    "snp.binding.line": {
        "milan report and genoa certificate": (ChainError, lambda: given(cpuid=(0x19, 0x01, 1))),
        "turin report and genoa certificate": (ChainError, lambda: given(cpuid=(0x1A, 0x02, 1))),
    },
    "snp.report.tcb_layout": {
        f"reserved byte of {name} on {line}": (
            FormatError,
            partial(reserved_on, line, offset),
        )
        for line, at in ((GENOA, 2), (MILAN, 5), (TURIN, 6))
        for name, offset in {
            "CURRENT_TCB": 0x38 + at,
            "REPORTED_TCB": 0x180 + at,
            "COMMITTED_TCB": 0x1E0 + at,
            "LAUNCH_TCB": 0x1F0 + at,
        }.items()
    },
    "snp.report.chip_id_layout": {
        "ninth byte on turin": (
            FormatError,
            lambda: given(testing.chip(TURIN), chip_id=testing.CHIP_ID[TURIN][:8] + b"\x01" + bytes(55)),
        ),
    },
    "snp.report.tcb_order": {
        "reported above current": (
            VerificationError,
            lambda: given(current_tcb=tcb(GENOA, snp=-1), committed_tcb=bytes(8)),
        ),
        "committed above current": (VerificationError, lambda: given(committed_tcb=tcb(GENOA, bootloader=1))),
        "fmc above current on turin": (
            VerificationError,
            lambda: given(testing.chip(TURIN), committed_tcb=tcb(TURIN, fmc=1)),
        ),
    },
    "snp.binding.signing_key": {
        "says vlek": (BindingError, lambda: given(key_info=1 << 2)),
        "says vcek": (BindingError, lambda: given(testing.chip(kind="VLEK"), key_info=0)),
    },
    "snp.binding.tcb": {
        f"{name} of {line} above the report": (
            BindingError,
            partial(certified_above, line, name),
        )
        for line in ProductLine
        for name in DEFAULT_TCB[line].components()
    },
    "snp.binding.chip_id": {
        "another chip": (BindingError, lambda: given(chip_id=bytes(63) + b"\x01")),
        "another chip on turin": (
            BindingError,
            lambda: given(testing.chip(TURIN), chip_id=b"\x01" + bytes(63)),
        ),
    },
    "snp.report.signature": {
        "measurement changed": (SignatureError, lambda: given(report=patched(0x90, b"\x01"))),
        "r and s swapped": (SignatureError, lambda: given(report=swapped())),
        "another key": (
            SignatureError,
            lambda: given(
                report=sign_report(
                    testing.chip().fields().signed_part(), ec.generate_private_key(ec.SECP384R1())
                )
            ),
        ),
    },
}


def with_trailer_field(value: int, at: str = "both") -> bytes:
    """Return a VCEK that writes the trailer field of its signature algorithm out."""
    from support.snp import split, tlv

    _, algorithm = split(testing.chip().vek)
    field_ = bytes((0xA3, 3, 2, 1, value))
    longer = tlv(0x30, algorithm[2:13], tlv(0x30, algorithm[15:], field_))
    return resign(
        testing.chip().vek,
        testing.rsa_key("ask"),
        replace_once(algorithm, longer),
        algorithm=lambda _: longer if at == "both" else algorithm,
    )


def short_signature() -> bytes:
    """Return a VCEK whose signature lacks its last byte."""
    from support.snp import split, tlv

    vek = testing.chip().vek
    tbs, algorithm = split(vek)
    return tlv(0x30, tbs, algorithm, tlv(0x03, b"\0", vek[-512:-1]))


def off_the_curve(content: bytes) -> bytes:
    """Change the last byte of the key."""
    at = content.index(bytes.fromhex("06052b81040022")) + 7 + 4 + 95
    return content[:at] + bytes((content[at] ^ 1,)) + content[at + 1 :]


def add_extension(content: bytes, extension: bytes) -> bytes:
    """Put an extension in front of the others."""
    from support.snp import tlv

    at = content.index(b"\xa3\x82")
    return content[:at] + tlv(0xA3, tlv(0x30, extension, content[at + 8 :]))


def duplicate_extension(content: bytes) -> bytes:
    """Put blSPL in front of the others once more."""
    return add_extension(content, bytes.fromhex("3011060a2b060104019c7801030104030201") + b"\x0a")


def critical_extension(content: bytes) -> bytes:
    """Add name constraints that are critical."""
    return add_extension(content, bytes.fromhex("300c0603551d1e0101ff04023000"))


def flipped(data: bytes, at: int) -> bytes:
    """Return data with one bit of a byte changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def signed_by(key: str) -> bytes:
    """Return a VCEK with the right issuer's name and another key's signature."""
    return resign(testing.chip().vek, testing.rsa_key(key), lambda content: content)


def swapped() -> bytes:
    """Return a report whose signature has R and S the wrong way round."""
    report = testing.chip().report()
    return report[:0x2A0] + report[0x2E8:0x330] + report[0x2A0:0x2E8] + report[0x330:]


def wrapped_hwid(line: ProductLine = GENOA) -> Given:
    """Return evidence whose certificate has its chip id as an OCTET STRING."""
    hwid = testing.CHIP_ID[line][: line.chip_id_size]
    return given(testing.chip(line, extensions={"4": bytes((4, len(hwid))) + hwid}))


def asvk_der() -> bytes:
    """Return the ASVK."""
    asvk = testing.chain(vlek=True).asvk
    assert asvk is not None
    return asvk.der


def long_ask() -> list[bytes]:
    """Return an ASK that outlives the root."""
    return changed_ask(replace_once(b"470101000000Z", b"491231000000Z"))


def without_next_update() -> bytes:
    """Return a revocation list that does not say when the next one is due."""
    issued, due = utc(2026, 5, 1), utc(2026, 7, 1)
    return resign(
        crl(issued=issued, next_update=due),
        testing.rsa_key("ark"),
        replace_once(b"\x17\x0d260701000000Z", b""),
    )


FLAT = [
    pytest.param(check, expected, make, id=f"{check}-{name}")
    for check, wrongs in CASES.items()
    for name, (expected, make) in wrongs.items()
]

NOT_HERE = {
    # Its refusal is Roots' own, before there is anything to verify: tested in test_roots.py.
    "snp.ark.self_signed",
}


def test_every_check_has_a_negative_case() -> None:
    assert set(CASES) == REPORT_CHECKS - NOT_HERE


@pytest.mark.parametrize(("check", "expected", "make"), FLAT)
def test_one_thing_wrong(check: str, expected: type[Error], make: Callable[[], Given]) -> None:
    wrong = make()

    with pytest.raises(expected) as caught:
        verify_report(
            wrong.report,
            wrong.vek,
            roots=wrong.roots,
            at=wrong.at,
            intermediates=wrong.intermediates,
            crls=wrong.crls,
        )

    assert caught.value.check == check
    assert type(caught.value) is expected
    examination = examine_report(
        wrong.report,
        wrong.vek,
        roots=wrong.roots,
        at=wrong.at,
        intermediates=wrong.intermediates,
        crls=wrong.crls,
    )
    assert examination.verified is None
    assert [one.id for one in failed(examination.checks)] == [check]
    assert {one.id for one in examination.checks} == REPORT_CHECKS
    made = [one.id for one in examination.checks if one.detail != "an earlier check failed"]
    assert made[-1] == check
    assert examination.error is not None
    assert examination.error.message == caught.value.message


def failed(results: Sequence[CheckResult]) -> list[CheckResult]:
    return [one for one in results if one.outcome is Outcome.FAILED]


@pytest.mark.parametrize("line", ProductLine)
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_nothing_wrong(line: ProductLine, kind: str, version: int) -> None:
    good = given(testing.chip(line, kind=kind), version=version)  # type: ignore[arg-type]

    verified = verify_report(
        good.report, good.vek, roots=good.roots, at=good.at, intermediates=good.intermediates
    )

    assert verified.line is line
    assert verified.simulated
    assert verified.report.to_bytes() == good.report
    assert not failed(verified.checks)
    assert {one.id for one in verified.checks} == REPORT_CHECKS


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(wrapped_hwid, id="hwid as octet string"),
        pytest.param(lambda: wrapped_hwid(TURIN), id="hwid as octet string on turin"),
        pytest.param(lambda: given(chip_id=bytes(64)), id="chip id masked"),
        pytest.param(lambda: given(platform_info=0x67), id="platform information bit 6"),
        pytest.param(lambda: given(cpuid=(0x19, 0xA0, 2)), id="bergamo or siena"),
        pytest.param(lambda: given(cpuid=(0x19, 0xAF, 2)), id="last model of siena"),
        pytest.param(lambda: given(testing.chip(TURIN), cpuid=(0x1A, 0x11, 0)), id="turin dense"),
        pytest.param(lambda: swapped_extension("2", b"\x16\x05Siena"), id="product name siena"),
        pytest.param(lambda: swapped_extension("2", b"\x16\x0aBergamo-A1"), id="product name bergamo"),
        pytest.param(lambda: swapped_extension("3.5", None), id="reserved level left out"),
        pytest.param(lambda: given(vmpl=0xFFFFFFFF), id="asked for by the host"),
        pytest.param(lambda: given(policy=0x30000 | 1 << 19), id="debugging allowed"),
        pytest.param(lambda: given(committed_tcb=bytes(8)), id="provisional firmware"),
        pytest.param(lambda: given(vek=with_trailer_field(1)), id="trailer field written out"),
        pytest.param(lambda: given(crls=[crl(revoked=[0x020002])]), id="another intermediate revoked"),
        pytest.param(lambda: given(crls=[crl(issued=utc(2025)), crl()]), id="a stale list and a current one"),
    ],
)  # fmt: skip
def test_unusual_and_right(make: Callable[[], Given]) -> None:
    good = make()

    verify_report(
        good.report, good.vek, roots=good.roots, at=good.at, intermediates=good.intermediates, crls=good.crls
    )
