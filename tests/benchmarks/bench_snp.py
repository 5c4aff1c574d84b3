# SPDX-License-Identifier: BSD-3-Clause
"""How fast SNP reports are verified, per CPU second, against other verifiers and against what P-384 costs.

Everything is one ECDSA verification on P-384 and, cold, one or two RSA-4096 verifications; the rest is
parsing. All verify the same evidence: a recorded one of a Milan processor where the test vectors are there,
else one of `sealroom.testing`. The others are go-sev-guest and the `sev` crate, built from locked versions
(`tests/interop`), and OpenSSL's own `speed`. All are measured in rounds that alternate, in CPU time of their
process, so that another load on the machine touches all alike; the figures are medians. Nothing here asserts
one.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from interop import peers
from sealroom import testing
from sealroom.snp import ProductLine, Report, Roots, Vek, verify_report
from sealroom.snp.roots import load_certificates
from sealroom.snp.verify import clear_chain_cache
from support.vectors import VECTORS

ROUNDS: Final = 5
SECONDS: Final = 0.6
"""CPU time of one figure in one round."""
RECORDED_AT: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""A time at which the recorded certificates are valid."""
LIMIT: Final = "openssl speed ecdsap384, verify"
_IMPORT: Final = "import time;t=time.process_time();import {module};print(time.process_time()-t)"
_MEMORY: Final = (
    "import {module};"
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
"""Not what `getrusage` says, which counts the process that started this one too."""


@dataclass(frozen=True, slots=True)
class Item:
    """What every verifier gets."""

    what: str
    report: bytes
    vek: bytes
    ask: bytes
    ark: bytes
    line: ProductLine
    at: datetime
    roots: Roots
    """The root, and the intermediate pinned with it."""

    @property
    def root_only(self) -> Roots:
        """The root without the intermediate, which then comes with the evidence."""
        return replace(self.roots, intermediates=(), fingerprint=f"{self.roots.fingerprint}, root only")

    def write(self, directory: Path) -> None:
        """Write it as the other verifiers read it."""
        for name in ("report", "vek", "ask", "ark"):
            suffix = "bin" if name == "report" else "der"
            (directory / f"{name}.{suffix}").write_bytes(getattr(self, name))
        for name, value in (("line", self.line), ("kind", "VCEK"), ("at", int(self.at.timestamp()))):
            (directory / name).write_text(f"{value}\n")


def item() -> Item:
    """Return the evidence to verify."""
    folder = VECTORS / "snp" / "ms-tee"
    if folder.is_dir():
        report, vek = ((folder / name).read_bytes() for name in ("milan_report.bin", "milan_vcek.der"))
        chain = VECTORS / "snp" / "amd-roots" / "milan_ask_ark.pem"
        ask, ark = load_certificates(chain.read_bytes())
        return Item("recorded", report, vek, ask, ark, ProductLine.MILAN, RECORDED_AT, Roots.amd())
    chip = testing.chip(root=testing.chain(names=testing.AMD_LIKE_NAMES))
    ask, ark = chip.intermediates
    roots = Roots.development(chip.root.chain_pem)
    return Item("simulated", chip.report(3), chip.vek, ask, ark, chip.line, testing.NOW, roots)


def rate(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """Return how often a call can be made in a second of this process's CPU time."""
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for _ in range(20):
            call()
        count += 20
    return count / spent


def openssl_limit() -> float | None:
    """Return verifications on P-384 per CPU second by `openssl speed`, or None without OpenSSL."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    command = [openssl, "speed", "-seconds", "1", "ecdsap384"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"nistp384\)\s+\S+\s+\S+\s+\S+\s+([\d.]+)", printed)
    return float(found.group(1)) if found else None


def _programs() -> dict[str, Path]:
    """Return the other verifiers that this machine can build, by title; of the rest it says why not."""
    found = {}
    for peer in peers.PEERS:
        try:
            found[peer.title] = peers.program(peer.name)
        except peers.UnavailableError as error:
            print(f"Not compared with {error}", file=sys.stderr, flush=True)
    return found


def _peer_rates(program: Path, directory: Path) -> dict[str, float]:
    command: list[str | Path] = [program, "bench", directory, str(SECONDS)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))


def _calls(one: Item) -> dict[str, Callable[[], object]]:
    def cached() -> object:
        return verify_report(one.report, one.vek, roots=one.roots, at=one.at)

    def pinned() -> object:
        clear_chain_cache()
        return verify_report(one.report, one.vek, roots=one.roots, at=one.at)

    def from_evidence() -> object:
        clear_chain_cache()
        return verify_report(one.report, one.vek, roots=root_only, at=one.at, intermediates=(one.ask,))

    root_only = one.root_only
    return {
        "cached": cached,
        "pinned": pinned,
        "evidence": from_evidence,
        "report": lambda: Report.from_bytes(one.report),
        "vek": lambda: Vek.from_der(one.vek),
    }


def rows() -> list[dict[str, Any]]:
    """Measure and return one row a figure: what, ours, unit and, of verifications, the peer and the ratio."""
    one = item()
    calls, programs = _calls(one), _programs()
    ours: dict[str, list[float]] = {name: [] for name in calls}
    theirs: dict[str, list[dict[str, float]]] = {title: [] for title in programs}
    limits: list[float] = []
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-") as name:
        directory = Path(name)
        one.write(directory)
        for _ in range(ROUNDS):
            limit = openssl_limit()
            if limit is not None:
                limits.append(limit)
            for title, program in programs.items():
                theirs[title].append(_peer_rates(program, directory))
            for name, call in calls.items():
                ours[name].append(rate(call))
    others = {
        name: {title: statistics.median(one[name] for one in found) for title, found in theirs.items()}
        for name in ("full", "cached")
    }
    if limits:
        others = {name: found | {LIMIT: statistics.median(limits)} for name, found in others.items()}
    chain = f"SNP ({one.what}): report and full chain, cold"
    return [
        *_compared(f"{chain}, ASK pinned", ours["pinned"], others["full"]),
        *_compared(f"{chain}, ASK sent along", ours["evidence"], others["full"]),
        *_compared(f"SNP ({one.what}): report, chain verified before", ours["cached"], others["cached"]),
        *_compared("SNP: parse a report", ours["report"], {}),
        *_compared("SNP: parse a VCEK", ours["vek"], {}),
        *costs("sealroom.snp"),
    ]


def _compared(what: str, rates: list[float], others: dict[str, float]) -> list[dict[str, Any]]:
    value = statistics.median(rates)
    row = {"what": what, "ours": round(value), "unit": "per CPU second"}
    if not others:
        return [row]
    return [
        {**row, "peer": peer, "theirs": round(other), "ratio": round(value / other, 2)}
        for peer, other in others.items()
    ]


def costs(module: str) -> list[dict[str, Any]]:
    """Return what importing a module costs, against what it needs of `cryptography` in any case."""
    below = "cryptography.hazmat.primitives.asymmetric.ec"
    measured = []
    for what, program, unit, scale in (
        (f"import {module}", _IMPORT, "ms of CPU", 1000.0),
        (f"memory with {module}", _MEMORY, "MiB", 1 / 1024),
    ):
        ours, theirs = (
            scale * statistics.median(_printed(program.format(module=name)) for _ in range(ROUNDS))
            for name in (module, below)
        )
        row = {"what": what, "ours": round(ours), "unit": unit, "peer": f"import {below}"}
        measured.append({**row, "theirs": round(theirs), "ratio": round(ours / theirs, 2)})
    return measured


def _printed(program: str) -> float:
    command = [sys.executable, "-c", program]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    print(json.dumps(rows(), indent=2))
