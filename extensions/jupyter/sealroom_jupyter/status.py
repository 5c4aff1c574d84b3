# SPDX-License-Identifier: BSD-3-Clause
"""Says in plain words what the Attester knows. Pure: a state comes in, a status for people comes out.

Invariants:

- A simulated result is called simulated, whatever else is true.
- The tier of a server that is not verified now is never better than `none`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sealroom.datasets.messages import EnvironmentInfo, PersonInfo

from sealroom_jupyter.attester import State
from sealroom_jupyter.messages import Status
from sealroom_jupyter.settings import Settings


@dataclass(frozen=True, slots=True)
class Words:
    """A title and two sentences."""

    title: str
    sentences: tuple[str, str]


TIERS: dict[str, Words] = {
    "affirming": Words(
        "Attested",
        (
            "This server runs in a confidential machine; its processor and what was started were checked.",
            "The operator of the machine can neither read its memory nor start something else unseen.",
        ),
    ),
    "warning": Words(
        "Attested, with warnings",
        (
            "This server runs in a confidential machine, but some checks need attention.",
            "Look at the checks below before you use it for data that must be protected.",
        ),
    ),
    "simulated": Words(
        "Simulated TEE",
        (
            "A simulated processor stands in for the secure one: every step is real, the protection is not.",
            "The operator of this machine can read everything in this server: use it to learn and to test.",
        ),
    ),
    "contraindicated": Words(
        "Not verified",
        (
            "The broker checked this server's evidence, and at least one check failed.",
            "No dataset is opened here; start the server again, and tell the operator if it stays so.",
        ),
    ),
    "none": Words(
        "Not verified",
        (
            "This server could not prove itself to the broker.",
            "Do not trust it with data that must be protected; no dataset is opened here.",
        ),
    ),
}

_CHECKING = Words(
    "Checking…",
    (
        "This server gathers evidence about itself and has the broker check it.",
        "Until that is done nothing is known about it, and no dataset can be unlocked.",
    ),
)
_UNREACHABLE = Words(
    "Broker unreachable",
    (
        "The broker that checks this server does not answer.",
        "What was proven earlier cannot be confirmed now; the server goes on trying.",
    ),
)
_NAMES = {"cpu": "Processor", "gpu": "Graphics processor", "switch": "NVLink switch"}


def device_title(device: str) -> str:
    """Return what a device is called: `cpu0` is "Processor 0"."""
    kind = device.rstrip("0123456789")
    number = device[len(kind) :]
    return f"{_NAMES.get(kind, kind)} {number}".strip()


def describe(state: State, settings: Settings, *, environment_title: str = "") -> Status:
    """Return the status for a state of the Attester."""
    proof = state.proof
    words, tier = _words(state)
    environment = None
    if proof is not None and proof.environment is not None:
        environment = _with_title(proof.environment, environment_title)
    person = None if state.person is None else PersonInfo(**state.person.model_dump())
    return Status(
        tier=tier,
        title=words.title,
        sentences=words.sentences,
        phase=state.phase,
        devices=() if proof is None else proof.devices,
        proven_at=None if proof is None else proof.proven_at,
        expires=None if proof is None else proof.expires,
        environment=environment,
        provider=state.provider,
        person=person,
        broker=settings.broker_url,
        error=state.error,
        root=None if settings.root is None else str(settings.root),
    )


def _words(state: State) -> tuple[Words, str]:
    proof = state.proof
    if state.phase in ("starting", "evidence"):
        return _CHECKING, "none"
    if state.phase == "unreachable":
        return _UNREACHABLE, "none"
    if proof is None:
        return TIERS["none"], "none"
    if state.phase == "refused" and proof.holds:
        # Cannot be: a refusal ends the proof. If it were, the worse of the two is shown.
        return TIERS["none"], "none"
    known = proof.tier if proof.tier in TIERS else "none"
    return TIERS[known], known


def _with_title(environment: EnvironmentInfo, title: str) -> EnvironmentInfo:
    return environment.model_copy(update={"title": environment.title or title or environment.name})
