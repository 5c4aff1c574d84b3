# SPDX-License-Identifier: BSD-3-Clause
"""The tutorial of the data owner's day, typed and run from top to bottom against the real stack."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support.stack import REPOSITORY, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = REPOSITORY / "docs" / "tutorial" / "data-owners-day.md"


def blocks() -> list[tuple[str, str]]:
    """Return what the page tells people to type: `console` for the owner, `python` for the researcher."""
    return [
        (kind, body)
        for kind, body in re.findall(r"```(console|python)\n(.*?)```", PAGE.read_text(), re.S)
        if body.strip()
    ]


class Terminal:
    """One shell that stays, as the owner's does."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash", "-e"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, line: str) -> str:
        """Run a line and return what it printed; the shell ends at the first one that fails."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{line}\necho; echo end-of-line\n")
        self._shell.stdin.flush()
        said: list[str] = []
        for one in self._shell.stdout:
            if one == "end-of-line\n":
                return "".join(said)
            said.append(one)
        raise AssertionError(f"{line}\n{''.join(said)}")

    def close(self) -> None:
        """End the shell."""
        self._shell.communicate(timeout=30)


def test_the_day_goes_as_the_page_says(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    (tmp_path / ".sealroom").symlink_to(stack.home)
    researcher = stack.login("researcher")
    researcher.start_server()
    terminal, said = Terminal(tmp_path, stack.environment), {"console": "", "python": ""}
    try:
        for kind, body in blocks():
            if kind == "console":
                for line in body.splitlines():
                    assert line.startswith("$ "), line
                    said[kind] += terminal.type(line[2:])
            else:
                done = researcher.execute(body)
                assert not done.error, f"{body}\n{done.error}"
                said[kind] += done.stdout
    finally:
        terminal.close()
    # Refused first, then read, then taken back.
    assert "You have no grant for Lipids" in said["python"]
    assert "('granted', 'For the threshold only.')" in said["python"]
    assert "1,11,148" in said["python"]
    assert "withdrawn" in said["python"]
    # The owner saw a simulated server, and the release in the log.
    assert "simulated" in said["console"]
    assert "release" in said["console"]
    assert "withdrawal" in said["console"]
    assert (tmp_path / "audit-of-today" / "checkpoint").is_file() or list(
        (tmp_path / "audit-of-today").rglob("checkpoint")
    )
    sealed = (stack.home / "datasets" / "lipids" / "cohort.csv.c4gh").read_bytes()
    assert b"1,11,148" not in sealed
