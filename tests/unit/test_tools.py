# SPDX-License-Identifier: BSD-3-Clause
"""The tools that `make` runs: what they say when something fails, and that what they start can start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(TESTS.parent / "tools")
    from steps import console

    return console


def said(console: object, tmp_path: Path, program: str) -> str:
    with pytest.raises(console.Failure) as caught:  # type: ignore[attr-defined]
        console.run([sys.executable, "-c", program], log=tmp_path / "log", what="build it")  # type: ignore[attr-defined]
    return str(caught.value)


def test_a_missing_python_module_is_not_called_a_missing_network(console: object, tmp_path: Path) -> None:
    sentence = said(console, tmp_path, "import not_there_at_all")
    assert "registry cannot be reached" not in sentence
    assert "ModuleNotFoundError" in sentence


@pytest.mark.parametrize(
    "line", ["npm error code ENOTFOUND", "dial tcp: connection refused", "connect ETIMEDOUT"]
)
def test_a_missing_network_is_called_one(console: object, tmp_path: Path, line: str) -> None:
    assert "registry cannot be reached" in said(console, tmp_path, f"raise SystemExit({line!r})")


@pytest.mark.parametrize("module", ["support.s3", "support.vault", "support.helm", "support.cluster.build"])
def test_what_builds_a_server_for_the_tests_finds_its_imports(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        cwd=TESTS, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
