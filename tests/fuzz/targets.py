# SPDX-License-Identifier: BSD-3-Clause
"""Every parser and verifier that takes bytes from somebody who is not trusted, by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from fuzz import targets_core, targets_data, targets_nvidia, targets_snp
from fuzz.engine import Target

TARGETS: Mapping[str, Target] = {
    name: replace(target, seeds=functools.cache(target.seeds))
    for part in (targets_snp, targets_nvidia, targets_core, targets_data)
    for name, target in part.TARGETS.items()
}
"""Targets by name; inputs to start from are made once."""
