# SPDX-License-Identifier: BSD-3-Clause
"""How fast SNP reports are verified, per CPU second, against OpenSSL's own P-384 on the same machine.

Everything is one ECDSA verification on P-384 and, cold, one RSA-4096 verification; the rest is parsing.
Both are measured in rounds that alternate, so that another load on the machine touches both. `rows` returns
the figures; nothing here asserts a time.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from sealroom import testing
from sealroom.snp import Report, Roots, Vek, verify_report
from sealroom.snp.verify import clear_chain_cache

ROUNDS: Final = 5
SECONDS: Final = 1.0
"""CPU time of one figure in one round."""
_IMPORT: Final = "import time;t=time.process_time();import {module};print(time.process_time()-t)"


def _rate(call: Callable[[], object]) -> float:
    """Return how often a call can be made in a second of this process's CPU time."""
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < SECONDS:
        for _ in range(20):
            call()
        count += 20
    return count / spent


def _openssl_limit() -> float | None:
    """Return verifications on P-384 per CPU second by `openssl speed`, or None without OpenSSL."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    command = [openssl, "speed", "-seconds", "1", "ecdsap384"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"nistp384\)\s+\S+\s+\S+\s+\S+\s+([\d.]+)", printed)
    return float(found.group(1)) if found else None


def _import_seconds(module: str) -> float:
    """Return the CPU time of importing a module in a new interpreter."""
    command = [sys.executable, "-c", _IMPORT.format(module=module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def rows() -> list[dict[str, Any]]:
    """Measure and return one row a figure: what, ours, unit and, of verifications, the peer and the ratio."""
    chip = testing.chip()
    report, vek = chip.report(), chip.vek
    # The intermediate is pinned, as AMD's are.
    roots = Roots.development(chip.root.chain_pem)
    bare, intermediates = Roots.development(chip.root.pem), chip.intermediates

    def cached() -> object:
        return verify_report(report, vek, roots=roots, at=testing.NOW)

    def cold() -> object:
        clear_chain_cache()
        return verify_report(report, vek, roots=roots, at=testing.NOW)

    def cold_with_intermediate() -> object:
        clear_chain_cache()
        return verify_report(report, vek, roots=bare, at=testing.NOW, intermediates=intermediates)

    calls: dict[str, Callable[[], object]] = {
        "report, chain verified before": cached,
        "report and chain, intermediate pinned": cold,
        "report and chain, intermediate from the evidence": cold_with_intermediate,
        "parse a report": lambda: Report.from_bytes(report),
        "parse a VCEK": lambda: Vek.from_der(vek),
    }
    limits: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        limit = _openssl_limit()
        if limit is not None:
            limits.append(limit)
        for name, call in calls.items():
            rates[name].append(_rate(call))
    limit = statistics.median(limits) if limits else None
    peer = {"peer": "openssl speed ecdsap384, verify", "theirs": round(limit)} if limit else {}
    measured: list[dict[str, Any]] = []
    for name, values in rates.items():
        ours = statistics.median(values)
        row = {"what": f"SNP: {name}", "ours": round(ours), "unit": "per CPU second"}
        measured.append(
            {**row, **peer, "ratio": round(ours / limit, 2)} if limit and "chain" in name else row
        )
    seconds = statistics.median(_import_seconds("sealroom.snp") for _ in range(ROUNDS))
    measured.append({"what": "SNP: import sealroom.snp", "ours": round(seconds * 1000), "unit": "ms of CPU"})
    return measured


if __name__ == "__main__":
    print(json.dumps(rows(), indent=2))
