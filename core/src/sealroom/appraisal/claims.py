# SPDX-License-Identifier: BSD-3-Clause
"""Make claims, and the tier that follows from them.

Invariants:

- A claim has a check of one of the three tables and one sentence.
- `affirming` needs every required check passed, a vector that affirms, and a real root; whatever is missing,
  unknown or failed makes it less.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

from sealroom.appraisal.checks import CHECKS
from sealroom.appraisal.policy import RELAXATIONS
from sealroom.appraisal.result import Claim, ClaimOutcome, Status, Tier, Trustworthiness
from sealroom.checks import Check, CheckResult, Outcome
from sealroom.nvidia import CHECKS as NVIDIA_CHECKS
from sealroom.snp import CHECKS as SNP_CHECKS

# Values of AR4SI (draft-ietf-rats-ar4si-06, section 2.3.4).
TRUSTWORTHY_INSTANCE, UNTRUSTWORTHY_INSTANCE = 2, 96
APPROVED_CONFIGURATION, SAFE_CONFIGURATION, UNSAFE_CONFIGURATION, BAD_CONFIGURATION = 2, 3, 32, 96
APPROVED_BOOT, UNRECOGNIZED_EXECUTABLES, BAD_EXECUTABLES = 3, 33, 96
GENUINE_HARDWARE, BAD_HARDWARE, UNRECOGNIZED_HARDWARE = 2, 96, 97
ENCRYPTED_MEMORY, ISOLATED_MEMORY, VISIBLE_MEMORY = 2, 32, 96

MIXED = (
    "Real and simulated devices stand side by side here, so that nothing of what they say can be believed."
)
"""What the root's claim says of every device where one root is AMD's or NVIDIA's and another is not."""


def known_check(check: str) -> Check | None:
    """Return a check by its id, from whichever table has it."""
    return CHECKS.get(check) or SNP_CHECKS.get(check) or NVIDIA_CHECKS.get(check)


def default_sentence(check: str, outcome: ClaimOutcome) -> str:
    """Return the sentence that a claim has if nothing more special is to be said."""
    known = known_check(check)
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


def passed(check: str, sentence: str) -> Claim:
    """Return the claim of a check that found nothing wrong."""
    return Claim(check, ClaimOutcome.PASSED, sentence)


def failed(check: str, sentence: str = "") -> Claim:
    """Return the claim of a check that failed, with the table's sentence if there is no better one."""
    return Claim(check, ClaimOutcome.FAILED, sentence or default_sentence(check, ClaimOutcome.FAILED))


def not_checked(check: str, why: str = "") -> Claim:
    """Return the claim of a check that was not made."""
    outcome = ClaimOutcome.NOT_CHECKED
    sentence = f"{CHECKS[check].title}: {why}." if why else default_sentence(check, outcome)
    return Claim(check, outcome, sentence)


def judge(check: str, good: bool, sentence: str, otherwise: str = "") -> Claim:
    """Return the claim of a check that passed, with its sentence, or that failed."""
    return passed(check, sentence) if good else failed(check, otherwise)


def accepted(check: str, relaxation: str) -> Claim:
    """Return the claim of a check that passes because the policy gives something up."""
    return passed(check, f"The policy accepts this: {RELAXATIONS[relaxation]}")


def from_verification(result: CheckResult) -> Claim:
    """Return the claim of a check that verification made."""
    if result.outcome is Outcome.PASSED:
        return Claim(result.id, ClaimOutcome.PASSED, default_sentence(result.id, ClaimOutcome.PASSED))
    if result.outcome is Outcome.FAILED:
        return Claim(result.id, ClaimOutcome.FAILED, default_sentence(result.id, ClaimOutcome.FAILED))
    known = known_check(result.id)
    title = known.title if known else result.id
    sentence = f"{title}: not checked ({result.detail.rstrip('.')})."
    return Claim(result.id, ClaimOutcome.NOT_CHECKED, sentence)


def marked(claims: Iterable[Claim], root: str) -> Iterable[Claim]:
    """Mark what a simulated device's report says as simulated: nothing stands behind it.

    Args:
        claims: Claims of the appraisal.
        root: Id of the check of the root, which says so itself.
    """
    for claim in claims:
        if claim.outcome is ClaimOutcome.PASSED and claim.check != root:
            yield Claim(claim.check, claim.outcome, f"Simulated: {claim.sentence}")
        else:
            yield claim


def tier_of(
    claims: Sequence[Claim],
    vector: Trustworthiness,
    *,
    required: frozenset[str],
    simulated: bool,
) -> Tier:
    """Return the tier of a device.

    Args:
        claims: All its claims.
        vector: Its trustworthiness vector.
        required: Ids of the checks that have to have passed for `affirming`.
        simulated: Whether any root is a development root.
    """
    if any(claim.outcome is ClaimOutcome.FAILED for claim in claims):
        return Tier.CONTRAINDICATED
    if simulated:
        return Tier.SIMULATED
    tier = Tier(vector.status.value)
    good = {claim.check for claim in claims if claim.outcome is ClaimOutcome.PASSED}
    if required - good and vector.status is Status.AFFIRMING:
        # Nothing is known to be wrong, and not everything is known.
        return Tier.NONE
    return tier
