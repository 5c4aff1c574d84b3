# SPDX-License-Identifier: BSD-3-Clause
"""The spawn page's form: one card for each environment, with a figure of what is verified about it.

Works without scripts; with them, a long list can be searched. The answer is KubeSpawner's own: `profile`
and `profile-option-<profile>--<option>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader
from sealroom.environments import Environment

from sealroom_spawner.kube import catalogue, plan
from sealroom_spawner.kube.catalogue import ENVIRONMENT, KubeOffer
from sealroom_spawner.offers import SealedDataset
from sealroom_spawner.tiers import badge

SEARCH_FROM: Final = 6
"""With fewer environments there is nothing to search."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that a server of an environment proves, or cannot."""

    what: str
    detail: str
    proven: bool


def checked(environment: Environment) -> list[Checked]:
    """Return what is verified about a server of an environment, from the processor outwards."""
    real = environment.tee == "snp"
    lines = ", ".join(environment.minimum_tcb)
    digest = plan.notebook_image(environment).partition("@")[2]
    # The evidence covers the image through the policy in the initdata, where that names it.
    named = environment.initdata is not None and digest.removeprefix("sha256:") in environment.initdata.body
    found = [
        Checked("Processor", f"AMD SEV-SNP ({lines})" if real else "simulated: proves nothing", real),
        Checked("Guest", "firmware, kernel and size by launch measurement", real),
        Checked(
            "Policy and broker",
            "initdata, by HOST_DATA" if environment.initdata else "no initdata",
            real and environment.initdata is not None,
        ),
        Checked(
            "Notebook image",
            f"{digest[:19]}…, {'by the initdata' if named else 'by the hub alone: not in the initdata'}",
            real and named,
        ),
    ]
    if environment.gpu is not None:
        modes = ", ".join(environment.gpu.architectures)
        found.append(Checked("GPU", f"{modes} in confidential mode", real))
    return found


def render(
    profiles: Sequence[Mapping[str, Any]],
    offers: Sequence[KubeOffer],
    datasets: Sequence[SealedDataset],
    *,
    chosen: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """Return the form.

    Args:
        profiles: What is on offer, as KubeSpawner initialises it: with slugs and defaults.
        offers: The environments of the profiles.
        datasets: Sealed datasets that there are, for display.
        chosen: The options of the last start, already found valid; empty for the defaults.
        notes: Sentences above the form: why the last server was stopped, what this hub does not demand.
    """
    environments = {offer.name: offer.environment for offer in offers}
    slug = chosen.get("profile") or next((item["slug"] for item in profiles if item.get("default")), "")
    cards = [
        _card(item, environments.get(item.get(ENVIRONMENT, "")), datasets, slug, chosen) for item in profiles
    ]
    template = _JINJA.get_template("kube_form.html")
    html = template.render(cards=cards, notes=list(notes), search=len(cards) >= SEARCH_FROM)
    # JupyterHub may render it once more as a template of its own: nobody's description is one.
    for mark in ("{{", "{%", "{#"):
        html = html.replace(mark, f"&#123;{mark[1]}")
    return html


def _card(
    profile: Mapping[str, Any],
    environment: Environment | None,
    datasets: Sequence[SealedDataset],
    slug: str,
    chosen: Mapping[str, Any],
) -> dict[str, Any]:
    selected = profile["slug"] == slug
    offered = [] if environment is None else _datasets(environment, datasets)
    shown = badge("none" if environment is None else "affirming" if environment.tee == "snp" else "simulated")
    return {
        "slug": profile["slug"],
        "title": profile["display_name"],
        "description": profile.get("description", ""),
        "selected": selected,
        "options": [
            _option(name, option, chosen if selected else {})
            for name, option in profile.get("profile_options", {}).items()
        ],
        "badge": shown.html(),
        "demand": environment is not None and environment.tee == "snp",
        "environment": environment,
        "image": "" if environment is None else plan.notebook_image(environment),
        "checked": [] if environment is None else checked(environment),
        "datasets": offered,
        "words": _words(profile, environment, offered),
    }


def _words(
    profile: Mapping[str, Any], environment: Environment | None, datasets: Sequence[tuple[str, str]]
) -> str:
    """Return what a search finds a card by: no digests, in which every number is."""
    found = [str(profile["display_name"]), str(profile["slug"]), str(profile.get("description", ""))]
    if environment is not None:
        found += [environment.name, *(catalogue.describe(shape) for shape in environment.shapes)]
    return " ".join([*found, *(word for pair in datasets for word in pair)]).lower()


def _option(name: str, option: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    choices = option.get("choices") or {}
    default = next((key for key, choice in choices.items() if choice.get("default")), "")
    free = option.get("unlisted_choice") or {}
    return {
        "name": name,
        "title": option.get("display_name", name),
        "choices": [(key, choice.get("display_name", key)) for key, choice in choices.items()],
        "selected": chosen.get(name) or default,
        "free": bool(free.get("enabled")),
        "free_title": free.get("display_name", "Other"),
        "free_pattern": free.get("validation_regex", ""),
        "free_value": chosen.get(f"{name}--unlisted-choice", ""),
    }


def _datasets(environment: Environment, datasets: Sequence[SealedDataset]) -> list[tuple[str, str]]:
    known = {item.id: (item.title, item.owner) for item in datasets}
    if environment.datasets:
        return [known.get(name, (name, "")) for name in environment.datasets]
    return list(known.values())


_JINJA = Jinja(
    loader=FileSystemLoader(Path(__file__).resolve().parents[1] / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
