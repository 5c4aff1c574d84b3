# SPDX-License-Identifier: BSD-3-Clause
"""What the documents tell people to type exists, and CI runs what CONTRIBUTING promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (REPOSITORY / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"(?:`|\$ )make ([a-z][a-z0-9-]*)", page.read_text()))
    assert named <= make_targets(), named - make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_ci_runs_every_command_of_contributing() -> None:
    promised = set(re.findall(r"^\| `make ([a-z-]+)`", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.M))
    assert promised >= {"up", "lint", "test", "bench", "docs", "down"}
    run = (REPOSITORY / ".ci" / "run").read_text()
    missing = {target for target in promised if not re.search(rf"\bmake [^\n]*\b{target}\b", run)}
    assert not missing


def test_the_readme_fits_on_one_screen_and_shows_the_running_thing() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    assert len(readme.splitlines()) <= 60
    assert "make up" in readme
    assert "make test" in readme
    assert re.search(r"!\[[^\]]+\]\(docs/[^)]+\.png\)", readme)


def test_no_page_names_a_command_that_does_not_exist() -> None:
    from sealroom.cli import COMMANDS

    for page in PAGES:
        for command in re.findall(r"(?:`|\$ )sealroom ([a-z]+)", page.read_text()):
            assert command in COMMANDS, (page.name, command)


def test_every_test_that_the_regulations_page_names_exists() -> None:
    tests = Path(__file__).resolve().parents[1]
    page = (REPOSITORY / "docs" / "explanation" / "ehds.md").read_text()
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", page)
    assert len(named) > 20
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"^(?:async )?def {name}\(", (tests / path).read_text(), re.M)
    ]
    assert not missing
