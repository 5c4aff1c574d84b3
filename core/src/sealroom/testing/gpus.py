# SPDX-License-Identifier: BSD-3-Clause
"""Simulated GPUs for tests: roots, devices, evidence, and GPUs that serve a socket in a thread."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sealroom.guest import DeviceEvidence
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_models import Architecture
from sealroom.simulated.gpu_root import GpuRoot
from sealroom.simulated.gpu_server import GpuServer
from sealroom.testing.builders import ISSUED


@functools.lru_cache(maxsize=4)
def gpu_root(which: str = "shared") -> GpuRoot:
    """Return the root of that name; made at first use, then shared."""
    return GpuRoot.make(at=ISSUED)


def gpu(architecture: Architecture = "HOPPER", **changes: Any) -> SimulatedGpu:
    """Return a GPU; without `changes` (arguments of `SimulatedGpu`) it is the same one each time."""
    if not changes:
        return _gpu(architecture)
    return SimulatedGpu(changes.pop("root", None) or gpu_root(), architecture, **changes)


@functools.lru_cache(maxsize=4)
def _gpu(architecture: Architecture) -> SimulatedGpu:
    return SimulatedGpu(gpu_root(), architecture)


def device_evidence(nonce: bytes, *, on: SimulatedGpu | None = None, **changes: Any) -> DeviceEvidence:
    """Return the evidence that a guest with that GPU gathers; `changes` are those of its `report`."""
    on = on or gpu()
    return DeviceEvidence(on.architecture, on.uuid, on.report(nonce, **changes), on.chain_pem)


@contextlib.contextmanager
def running_gpus(
    path: Path,
    gpus: Sequence[SimulatedGpu] | None = None,
    *,
    alter: Callable[[bytes], bytes] | None = None,
    request_seconds: float = 5.0,
) -> Iterator[Sequence[SimulatedGpu]]:
    """Serve simulated GPUs on a socket while the context lasts; one Hopper by default."""
    served = (gpu(),) if gpus is None else gpus
    server = GpuServer(served, path, alter=alter, request_seconds=request_seconds)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.stop()
        thread.join(timeout=10)
