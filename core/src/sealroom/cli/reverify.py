# SPDX-License-Identifier: BSD-3-Clause
"""Judge the evidence of an audit entry again as of its time, with what the auditor trusts.

Plan:

1. Rebuild the report from the stored `attest` message.
2. Verify it as of the entry's time: with AMD's pinned roots, or, where the entry says simulated, with the
   development root that the auditor named.
3. The report covers the nonce and the key of the message. 4. Appraise it again under the policy and against
the environment that the entry names, if the auditor has both, and
   compare the tier.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from sealroom.appraisal import Policy, VerifiedEvidence, appraise
from sealroom.audit.entry import AuditEntry
from sealroom.environments import Environment
from sealroom.errors import AppraisalError, BindingError, ChainError, ConfigurationError
from sealroom.kbs.binding import HASH_ALGORITHMS, cpu_report_data
from sealroom.kbs.evidence import snp_from_json
from sealroom.kbs.messages import AttestRequest, parse
from sealroom.snp import Roots, VerifiedReport, choose_vek, verify_report


class Reverifier:
    """A `sealroom.audit.verify.Reverify` that counts what it appraised."""

    def __init__(
        self,
        development_root: Roots | None,
        environments: Iterable[Environment],
        policies: Iterable[Policy] = (),
    ) -> None:
        """Take what the auditor trusts.

        Args:
            development_root: Root of simulated processors, if the auditor accepts any.
            environments: Manifests, told by their digest.
            policies: Appraisal policies beside the strict one, told by their digest.
        """
        self._root = development_root
        self._environments: Mapping[str, Environment] = {one.digest: one for one in environments}
        self._policies = {one.digest: one for one in (Policy.strict(), *policies)}
        self.appraised = 0
        """How many results were made again and are the same."""

    def __call__(self, entry: AuditEntry, evidence: bytes) -> None:
        """Judge the evidence of an entry that has an attestation result.

        Raises:
            ConfigurationError: The auditor named no development root for a simulated processor.
            Error: The evidence does not hold, or the result is another one.
        """
        if entry.ear is None:
            raise TypeError("the entry has no attestation result")
        # 1. The report.
        request = parse(AttestRequest, evidence)
        report, certificates = snp_from_json(request.tee_evidence.primary_evidence)
        # 2. Authenticity.
        verified = self._verify(report, certificates, entry, simulated=entry.ear.simulated)
        # 3. The binding.
        bound = VerifiedEvidence(cpu=verified, report_data=_covered(request, verified.report.report_data))
        # 4. The appraisal.
        policy = self._policies.get(entry.policy)
        environment = self._environments.get(entry.environment)
        if policy is None or environment is None:
            return
        result = appraise(bound, environment=environment, policy=policy)
        if result.tier.value != entry.ear.tier or result.simulated != entry.ear.simulated:
            raise AppraisalError(
                f"It is appraised as {result.tier.value} now and was recorded as {entry.ear.tier}.",
                check="audit.appraisal",
            )
        self.appraised += 1

    def _verify(
        self, report: bytes, certificates: Mapping[str, bytes], entry: AuditEntry, *, simulated: bool
    ) -> VerifiedReport:
        roots = self._root if simulated else Roots.amd()
        if roots is None:
            raise ConfigurationError(
                "It is of a simulated processor, and no development root was named.",
                advice="Name the root with --root if you accept simulated processors.",
            )
        vek = choose_vek(report, certificates)
        if not vek:
            raise ChainError("It has no certificate of a processor.", check="audit.certificates")
        intermediates = [certificates["ASK"]] if "ASK" in certificates else []
        return verify_report(report, vek, roots=roots, at=entry.time, intermediates=intermediates)


def _covered(request: AttestRequest, report_data: bytes) -> bytes:
    """Return what the message says that the report covers; the algorithm is the one that gives it."""
    runtime, devices = request.runtime_data, request.tee_evidence.additional_evidence
    for algorithm in HASH_ALGORITHMS:
        expected = cpu_report_data(runtime.nonce, runtime.tee_pubkey, devices, algorithm)
        if hmac.compare_digest(expected, report_data):
            return expected
    raise BindingError(
        "The report does not cover the nonce and the key of its message.", check="audit.binding"
    )
