# SPDX-License-Identifier: BSD-3-Clause
"""Verify a device's reference values, compare the device with them, and say what that is worth.

Three states are kept apart, because each asks for something else: the reference values are *missing* (nobody
published them, or nobody fetched them), they are *expired* (their signer's certificate has ended), or the
device *differs* from them, where index 9 alone may mean that they were issued again under the same version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealroom.appraisal import claims as make
from sealroom.appraisal.evidence import Reference, VerifiedGpu
from sealroom.appraisal.expectation import GpuReferences
from sealroom.appraisal.policy import RELAXATIONS, Policy
from sealroom.appraisal.result import Claim, ClaimOutcome
from sealroom.checks import CheckResult, Outcome
from sealroom.errors import Error, ExpiredError
from sealroom.nvidia import OcspPolicy, VerifiedDevice, VerifiedRim, compare, rim_ids, verify_rim

_PRESENT: Final = "nvidia.rim.present"
_VALIDITY: Final = "nvidia.rim.validity"
_RIM_OCSP: Final = "nvidia.rim.ocsp"
_CHAIN_OCSP: Final = "nvidia.chain.ocsp"
_VALUES: Final = "nvidia.measurement.values"
_REISSUED: Final = "nvidia.measurement.reissued"
_MALFORMED: Final = "nvidia.rim.format"
_WORSE: Final = (Outcome.FAILED, Outcome.NOT_ASKED, Outcome.PASSED)


@dataclass(frozen=True, slots=True)
class DeviceFiles:
    """What is known about a device beside its evidence; nothing in it is verified."""

    rims: tuple[bytes, ...] = ()
    """Reference manifests."""
    ocsp: tuple[bytes, ...] = ()
    """OCSP answers in DER, about the device's certificates and about the manifests' signers."""


def verified_gpu(
    device: VerifiedDevice,
    *,
    nonce: bytes,
    files: DeviceFiles,
    ocsp_policy: OcspPolicy = OcspPolicy.SOFT,
    uuid: str = "",
) -> VerifiedGpu:
    """Compare a verified device with reference manifests, which are verified first under the same roots.

    A manifest that is not authentic, or whose signer is revoked, counts for nothing; one whose signer's
    certificate has ended is compared with all the same. Both are failed results, which the appraisal sees.

    Args:
        device: The device.
        nonce: The 32 bytes that it has to answer.
        files: Manifests and OCSP answers, as they are.
        ocsp_policy: What is done about the revocation of manifests' signers.
        uuid: The device's name, as the guest gives it.

    Raises:
        FreshnessError: The device answers another nonce.
    """
    results: list[CheckResult] = []
    rims: list[VerifiedRim] = []
    for xml in files.rims:
        rim, checks = _verified(xml, device, files.ocsp, ocsp_policy)
        results += checks
        if rim is not None:
            rims.append(rim)
    results += compare(device, rims)
    ids = dict(zip(("driver", "vbios"), rim_ids(device), strict=True))
    references = tuple(Reference(rim.kind, ids[rim.kind], rim.version, rim.sha256) for rim in rims)
    return VerifiedGpu(device, tuple(results), nonce, uuid, references)


def _verified(
    xml: bytes, device: VerifiedDevice, ocsp: Sequence[bytes], policy: OcspPolicy
) -> tuple[VerifiedRim | None, list[CheckResult]]:
    expired: list[CheckResult] = []
    try:
        try:
            rim = verify_rim(xml, roots=device.roots, at=device.at, ocsp=ocsp, ocsp_policy=policy)
        except ExpiredError as error:
            expired = [CheckResult(_VALIDITY, Outcome.FAILED, error.diagnostics())]
            rim = verify_rim(
                xml, roots=device.roots, at=device.at, ocsp=ocsp, ocsp_policy=policy, allow_expired=True
            )
    except Error as error:
        return None, [*expired, CheckResult(error.check or _MALFORMED, Outcome.FAILED, error.diagnostics())]
    return rim, [*expired, *(one for one in rim.checks if not (expired and one.id == _VALIDITY))]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the comparison of one device gave, under one policy."""

    results: Mapping[str, CheckResult]
    """Check -> its worst result, where several manifests were checked."""
    policy: Policy

    @classmethod
    def of(cls, results: Iterable[CheckResult], policy: Policy) -> Comparison:
        """Take the results of all manifests together, check by check."""
        merged: dict[str, CheckResult] = {}
        for result in results:
            before = merged.get(result.id)
            if before is None or _WORSE.index(result.outcome) < _WORSE.index(before.outcome):
                merged[result.id] = result
            elif result.outcome is before.outcome and result.detail not in before.detail:
                merged[result.id] = CheckResult(
                    result.id, result.outcome, f"{before.detail}; {result.detail}"
                )
        return cls(merged, policy)

    @property
    def missing(self) -> bool:
        """Whether driver or VBIOS have no reference values."""
        return self._outcome(_PRESENT) is not Outcome.PASSED

    @property
    def expired(self) -> bool:
        """Whether a manifest's signer has ended."""
        return self._outcome(_VALIDITY) is Outcome.FAILED

    @property
    def used(self) -> frozenset[str]:
        """Relaxations of the policy about reference values that this device needs."""
        needed = {"allow_missing_rim": self.missing, "allow_expired_rim": self.expired}
        return frozenset(
            name for name, is_needed in needed.items() if is_needed and getattr(self.policy, name)
        )

    @property
    def failed(self) -> bool:
        """Whether anything is wrong that the policy does not accept."""
        return any(self._fails(result) for result in self.results.values())

    def claims(self) -> Iterator[Claim]:
        """Return the claim of each check."""
        for result in self.results.values():
            known = make.known_check(result.id)
            if result.outcome is not Outcome.FAILED:
                yield make.from_verification(result)
            elif self._fails(result):
                said = known.researcher if known else ""
                yield make.failed(result.id, f"{said} {_sentence(result.detail)}".strip())
            else:
                accepted = f"{result.detail.rstrip('.')}; the policy accepts this"
                yield make.from_verification(CheckResult(result.id, Outcome.NOT_ASKED, accepted))

    def reference(self, gpu: VerifiedGpu, references: GpuReferences | None) -> Claim:
        """Say whether there are reference values that count."""
        check = "appraisal.gpu.reference"
        wrong = [
            result
            for result in self.results.values()
            if result.id.startswith("nvidia.rim.")
            and result.id not in (_PRESENT, _VALIDITY, _RIM_OCSP)
            and result.outcome is Outcome.FAILED
        ]
        if wrong:
            return make.failed(check, f"The reference values do not count: {_sentence(wrong[0].detail)}")
        if self.expired and "allow_expired_rim" not in self.used:
            return make.failed(check, f"The reference values are expired: {self._detail(_VALIDITY)}")
        if self.missing and "allow_missing_rim" not in self.used:
            return make.failed(check, f"Reference values are missing: {self._detail(_PRESENT)}")
        strange = _not_named(gpu, references)
        if strange is not None:
            which = f"{strange.kind} manifest {strange.sha256[:16]}…"
            return make.failed(check, f"The {which} is none of those that the environment names.")
        if self.used:
            return make.accepted(check, min(self.used, key=list(RELAXATIONS).index))
        return make.passed(check, "NVIDIA's signed reference values for driver and VBIOS are there.")

    def measurements(self) -> Claim:
        """Say whether the device's firmware is what the reference values say."""
        check = "appraisal.gpu.measurements"
        if self._outcome(_REISSUED) is Outcome.FAILED:
            return make.failed(check, _sentence(self.results[_REISSUED].detail))
        wrong = [
            result
            for result in self.results.values()
            if result.id.startswith("nvidia.measurement.") and result.outcome is Outcome.FAILED
        ]
        if wrong:
            said = make.default_sentence(check, ClaimOutcome.FAILED)
            return make.failed(check, f"{said} {_sentence(wrong[0].detail)}")
        if self._outcome(_VALUES) is Outcome.PASSED:
            return make.passed(check, f"The GPU's firmware is what NVIDIA published: {self._detail(_VALUES)}")
        return make.not_checked(check, "not checked, because reference values are missing")

    def revocation(self, checks: Iterable[CheckResult]) -> Claim:
        """Say whether certificates are revoked.

        Args:
            checks: The checks of the device's verification.
        """
        check = "appraisal.gpu.revocation"
        asked = [one for one in (*checks, *self.results.values()) if one.id in (_CHAIN_OCSP, _RIM_OCSP)]
        open_ = [one for one in asked if one.outcome is not Outcome.PASSED]
        revoked = [one for one in open_ if one.outcome is Outcome.FAILED]
        if revoked:
            return make.failed(check, _sentence(revoked[0].detail))
        if asked and not open_:
            return make.passed(check, "None of the certificates behind this GPU is revoked.")
        why = open_[0].detail if open_ else "nobody was asked"
        if self.policy.gpu_ocsp == "required":
            return make.failed(check, f"{make.default_sentence(check, ClaimOutcome.FAILED)} {_sentence(why)}")
        return make.not_checked(check, f"not checked ({why.rstrip('.')}), which the policy accepts")

    def _fails(self, result: CheckResult) -> bool:
        if result.outcome is not Outcome.FAILED:
            return False
        relaxation = {_PRESENT: "allow_missing_rim", _VALIDITY: "allow_expired_rim"}.get(result.id)
        return relaxation not in self.used

    def _outcome(self, check: str) -> Outcome:
        result = self.results.get(check)
        return Outcome.NOT_ASKED if result is None else result.outcome

    def _detail(self, check: str) -> str:
        result = self.results.get(check)
        return _sentence("nothing was compared" if result is None else result.detail)


def _not_named(gpu: VerifiedGpu, references: GpuReferences | None) -> Reference | None:
    """Return a manifest that the environment does not name, if it names any."""
    if references is None or not references.rims:
        return None
    for used in gpu.references:
        if not references.rims & {f"sha256:{used.sha256}", used.rim_id}:
            return used
    return None


def _sentence(detail: str) -> str:
    text = detail.strip()
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
