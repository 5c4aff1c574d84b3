# SPDX-License-Identifier: BSD-3-Clause
"""`make bench`: measure everything that `bench_*.py` beside this file offers, and print one table.

Each row names the peer or limit that was measured in the same run. Nothing here asserts a figure.

`make bench ARGS=broker` measures one of them, and `ARGS="broker --full"` in full where that takes long
(`full_rows`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent


def measure(names: Collection[str] = (), *, full: bool = False) -> list[dict[str, Any]]:
    """Run benchmarks and return their rows: what, ours, unit, peer, theirs, ratio.

    Args:
        names: Which ones; all without any.
        full: Run long ones in full.
    """
    # The benchmarks share objects with the tests.
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    rows: list[dict[str, Any]] = []
    for name in _names():
        if names and name not in names:
            continue
        print(f"Measuring {name} …", file=sys.stderr, flush=True)
        module = importlib.import_module(f"bench_{name}")
        rows += getattr(module, "full_rows", module.rows)() if full else module.rows()
    return rows


def _names() -> list[str]:
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main(arguments: list[str]) -> int:
    """Print the table, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description="Measure, against a named peer in the same run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_names())}; all without any")
    parser.add_argument("--full", action="store_true", help="run what takes long in full")
    parser.add_argument("--json", action="store_true", help="print JSON")
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - set(_names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    rows = measure(chosen.names, full=chosen.full)
    if chosen.json:
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
