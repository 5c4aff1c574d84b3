# SPDX-License-Identifier: BSD-3-Clause
"""Appraise verified evidence.

Plan, for the processor: 1 the claims of verification are taken over; 2 the root; 3 the environment; 4 the
policy; 5 the vector and the tier follow from the claims. The devices follow (`sealroom.appraisal.gpu`). All
claims are made, none stops another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sealroom.appraisal import claims as make
from sealroom.appraisal.checks import CHECKS, DEVICE_CHECKS
from sealroom.appraisal.claims import accepted, failed, judge, not_checked, passed
from sealroom.appraisal.evidence import DevicesAlone, VerifiedEvidence, VerifiedGpu
from sealroom.appraisal.expectation import NoExpectation, ReferenceValues, SupportsReferenceValues
from sealroom.appraisal.gpu import GpuAssessment
from sealroom.appraisal.policy import GRAVE, Policy
from sealroom.appraisal.result import (
    AttestationResult,
    Claim,
    ClaimOutcome,
    DeviceResult,
    EnvironmentReference,
    PolicyReference,
    Tier,
    Trustworthiness,
)
from sealroom.snp import VMPL_HOST, Report, TcbVersion, VerifiedReport

_EXECUTABLES = frozenset({"appraisal.measurement", "appraisal.id_key", "appraisal.author_key"})
_KEYS = ("id_key", "author_key")
_HARDWARE = frozenset(
    {
        "appraisal.root",
        "appraisal.minimum_tcb",
        "appraisal.product_line",
        "appraisal.tee",
        "appraisal.chip_id",
    }
)
# Not every policy asks for these.
_ON_DEMAND = {
    "appraisal.rapl": "require_rapl_disabled",
    "appraisal.alias_check": "require_alias_check",
    "appraisal.ciphertext_hiding": "require_ciphertext_hiding",
    "appraisal.smt": "require_smt_disabled",
}

Expectation = SupportsReferenceValues | ReferenceValues | NoExpectation | None


def appraise(evidence: VerifiedEvidence, *, environment: Expectation, policy: Policy) -> AttestationResult:
    """Appraise verified evidence against an environment under a policy.

    Args:
        evidence: Authentic evidence, bound to what it was presented with.
        environment: The environment that should run. None fails closed; `NO_EXPECTATION` judges policy alone.
        policy: What is acceptable.

    Returns:
        The result; a refusal is a result too, of tier `contraindicated`, and says why.
    """
    values = _reference_values(environment)
    assessment = _Assessment(evidence, values, policy)
    claims = tuple(assessment.claims())
    vector = assessment.vector(claims)
    device = DeviceResult("cpu0", assessment.tier(claims, vector), vector, claims)
    others = GpuAssessment(evidence, values, policy).results()
    return AttestationResult(
        devices=(device, *others),
        environment=_environment_reference(values),
        policy=PolicyReference(policy.name, policy.version, policy.digest, policy.relaxations),
        at=evidence.cpu.at,
        simulated=evidence.simulated,
    )


def appraise_devices(
    devices: Sequence[VerifiedGpu], *, environment: Expectation, policy: Policy
) -> AttestationResult:
    """Appraise devices by themselves, which says nothing about a server that has them.

    Args:
        devices: Authentic devices, all verified as of one time; at least one.
        environment: The environment that should run. None fails closed; `NO_EXPECTATION` judges policy alone.
        policy: What is acceptable.

    Returns:
        A result without a processor: no relying party takes it for a server's.
    """
    values = _reference_values(environment)
    alone = DevicesAlone(tuple(devices))
    return AttestationResult(
        devices=GpuAssessment(alone, values, policy).results(),
        environment=_environment_reference(values),
        policy=PolicyReference(policy.name, policy.version, policy.digest, policy.relaxations),
        at=alone.devices[0].device.at,
        simulated=alone.simulated,
    )


def _environment_reference(values: ReferenceValues | NoExpectation | None) -> EnvironmentReference | None:
    if not isinstance(values, ReferenceValues):
        return None
    return EnvironmentReference(values.name, values.version, values.title, values.digest)


def _reference_values(environment: Expectation) -> ReferenceValues | NoExpectation | None:
    if environment is None or isinstance(environment, ReferenceValues | NoExpectation):
        return environment
    return environment.reference_values


@dataclass(frozen=True, slots=True)
class _Assessment:
    evidence: VerifiedEvidence
    expected: ReferenceValues | NoExpectation | None
    policy: Policy

    @property
    def cpu(self) -> VerifiedReport:
        return self.evidence.cpu

    @property
    def report(self) -> Report:
        return self.cpu.report

    def claims(self) -> Iterator[Claim]:
        yield from (make.from_verification(result) for result in self.cpu.checks)
        own = (self._root(), *self._environment(), *self._policy())
        yield from make.marked(own, "appraisal.root") if self.cpu.roots.simulated else own

    # --- 2 the root

    def _root(self) -> Claim:
        if self.evidence.mixed:
            return failed("appraisal.root", make.MIXED)
        if self.cpu.roots.simulated:
            # Not a failure of its own: the tier says it, and a failed claim beside it stays visible.
            return Claim("appraisal.root", ClaimOutcome.NOT_CHECKED, CHECKS["appraisal.root"].researcher)
        return passed("appraisal.root", "A real AMD processor made this report.")

    # --- 3 the environment

    def _environment(self) -> Iterator[Claim]:
        if self.expected is None:
            yield failed("appraisal.environment")
            for check in ("tee", "measurement", "host_data", "guest_policy", *_KEYS):
                yield not_checked(f"appraisal.{check}")
            yield self._minimum_tcb(None)
            return
        if isinstance(self.expected, NoExpectation):
            nobody = "not checked, because no environment was named"
            for check in ("environment", "tee", "measurement", "host_data", "guest_policy", *_KEYS):
                yield not_checked(f"appraisal.{check}", nobody)
            yield self._minimum_tcb(None)
            return
        yield from self._reference(self.expected)

    def _reference(self, expected: ReferenceValues) -> Iterator[Claim]:
        name = f"{expected.title} (version {expected.version})"
        report = self.report
        yield passed("appraisal.environment", f"The environment is {name}.")
        kind = "simulated" if self.cpu.roots.simulated else "snp"
        yield judge("appraisal.tee", expected.tee == kind, f"{name} is made for this kind of processor.")
        yield judge(
            "appraisal.measurement",
            report.measurement in expected.measurements,
            f"The server was launched with exactly the software that {name} names.",
        )
        yield judge(
            "appraisal.host_data",
            report.host_data == expected.host_data,
            f"The server was launched with exactly the configuration that {name} names.",
        )
        yield judge(
            "appraisal.guest_policy",
            report.policy == expected.guest_policy,
            f"The processor guards the server by exactly the rules that {name} names.",
        )
        yield from self._launch_keys(expected)
        yield self._minimum_tcb(expected)

    def _launch_keys(self, expected: ReferenceValues) -> Iterator[Claim]:
        report = self.report
        for name, digest, wanted, enabled in (
            ("id_key", report.id_key_digest, expected.id_key_digest, True),
            (
                "author_key",
                report.author_key_digest,
                expected.author_key_digest,
                report.key_info.author_key_en,
            ),
        ):
            check = f"appraisal.{name}"
            title = CHECKS[check].title
            if wanted is None:
                yield not_checked(check, "not checked, because the environment names no such key")
            else:
                yield judge(check, enabled and digest == wanted, f"{title}: {expected.title} names it.")

    def _minimum_tcb(self, expected: ReferenceValues | None) -> Claim:
        check, line = "appraisal.minimum_tcb", self.cpu.line
        minimums: list[TcbVersion] = []
        if expected is not None:
            of_environment = expected.minimum_tcb.get(line)
            if of_environment is None:
                return failed(
                    check, f"The environment names no minimum firmware for {line}, so it may not run there."
                )
            minimums.append(of_environment)
        of_policy = self.policy.minimum(line)
        if of_policy is not None:
            minimums.append(of_policy)
        if not minimums:
            return not_checked(check, "not checked, because no minimum was named")
        low = {
            component
            for minimum in minimums
            for tcb in (self.report.reported_tcb, self.report.launch_tcb)
            for component in tcb.below(minimum)
        }
        if low:
            return failed(check, f"{CHECKS[check].researcher} Too old: {', '.join(sorted(low))}.")
        return passed(check, "The processor's firmware is at least as new as required.")

    # --- 4 the policy

    def _policy(self) -> Iterator[Claim]:
        report, policy = self.report, self.policy
        guest, platform = report.policy, report.platform_info
        host = report.vmpl == VMPL_HOST
        signer = report.key_info.signing_key_name
        yield judge(
            "appraisal.product_line",
            self.cpu.line in policy.product_lines,
            f"The processor is a {self.cpu.line}, which the policy allows.",
        )
        yield judge(
            "appraisal.report_version",
            report.version >= policy.minimum_report_version,
            f"The report has version {report.version}, which the policy allows.",
        )
        yield self._relaxable("debug", not guest.debug, "allow_debug_policy", "Nobody can debug the server.")
        yield self._relaxable(
            "migration",
            not guest.migrate_ma,
            "allow_migration",
            "The server cannot be moved to another machine.",
        )
        yield self._relaxable("cxl", not guest.cxl_allow, "allow_cxl", "The server uses no CXL memory.")
        yield self._vmpl(host)
        yield self._relaxable(
            "requester", not host, "allow_host_requested_report", "The server itself asked for the report."
        )
        yield self._relaxable(
            "provisional_firmware",
            _committed(report),
            "allow_provisional_firmware",
            "The processor's firmware cannot be taken back to an older one.",
        )
        yield self._relaxable(
            "chip_id",
            signer == "VLEK" or not report.chip_id_masked,
            "allow_masked_chip_id",
            "The report names the provider's key." if signer == "VLEK" else "The report names its chip.",
        )
        yield judge(
            "appraisal.signer",
            signer in policy.signers,
            f"The report is signed with a {signer}, which is allowed.",
        )
        yield judge(
            "appraisal.guest_svn",
            report.guest_svn >= policy.minimum_guest_svn,
            "The guest image is new enough for the policy.",
        )
        # Both sides: what the platform says now, and what the guest demanded for its whole life.
        yield self._required("rapl", policy.require_rapl_disabled, platform.rapl_dis and guest.rapl_dis)
        yield self._required("alias_check", policy.require_alias_check, platform.alias_check_complete)
        yield self._required(
            "ciphertext_hiding",
            policy.require_ciphertext_hiding,
            platform.ciphertext_hiding_dram_en and guest.ciphertext_hiding_dram,
        )
        yield self._required("smt", policy.require_smt_disabled, not platform.smt_en)

    def _vmpl(self, host: bool) -> Claim:
        if host:
            return not_checked("appraisal.vmpl", "the host asked, so there is none")
        level = self.report.vmpl
        if level not in self.policy.allowed_vmpl:
            return failed("appraisal.vmpl")
        if level == 0:
            return passed("appraisal.vmpl", "The report was made by the most privileged part of the server.")
        return accepted("appraisal.vmpl", "allowed_vmpl")

    def _relaxable(self, name: str, good: bool, relaxation: str, sentence: str) -> Claim:
        check = f"appraisal.{name}"
        if good:
            return passed(check, sentence)
        if relaxation in self.policy.relaxations:
            return accepted(check, relaxation)
        return failed(check)

    def _required(self, name: str, required: bool, good: bool) -> Claim:
        check = f"appraisal.{name}"
        if not required:
            return not_checked(check, "not required by the policy")
        return judge(check, good, CHECKS[check].meaning)

    # --- 5 vector and tier

    def _used_relaxations(self) -> frozenset[str]:
        report = self.report
        host = report.vmpl == VMPL_HOST
        used = {
            "allow_debug_policy": report.policy.debug,
            "allow_migration": report.policy.migrate_ma,
            "allow_cxl": report.policy.cxl_allow,
            "allow_host_requested_report": host,
            "allowed_vmpl": not host and report.vmpl != 0,
            "allow_provisional_firmware": not _committed(report),
            "allow_masked_chip_id": report.chip_id_masked and report.key_info.signing_key_name == "VCEK",
        }
        return frozenset(name for name, is_used in used.items() if is_used)

    def vector(self, claims: tuple[Claim, ...]) -> Trustworthiness:
        bad = {claim.check for claim in claims if claim.outcome is ClaimOutcome.FAILED}
        used = self._used_relaxations()
        simulated = self.evidence.simulated
        expected = isinstance(self.expected, ReferenceValues)
        if bad - _EXECUTABLES - _HARDWARE:
            configuration = make.BAD_CONFIGURATION
        elif used & GRAVE:
            configuration = make.UNSAFE_CONFIGURATION
        else:
            configuration = make.APPROVED_CONFIGURATION if expected and not used else make.SAFE_CONFIGURATION
        if bad & _EXECUTABLES:
            executables = make.BAD_EXECUTABLES
        else:
            executables = make.APPROVED_BOOT if expected else make.UNRECOGNIZED_EXECUTABLES
        hardware = make.BAD_HARDWARE if bad & _HARDWARE else make.GENUINE_HARDWARE
        memory = make.ISOLATED_MEMORY if "allow_debug_policy" in used else make.ENCRYPTED_MEMORY
        return Trustworthiness(
            configuration=configuration,
            executables=executables,
            hardware=make.UNRECOGNIZED_HARDWARE if simulated else hardware,
            runtime_opaque=make.VISIBLE_MEMORY if simulated else memory,
        )

    def tier(self, claims: tuple[Claim, ...], vector: Trustworthiness) -> Tier:
        required = frozenset(CHECKS) - frozenset(DEVICE_CHECKS)
        required -= {check for check, field in _ON_DEMAND.items() if not getattr(self.policy, field)}
        if self.report.vmpl == VMPL_HOST:
            required -= {"appraisal.vmpl"}
        if isinstance(self.expected, ReferenceValues):
            required -= {
                f"appraisal.{key}" for key in _KEYS if getattr(self.expected, f"{key}_digest") is None
            }
        return make.tier_of(claims, vector, required=required, simulated=self.evidence.simulated)


def _committed(report: Report) -> bool:
    current = (report.current_tcb, report.current_major, report.current_minor, report.current_build)
    return current == (
        report.committed_tcb,
        report.committed_major,
        report.committed_minor,
        report.committed_build,
    )
