# SPDX-License-Identifier: BSD-3-Clause
"""Appraise the GPUs and NVSwitches of verified evidence.

Plan, for each device: 1 the claims of verification and of the comparison with reference values are taken
over; 2 the root; 3 what concerns all devices together; 4 this device against environment and policy; 5 its
reference values, measurements and revocation; 6 vector and tier follow.

Invariants:

- A GPU that the environment expects and that is not there is a result of its own, contraindicated.
- A GPU that the environment does not expect is judged like any other, never passed over.
- Unknown is never affirming: without reference values, without a mode, without an answer on revocation a
  device is contraindicated, unless the policy says otherwise in so many words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from sealroom.appraisal import claims as make
from sealroom.appraisal.checks import CHECKS, DEVICE_CHECKS
from sealroom.appraisal.evidence import DevicesAlone, VerifiedEvidence, VerifiedGpu
from sealroom.appraisal.expectation import GpuReferences, NoExpectation, ReferenceValues
from sealroom.appraisal.fleet import what_does_not_fit
from sealroom.appraisal.policy import GRAVE, GpuMode, Policy
from sealroom.appraisal.references import Comparison
from sealroom.appraisal.result import Claim, ClaimOutcome, DeviceResult, Tier, Trustworthiness
from sealroom.nvidia import OpaqueType

_ROOT: Final = "appraisal.gpu.root"
_REVOCATION: Final = "appraisal.gpu.revocation"
_HARDWARE: Final = frozenset({_ROOT, _REVOCATION, "appraisal.gpu.architecture"})
_EXECUTABLES: Final = frozenset(
    {"appraisal.gpu.vbios", "appraisal.gpu.driver", "appraisal.gpu.reference", "appraisal.gpu.measurements"}
)
_INSTANCE: Final = frozenset({"appraisal.gpu.nonce", "appraisal.gpu.count", "appraisal.gpu.fleet"})
_NOBODY: Final = "not checked, because no environment was named"
_NO_GPU: Final = "not checked, because the environment has no GPU"

Expected = ReferenceValues | NoExpectation | None


@dataclass(frozen=True, slots=True)
class GpuAssessment:
    """All devices of one server against one environment under one policy."""

    evidence: VerifiedEvidence | DevicesAlone
    expected: Expected
    policy: Policy

    def results(self) -> tuple[DeviceResult, ...]:
        """Return a result for each device, and one for GPUs that are missing altogether."""
        named = self.evidence.named_devices()
        results = tuple(self._result(name, gpu) for name, gpu in named.items())
        counts = self._counts()
        if counts is not None and 0 not in counts and not any(not gpu.is_switch for gpu in named.values()):
            results = (self._absent(counts), *results)
        return results

    def _result(self, name: str, gpu: VerifiedGpu) -> DeviceResult:
        comparison = Comparison.of(gpu.comparison, self.policy)
        claims = [*map(make.from_verification, gpu.device.checks), *comparison.claims()]
        own: Sequence[Claim] = tuple(self._claims(gpu, comparison))
        if gpu.device.simulated:
            own = tuple(make.marked(own, _ROOT))
        claims += own
        vector = self._vector(gpu, comparison, own)
        required = frozenset(DEVICE_CHECKS) - self._not_required(gpu)
        tier = make.tier_of(claims, vector, required=required, simulated=self.evidence.simulated)
        return DeviceResult(name, tier, vector, tuple(claims))

    def _not_required(self, gpu: VerifiedGpu) -> frozenset[str]:
        not_asked = {_REVOCATION: self.policy.gpu_ocsp != "required"}
        not_asked["appraisal.gpu.driver"] = gpu.is_switch
        return frozenset(check for check, without in not_asked.items() if without)

    def _absent(self, counts: frozenset[int]) -> DeviceResult:
        wanted = _or(counts)
        claims = tuple(
            make.failed(check, f"The environment names {wanted}, and the server has shown none.")
            if check == "appraisal.gpu.count"
            else make.not_checked(check, "not checked, because there is no GPU")
            for check in DEVICE_CHECKS
        )
        vector = Trustworthiness(
            instance_identity=make.UNTRUSTWORTHY_INSTANCE, hardware=make.UNRECOGNIZED_HARDWARE
        )
        return DeviceResult("gpu0", Tier.CONTRAINDICATED, vector, claims)

    def _claims(self, gpu: VerifiedGpu, comparison: Comparison) -> Iterator[Claim]:
        yield self._root(gpu)
        # The evidence could not have been made with another nonce; see VerifiedGpu.
        yield make.passed("appraisal.gpu.nonce", "The device answered this very question.")
        yield self._count()
        yield self._fleet()
        yield self._architecture(gpu)
        yield self._mode(gpu)
        yield self._driver(gpu)
        yield self._vbios(gpu)
        yield comparison.reference(gpu, self._references())
        yield comparison.measurements()
        yield comparison.revocation(gpu.device.checks)

    # --- 2 the root

    def _root(self, gpu: VerifiedGpu) -> Claim:
        if self.evidence.mixed:
            return make.failed(_ROOT, make.MIXED)
        if gpu.device.simulated:
            return Claim(_ROOT, ClaimOutcome.NOT_CHECKED, CHECKS[_ROOT].researcher)
        kind = "NVSwitch" if gpu.is_switch else "GPU"
        return make.passed(_ROOT, f"A real NVIDIA {kind} made this report.")

    # --- 3 all devices together

    def _counts(self) -> frozenset[int] | None:
        """Return how many GPUs the environment may have; None if nobody named one."""
        if not isinstance(self.expected, ReferenceValues):
            return None
        known = self.expected.gpu_counts
        launched = self.evidence.measurement
        found = None if launched is None else known.get(launched)
        # Software that the environment does not name is refused elsewhere; any of its shapes is meant here.
        return found or frozenset().union(*known.values()) or frozenset({0})

    def _count(self) -> Claim:
        check, counts = "appraisal.gpu.count", self._counts()
        there = sum(not gpu.is_switch for gpu in self.evidence.devices)
        if counts is None:
            if self.expected is None:
                return make.failed(check, "Nobody said whether this server should have a GPU.")
            return make.not_checked(check, _NOBODY)
        return make.judge(
            check,
            there in counts,
            f"As many GPUs have proven themselves as the environment names ({there}).",
            f"The environment names {_or(counts)}, and {_gpus(there)} proved to be there.",
        )

    def _fleet(self) -> Claim:
        wrong = what_does_not_fit([gpu.device for gpu in self.evidence.devices])
        sentence = "The devices are different chips of one kind, with one driver and in one mode."
        return make.judge("appraisal.gpu.fleet", not wrong, sentence, wrong)

    # --- 4 this device

    def _references(self) -> GpuReferences | None:
        return self.expected.gpu if isinstance(self.expected, ReferenceValues) else None

    def _without_references(self, check: str) -> Claim:
        """Return the claim of a check for which the environment names nothing."""
        counts = self._counts()
        if counts is None:
            return make.not_checked(check, _NOBODY)
        if counts == {0}:
            return make.not_checked(check, _NO_GPU)
        return make.failed(check, "The environment has GPUs, and does not say which ones it may run on.")

    def _architecture(self, gpu: VerifiedGpu) -> Claim:
        check, name = "appraisal.gpu.architecture", str(gpu.device.architecture)
        references = self._references()
        if gpu.is_switch:
            if references is None:
                return self._without_references(check)
            accepted = references.switch_vbios is None or bool(references.switch_vbios)
            return make.judge(
                check,
                accepted,
                "The environment accepts NVSwitches.",
                "The server has an NVSwitch, and its environment names none.",
            )
        if name not in self.policy.gpu_architectures:
            return make.failed(check, f"The policy does not allow GPUs of the architecture {name}.")
        if references is None:
            return self._without_references(check)
        return make.judge(
            check,
            name in references.architectures,
            f"The GPU has the architecture {name}, which environment and policy allow.",
        )

    def _mode(self, gpu: VerifiedGpu) -> Claim:
        check, references = "appraisal.gpu.mode", self._references()
        allowed = set(self.policy.gpu_modes)
        if references is not None:
            allowed &= references.modes
        report = gpu.device.report
        mode = "PPCIE" if gpu.is_switch else report.feature
        if mode is None and OpaqueType.FEATURE_FLAG in report.opaque:
            return make.failed(check, "The GPU names a mode that is not known here.")
        if mode is None:
            # Drivers before 580 name no mode; whichever it is has to be allowed then.
            return make.judge(
                check,
                allowed == set(get_args(GpuMode)),
                "The driver is too old to name its mode, and every confidential mode is allowed.",
                f"The driver is too old to name its mode, and only {_list(allowed)} is allowed.",
            )
        if mode not in allowed:
            detail = f"It says {mode}; allowed is {_list(allowed)}."
            return make.failed(check, f"{CHECKS[check].researcher} {detail}")
        return make.passed(check, f"The device runs in the confidential mode {mode}, which is allowed.")

    def _driver(self, gpu: VerifiedGpu) -> Claim:
        check, references = "appraisal.gpu.driver", self._references()
        version = gpu.device.report.driver_version
        if gpu.is_switch:
            return make.not_checked(check, "not checked, because a switch has none")
        minimum = self.policy.minimum_gpu_driver
        if minimum and not _at_least(version, minimum):
            return make.failed(check, f"The GPU driver {version} is older than the policy's {minimum}.")
        if references is None:
            return self._without_references(check)
        return make.judge(
            check,
            version in references.drivers,
            f"The GPU driver is {version}, which the environment names.",
            f"The GPU driver is {version}; the environment names {_list(references.drivers)}.",
        )

    def _vbios(self, gpu: VerifiedGpu) -> Claim:
        check, references = "appraisal.gpu.vbios", self._references()
        version = gpu.device.report.vbios_version
        if references is None:
            return self._without_references(check)
        named = references.switch_vbios if gpu.is_switch else references.vbios
        if named is None:
            return make.passed(check, f"The firmware is {version}; the environment accepts every signed one.")
        return make.judge(
            check,
            version in named,
            f"The firmware is {version}, which the environment names.",
            f"The firmware is {version}; the environment names {_list(named) or 'none'}.",
        )

    # --- 6 vector

    def _vector(self, gpu: VerifiedGpu, comparison: Comparison, own: Sequence[Claim]) -> Trustworthiness:
        bad = {claim.check for claim in own if claim.outcome is ClaimOutcome.FAILED}
        known = isinstance(self.expected, ReferenceValues)
        simulated = self.evidence.simulated
        if bad - _HARDWARE - _EXECUTABLES - _INSTANCE:
            configuration = make.BAD_CONFIGURATION
        elif comparison.used & GRAVE:
            configuration = make.UNSAFE_CONFIGURATION
        else:
            asked = any(one.check == _REVOCATION and one.outcome is ClaimOutcome.PASSED for one in own)
            relaxed = bool(comparison.used) or not known or not asked
            configuration = make.SAFE_CONFIGURATION if relaxed else make.APPROVED_CONFIGURATION
        if bad & _EXECUTABLES or comparison.failed:
            executables = make.BAD_EXECUTABLES
        else:
            recognized = known and "allow_missing_rim" not in comparison.used
            executables = make.APPROVED_BOOT if recognized else make.UNRECOGNIZED_EXECUTABLES
        hardware = make.BAD_HARDWARE if bad & _HARDWARE else make.GENUINE_HARDWARE
        return Trustworthiness(
            instance_identity=make.UNTRUSTWORTHY_INSTANCE if bad & _INSTANCE else make.TRUSTWORTHY_INSTANCE,
            configuration=configuration,
            executables=executables,
            hardware=make.UNRECOGNIZED_HARDWARE if simulated else hardware,
            runtime_opaque=make.VISIBLE_MEMORY if simulated else make.ENCRYPTED_MEMORY,
        )


def _at_least(version: str, minimum: str) -> bool:
    try:
        have, want = ([int(part) for part in text.split(".")] for text in (version, minimum))
    except ValueError:
        return False
    length = max(len(have), len(want))
    return have + [0] * (length - len(have)) >= want + [0] * (length - len(want))


def _list(values: object) -> str:
    return ", ".join(sorted(values))  # type: ignore[call-overload]


def _gpus(count: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(count, f"{count} GPUs")


def _or(counts: frozenset[int]) -> str:
    return " or ".join(_gpus(count) for count in sorted(counts))
