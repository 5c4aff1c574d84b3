# SPDX-License-Identifier: BSD-3-Clause
"""Each example of the page on reading sealed files runs on a sealed dataset and prints what the page says."""

from __future__ import annotations

import contextlib
import gc
import io
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sealroom.datasets.filesystem import SealedFileSystem
from sealroom.datasets.workspace import Workspace
from support.sealed import Sealed
from support.sealed_tree import seal_tree, served

PAGE = Path(__file__).parents[4] / "docs" / "howto" / "read-sealed-files.md"


class Example(NamedTuple):
    heading: str
    code: str
    printed: str | None
    line: int


def examples() -> list[Example]:
    """Return the page's blocks of Python, each with the output that stands below it."""
    text = PAGE.read_text()
    found = []
    for block in re.finditer(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", text, re.DOTALL):
        before = text[: block.start()]
        heading = re.findall(r"(?m)^#+ (.*)$", before)[-1]
        found.append(Example(heading, block[1], block[2], before.count("\n") + 1))
    return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    from support.cohort import make_cohort

    root = tmp_path_factory.mktemp("cohort")
    return seal_tree(make_cohort(root / "plain"), root / "sealed", "cohort")


@pytest.fixture
def server(cohort: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A notebook server with the dataset unlocked; yields where results are saved."""
    with served(cohort, Workspace(tmp_path / "results")) as (_, run):
        monkeypatch.setenv("SEALROOM_RUN", str(run))
        monkeypatch.chdir(tmp_path)
        SealedFileSystem.clear_instance_cache()
        yield tmp_path / "results"
        SealedFileSystem.clear_instance_cache()


def test_page_has_an_example_for_every_library() -> None:
    libraries = ("pandas", "Arrow", "polars", "NumPy", "HDF5", "zarr", "xarray", "pysam", "torch")
    assert set(libraries) <= {example.heading for example in examples()}
    assert sum(example.printed is None for example in examples()) == 1


@pytest.mark.parametrize("example", examples(), ids=lambda example: f"{example.heading}-{example.line}")
def test_example_runs_and_prints_what_the_page_says(example: Example, server: Path, tmp_path: Path) -> None:
    printed = io.StringIO()
    # Lines of a traceback are those of the page.
    code = compile("\n" * example.line + example.code, str(PAGE), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, {"__name__": "example"})
    if example.printed is not None:
        assert printed.getvalue() == example.printed
    assert [path.name for path in tmp_path.iterdir() if path != server] == []


def test_arrow_file_is_read_without_a_copy(server: Path) -> None:
    """Arrow's own allocations stay far below the table's size."""
    import sealroom

    pa: Any = import_module("pyarrow")
    gc.collect()
    with sealroom.open("cohort/signal.arrow") as file:
        before = pa.total_allocated_bytes()
        table = pa.ipc.open_file(file).read_all()
        assert pa.total_allocated_bytes() - before < table.nbytes / 10
    assert table.nbytes == 4_000_000


def test_chunks_of_zarr_travel_together(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zarr
    from sealroom.datasets.agent import AgentClient

    array: Any = zarr.open_array("sealed://cohort/scan.zarr", mode="r")
    requests: list[int] = []
    read_ranges: Any = AgentClient.read_ranges

    def counted(client: AgentClient, dataset: str, ranges: Any) -> Any:
        requests.append(len(ranges))
        return read_ranges(client, dataset, ranges)

    monkeypatch.setattr(AgentClient, "read_ranges", counted)
    assert (array[:, 0, 0] == range(64)).all()
    assert array[:].shape == (64, 128, 128)
    assert sum(requests) == 8 + 32
    # What zarr begins at once (ten, its `async.concurrency`) is one request; how many of the later
    # chunks meet again depends on which thread has decompressed first.
    assert requests[:2] == [8, 10]
    assert len(requests) <= sum(requests) / 2


def test_zarr_and_xarray_take_a_mapping_too(server: Path) -> None:
    import fsspec
    import xarray
    import zarr

    fs = fsspec.filesystem("sealed")
    array: Any = zarr.open_array(fs.get_mapper("cohort/scan.zarr"), mode="r")
    assert array[5, 0, 0] == 5
    monitor = xarray.open_zarr(fs.get_mapper("sealed://cohort/monitor.zarr"), consolidated=False)
    assert monitor.heart_rate.shape == (50, 24)


def test_zarr_takes_no_refusal_for_a_gap(
    server: Path, cohort: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may not be read is an error, not an array of zeros."""
    import zarr
    from sealroom.errors import AccessDeniedError

    with served(cohort) as (backend, run):
        monkeypatch.setenv("SEALROOM_RUN", str(run))
        array: Any = zarr.open_array("sealed://cohort/scan.zarr", mode="r")
        backend.vault.drop("cohort", "The owner withdrew your access.")
        with pytest.raises(AccessDeniedError, match="withdrew"):
            array[0]
        with pytest.raises(AccessDeniedError, match="withdrew"):
            zarr.open_array("sealed://cohort/scan.zarr", mode="r")


def test_xarray_saves_to_the_workspace_and_reads_back(server: Path) -> None:
    import xarray

    monitor = xarray.open_zarr("sealed://cohort/monitor.zarr", consolidated=False)
    daily = monitor.mean("hour")
    daily.to_zarr("sealed://workspace/daily.zarr", consolidated=False)
    again = xarray.open_zarr("sealed://workspace/daily.zarr", consolidated=False)
    assert again.equals(daily.load())
    assert {path.suffix for path in server.rglob("*") if path.is_file()} == {".c4gh"}
