# SPDX-License-Identifier: BSD-3-Clause
"""The page of attacks names tests that exist, and every attack of `test_attacks_protocol`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
PAGE = (TESTS.parent / "docs" / "explanation" / "attacks.md").read_text()
NAMED = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", PAGE)


def functions(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_named_test_exists() -> None:
    assert len(NAMED) > 50
    missing = [f"{path}::{name}" for path, name in NAMED if name not in functions(TESTS / path)]
    assert not missing


def test_every_row_names_one_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack ")]
    assert len(rows) == len(NAMED)


def test_every_attack_of_the_protocol_is_listed() -> None:
    listed = {name for path, name in NAMED if path == "unit/broker/test_attacks_protocol.py"}
    made = functions(TESTS / "unit" / "broker" / "test_attacks_protocol.py")
    assert made - listed == {"test_sample_resource_at_a_production_broker"}
