# SPDX-License-Identifier: BSD-3-Clause
"""What a full verdict on a GPU costs in CPU time, against what its signatures cost by themselves.

The evidence is a recorded one of a Hopper GPU where the test vectors are there, else a simulated one. With
everything cold a verdict verifies the report, five certificates and two signed XML documents; a service keeps
the device's chain and the reference manifests, and verifies the report alone. Nothing here asserts a figure.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.bench_snp import LIMIT, ROUNDS, costs, openssl_limit, rate
from sealroom.checks import Outcome
from sealroom.nvidia import (
    NvidiaRoots,
    clear_device_cache,
    clear_rim_cache,
    compare,
    load_chain,
    verify_device,
    verify_rim,
)
from sealroom.testing import NOW
from sealroom.testing.gpus import gpu, gpu_root
from support.vectors import VECTORS

RECORDED_AT: Final = datetime(2025, 6, 1, tzinfo=UTC)
"""A time at which the recorded certificates are valid."""
RECORDED_NONCE: Final = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")


@dataclass(frozen=True, slots=True)
class Item:
    """Evidence of a GPU and what it is compared with."""

    what: str
    report: bytes
    chain: Sequence[bytes]
    rims: Sequence[bytes]
    nonce: bytes
    roots: NvidiaRoots
    at: datetime

    def verdict(self) -> None:
        """Verify everything and compare every measurement."""
        device = verify_device(self.report, self.chain, roots=self.roots, at=self.at, nonce=self.nonce)
        rims = [verify_rim(xml, roots=self.roots, at=self.at) for xml in self.rims]
        failed = [one for one in compare(device, rims) if one.outcome is not Outcome.PASSED]
        if failed:
            raise RuntimeError(f"the evidence is not what it was: {failed}")


def item() -> Item:
    """Return the evidence to verify."""
    folder = VECTORS / "nvidia"
    if folder.is_dir():
        names = ("hopper_550.90.07.report.bin", "rim_driver_550.90.07.xml", "rim_vbios_96009F0001.xml")
        report, *rims = ((folder / name).read_bytes() for name in names)
        chain = load_chain((folder / "hopper_550.90.07.chain.pem").read_bytes())
        return Item("recorded", report, chain, rims, RECORDED_NONCE, NvidiaRoots.nvidia(), RECORDED_AT)
    nonce = bytes(32)
    roots = NvidiaRoots.development(gpu_root().device_pem, gpu_root().rim_pem)
    return Item("simulated", gpu().report(nonce), gpu().chain_der, gpu().rims, nonce, roots, NOW)


def rows() -> list[dict[str, Any]]:
    """Measure and return one row a figure: what, ours, unit, and the limit that the signatures set."""
    one = item()

    def new_device() -> None:
        clear_device_cache()
        one.verdict()

    def cold() -> None:
        clear_device_cache()
        clear_rim_cache()
        one.verdict()

    calls: dict[str, tuple[Callable[[], None], int]] = {
        "full verdict, chain and manifests verified before": (one.verdict, 1),
        "full verdict, manifests verified before": (new_device, 1 + len(one.chain)),
        "full verdict, everything cold": (cold, 0),
    }
    one.verdict()
    times: dict[str, list[float]] = {name: [] for name in calls}
    limits: list[float] = []
    for _ in range(ROUNDS):
        limit = openssl_limit()
        if limit is not None:
            limits.append(limit)
        for name, (call, _) in calls.items():
            times[name].append(1000 / rate(call, 0.4))
    measured = []
    for name, (_, signatures) in calls.items():
        ours = statistics.median(times[name])
        row = {"what": f"NVIDIA ({one.what}): {name}", "ours": round(ours, 2), "unit": "ms of CPU"}
        if limits and signatures:
            theirs = 1000 * signatures / statistics.median(limits)
            peer = f"{signatures} times {LIMIT}"
            row |= {"peer": peer, "theirs": round(theirs, 2), "ratio": round(ours / theirs, 2)}
        measured.append(row)
    return [*measured, *costs("sealroom.nvidia")]


if __name__ == "__main__":
    print(json.dumps(rows(), indent=2))
