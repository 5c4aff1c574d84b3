# SPDX-License-Identifier: BSD-3-Clause
"""Appraise verified evidence.

Plan: 1 the claims of verification are taken over; 2 the root; 3 the environment; 4 the policy; 5 the vector
and the tier follow from the claims. All claims are made, none stops another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from sealroom.appraisal.checks import CHECKS
from sealroom.appraisal.evidence import VerifiedEvidence
from sealroom.appraisal.expectation import NoExpectation, ReferenceValues, SupportsReferenceValues
from sealroom.appraisal.policy import GRAVE, RELAXATIONS, Policy
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
from sealroom.snp import CHECKS as SNP_CHECKS
from sealroom.snp import VMPL_HOST, CheckResult, Outcome, Report, TcbVersion, VerifiedReport

# Values of AR4SI (draft-ietf-rats-ar4si-06, section 2.3.4).
APPROVED_CONFIGURATION, SAFE_CONFIGURATION, UNSAFE_CONFIGURATION, BAD_CONFIGURATION = 2, 3, 32, 96
APPROVED_BOOT, UNRECOGNIZED_EXECUTABLES, BAD_EXECUTABLES = 3, 33, 96
GENUINE_HARDWARE, BAD_HARDWARE, UNRECOGNIZED_HARDWARE = 2, 96, 97
ENCRYPTED_MEMORY, ISOLATED_MEMORY, VISIBLE_MEMORY = 2, 32, 96

_EXECUTABLES = frozenset({"appraisal.measurement"})
_HARDWARE = frozenset(
    {"appraisal.minimum_tcb", "appraisal.product_line", "appraisal.tee", "appraisal.chip_id"}
)

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
    assessment = _Assessment(evidence.cpu, values, policy)
    claims = tuple(assessment.claims())
    vector = assessment.vector(claims)
    device = DeviceResult("cpu0", assessment.tier(claims, vector), vector, claims)
    reference = None
    if isinstance(values, ReferenceValues):
        reference = EnvironmentReference(values.name, values.version, values.title, values.digest)
    return AttestationResult(
        devices=(device,),
        environment=reference,
        policy=PolicyReference(policy.name, policy.version, policy.digest, policy.relaxations),
        at=evidence.cpu.at,
        simulated=evidence.cpu.roots.simulated,
    )


def default_sentence(check: str, outcome: ClaimOutcome) -> str:
    """Return the sentence that a claim has if nothing more special is to be said."""
    known = CHECKS.get(check) or SNP_CHECKS.get(check)
    if known is None:
        return f"{check}: {outcome}."
    match outcome:
        case ClaimOutcome.PASSED:
            return f"{known.title}: {known.meaning}"
        case ClaimOutcome.FAILED:
            return known.researcher
        case ClaimOutcome.NOT_CHECKED:
            return f"{known.title}: not checked."
        case _:
            assert_never(outcome)


def _reference_values(environment: Expectation) -> ReferenceValues | NoExpectation | None:
    if environment is None or isinstance(environment, ReferenceValues | NoExpectation):
        return environment
    return environment.reference_values


@dataclass(frozen=True, slots=True)
class _Assessment:
    cpu: VerifiedReport
    expected: ReferenceValues | NoExpectation | None
    policy: Policy

    @property
    def report(self) -> Report:
        return self.cpu.report

    def claims(self) -> Iterator[Claim]:
        yield from (_from_verification(result) for result in self.cpu.checks)
        yield self._root()
        for claim in (*self._environment(), *self._policy()):
            if self.cpu.roots.simulated and claim.outcome is ClaimOutcome.PASSED:
                # True of the report only: nothing stands behind what a simulated processor says.
                yield Claim(claim.check, claim.outcome, f"Simulated: {claim.sentence}")
            else:
                yield claim

    # --- 2 the root

    def _root(self) -> Claim:
        if self.cpu.roots.simulated:
            # Not a failure of its own: the tier says it, and a failed claim beside it stays visible.
            return Claim("appraisal.root", ClaimOutcome.NOT_CHECKED, CHECKS["appraisal.root"].researcher)
        return _passed("appraisal.root", "A real AMD processor made this report.")

    # --- 3 the environment

    def _environment(self) -> Iterator[Claim]:
        if self.expected is None:
            yield _failed("appraisal.environment")
            for check in ("tee", "measurement", "host_data", "guest_policy"):
                yield Claim(
                    f"appraisal.{check}",
                    ClaimOutcome.NOT_CHECKED,
                    default_sentence(f"appraisal.{check}", _NOT),
                )
            yield self._minimum_tcb(None)
            return
        if isinstance(self.expected, NoExpectation):
            nobody = "not checked, because no environment was named"
            for check in ("environment", "tee", "measurement", "host_data", "guest_policy"):
                title = CHECKS[f"appraisal.{check}"].title
                yield Claim(f"appraisal.{check}", ClaimOutcome.NOT_CHECKED, f"{title}: {nobody}.")
            yield self._minimum_tcb(None)
            return
        yield from self._reference(self.expected)

    def _reference(self, expected: ReferenceValues) -> Iterator[Claim]:
        name = f"{expected.title} (version {expected.version})"
        report = self.report
        yield _passed("appraisal.environment", f"The environment is {name}.")
        kind = "simulated" if self.cpu.roots.simulated else "snp"
        yield _judge("appraisal.tee", expected.tee == kind, f"{name} is made for this kind of processor.")
        yield _judge(
            "appraisal.measurement",
            report.measurement in expected.measurements,
            f"The server was launched with exactly the software that {name} names.",
        )
        yield _judge(
            "appraisal.host_data",
            report.host_data == expected.host_data,
            f"The server was launched with exactly the configuration that {name} names.",
        )
        yield _judge(
            "appraisal.guest_policy",
            report.policy == expected.guest_policy,
            f"The processor guards the server by exactly the rules that {name} names.",
        )
        yield self._minimum_tcb(expected)

    def _minimum_tcb(self, expected: ReferenceValues | None) -> Claim:
        check, line = "appraisal.minimum_tcb", self.cpu.line
        minimums: list[TcbVersion] = []
        if expected is not None:
            of_environment = expected.minimum_tcb.get(line)
            if of_environment is None:
                return _failed(
                    check, f"The environment names no minimum firmware for {line}, so it may not run there."
                )
            minimums.append(of_environment)
        of_policy = self.policy.minimum(line)
        if of_policy is not None:
            minimums.append(of_policy)
        if not minimums:
            outcome = ClaimOutcome.NOT_CHECKED
            return Claim(check, outcome, "Firmware is new enough: not checked, because no minimum was named.")
        low = {
            component
            for minimum in minimums
            for tcb in (self.report.reported_tcb, self.report.launch_tcb)
            for component in tcb.below(minimum)
        }
        if low:
            return _failed(check, f"{CHECKS[check].researcher} Too old: {', '.join(sorted(low))}.")
        return _passed(check, "The processor's firmware is at least as new as required.")

    # --- 4 the policy

    def _policy(self) -> Iterator[Claim]:
        report, policy = self.report, self.policy
        guest, platform = report.policy, report.platform_info
        host = report.vmpl == VMPL_HOST
        signer = report.key_info.signing_key_name
        yield _judge(
            "appraisal.product_line",
            self.cpu.line in policy.product_lines,
            f"The processor is a {self.cpu.line}, which the policy allows.",
        )
        yield _judge(
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
        yield _judge(
            "appraisal.signer",
            signer in policy.signers,
            f"The report is signed with a {signer}, which is allowed.",
        )
        yield _judge(
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
            title = CHECKS["appraisal.vmpl"].title
            return Claim(
                "appraisal.vmpl", ClaimOutcome.NOT_CHECKED, f"{title}: the host asked, so there is none."
            )
        level = self.report.vmpl
        if level not in self.policy.allowed_vmpl:
            return _failed("appraisal.vmpl")
        if level == 0:
            return _passed("appraisal.vmpl", "The report was made by the most privileged part of the server.")
        return _passed("appraisal.vmpl", f"The policy accepts this: {RELAXATIONS['allowed_vmpl']}")

    def _relaxable(self, name: str, good: bool, relaxation: str, sentence: str) -> Claim:
        check = f"appraisal.{name}"
        if good:
            return _passed(check, sentence)
        if relaxation in self.policy.relaxations:
            return _passed(check, f"The policy accepts this: {RELAXATIONS[relaxation]}")
        return _failed(check)

    def _required(self, name: str, required: bool, good: bool) -> Claim:
        check = f"appraisal.{name}"
        if not required:
            return Claim(check, _NOT, f"{CHECKS[check].title}: not required by the policy.")
        return _judge(check, good, CHECKS[check].meaning)

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
        failed = {claim.check for claim in claims if claim.outcome is ClaimOutcome.FAILED}
        used = self._used_relaxations()
        simulated = self.cpu.roots.simulated
        expected = isinstance(self.expected, ReferenceValues)
        if failed - _EXECUTABLES - _HARDWARE:
            configuration = BAD_CONFIGURATION
        elif used & GRAVE:
            configuration = UNSAFE_CONFIGURATION
        else:
            configuration = APPROVED_CONFIGURATION if expected and not used else SAFE_CONFIGURATION
        if failed & _EXECUTABLES:
            executables = BAD_EXECUTABLES
        else:
            executables = APPROVED_BOOT if expected else UNRECOGNIZED_EXECUTABLES
        hardware = BAD_HARDWARE if failed & _HARDWARE else GENUINE_HARDWARE
        memory = ISOLATED_MEMORY if "allow_debug_policy" in used else ENCRYPTED_MEMORY
        return Trustworthiness(
            configuration=configuration,
            executables=executables,
            hardware=UNRECOGNIZED_HARDWARE if simulated else hardware,
            runtime_opaque=VISIBLE_MEMORY if simulated else memory,
        )

    def tier(self, claims: tuple[Claim, ...], vector: Trustworthiness) -> Tier:
        if any(claim.outcome is ClaimOutcome.FAILED for claim in claims):
            return Tier.CONTRAINDICATED
        if self.cpu.roots.simulated:
            return Tier.SIMULATED
        return Tier(vector.status.value)


_NOT = ClaimOutcome.NOT_CHECKED


def _committed(report: Report) -> bool:
    current = (report.current_tcb, report.current_major, report.current_minor, report.current_build)
    return current == (
        report.committed_tcb,
        report.committed_major,
        report.committed_minor,
        report.committed_build,
    )


def _from_verification(result: CheckResult) -> Claim:
    if result.outcome is Outcome.PASSED:
        return Claim(result.id, ClaimOutcome.PASSED, default_sentence(result.id, ClaimOutcome.PASSED))
    if result.outcome is Outcome.FAILED:
        return Claim(result.id, ClaimOutcome.FAILED, default_sentence(result.id, ClaimOutcome.FAILED))
    title = SNP_CHECKS[result.id].title if result.id in SNP_CHECKS else result.id
    return Claim(result.id, _NOT, f"{title}: not checked ({result.detail.rstrip('.')}).")


def _judge(check: str, good: bool, sentence: str) -> Claim:
    return _passed(check, sentence) if good else _failed(check)


def _passed(check: str, sentence: str) -> Claim:
    return Claim(check, ClaimOutcome.PASSED, sentence)


def _failed(check: str, sentence: str = "") -> Claim:
    return Claim(check, ClaimOutcome.FAILED, sentence or default_sentence(check, ClaimOutcome.FAILED))
