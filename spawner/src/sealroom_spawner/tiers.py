# SPDX-License-Identifier: BSD-3-Clause
"""How a tier is called and drawn on the hub's pages.

A simulated TEE is amber, with an icon and in words, and never has the colour of a real one. The words are the
hub's own: what a server writes about itself is shown as text beside them, never in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from sealroom.appraisal import Tier


@dataclass(frozen=True, slots=True)
class Badge:
    """Words and looks of a tier."""

    title: str
    meaning: str
    css: str
    icon: str
    """Name of a Font Awesome icon, which JupyterHub's pages carry."""

    def html(self) -> str:
        """Return the badge as HTML."""
        return (
            f'<span class="sealroom-tier {self.css}" data-testid="sealroom-tier" '
            f'title="{escape(self.meaning)}">'
            f'<i class="fa {self.icon}" aria-hidden="true"></i> {escape(self.title)}</span>'
        )


BADGES: dict[str, Badge] = {
    Tier.AFFIRMING: Badge(
        "Verified TEE",
        "The server proved that it runs in a genuine confidential machine with the expected software.",
        "sealroom-affirming",
        "fa-check-circle",
    ),
    Tier.WARNING: Badge(
        "TEE with warnings",
        "The server proved that it runs in a genuine confidential machine; something needs attention.",
        "sealroom-warning",
        "fa-exclamation-triangle",
    ),
    Tier.SIMULATED: Badge(
        "Simulated TEE (not a real one)",
        "The server's proof is complete and correct, and made by a simulated processor: "
        "the operator of this machine can see everything in it.",
        "sealroom-simulated",
        "fa-flask",
    ),
    Tier.CONTRAINDICATED: Badge(
        "Not trustworthy",
        "The server's proof was checked and does not hold.",
        "sealroom-contraindicated",
        "fa-times-circle",
    ),
    Tier.NONE: Badge(
        "Nothing proven",
        "The server has not proven anything about itself.",
        "sealroom-none",
        "fa-question-circle",
    ),
}
"""One badge a tier."""


def badge(tier: str) -> Badge:
    """Return the badge of a tier; a tier that nobody knows proves nothing."""
    return BADGES.get(tier, BADGES[Tier.NONE])
