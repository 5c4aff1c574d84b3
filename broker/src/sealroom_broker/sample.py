# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of the protocol's `sample` TEE, at a development broker: `{"svn": …, "report_data": …}`.

Anybody can write it, so that it says nothing about a server. It is here so that CoCo's own guest components
can be tried against a broker on any machine. What is checked is what the protocol itself promises: that the
evidence covers this nonce and this key (Trustee deps/verifier/src/sample/mod.rs does the same).

Invariants:

- Its tier is `none`, it matches no environment, and it counts as simulated: no grant opens anything to it,
  only a static resource that says `sample`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import datetime

from sealroom.appraisal import AttestationResult, Policy
from sealroom.appraisal.result import (
    Claim,
    ClaimOutcome,
    DeviceResult,
    PolicyReference,
    Tier,
    Trustworthiness,
)
from sealroom.errors import BindingError, FormatError
from sealroom.kbs.binding import cpu_digest
from sealroom.kbs.messages import AttestRequest

from sealroom_broker.sessions import Pending

CHECK = "evidence.sample"
_SENTENCE = "The sample TEE proves nothing: this evidence could have been written anywhere."


def judge_sample(
    request: AttestRequest, pending: Pending, policy: Policy, now: datetime
) -> AttestationResult:
    """Judge sample evidence.

    Args:
        request: What the guest sent.
        pending: The handshake whose nonce was used up.
        policy: Names the appraisal policy; nothing is appraised.
        now: When.

    Raises:
        FormatError: It is no sample evidence, or devices or initdata came with it, which nothing vouches for.
        BindingError: It covers another nonce or key.
    """
    evidence = request.tee_evidence
    if evidence.additional_evidence or request.init_data is not None:
        raise FormatError("Sample evidence vouches for no devices and no initdata.", check=CHECK)
    covered = _report_data(evidence.primary_evidence)
    runtime = request.runtime_data
    expected = cpu_digest(pending.nonce, runtime.tee_pubkey, "", pending.algorithm)
    if not hmac.compare_digest(covered, expected):
        raise BindingError("The sample evidence does not cover this nonce and key.", check=CHECK)
    claim = Claim(CHECK, ClaimOutcome.NOT_CHECKED, _SENTENCE)
    return AttestationResult(
        devices=(DeviceResult("cpu0", Tier.NONE, Trustworthiness(), (claim,)),),
        environment=None,
        policy=PolicyReference(policy.name, policy.version, policy.digest),
        at=now,
        simulated=True,
    )


def _report_data(evidence: object) -> bytes:
    if not isinstance(evidence, dict) or set(evidence) != {"svn", "report_data"}:
        raise FormatError("This is no sample evidence.", check=CHECK)
    try:
        return base64.b64decode(str(evidence["report_data"]), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("The sample evidence's report data is not base64.", check=CHECK) from None
