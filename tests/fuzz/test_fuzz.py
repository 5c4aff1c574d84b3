# SPDX-License-Identifier: BSD-3-Clause
"""A short run of every fuzz target, and proof that the harness finds what it is there to find.

`python -m fuzz run NAME --runs N` in this folder's parent runs one for longer.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.engine import FOUND, judge
from fuzz.targets import TARGETS

RUNS = 2000
"""Inputs for each target: all of them together in well below a minute of CPU time."""
TESTS = Path(__file__).resolve().parents[1]
ENGINES = ["atheris", "mutator"] if importlib.util.find_spec("atheris") else ["mutator"]
"""atheris exists for Linux on x86-64 and Python before 3.14; the mutator is there everywhere."""


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzz", "run", "--place", place, *arguments],
        cwd=TESTS,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run every target once, several at a time, and return what each did."""
    jobs = str(min(4, os.cpu_count() or 1))
    place = tmp_path_factory.mktemp("found")
    done = run(place, "all", "--runs", str(RUNS), "--jobs", jobs, "--engine", ENGINES[0])
    found = {line["target"]: line for line in map(json.loads, done.stdout.splitlines())}
    for name, line in found.items():
        line["stderr"] = "\n".join(
            text for text in done.stderr.splitlines() if text.startswith((f"{name}:", "  ", "Trace"))
        )
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_errors_escapes(figures: dict[str, dict[str, Any]], name: str) -> None:
    found = figures[name]
    assert found.get("exit", 0) == 0, found["stderr"]
    assert found["inputs"] >= RUNS
    assert found["refused"] > 0


@pytest.mark.parametrize("name", TARGETS)
def test_fuzzing_starts_from_what_is_accepted(name: str) -> None:
    seeds = TARGETS[name].seeds()
    assert len(seeds[0]) <= TARGETS[name].longest
    assert judge(TARGETS[name], seeds[0])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("escapes", "Error escaped"),
        ("aborts", "SystemExit escaped"),
        ("raw-message", "not one printable line"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, engine: str, target: str, what: str) -> None:
    done = run(tmp_path, target, "--targets", "fuzz.planted", "--runs", "20000", "--engine", engine)
    assert done.returncode == FOUND
    assert what in done.stderr
    assert json.loads(done.stdout) == {"target": target, "engine": engine, "exit": FOUND}
    assert (tmp_path / f"{target}.input").read_bytes()


@pytest.mark.skipif("atheris" not in ENGINES, reason="atheris is not made for this platform or Python")
def test_coverage_leads_to_a_fault_behind_four_branches(tmp_path: Path) -> None:
    done = run(tmp_path, "deep", "--targets", "fuzz.planted", "--runs", "200000", "--engine", "atheris")
    assert done.returncode == FOUND
    assert (tmp_path / "deep.input").read_bytes().startswith(b"seal")


def test_a_run_without_a_fault_says_what_it_did(tmp_path: Path) -> None:
    done = run(tmp_path, "fine", "--targets", "fuzz.planted", "--runs", "3000", "--engine", "mutator")
    assert done.returncode == 0
    line = json.loads(done.stdout)
    assert line["inputs"] == 3000
    assert line["accepted"] + line["refused"] == 3000


def test_a_target_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "nothing", "--targets", "fuzz.planted")
    assert done.returncode == 2
    assert "no such target: nothing" in done.stderr
