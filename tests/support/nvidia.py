# SPDX-License-Identifier: BSD-3-Clause
"""Good evidence of a simulated device with one thing replaced, and what became of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import pytest
from cryptography import x509
from sealroom import testing
from sealroom.checks import CheckResult, Outcome
from sealroom.errors import Error
from sealroom.nvidia import (
    NvidiaRoots,
    OcspPolicy,
    VerifiedDevice,
    VerifiedRim,
    clear_device_cache,
    verify_device,
    verify_rim,
)
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_certificates import EcAuthority, Life, issue

NONCE = bytes(range(32))


@functools.cache
def development() -> NvidiaRoots:
    """Return the shared development roots."""
    return NvidiaRoots.development(testing.gpu_root().device_pem, testing.gpu_root().rim_pem)


def verify(
    gpu: SimulatedGpu | None = None,
    *,
    report: bytes | None = None,
    chain: Sequence[bytes] | None = None,
    roots: NvidiaRoots | None = None,
    at: datetime = testing.NOW,
    nonce: bytes | None = NONCE,
    ocsp: Sequence[bytes] = (),
    ocsp_policy: OcspPolicy = OcspPolicy.OFF,
) -> VerifiedDevice:
    """Verify a device's good evidence, but for what is replaced; nothing is remembered from before."""
    gpu = gpu or testing.gpu()
    clear_device_cache()
    return verify_device(
        gpu.report(NONCE) if report is None else report,
        gpu.chain_der if chain is None else chain,
        roots=roots or development(),
        at=at,
        nonce=nonce,
        ocsp=ocsp,
        ocsp_policy=ocsp_policy,
    )


def rims(gpu: SimulatedGpu | None = None) -> list[VerifiedRim]:
    """Return a device's manifests, verified."""
    return [verify_rim(xml, roots=development(), at=testing.NOW) for xml in (gpu or testing.gpu()).rims]


def refused(kind: type[Error], check: str, call: Callable[[], object]) -> Error:
    """Assert that a call raises this kind of error for this check, in one sentence."""
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.check == check
    assert caught.value.message.endswith(".")
    return caught.value


def error_of(call: Callable[[], object]) -> Error | None:
    """Return the error that a call raises, or None; it raises nothing else."""
    try:
        call()
    except Error as error:
        return error
    return None


def outcome(results: Iterable[CheckResult], check: str) -> Outcome:
    """Return the outcome of a check that was made once."""
    (found,) = (result for result in results if result.id == check)
    return found.outcome


def detail(results: Iterable[CheckResult], check: str) -> str:
    """Return the detail of a check that was made once."""
    (found,) = (result for result in results if result.id == check)
    return found.detail


def reissue(
    authority: EcAuthority,
    issuer: EcAuthority,
    *,
    drop: Iterable[str] = (),
    add: Iterable[tuple[x509.ExtensionType, bool]] = (),
    name: x509.Name | None = None,
    life: Life | None = None,
) -> EcAuthority:
    """Return a certificate issued once more with one thing changed.

    Args:
        authority: Whose certificate.
        issuer: Who issues it.
        drop: Extensions to leave out, by their numbers.
        add: Extensions to add, with whether they are critical.
        name: Another subject.
        life: Another life.
    """
    old, left_out = authority.certificate, set(drop)
    extensions = [
        (one.value, one.critical) for one in old.extensions if one.oid.dotted_string not in left_out
    ]
    return issue(
        old.subject if name is None else name,
        authority.key,
        issuer,
        life or Life(old.not_valid_before_utc, old.not_valid_after_utc),
        [*extensions, *add],
        serial=old.serial_number,
    )
