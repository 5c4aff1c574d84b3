# SPDX-License-Identifier: BSD-3-Clause
"""The commands of the data owner's page run, in their order, against the real stack."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from support.stack import REPOSITORY, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def commands(page: Path) -> list[str]:
    """Return the lines that a page tells its reader to type."""
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_the_data_owners_page_runs_from_top_to_bottom(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(REPOSITORY / ".venv")
    (tmp_path / ".sealroom").symlink_to(stack.home)
    typed = commands(REPOSITORY / "docs" / "howto" / "data-owner.md")
    assert len(typed) >= 9
    done = subprocess.run(
        ["bash", "-ex", "-c", "\n".join(typed)],
        cwd=tmp_path,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert (tmp_path / "sealed" / "my-cohort" / "dataset.json").is_file()
    assert b"1,54" not in (tmp_path / "sealed" / "my-cohort" / "cohort.csv.c4gh").read_bytes()
