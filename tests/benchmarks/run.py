# SPDX-License-Identifier: BSD-3-Clause
"""`make bench`: measure everything that `bench_*.py` beside this file offers, and print one table.

Each row names the peer or limit that was measured in the same run. Nothing here asserts a figure.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def measure() -> list[dict[str, Any]]:
    """Run every benchmark and return its rows: what, ours, unit, peer, theirs, ratio."""
    # The benchmarks share objects with the tests.
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    rows: list[dict[str, Any]] = []
    for path in sorted(HERE.glob("bench_*.py")):
        print(f"Measuring {path.stem.removeprefix('bench_')} …", file=sys.stderr, flush=True)
        rows += importlib.import_module(path.stem).rows()
    return rows


def main(arguments: list[str]) -> int:
    """Print the table, or JSON with `--json`."""
    rows = measure()
    if arguments == ["--json"]:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table(title="Sealroom against a peer measured in the same run (medians)")
    for title in ("what", "ours", "unit", "peer", "theirs", "ratio"):
        table.add_column(title, justify="right" if title in ("ours", "theirs", "ratio") else "left")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in ("what", "ours", "unit", "peer", "theirs", "ratio")))
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
