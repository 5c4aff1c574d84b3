# SPDX-License-Identifier: BSD-3-Clause
"""What a notebook calls, against a running agent."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pytest
import sealroom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom.datasets import api
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.file import SealedFile
from sealroom.datasets.messages import (
    DatasetInfo,
    DeviceInfo,
    EnvironmentInfo,
    ErrorInfo,
    ReasonInfo,
    ServerStatus,
    TermInfo,
)
from sealroom.datasets.show import (
    dataset_html,
    datasets_html,
    datasets_text,
    size_text,
    status_html,
    status_text,
)
from sealroom.errors import AccessDeniedError, ConfigurationError, NetworkError, StorageError
from support.sealed import PLAIN, Backend

ECG = PLAIN["ecg.bin"]


@pytest.fixture
def unlocked(agent: AgentServer) -> api.Dataset:
    return sealroom.unlock("heartbeats", show=False)


@pytest.fixture
def file(unlocked: api.Dataset) -> Iterator[SealedFile]:
    with sealroom.open("heartbeats/ecg.bin") as opened:
        yield opened


# --- the package ---


def loaded_by(code: str, *modules: str) -> str:
    code += f"; import sys; print([m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_light() -> None:
    assert loaded_by("import sealroom", "pydantic", "cryptography", "numpy", "torch") == "[]"


def test_reading_needs_neither_numpy_nor_torch() -> None:
    assert loaded_by("import sealroom; sealroom.open", "numpy", "torch", "httpx") == "[]"


def test_exports_are_listed_and_others_are_not_there() -> None:
    assert {"unlock", "datasets", "open", "status", "record", "errors", "__version__"} <= set(dir(sealroom))
    assert sealroom.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sealroom.nothing  # noqa: B018


def test_datasets_is_a_package_and_a_function(agent: AgentServer) -> None:
    import sealroom.datasets.manifest

    assert sealroom.datasets.manifest.MANIFEST_NAME == "dataset.json"
    assert [info.id for info in sealroom.datasets()] == ["heartbeats"]  # type: ignore[operator]


# --- unlock ---


def test_only_purpose_is_used_and_shown(agent: AgentServer, backend: Backend, capsys: Any) -> None:
    dataset = sealroom.unlock("heartbeats")
    assert backend.asked == [("heartbeats", "DUO:0000042")]
    shown = capsys.readouterr().out
    assert "general research use (DUO:0000042), the only one that your grant allows" in shown
    assert "Heart Centre" in repr(dataset)
    assert dataset.id == "heartbeats"
    assert dataset.title == "Heartbeats of record 208"


def test_given_purpose_is_sent(agent: AgentServer, backend: Backend) -> None:
    sealroom.unlock("heartbeats", purpose="DUO:0000006", show=False)
    assert backend.asked == [("heartbeats", "DUO:0000006")]


def test_several_purposes_are_listed(agent: AgentServer, backend: Backend) -> None:
    backend.purposes.append(TermInfo(code="DUO:0000006", label="health research"))
    with pytest.raises(ConfigurationError) as caught:
        sealroom.unlock("heartbeats")
    assert "general research use (DUO:0000042); health research (DUO:0000006)" in caught.value.message
    assert 'purpose="DUO:0000042"' in caught.value.advice
    assert backend.asked == []


def test_without_a_grant_the_broker_says_why(agent: AgentServer, backend: Backend) -> None:
    backend.purposes.clear()
    backend.refusal = AccessDeniedError("Not granted.", reasons=(("grant.none", "You have no grant."),))
    with pytest.raises(AccessDeniedError) as caught:
        sealroom.unlock("heartbeats")
    assert caught.value.reasons == (("grant.none", "You have no grant."),)


def test_unknown_dataset_is_refused(agent: AgentServer) -> None:
    with pytest.raises(AccessDeniedError, match="no dataset 'nothing'") as caught:
        sealroom.unlock("nothing")
    assert "sealroom.datasets()" in caught.value.advice


@pytest.mark.parametrize(
    "use", [sealroom.status, api.list_datasets, lambda: sealroom.unlock("a"), lambda: sealroom.open("a/b")]
)
def test_outside_of_a_server_everything_says_so(
    use: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALROOM_RUN", raising=False)
    with pytest.raises(NetworkError, match="SEALROOM_RUN is not set"):
        use()


# --- display ---


class EntryPoint:
    name = "fake"

    def __init__(self, show: Callable[[object], None]) -> None:
        self._show = show

    def load(self) -> Callable[[object], None]:
        return self._show


def test_widget_is_used_where_there_is_one(unlocked: api.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr(api, "entry_points", lambda group: [EntryPoint(shown.append)])
    unlocked._ipython_display_()
    assert shown == [unlocked]


def test_without_a_widget_html_is_shown(unlocked: api.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "entry_points", lambda group: [])
    with pytest.raises(NotImplementedError):
        unlocked._ipython_display_()
    assert "<strong>Heartbeats of record 208</strong>" in unlocked._repr_html_()


def test_broken_widget_does_not_hide_the_dataset(
    unlocked: api.Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "entry_points", lambda group: [EntryPoint(broken)])
    with pytest.raises(NotImplementedError):
        unlocked._ipython_display_()
    assert "failed" in caplog.text


def test_status_and_record_read_well(unlocked: api.Dataset) -> None:
    status = sealroom.status()
    assert status.tier == "simulated"
    assert "Simulated TEE" in repr(status)
    with pytest.raises(AttributeError):
        status.nothing  # noqa: B018
    record = sealroom.record("heartbeats")
    assert record == unlocked.record()
    assert record["dataset"] == "heartbeats"
    assert record["person"]["name"] == "Rosalind"
    assert json.loads(json.dumps(record)) == record
    text = repr(record)
    for part in (
        "Rosalind",
        "Heart Centre",
        "Simulated TEE",
        f"sha256:{record['manifest_sha256']}",
        "7, leaf",
    ):
        assert part in text
        assert part in record._repr_html_()


INFO = DatasetInfo(
    id="x",
    title="<script>alert(1)</script>",
    owner="<b>",
    size=1_500_000,
    files=2,
    state="not_granted",
    reasons=(ReasonInfo(code="grant.none", sentence="You have no grant <yet>."),),
    ask="data@heart.example",
)


def test_html_escapes_what_others_wrote() -> None:
    for html in (dataset_html(INFO, ()), datasets_html([INFO])):
        assert "<script>" not in html
        assert "<b>" not in html
        assert "grant &lt;yet&gt;" in html
        assert "not granted" in html


def test_list_of_datasets_reads_well() -> None:
    text = datasets_text([INFO])
    assert "1.5 MB, not granted You have no grant <yet>." in text
    assert datasets_text([]) == "No datasets are on offer."
    assert "No datasets" in datasets_html([])
    listed = api.DatasetsList([INFO])
    assert repr(listed) == text
    assert "<table>" in listed._repr_html_()


@pytest.mark.parametrize("tier", ["affirming", "simulated", "warning", "contraindicated", "none"])
def test_only_an_affirming_tier_is_green(tier: str) -> None:
    html = status_html(ServerStatus(tier=tier, title=tier))
    assert ("success-color" in html) == (tier == "affirming")
    assert ("error-color" in html) == (tier in ("contraindicated", "none"))


def test_status_tells_environment_devices_and_problem() -> None:
    status = ServerStatus(
        tier="none",
        title="Not proven",
        devices=(DeviceInfo(device="cpu0", tier="none", title="No proof"),),
        environment=EnvironmentInfo(name="simulated-cpu", title="Simulated TEE, CPU", version="1"),
        error=ErrorInfo(message="The broker does not answer.", advice="Wait."),
    )
    text = status_text(status)
    for part in ("cpu0", "No proof", "Simulated TEE, CPU 1", "The broker does not answer. Wait."):
        assert part in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000_000_000_000, "2500.0 TB")]
)
def test_sizes_read_well(size: int, text: str) -> None:
    assert size_text(size) == text


# --- files ---


def test_whole_file_reads(unlocked: api.Dataset) -> None:
    for name, plain in PLAIN.items():
        with unlocked.open(name) as file:
            assert file.read() == plain
        with sealroom.open(f"sealed://heartbeats/{name}") as file:
            assert file.readall() == plain


@pytest.mark.parametrize("path", ["", "heartbeats", "/ecg.bin", "heartbeats/"])
def test_path_that_names_no_file_is_refused(unlocked: api.Dataset, path: str) -> None:
    with pytest.raises(ConfigurationError, match="does not name a file"):
        sealroom.open(path)


def test_unknown_file_is_refused(unlocked: api.Dataset) -> None:
    uses: tuple[Callable[[], object], ...] = (
        lambda: sealroom.open("heartbeats/nothing"),
        lambda: unlocked.open("nothing"),
    )
    for use in uses:
        with pytest.raises(StorageError, match="no file") as caught:
            use()
        assert "labels/beats.csv" in caught.value.advice


def test_other_modes_are_refused() -> None:
    for mode in ("wb", "r", "r+b"):
        with pytest.raises(ValueError, match="'rb'"):
            sealroom.open("heartbeats/ecg.bin", mode)


def test_locked_dataset_is_not_opened(agent: AgentServer) -> None:
    with pytest.raises(AccessDeniedError, match="locked"):
        sealroom.open("heartbeats/ecg.bin")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 400_000)),
        st.tuples(st.just("seek"), st.integers(0, len(ECG) + 10)),
        st.tuples(st.just("peek"), st.just(0)),
        st.tuples(st.just("readinto"), st.integers(0, 300_000)),
    ),
    max_size=8,
)


@given(steps=steps)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_file_behaves_like_bytes_in_memory(file: SealedFile, steps: list[tuple[str, int]]) -> None:
    plain = io.BytesIO(ECG)
    file.seek(0)
    for step, number in steps:
        if step == "read":
            assert file.read(number) == plain.read(number)
        elif step == "seek":
            assert file.seek(number) == plain.seek(number)
        elif step == "peek":
            rest = plain.getvalue()[plain.tell() :]
            assert file.peek(10)[:10] == rest[: len(file.peek(10))][:10]
        else:
            ours, theirs = bytearray(number), bytearray(number)
            assert file.readinto(ours) == plain.readinto(theirs)
            assert ours == theirs
        assert file.tell() == plain.tell()


def test_seeking_from_everywhere(file: SealedFile) -> None:
    assert file.seek(-10, io.SEEK_END) == len(ECG) - 10
    assert file.read() == ECG[-10:]
    assert file.seek(-5, io.SEEK_CUR) == len(ECG) - 5
    assert file.read(100) == ECG[-5:]
    assert file.read(1) == b""
    with pytest.raises(ValueError, match="negative"):
        file.seek(-1)


def test_file_tells_what_it_can(file: SealedFile) -> None:
    assert file.readable()
    assert file.seekable()
    assert not file.writable()
    assert (file.mode, file.name, file.size) == ("rb", "heartbeats/ecg.bin", len(ECG))
    assert "heartbeats/ecg.bin" in repr(file)
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")


def test_closed_file_reads_nothing(unlocked: api.Dataset) -> None:
    file = sealroom.open("heartbeats/ecg.bin")
    file.close()
    for use in (file.read, file.tell, lambda: file.pread(0, 1), lambda: file.seek(0), file.peek):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_text_wrapper_and_csv_work(unlocked: api.Dataset) -> None:
    with sealroom.open("heartbeats/labels/beats.csv") as file, io.TextIOWrapper(file) as text:
        rows = list(csv.reader(text))
    assert rows[0] == ["sample", "beat"]
    assert len(rows) == 51


def test_lines_and_buffered_reader_work(unlocked: api.Dataset) -> None:
    with sealroom.open("heartbeats/labels/beats.csv") as file:
        assert file.readline() == b"sample,beat\n"
        assert next(iter(file)) == b"1,2\n"
    with sealroom.open("heartbeats/ecg.bin") as file, io.BufferedReader(file, 1 << 20) as buffered:
        assert buffered.read() == ECG


def test_file_pickles_with_its_position(file: SealedFile) -> None:
    file.seek(1000)
    data = pickle.dumps(file)
    assert len(data) < 500
    with pickle.loads(data) as again:
        assert again.read(10) == ECG[1000:1010]


def test_positional_reads_leave_the_position(file: SealedFile) -> None:
    buffer = bytearray(20)
    assert file.pread_into(50, buffer) == 20
    assert buffer == ECG[50:70]
    assert file.pread(len(ECG) - 3, 10) == ECG[-3:]
    assert file.pread(len(ECG) + 3, 10) == b""
    assert file.tell() == 0


def test_withdrawal_ends_reading(file: SealedFile, backend: Backend) -> None:
    file.read(10)
    backend.vault.drop("heartbeats", "The Heart Centre withdrew your access.")
    with pytest.raises(AccessDeniedError, match="withdrew"):
        file.pread(0, 10)
    with pytest.raises(AccessDeniedError, match="withdrew"):
        sealroom.open("heartbeats/ecg.bin")


def test_small_reads_fetch_more_of_what_follows_as_they_go_on(file: SealedFile, backend: Backend) -> None:
    calls: list[int] = []
    backend.on_read = lambda: calls.append(1)
    for _ in range(1000):
        file.read(100)
    assert len(calls) == 2


# --- fsspec ---


@pytest.fixture
def filesystem(unlocked: api.Dataset) -> Any:
    return fsspec.filesystem("sealed")


def test_fsspec_lists_datasets_directories_and_files(filesystem: Any) -> None:
    assert filesystem.ls("", detail=False) == ["heartbeats"]
    assert filesystem.ls("sealed://heartbeats", detail=False) == [
        "heartbeats/ecg.bin", "heartbeats/empty", "heartbeats/exact.bin", "heartbeats/labels",
    ]  # fmt: skip
    assert filesystem.ls("heartbeats/labels", detail=False) == ["heartbeats/labels/beats.csv"]
    assert filesystem.glob("heartbeats/**/*.csv") == ["heartbeats/labels/beats.csv"]
    assert sorted(filesystem.find("heartbeats")) == sorted(f"heartbeats/{name}" for name in PLAIN)


def test_fsspec_knows_files_from_directories(filesystem: Any) -> None:
    assert filesystem.info("heartbeats/ecg.bin") == {
        "name": "heartbeats/ecg.bin", "size": len(ECG), "type": "file",
    }  # fmt: skip
    assert filesystem.isdir("heartbeats")
    assert filesystem.isdir("heartbeats/labels")
    assert filesystem.isfile("heartbeats/labels/beats.csv")
    assert not filesystem.exists("heartbeats/nothing")
    with pytest.raises(FileNotFoundError):
        filesystem.info("heartbeats/nothing")
    with pytest.raises(IsADirectoryError):
        filesystem.open("heartbeats/labels")


def test_fsspec_opens_and_reads_ranges(filesystem: Any) -> None:
    with fsspec.open("sealed://heartbeats/ecg.bin") as file:
        assert file.read() == ECG
    assert filesystem.cat_file("heartbeats/ecg.bin", 10, 20) == ECG[10:20]
    assert filesystem.cat_file("heartbeats/ecg.bin", -10) == ECG[-10:]
    assert filesystem.cat_file("heartbeats/ecg.bin", 20, 10) == b""
    paths = ["heartbeats/ecg.bin", "heartbeats/exact.bin"]
    assert filesystem.cat_ranges(paths, [0, 5], [10, 15]) == [ECG[:10], PLAIN["exact.bin"][5:15]]


def test_fsspec_is_read_only(filesystem: Any) -> None:
    with pytest.raises(NotImplementedError):
        filesystem.open("heartbeats/ecg.bin", "wb")


def test_fsspec_of_a_locked_dataset_is_refused(agent: AgentServer) -> None:
    with pytest.raises(AccessDeniedError):
        fsspec.filesystem("sealed").ls("heartbeats")


def test_pandas_reads_by_url(unlocked: api.Dataset) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv("sealed://heartbeats/labels/beats.csv")
    assert list(frame.columns) == ["sample", "beat"]
    assert len(frame) == 50


def test_numpy_loads(agent: AgentServer) -> None:
    numpy = pytest.importorskip("numpy")
    with contextlib.closing(sealroom.unlock("heartbeats", show=False).open("exact.bin")) as file:
        loaded = numpy.frombuffer(file.read(), numpy.uint8)
    assert bytes(loaded) == PLAIN["exact.bin"]
