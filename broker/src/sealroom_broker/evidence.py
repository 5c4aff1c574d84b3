# SPDX-License-Identifier: BSD-3-Clause
"""Judge a server's evidence: verify (authentic?), then appraise (acceptable?).

Plan:

1. Rebuild the report's bytes from CoCo's JSON.
2. Verify with AMD's roots, with certificates from the evidence or else from the store. Where that fails for a
   simulated processor and the broker has a development root, verify with that one alone.
3. The report covers this session's nonce, the guest's key and the devices' evidence; each device is authentic
   and answers the nonce that follows from the same nonce and key.
4. Initdata that was sent along is what HOST_DATA says.
5. Appraise against an approved environment.

Steps 1 to 4 raise; step 5 gives a result, which may be a bad one.

Invariants:

- The two trust sets are tried one after the other and never merged; what the second vouches for is simulated.
- Devices' evidence is judged, or refused, and never ignored.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from sealroom.appraisal import DEVICE_NONCE_SIZE, AttestationResult, Policy, VerifiedEvidence, appraise
from sealroom.collateral.resolver import EndorsementSource
from sealroom.environments import Environment
from sealroom.environments.manifest import initdata_host_data
from sealroom.errors import BindingError, ChainError, CollateralUnavailableError, Error, FormatError
from sealroom.kbs.binding import cpu_report_data, device_nonce
from sealroom.kbs.composite import DeviceReferences, DeviceRoots, no_references, verify_devices
from sealroom.kbs.evidence import snp_from_json
from sealroom.kbs.jwe import check_public_jwk
from sealroom.kbs.messages import AttestRequest, InitData
from sealroom.nvidia import NvidiaRoots
from sealroom.snp import Roots, VerifiedReport, choose_vek, verify_report

from sealroom_broker.environments import ApprovedEnvironments
from sealroom_broker.sample import judge_sample
from sealroom_broker.sessions import SAMPLE, Pending

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
    evidence: VerifiedEvidence | None
    """None for the sample TEE, whose evidence proves nothing."""
    collateral: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Kind -> files that were used and did not come with the evidence."""


class EvidenceJudge:
    """Verifies and appraises evidence.

    Args:
        environments: What may run.
        policy: What is acceptable.
        development_root: Root of simulated processors; only a development broker has one.
        development_gpu_root: Root of simulated GPUs; only a development broker has one.
        references: Gives reference manifests and OCSP answers for GPUs.
        endorsements: Gives certificates and revocation lists that do not come with evidence.
    """

    def __init__(
        self,
        environments: ApprovedEnvironments,
        policy: Policy,
        development_root: Roots | None,
        *,
        development_gpu_root: NvidiaRoots | None = None,
        references: DeviceReferences = no_references,
        endorsements: EndorsementSource | None = None,
    ) -> None:
        if development_root is not None and not development_root.simulated:
            raise TypeError("a development root vouches for simulated processors only")
        self.policy = policy
        self._environments = environments
        self._development = development_root
        self._device_roots = DeviceRoots(development_gpu_root)
        self._references = references
        self._endorsements = endorsements or EndorsementSource(None)

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
        if pending.tee == SAMPLE:
            return Judged(judge_sample(request, pending, self.policy, now), None, None)
        # 1. The bytes.
        report, certificates = snp_from_json(tee.primary_evidence)
        # 2. Authenticity.
        verified, taken = self._verify(report, certificates, now)
        # 3. The binding; the report's own field is compared by VerifiedEvidence.
        covered = (pending.nonce, runtime.tee_pubkey)
        expected = cpu_report_data(*covered, tee.additional_evidence, pending.algorithm)
        bound = VerifiedEvidence(cpu=verified, report_data=expected)
        devices = verify_devices(
            tee.additional_evidence,
            device_nonce(*covered, pending.algorithm, size=DEVICE_NONCE_SIZE),
            roots=self._device_roots,
            references=self._references,
            policy=self.policy,
            at=verified.at,
        )
        evidence = replace(bound, devices=devices.devices)
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
        return Judged(result, matched, evidence, {**taken, **devices.collateral})

    def _verify(
        self, report: bytes, certificates: Mapping[str, bytes], now: datetime
    ) -> tuple[VerifiedReport, Mapping[str, tuple[bytes, ...]]]:
        """Return the verified report, and what was used that did not come with it."""
        vek = choose_vek(report, certificates)
        if not vek and not self._endorsements.has_store:
            raise ChainError(
                "The server sent its report without the processor's certificate.",
                check="evidence.certificates",
            )
        if not vek and self._development is not None:
            # What is kept of simulated processors is looked at first: AMD's service knows none of them.
            with suppress(CollateralUnavailableError):
                return self._verify_with(self._development, report, certificates, now, fetch=False)
        simulated: Error | None = None
        if _SIMULATED in vek and self._development is not None:
            # Asked first because that costs less; each set decides by itself, so the order decides nothing.
            try:
                return self._verify_with(self._development, report, certificates, now, fetch=False)
            except Error as error:
                simulated = error
        try:
            return self._verify_with(Roots.amd(), report, certificates, now)
        except Error as error:
            if simulated is not None:
                raise simulated from error
            if _SIMULATED in vek:
                raise ChainError(
                    "This server's processor is simulated, and this broker accepts AMD's processors only.",
                    advice="Start the server on a machine with AMD SEV-SNP.",
                    check="evidence.simulated",
                ) from error
            raise

    def _verify_with(
        self,
        roots: Roots,
        report: bytes,
        certificates: Mapping[str, bytes],
        now: datetime,
        *,
        fetch: bool = True,
    ) -> tuple[VerifiedReport, Mapping[str, tuple[bytes, ...]]]:
        # A root that the evidence brings says nothing: those that count are pinned.
        sent = {kind: data for kind, data in certificates.items() if kind != "ARK"}
        found = self._endorsements.resolve(report, sent, roots=roots, at=now, fetch=fetch)
        verified = verify_report(
            report, found.vek, roots=roots, at=now, intermediates=found.intermediates, crls=found.crls
        )
        return verified, found.beside(sent)


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
