# SPDX-License-Identifier: BSD-3-Clause
"""Signature, firmware id and nonce; what the results account for; that verifying is the only way."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from cryptography import x509
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.errors import BindingError, Error, FormatError, FreshnessError, SignatureError
from sealroom.nvidia import (
    CHECKS,
    REPORT_CHECKS,
    OcspPolicy,
    VerifiedDevice,
    clear_device_cache,
    examine_device,
    verify_device,
)
from sealroom.simulated.gpu_certificates import BLACKWELL_DICE, HOPPER_DICE, new_key
from support.nvidia import NONCE, detail, development, outcome, refused, reissue, verify

GPU = testing.gpu()
ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


# --- signature


def test_report_signed_with_another_key() -> None:
    report = GPU.report(NONCE, key=new_key())
    refused(SignatureError, "nvidia.report.signature", lambda: verify(report=report))


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(bytes(96), id="zero"),
        pytest.param(b"\xff" * 96, id="beyond the order"),
        pytest.param(ORDER.to_bytes(48, "big") * 2, id="the order"),
        pytest.param(bytes(48) + b"\1" * 48, id="r is zero"),
        pytest.param(b"\1" * 48 + bytes(48), id="s is zero"),
    ],
)
def test_signature_with_numbers_that_are_none(signature: bytes) -> None:
    report = GPU.report(NONCE)[:-96] + signature
    refused(SignatureError, "nvidia.report.signature", lambda: verify(report=report))


def test_signature_of_the_response_alone_is_another() -> None:
    signed = GPU.fields(NONCE)
    other = replace(signed, request_header=b"\x11\xe0\x01\xff", slot=1).signed_part()
    report = other + GPU.report(NONCE)[-96:]
    refused(SignatureError, "nvidia.report.signature", lambda: verify(report=report))


# --- firmware id


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL"])
def test_firmware_id_is_compared(architecture: Any) -> None:
    assert outcome(verify(testing.gpu(architecture)).checks, "nvidia.report.fwid") is Outcome.PASSED


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL"])
def test_firmware_id_that_differs(architecture: Any) -> None:
    gpu = testing.gpu(architecture, reported_fwid=b"\1" * 48)
    error = refused(BindingError, "nvidia.report.fwid", lambda: verify(gpu))
    assert "0101010101010101" in error.message


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL"])
def test_firmware_id_that_nobody_certified(architecture: Any) -> None:
    gpu = testing.gpu(architecture, certified_fwid=None)
    refused(BindingError, "nvidia.report.fwid", lambda: verify(gpu))


def test_old_driver_reports_no_firmware_id_and_the_result_says_so() -> None:
    checks = verify(testing.gpu(driver_version="535.86.09")).checks
    assert outcome(checks, "nvidia.report.fwid") is Outcome.NOT_ASKED
    assert "535" in detail(checks, "nvidia.report.fwid")


@pytest.mark.parametrize(("architecture", "oid"), [("HOPPER", HOPPER_DICE), ("BLACKWELL", BLACKWELL_DICE)])
@pytest.mark.parametrize("value", [b"", b"\x05\x00", bytes(48), b"\x30\x3d" + bytes(61)])
def test_certified_firmware_id_that_is_malformed(
    architecture: Any, oid: x509.ObjectIdentifier, value: bytes
) -> None:
    gpu = testing.gpu(architecture)
    made = reissue(
        gpu.chain[0],
        gpu.chain[1],
        drop=[oid.dotted_string],
        add=[(x509.UnrecognizedExtension(oid, value), False)],
    )
    refused(FormatError, "nvidia.report.fwid", lambda: verify(gpu, chain=[made.der, *gpu.chain_der[1:]]))


def test_first_firmware_id_of_blackwell_counts() -> None:
    """The certificate lists two: the one of the firmware, and one of zeros."""
    gpu = testing.gpu("BLACKWELL", reported_fwid=bytes(48))
    refused(BindingError, "nvidia.report.fwid", lambda: verify(gpu))


# --- nonce


def test_nonce_that_is_another() -> None:
    error = refused(FreshnessError, "nvidia.report.nonce", lambda: verify(nonce=bytes(32)))
    assert "genuine" in error.message


def test_responder_nonce_is_not_the_one_to_compare() -> None:
    responder = GPU.fields(NONCE).responder_nonce
    refused(FreshnessError, "nvidia.report.nonce", lambda: verify(nonce=responder))


def test_without_a_nonce_freshness_is_not_asked() -> None:
    assert outcome(verify(nonce=None).checks, "nvidia.report.nonce") is Outcome.NOT_ASKED


# --- misuse


@pytest.mark.parametrize("size", [0, 31, 33, 48, 64])
def test_nonce_of_another_size_is_misuse(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        verify(nonce=bytes(size))


def test_time_without_a_zone_is_misuse() -> None:
    with pytest.raises(TypeError, match="time zone"):
        verify(at=datetime(2026, 6, 1))  # noqa: DTZ001


def test_nobody_else_makes_a_verified_device() -> None:
    verified = verify()
    with pytest.raises(TypeError, match="only verify_device"):
        VerifiedDevice(
            verified.report,
            verified.architecture,
            verified.chain,
            verified.ueid,
            verified.roots,
            verified.at,
            verified.checks,
        )
    with pytest.raises((TypeError, ValueError)):
        replace(verified, ueid="other")


# --- what the results account for


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL", "LS10"])
def test_every_check_is_accounted_for_once(architecture: Any) -> None:
    checks = verify(testing.gpu(architecture)).checks
    assert sorted(one.id for one in checks) == sorted(REPORT_CHECKS)
    assert all(one.outcome is not Outcome.FAILED for one in checks)
    assert all(one.detail for one in checks)


def test_results_are_the_same_where_a_chain_is_remembered() -> None:
    first = verify().checks
    again = verify_device(
        GPU.report(NONCE), GPU.chain_der, roots=development(), at=testing.NOW, nonce=NONCE
    ).checks
    assert first == again


@pytest.mark.parametrize(
    ("report", "chain", "failed"),
    [
        pytest.param(GPU.report(NONCE)[:-1], GPU.chain_der, "nvidia.report.length", id="report"),
        pytest.param(GPU.report(NONCE), GPU.chain_der[:1], "nvidia.chain.present", id="chain"),
        pytest.param(
            GPU.report(NONCE, key=new_key()), GPU.chain_der, "nvidia.report.signature", id="signature"
        ),
        pytest.param(GPU.report(bytes(32)), GPU.chain_der, "nvidia.report.nonce", id="nonce"),
    ],
)
def test_examination_of_what_is_refused(report: bytes, chain: list[bytes], failed: str) -> None:
    clear_device_cache()
    found = examine_device(report, chain, roots=development(), at=testing.NOW, nonce=NONCE)

    assert found.verified is None
    assert isinstance(found.error, Error)
    assert [one.id for one in found.checks if one.outcome is Outcome.FAILED] == [failed]
    assert sorted(one.id for one in found.checks) == sorted(REPORT_CHECKS)
    after = [one.id for one in found.checks].index(failed)
    assert {one.detail for one in found.checks[after + 1 :]} <= {"an earlier check failed"}


def test_examination_of_what_is_good() -> None:
    found = examine_device(
        GPU.report(NONCE), GPU.chain_der, roots=development(), at=testing.NOW, ocsp_policy=OcspPolicy.SOFT
    )
    assert found.error is None
    assert found.verified is not None
    assert found.checks == found.verified.checks
    assert all(one.id in CHECKS for one in found.checks)


# --- what it costs to import


def test_importing_pulls_in_no_xml_and_no_http() -> None:
    """XML is for manifests alone, and the verifier has no network."""
    code = (
        "import sys, sealroom.nvidia\n"
        "heavy = {'lxml', 'signxml', 'httpx', 'requests', 'urllib3', 'jwt'} & set(sys.modules)\n"
        "print(*sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


# --- which firmware id is asked for


def test_switch_reports_no_firmware_id_and_the_result_says_so() -> None:
    checks = verify(testing.gpu("LS10", reported_fwid=None)).checks
    assert outcome(checks, "nvidia.report.fwid") is Outcome.NOT_ASKED
    assert "switch" in detail(checks, "nvidia.report.fwid")


def test_certificate_with_a_firmware_id_that_the_report_does_not_name() -> None:
    """Reports of driver 535 and of switches are so; the report is signed, so nobody took it away."""
    checks = verify(report=GPU.report(NONCE, opaque={20: None})).checks
    assert outcome(checks, "nvidia.report.fwid") is Outcome.NOT_ASKED
