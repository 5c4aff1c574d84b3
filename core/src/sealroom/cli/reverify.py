# SPDX-License-Identifier: BSD-3-Clause
"""Judge the evidence of an audit entry again as of its time, with what the auditor trusts.

Plan:

1. Rebuild the report from the stored `attest` message.
2. Verify it as of the entry's time: with AMD's pinned roots, or, where the entry says simulated, with the
   development root that the auditor named.
3. The report covers the nonce, the key and the devices' evidence of the message.
4. Verify the devices as of the entry's time, with the reference manifests and OCSP answers that were kept
   beside the evidence.
5. Appraise it again under the policy and against the environment that the entry names, if the auditor has
   both, and compare the tier.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sealroom.appraisal import DEVICE_NONCE_SIZE, DeviceFiles, Policy, VerifiedEvidence, appraise
from sealroom.audit.entry import AuditEntry
from sealroom.environments import Environment
from sealroom.errors import AppraisalError, BindingError, ChainError, ConfigurationError, IntegrityError
from sealroom.kbs.binding import (
    HASH_ALGORITHMS,
    HashAlgorithm,
    cpu_digest,
    cpu_report_data,
    device_nonce,
)
from sealroom.kbs.composite import OCSP, RIM, DeviceRoots, verify_devices
from sealroom.kbs.evidence import snp_from_json
from sealroom.kbs.messages import AttestRequest, parse
from sealroom.nvidia import NvidiaRoots, VerifiedDevice
from sealroom.snp import Roots, VerifiedReport, choose_vek, verify_report


class Reverifier:
    """A `sealroom.audit.verify.Reverify` that counts what it appraised."""

    def __init__(
        self,
        development_root: Roots | None,
        environments: Iterable[Environment],
        policies: Iterable[Policy] = (),
        *,
        gpu_root: NvidiaRoots | None = None,
        collateral: Callable[[str], bytes] | None = None,
    ) -> None:
        """Take what the auditor trusts.

        Args:
            development_root: Root of simulated processors, if the auditor accepts any.
            environments: Manifests, told by their digest.
            policies: Appraisal policies beside the strict one, told by their digest.
            gpu_root: Root of simulated GPUs, if the auditor accepts any.
            collateral: Returns a file that was kept beside the evidence, by its SHA-256 in hex.
        """
        self._root = development_root
        self._environments: Mapping[str, Environment] = {one.digest: one for one in environments}
        self._policies = {one.digest: one for one in (Policy.strict(), *policies)}
        self._device_roots = DeviceRoots(gpu_root)
        self._collateral = collateral
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
        if _is_sample(request.tee_evidence.primary_evidence):
            self._check_sample(request, entry)
            return
        report, certificates = snp_from_json(request.tee_evidence.primary_evidence)
        # 2. Authenticity.
        verified = self._verify(report, certificates, entry, simulated=entry.ear.simulated)
        # 3. The binding.
        algorithm, expected = _covered(request, verified.report.report_data)
        bound = VerifiedEvidence(cpu=verified, report_data=expected)
        # 4. The devices.
        policy = self._policies.get(entry.policy)
        bound = self._with_devices(bound, request, algorithm, entry, policy or Policy.strict())
        # 5. The appraisal.
        environment = self._environments.get(entry.environment)
        if policy is None or environment is None:
            return
        result = appraise(bound, environment=environment, policy=policy)
        if result.tier.value != entry.ear.tier or result.simulated != entry.ear.simulated:
            raise AppraisalError(
                f"It is appraised as {result.tier.value} now and was recorded as {entry.ear.tier}.",
                check="audit.appraisal",
            )
        devices = {device.device: device.tier.value for device in result.devices}
        if entry.ear.devices and devices != entry.ear.devices:
            raise AppraisalError(
                f"Its devices are appraised as {_listed(devices)} now and were recorded as "
                f"{_listed(entry.ear.devices)}.",
                check="audit.appraisal",
            )
        self.appraised += 1

    def _check_sample(self, request: AttestRequest, entry: AuditEntry) -> None:
        """Check what sample evidence of a development broker can say: that it covers its nonce and key."""
        if self._root is None:
            raise ConfigurationError(
                "It is sample evidence, which proves nothing, and no development root was named."
            )
        if entry.ear is None or (entry.ear.tier, entry.ear.simulated) != ("none", True):
            raise AppraisalError("It is sample evidence and was recorded as more.", check="audit.appraisal")
        fields, runtime = request.tee_evidence.primary_evidence, request.runtime_data
        sent = str(fields["report_data"]) if isinstance(fields, dict) else ""
        for algorithm in HASH_ALGORITHMS:
            expected = base64.b64encode(cpu_digest(runtime.nonce, runtime.tee_pubkey, "", algorithm))
            if hmac.compare_digest(expected, sent.encode("utf-8", "replace")):
                return
        raise BindingError(
            "The evidence does not cover the nonce and the key of its message.", check="audit.binding"
        )

    def _with_devices(
        self,
        evidence: VerifiedEvidence,
        request: AttestRequest,
        algorithm: HashAlgorithm,
        entry: AuditEntry,
        policy: Policy,
    ) -> VerifiedEvidence:
        def kept(name: str, _: VerifiedDevice) -> DeviceFiles:
            return DeviceFiles(
                self._kept(entry.collateral.get(f"{name}.{RIM}", ())),
                self._kept(entry.collateral.get(f"{name}.{OCSP}", ())),
            )

        runtime, sent = request.runtime_data, request.tee_evidence.additional_evidence
        if sent and evidence.simulated and self._device_roots.development is None:
            raise ConfigurationError(
                "It is of simulated devices, and no development root of GPUs was named.",
                advice="Name the root with --gpu-root if you accept simulated GPUs.",
            )
        devices = verify_devices(
            sent,
            device_nonce(runtime.nonce, runtime.tee_pubkey, algorithm, size=DEVICE_NONCE_SIZE),
            roots=self._device_roots,
            references=kept,
            policy=policy,
            at=evidence.cpu.at,
        )
        return replace(evidence, devices=devices.devices)

    def _kept(self, digests: Iterable[str]) -> tuple[bytes, ...]:
        files = []
        for digest in digests:
            if self._collateral is None:
                raise ConfigurationError("What it was verified with is not at hand.")
            data = self._collateral(digest)
            if hashlib.sha256(data).hexdigest() != digest:
                raise IntegrityError("What it was verified with is not what the entry names.")
            files.append(data)
        return tuple(files)

    def _verify(
        self, report: bytes, certificates: Mapping[str, bytes], entry: AuditEntry, *, simulated: bool
    ) -> VerifiedReport:
        roots = self._root if simulated else Roots.amd()
        if roots is None:
            raise ConfigurationError(
                "It is of a simulated processor, and no development root was named.",
                advice="Name the root with --root if you accept simulated processors.",
            )
        # What the broker took from its store was kept beside the evidence.
        vek, ask, crl = (
            self._kept(entry.collateral.get(f"snp.{kind}", ())) for kind in ("vek", "ask", "crl")
        )
        chosen = choose_vek(report, certificates) or next(iter(vek), b"")
        if not chosen:
            raise ChainError("It has no certificate of a processor.", check="audit.certificates")
        intermediates = [*(certificates[kind] for kind in ("ASK",) if kind in certificates), *ask]
        return verify_report(
            report, chosen, roots=roots, at=entry.time, intermediates=intermediates, crls=crl
        )


def _listed(devices: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {tier}" for name, tier in sorted(devices.items()))


def _is_sample(evidence: object) -> bool:
    return isinstance(evidence, dict) and set(evidence) == {"svn", "report_data"}


def _covered(request: AttestRequest, report_data: bytes) -> tuple[HashAlgorithm, bytes]:
    """Return what the message says that the report covers, and the algorithm that gives it."""
    runtime, devices = request.runtime_data, request.tee_evidence.additional_evidence
    for algorithm in HASH_ALGORITHMS:
        expected = cpu_report_data(runtime.nonce, runtime.tee_pubkey, devices, algorithm)
        if hmac.compare_digest(expected, report_data):
            return algorithm, expected
    raise BindingError(
        "The report does not cover the nonce and the key of its message.", check="audit.binding"
    )
