# SPDX-License-Identifier: BSD-3-Clause
"""`from sealroom.torch import SealedArray`: what `sealroom.datasets.torch` offers, under a short name."""

from __future__ import annotations

from sealroom.datasets.torch import (
    BlockShuffleSampler,
    SealedArray,
    SealedImageFolder,
    SealedShards,
    collate,
    data_loader,
    prefetch,
)

__all__ = [
    "BlockShuffleSampler",
    "SealedArray",
    "SealedImageFolder",
    "SealedShards",
    "collate",
    "data_loader",
    "prefetch",
]
