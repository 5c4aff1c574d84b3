# SPDX-License-Identifier: BSD-3-Clause
"""Judge a server's evidence: verify (authentic?), then appraise (acceptable?).

Plan:

1. Rebuild the report's bytes from CoCo's JSON.
2. Verify with AMD's roots. Where that fails for a simulated processor and the broker has a development root,
   verify with that one alone.
3. The report covers this session's nonce, the guest's key and nothing else.
4. Initdata that was sent along is what HOST_DATA says.
5. Appraise against an approved environment.

Steps 1 to 4 raise; step 5 gives a result, which may be a bad one.

Invariants:

- The two trust sets are tried one after the other and never merged; what the second vouches for is simulated.
- Devices' evidence, which this broker cannot verify, is refused and not ignored.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sealroom.appraisal import AttestationResult, Policy, VerifiedEvidence, appraise
from sealroom.environments import Environment
from sealroom.environments.manifest import initdata_host_data
from sealroom.errors import BindingError, ChainError, Error, FormatError
from sealroom.kbs.binding import cpu_report_data
from sealroom.kbs.evidence import snp_from_json
from sealroom.kbs.jwe import check_public_jwk
from sealroom.kbs.messages import AttestRequest, InitData
from sealroom.snp import Roots, VerifiedReport, choose_vek, verify_report

from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.sessions import Pending

_SIMULATED = b"SIMULATED"
"""Stands in the names of every simulated processor's certificates; by itself it makes nothing acceptable."""


_ENVIRONMENT_CHECKS = frozenset(
    f"appraisal.{check}" for check in ("environment", "tee", "measurement", "host_data", "guest_policy")
)
"""Checks of appraisal without which evidence is not of an environment at all."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Authentic evidence and what it is worth."""

    result: AttestationResult
    environment: Environment | None
    """The environment that it was compared with, if it is of that environment."""
    evidence: VerifiedEvidence


class EvidenceJudge:
    """Verifies and appraises evidence.

    Args:
        environments: What may run.
        policy: What is acceptable.
        development_root: Root of simulated processors; only a development broker has one.
    """

    def __init__(
        self, environments: ApprovedEnvironments, policy: Policy, development_root: Roots | None
    ) -> None:
        if development_root is not None and not development_root.simulated:
            raise TypeError("a development root vouches for simulated processors only")
        self.policy = policy
        self._environments = environments
        self._development = development_root

    def judge(self, request: AttestRequest, pending: Pending, now: datetime) -> Judged:
        """Judge the evidence of one handshake.

        Args:
            request: What the guest sent.
            pending: The handshake whose nonce was used up.
            now: The one time that everything is judged at.

        Raises:
            Error: The evidence is malformed, not authentic, or covers something else.
        """
        runtime, tee = request.runtime_data, request.tee_evidence
        check_public_jwk(runtime.tee_pubkey)
        if tee.additional_evidence:
            raise FormatError(
                "The server sent evidence of devices, which this broker cannot verify yet.",
                check="evidence.devices",
            )
        # 1. The bytes.
        report, certificates = snp_from_json(tee.primary_evidence)
        # 2. Authenticity.
        verified = self._verify(report, certificates, now)
        # 3. The binding; the report's own field is compared by VerifiedEvidence.
        expected = cpu_report_data(pending.nonce, runtime.tee_pubkey, "", pending.algorithm)
        evidence = VerifiedEvidence(cpu=verified, report_data=expected)
        # 4. Initdata.
        if request.init_data is not None:
            _check_init_data(request.init_data, verified.report.host_data)
        # 5. Appraisal. Without any approved environment there is no expectation, and appraisal fails closed.
        environment = self._environments.matching(
            verified.report.measurement, verified.report.host_data, simulated=verified.roots.simulated
        )
        result = appraise(evidence, environment=environment, policy=self.policy)
        strange = any(claim.check in _ENVIRONMENT_CHECKS for claim in result.failures)
        matched = None if strange else environment
        return Judged(result, matched, evidence)

    def _verify(self, report: bytes, certificates: Mapping[str, bytes], now: datetime) -> VerifiedReport:
        vek = choose_vek(report, certificates)
        if not vek:
            raise ChainError(
                "The server sent its report without the processor's certificate.",
                check="evidence.certificates",
            )
        intermediates = [certificates["ASK"]] if "ASK" in certificates else []
        try:
            return verify_report(report, vek, roots=Roots.amd(), at=now, intermediates=intermediates)
        except Error as error:
            if _SIMULATED not in vek:
                raise
            if self._development is None:
                raise ChainError(
                    "This server's processor is simulated, and this broker accepts AMD's processors only.",
                    advice="Start the server on a machine with AMD SEV-SNP.",
                    check="evidence.simulated",
                ) from error
        return verify_report(report, vek, roots=self._development, at=now, intermediates=intermediates)


def _check_init_data(init_data: InitData, host_data: bytes) -> None:
    try:
        digest = initdata_host_data(init_data.body)
    except (ValueError, RecursionError) as error:
        raise FormatError(
            "The initdata is not TOML with a known algorithm.", check="evidence.initdata"
        ) from error
    if not hmac.compare_digest(digest, host_data):
        raise BindingError(
            "The initdata that was sent is not the one that the server was launched with.",
            check="evidence.initdata",
        )
