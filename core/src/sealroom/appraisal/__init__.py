# SPDX-License-Identifier: BSD-3-Clause
"""Is authentic evidence acceptable? Verified evidence + environment + policy -> attestation result.

What this is: the appraisal of evidence that `sealroom.snp` and `sealroom.nvidia` verified, and its result as
an EAR token. What it is not: verification (that raises), or the decision to release a key (that is the
broker's).

Invariants:

- Fails closed: without an environment, with an unknown product line or a missing minimum, the result is
  contraindicated. To judge policy alone a caller passes `NO_EXPECTATION` by name and gets at best a warning.
- A simulated root never gives an affirming result, whatever the policy says.
- Every mismatch is collected; each claim has a check id and one sentence that a researcher understands.
- Nothing but `sealroom.errors.Error` is raised on bad data; no file or network access.
"""

from sealroom.appraisal.appraise import appraise, appraise_devices
from sealroom.appraisal.checks import CHECKS
from sealroom.appraisal.evidence import DEVICE_NONCE_SIZE, Reference, VerifiedEvidence, VerifiedGpu
from sealroom.appraisal.expectation import (
    NO_EXPECTATION,
    GpuReferences,
    NoExpectation,
    ReferenceValues,
    SupportsReferenceValues,
)
from sealroom.appraisal.policy import RELAXATIONS, Policy
from sealroom.appraisal.references import DeviceFiles, verified_gpu
from sealroom.appraisal.result import (
    AttestationResult,
    Claim,
    ClaimOutcome,
    DeviceResult,
    EnvironmentReference,
    PolicyReference,
    Status,
    Tier,
    Trustworthiness,
)

__all__ = [
    "CHECKS",
    "DEVICE_NONCE_SIZE",
    "NO_EXPECTATION",
    "RELAXATIONS",
    "AttestationResult",
    "Claim",
    "ClaimOutcome",
    "DeviceFiles",
    "DeviceResult",
    "EnvironmentReference",
    "GpuReferences",
    "NoExpectation",
    "Policy",
    "PolicyReference",
    "Reference",
    "ReferenceValues",
    "Status",
    "SupportsReferenceValues",
    "Tier",
    "Trustworthiness",
    "VerifiedEvidence",
    "VerifiedGpu",
    "appraise",
    "appraise_devices",
    "verified_gpu",
]
