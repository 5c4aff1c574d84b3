# SPDX-License-Identifier: BSD-3-Clause
"""The environments on offer in a cluster, read and verified once as long as their files stay the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealroom.environments import Environment, load, load_public_key
from sealroom.errors import Error

from sealroom_spawner.kube import plan
from sealroom_spawner.offers import PUBLISHER_KEY

log = logging.getLogger(__name__)

SHAPE = "shape"
"""The option by which a person chooses a shape."""
ENVIRONMENT = "environment"
"""The key of a profile that names its environment."""
ENVIRONMENT_LABEL = "sealroom/environment"
"""The pod's label with it: network policies select by it."""


@dataclass(frozen=True, slots=True)
class KubeOffer:
    """An environment on offer."""

    environment: Environment
    manifest: Path

    @property
    def name(self) -> str:
        """The environment's name, which is the profile's slug."""
        return self.environment.name

    def profile(self) -> dict[str, Any]:
        """Return it as a profile of KubeSpawner, with its shapes as an option."""
        return {
            "slug": self.name,
            "display_name": self.environment.title,
            "description": self.environment.description,
            ENVIRONMENT: self.name,
            "kubespawner_override": {},
            "profile_options": {SHAPE: self.shapes()},
        }

    def shapes(self) -> dict[str, Any]:
        """Return the shapes as an option of KubeSpawner's profiles."""
        return {
            "display_name": "Size",
            "choices": {
                shape.name: {"display_name": describe(shape), "kubespawner_override": {}}
                for shape in self.environment.shapes
            },
        }


def describe(shape: Any) -> str:
    """Return a shape in words."""
    memory = shape.memory_mib
    size = f"{memory // 1024} GiB" if memory % 1024 == 0 else f"{memory} MiB"
    gpus = "" if not shape.gpus else f", {shape.gpus} GPU{'s' if shape.gpus > 1 else ''}"
    return f"{shape.name}: {shape.vcpus} vCPU{'s' if shape.vcpus > 1 else ''}, {size}{gpus}"


class Catalogue:
    """The environments in a directory: `<name>.toml`, its signature, and the publisher's key.

    Args:
        directory: Where they are.
        runtime_classes: Runtime classes that an environment may ask for.
    """

    def __init__(self, directory: Path, runtime_classes: tuple[str, ...]) -> None:
        self._directory = directory
        self._classes = runtime_classes
        self._seen: dict[Path, tuple[object, KubeOffer | None]] = {}

    def offers(self) -> list[KubeOffer]:
        """Return the environments by name; one that does not verify is left out and logged."""
        paths = sorted(self._directory.glob("*.toml"))
        self._seen = {path: self._seen[path] for path in paths if path in self._seen}
        found = [self._offer(path) for path in paths]
        return [offer for offer in found if offer is not None]

    def _offer(self, path: Path) -> KubeOffer | None:
        state = self._state(path)
        known = self._seen.get(path)
        if known is not None and known[0] == state:
            return known[1]
        offer = None
        try:
            key = load_public_key(path.with_name(PUBLISHER_KEY).read_bytes())
            environment = load(path, [key])
            plan.check(environment, self._classes)
            offer = KubeOffer(environment, path)
        except (Error, OSError) as error:
            log.warning("Environment %s is not offered: %s", path.name, error)
        self._seen[path] = (state, offer)
        return offer

    def _state(self, path: Path) -> object:
        """Return what changes when a file that counts changes."""
        files = (path, path.with_name(f"{path.name}.sig"), path.with_name(PUBLISHER_KEY))
        return tuple(_stamp(file) for file in files)


def _stamp(path: Path) -> object:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino


def profiles(
    offers: Sequence[KubeOffer], given: Sequence[Mapping[str, Any]], *, plain: bool
) -> list[dict[str, Any]]:
    """Return the profiles that a person may choose from.

    Args:
        offers: The environments on offer.
        given: The operator's own profiles (`profile_list`); each names its environment. Without any, there
            is one for each environment.
        plain: Whether profiles without an environment are offered too.
    """
    if not given:
        return [offer.profile() for offer in offers]
    by_name = {offer.name: offer for offer in offers}
    found = []
    for profile in given:
        offer = by_name.get(profile.get(ENVIRONMENT, ""))
        if offer is not None:
            options = {SHAPE: offer.shapes(), **profile.get("profile_options", {})}
            found.append({**offer.profile(), "slug": _slug(profile), **profile, "profile_options": options})
        elif plain and ENVIRONMENT not in profile:
            found.append(dict(profile))
        else:
            name = profile.get(ENVIRONMENT)
            log.warning("Profile %s is not offered: no environment %s", profile.get("display_name"), name)
    return found


def _slug(profile: Mapping[str, Any]) -> str:
    from slugify import slugify

    return str(slugify(profile.get("display_name", profile[ENVIRONMENT])))
