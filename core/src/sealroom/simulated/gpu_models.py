# SPDX-License-Identifier: BSD-3-Clause
"""What differs between simulated Hopper, Blackwell and LS10: names, board, and the blocks with references."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from sealroom.simulated.gpu_rim import RimKind

Architecture = Literal["HOPPER", "BLACKWELL", "LS10"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of GPU or switch."""

    chip: str
    """Name in manifests and opaque fields."""
    certified_as: str
    """Name in certificates."""
    engine: str
    """The processor that measures: GSP of a GPU, FSP of a switch."""
    blocks: int
    """Measurement blocks of a report."""
    vbios_version: str
    project: str
    project_sku: str
    chip_sku: str
    driver_indices: tuple[int, ...]
    """0-based indices with reference values in the driver's manifest."""
    vbios_indices: tuple[int, ...]
    counters: int
    """How many measurement counters a report has."""
    board: int = 0
    info: int = 0
    cpr: int = 0
    zero: frozenset[int] = frozenset()
    """Indices whose reference value is all zeros."""
    alternatives: Mapping[int, int] = field(default_factory=dict)
    """How many values may match, where it is more than one."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, not a switch."""
        return self.engine == "GSP"

    @property
    def counts(self) -> bytes:
        """The measurement counters, 4 bytes each."""
        measured = {*self.driver_indices, *self.vbios_indices}
        return b"".join(int(index in measured).to_bytes(4, "little") for index in range(self.counters))

    def active(self, kind: RimKind) -> tuple[int, ...]:
        """Return the indices with reference values in a manifest."""
        return self.driver_indices if kind == "driver" else self.vbios_indices


_DRIVER = (7, *range(21, 41))
_VBIOS = (*range(7), *range(8, 13))
_ALTERNATIVES = {12: 4, 23: 2, 24: 2, 32: 2, 34: 2, 35: 4, 36: 2}

MODELS: Final[Mapping[Architecture, Model]] = {
    "HOPPER": Model(
        "GH100", "GH100", "GSP", 64, "96.00.9F.00.01", "1010", "0200", "882", _DRIVER, _VBIOS, 64,
        board=0x3B1, info=0x180, cpr=0x1C000, zero=frozenset({0, 8, 10, 12, 23, 24, 28}),
        alternatives=_ALTERNATIVES,
    ),
    "BLACKWELL": Model(
        "GB100", "GB100", "GSP", 64, "97.00.88.00.0F", "G525", "0220", "886", _DRIVER, _VBIOS, 64,
        board=0x66F, info=0x1A0, cpr=0x40000, zero=frozenset({0, 1, 5, 9, 10, 23, 24, 28, 34}),
        alternatives=_ALTERNATIVES,
    ),
    "LS10": Model(
        "LS10", "LS_10", "FSP", 31, "96.10.6D.00.01", "5612", "0002", "890", (),
        (*range(7), 8, 10, 11, 14, *range(18, 27)), 27,
    ),
}  # fmt: skip
"""Boards are those of public sample reports."""


def reference(model: Model, kind: RimKind, version: str, index: int) -> bytes:
    """Return the value that a device with this version measures at an index."""
    if index in model.zero:
        return bytes(48)
    return _digest(model, kind, version, index, 0)


def references(model: Model, kind: RimKind, version: str) -> dict[int, tuple[bytes, ...]]:
    """Return the reference values of a version; what a device measures is the last of its alternatives."""
    return {
        index: (
            *(
                _digest(model, kind, version, index, other)
                for other in range(1, model.alternatives.get(index, 1))
            ),
            reference(model, kind, version, index),
        )
        for index in model.active(kind)
    }


def _digest(model: Model, kind: RimKind, version: str, index: int, alternative: int) -> bytes:
    text = f"SIMULATED {model.chip} {kind} {version} index {index} alternative {alternative}"
    return hashlib.sha384(text.encode()).digest()
