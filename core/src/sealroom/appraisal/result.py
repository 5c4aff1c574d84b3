# SPDX-License-Identifier: BSD-3-Clause
"""Attestation results: per device a tier, an AR4SI vector and the claims behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum


class Tier(StrEnum):
    """How far a device is to be trusted, in the order from best to worst."""

    AFFIRMING = "affirming"
    WARNING = "warning"
    SIMULATED = "simulated"
    NONE = "none"
    CONTRAINDICATED = "contraindicated"

    @property
    def status(self) -> Status:
        """The EAR status: a simulated device is contraindicated to every party that knows no tiers."""
        return Status.CONTRAINDICATED if self is Tier.SIMULATED else Status(self.value)

    @classmethod
    def worst(cls, tiers: Iterable[Tier]) -> Tier:
        """Return the worst of several tiers; NONE if there are none."""
        order = list(cls)
        return max(tiers, key=order.index, default=cls.NONE)


class Status(StrEnum):
    """The four tiers of AR4SI (draft-ietf-rats-ar4si-06, section 2.3.2) as EAR spells them."""

    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"
    NONE = "none"


class ClaimOutcome(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Claim:
    """One check and what it says to a researcher."""

    check: str
    """Id of the check: a key of `sealroom.snp.CHECKS` or `sealroom.appraisal.CHECKS`."""
    outcome: ClaimOutcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Trustworthiness:
    """An AR4SI vector (draft-ietf-rats-ar4si-06, section 2.3.4); 0 makes no claim."""

    instance_identity: int = 0
    configuration: int = 0
    executables: int = 0
    file_system: int = 0
    hardware: int = 0
    runtime_opaque: int = 0
    storage_opaque: int = 0
    sourced_data: int = 0

    def as_claims(self) -> dict[str, int]:
        """Return the vector under the names that EAR uses."""
        return {item.name.replace("_", "-"): getattr(self, item.name) for item in fields(self)}

    @property
    def status(self) -> Status:
        """The status of the worst claim, as AR4SI derives it."""
        values = [value for value in self.as_claims().values() if value]
        if not values:
            return Status.NONE
        worst = max(values)
        if any(value < 0 or value == 1 for value in values) or worst >= 96:
            return Status.CONTRAINDICATED
        return Status.WARNING if worst >= 32 else Status.AFFIRMING


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """The result for one device."""

    device: str
    """`cpu0`."""
    tier: Tier
    vector: Trustworthiness
    claims: tuple[Claim, ...]

    @property
    def status(self) -> Status:
        """The EAR status that belongs to the tier."""
        return self.tier.status

    @property
    def failures(self) -> tuple[Claim, ...]:
        """The claims that failed."""
        return tuple(claim for claim in self.claims if claim.outcome is ClaimOutcome.FAILED)


@dataclass(frozen=True, slots=True)
class EnvironmentReference:
    """Names the environment that evidence was compared with."""

    name: str
    version: str
    title: str
    digest: str


@dataclass(frozen=True, slots=True)
class PolicyReference:
    """Names the policy, and what it gives up."""

    name: str
    version: str
    digest: str
    relaxations: tuple[str, ...] = ()
    """Keys of `sealroom.appraisal.RELAXATIONS`."""


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """The result of an appraisal."""

    devices: tuple[DeviceResult, ...]
    environment: EnvironmentReference | None
    """None if the caller had no expectation."""
    policy: PolicyReference
    at: datetime
    """The time that the evidence was judged at."""
    simulated: bool
    """The evidence comes from a simulated processor."""

    @property
    def tier(self) -> Tier:
        """The worst tier of all devices."""
        return Tier.worst(device.tier for device in self.devices)

    @property
    def failures(self) -> tuple[Claim, ...]:
        """The claims that failed, of all devices."""
        return tuple(claim for device in self.devices for claim in device.failures)
