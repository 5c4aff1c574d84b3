# SPDX-License-Identifier: BSD-3-Clause
"""Who made a pod weaker: a weakness belongs to the stage from which on it is in the pod."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sealroom_spawner.kube.expectation import PodExpectation
from sealroom_spawner.kube.rules import Weakness, check_pod

CONFIGURATION = "the hub's configuration"
BEFORE_START = "pre_spawn_hook, apply_user_options or group_overrides"
HOOK = "modify_pod_hook"
SUBCLASS = "a subclass of the spawner"
CLUSTER = "the cluster after the pod was sent (an admission webhook, or another client of its API)"


class Stage(NamedTuple):
    """The pod as it was after one of those who form it."""

    name: str
    """Who it was, as sentences call them."""
    manifest: Mapping[str, Any]
    """The pod that would have been sent then."""


def attribute(
    found: Iterable[Weakness], stages: Sequence[Stage], expected: PodExpectation
) -> tuple[Weakness, ...]:
    """Return the weaknesses with who set each of them.

    Args:
        found: Weaknesses of the pod as it came out at the end.
        stages: The pod after each stage, in their order. The last one is the pod at the end.
        expected: What it has to be.
    """
    found = tuple(found)
    origin = dict.fromkeys(map(_key, found), "")
    open_ = set(origin)
    # Backwards: who set something that a later stage took back and a yet later one set again is the later.
    for stage in reversed(stages):
        there = {_key(item) for item in check_pod(stage.manifest, expected)}
        open_ &= there
        for key in open_:
            origin[key] = stage.name
    return tuple(dataclasses.replace(item, set_by=origin[_key(item)]) for item in found)


def _key(weakness: Weakness) -> tuple[str, str, str]:
    return weakness.rule, weakness.path, weakness.value
