# SPDX-License-Identifier: BSD-3-Clause
"""The environments a person may choose from, as cards on the spawn page.

An environment is offered only if its manifest's signature verifies with the publisher's key beside it. What
a server may open is the data owner's decision, made when the server has proven itself: the card says what
there is to ask for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from sealroom.environments import load, load_public_key
from sealroom.errors import Error, FormatError, StorageError

from sealroom_spawner.files import read_json
from sealroom_spawner.tiers import badge

PUBLISHER_KEY = "publisher.pub.pem"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer:
    """An environment on offer."""

    name: str
    version: str
    title: str
    description: str
    digest: str
    simulated: bool
    datasets: tuple[str, ...]
    """Datasets that it was made for, by id; empty if it was made for none in particular."""
    manifest: Path

    @property
    def public_files(self) -> list[Path]:
        """Files of the environment that its servers may read."""
        signature = self.manifest.with_name(f"{self.manifest.name}.sig")
        return [self.manifest, signature, self.manifest.with_name(PUBLISHER_KEY)]


@dataclass(frozen=True, slots=True)
class SealedDataset:
    """A sealed dataset on this machine, as its manifest describes it."""

    id: str
    title: str
    owner: str


def read_offers(directory: Path) -> list[Offer]:
    """Return the environments in a directory, by name; one that does not verify is left out and logged."""
    offers = []
    for path in sorted(directory.glob("*.toml")):
        try:
            offers.append(_read_offer(path))
        except (Error, OSError) as error:
            log.warning("Environment %s is not offered: %s", path.name, error)
    return offers


def read_datasets(directory: Path) -> list[SealedDataset]:
    """Return the sealed datasets in a directory, for display only: nothing is verified here."""
    found = []
    for path in sorted(directory.glob("*/dataset.json")):
        manifest = read_json(path)
        if isinstance(manifest, dict):
            words = [str(manifest.get(key, "")) for key in ("id", "title", "owner")]
            found.append(SealedDataset(*words))
    return found


def choose(offers: Sequence[Offer], options: object) -> Offer:
    """Return the environment that a person's options name; the first one if they name none.

    Args:
        offers: What is on offer.
        options: `user_options`: whatever came through the form, a link or the hub's REST interface.

    Raises:
        FormatError: The options are something else, or name an environment that is not on offer.
    """
    if not offers:
        raise StorageError("No environment is on offer.", advice="`make up` makes one; see the hub's log.")
    if not isinstance(options, dict) or not set(options) <= {"environment"}:
        raise FormatError('The options of a server are {"environment": "<name>"} or nothing.')
    name = options.get("environment", offers[0].name)
    for offer in offers:
        if offer.name == name:
            return offer
    shown = name if isinstance(name, str) and _NAME.fullmatch(name) else "with that name"
    raise FormatError(f"There is no environment {shown}.", advice="Choose one on the spawn page.")


def options_from_form(form: dict[str, list[str]]) -> dict[str, str]:
    """Turn the form's fields into options; `choose` checks them."""
    names = form.get("environment", [])
    return {"environment": names[0]} if names else {}


def form(offers: Sequence[Offer], datasets: Sequence[SealedDataset], chosen: str, separation: str) -> str:
    """Return the spawn page's form.

    Args:
        offers: What is on offer.
        datasets: What is sealed on this machine.
        chosen: Name of the environment to select; the first one if it is not on offer.
        separation: The statement about what keeps servers apart.
    """
    names = [offer.name for offer in offers]
    selected = chosen if chosen in names else next(iter(names), "")
    cards = "".join(_card(offer, datasets, checked=offer.name == selected) for offer in offers)
    return (
        f'<fieldset class="sealroom-environments"><legend>Environment</legend>{cards}</fieldset>'
        f'<p class="sealroom-note" id="sealroom-separation">{escape(separation)}</p>'
    )


def _read_offer(path: Path) -> Offer:
    key = load_public_key(path.with_name(PUBLISHER_KEY).read_bytes())
    environment = load(path, [key])
    return Offer(
        name=environment.name,
        version=environment.version,
        title=environment.title,
        description=environment.description,
        digest=environment.digest,
        simulated=environment.tee == "simulated",
        datasets=environment.datasets,
        manifest=path,
    )


def _card(offer: Offer, datasets: Sequence[SealedDataset], *, checked: bool) -> str:
    shown = badge("simulated" if offer.simulated else "affirming")
    proves = shown.html() if offer.simulated else "Must prove itself to be a genuine TEE."
    meant = [item for item in datasets if not offer.datasets or item.id in offer.datasets]
    items = "".join(f"<li>{escape(item.title)} <small>({escape(item.owner)})</small></li>" for item in meant)
    opens = (
        "<p>May ask for these sealed datasets; their owners decide when the server has proven itself:</p>"
        f"<ul>{items}</ul>"
        if items
        else "<p>There are no sealed datasets on this machine.</p>"
    )
    return (
        f'<label class="sealroom-card"><input type="radio" name="environment" value="{escape(offer.name)}"'
        f"{' checked' if checked else ''}> <strong>{escape(offer.title)}</strong> "
        f"<small>{escape(offer.name)} {escape(offer.version)}</small><br>{proves}"
        f"<p>{escape(offer.description)}</p>{opens}"
        f"<details><summary>Identity</summary><code>{escape(offer.digest)}</code></details></label>"
    )
