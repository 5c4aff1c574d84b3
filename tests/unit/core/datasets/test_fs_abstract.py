# SPDX-License-Identifier: BSD-3-Clause
"""fsspec's own test suite for file systems.

Reading: `AbstractGetTests` runs whole against a sealed dataset, with plain copies allowed. What the suite
makes on the file system itself is sealed before, because a dataset is not written to.

Writing: the other suites copy into, and within, the file system. They run against the workspace, the one
place that takes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import fsspec.tests.abstract as abstract
import pytest
from sealroom.datasets.filesystem import SealedFileSystem
from sealroom.datasets.workspace import Workspace
from support.sealed import Sealed
from support.sealed_tree import seal_files, served

BULK = ("file1", "file2", "subdir/subfile1", "subdir/subfile2", "subdir/nesteddir/nestedfile")
GLOBBED = (
    "file1", "file2", "subdir0/subfile1", "subdir0/subfile2", "subdir0/nesteddir/nestedfile",
    "subdir1/subfile1", "subdir1/subfile2", "subdir1/nesteddir/nestedfile",
)  # fmt: skip
PREFIXED = ("subdir.txt", "subdir/subfile.txt")
HASHED = {f"{md5(str(i).encode()).hexdigest()}.txt": str(i).encode() for i in range(10)}

FILES = {
    **{f"bulk/source/{name}": b"" for name in BULK},
    **{f"globbed/source/{name}": b"" for name in GLOBBED},
    **{f"prefixed/source/{name}": b"" for name in PREFIXED},
    **{f"hashed/source/{name}": data for name, data in HASHED.items()},
    "src/file": b"",
}


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_files(FILES, tmp_path_factory.mktemp("abstract"), "suite")


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """The suite's scenarios as parts of one sealed dataset."""

    @pytest.fixture
    def fs(self, scenarios: Sealed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
        with served(scenarios) as (_, run):
            monkeypatch.setenv("SEALROOM_RUN", str(run))
            made = SealedFileSystem(allow_plain_copies=True, skip_instance_cache=True)
            # What the suite makes by itself was sealed before.
            monkeypatch.setattr(made, "mkdir", lambda path: None)
            monkeypatch.setattr(made, "touch", lambda path: made.info(path))
            yield made

    @pytest.fixture
    def fs_path(self) -> str:
        return "suite"

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        return str(tmp_path)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self) -> str:
        return "suite/bulk/source"

    @pytest.fixture
    def fs_glob_edge_cases_files(self) -> str:
        return "suite/globbed/source"

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self) -> str:
        return "suite/prefixed/source"

    @pytest.fixture
    def fs_10_files_with_hashed_names(self) -> str:
        return "suite/hashed/source"


class TestGet(Fixtures, abstract.AbstractGetTests):  # type: ignore[misc]
    """Copies out of a sealed dataset."""


class Workspaces(abstract.AbstractFixtures):  # type: ignore[misc]
    """The suite makes its files in an empty workspace."""

    @pytest.fixture
    def fs(self, scenarios: Sealed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
        with served(scenarios, Workspace(tmp_path / "results")) as (_, run):
            monkeypatch.setenv("SEALROOM_RUN", str(run))
            yield SealedFileSystem(allow_plain_copies=True, skip_instance_cache=True)

    @pytest.fixture
    def fs_path(self) -> str:
        return "workspace"

    @pytest.fixture
    def local_path(self, tmp_path: Path) -> str:
        return str(tmp_path / "local")

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestOpenInWorkspace(Workspaces, abstract.AbstractOpenTests):  # type: ignore[misc]
    """Exclusive creation."""


class TestPipeIntoWorkspace(Workspaces, abstract.AbstractPipeTests):  # type: ignore[misc]
    """Bytes into results."""


class TestPutIntoWorkspace(Workspaces, abstract.AbstractPutTests):  # type: ignore[misc]
    """Copies of local files."""


class TestCopyInWorkspace(Workspaces, abstract.AbstractCopyTests):  # type: ignore[misc]
    """Copies of results."""


class TestGetFromWorkspace(Workspaces, abstract.AbstractGetTests):  # type: ignore[misc]
    """Copies out of the workspace."""


def test_scenarios_are_those_of_the_suite(tmp_path: Path) -> None:
    """Should a later fsspec make other files, the tests above would test something else."""
    made = Fixtures()
    local = fsspec_local()
    for scenario, name in (
        ("_bulk_operations_scenario_0", "bulk"),
        ("_glob_edge_cases_files", "globbed"),
        ("_dir_and_file_with_same_name_prefix", "prefixed"),
        ("_10_files_with_hashed_names", "hashed"),
    ):
        root = getattr(made, scenario)(local, os.path.join, str(tmp_path / name))
        found = {
            f"{name}/source/{path.relative_to(root)}": path.read_bytes()
            for path in Path(root).rglob("*")
            if path.is_file()
        }
        assert found == {path: data for path, data in FILES.items() if path.startswith(f"{name}/")}


def fsspec_local() -> Any:
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem(auto_mkdir=True)
