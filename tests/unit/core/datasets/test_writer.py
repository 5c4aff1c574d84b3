# SPDX-License-Identifier: BSD-3-Clause
"""What `sealroom.create` writes: sealed, whole or not at all, and readable by whom it was sealed to."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sealroom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom.crypt4gh import SEGMENT, SecretKey, decrypt_stream, write_public_key, write_secret_key
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.workspace import Workspace
from sealroom.datasets.writer import SealedWriter
from sealroom.errors import ConfigurationError, Error, NetworkError, StorageError
from support.sealed import Backend, noise

CRYPT4GH = Path(sys.executable).parent / "crypt4gh"
PLAIN = noise(40 * SEGMENT + 123, 3)
MARK = b"patient 4711 has atrial fibrillation"


@pytest.fixture
def workspace(
    backend: Backend, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workspace]:
    """The workspace of an agent that `sealroom` finds."""
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    made = Workspace(tmp_path / "workspace")
    with AgentServer(run / "agent.sock", backend, workspace=made):
        yield made


def read(name: str) -> bytes:
    with sealroom.open(f"workspace/{name}") as file:
        return file.read()


def files_of(workspace: Workspace) -> list[str]:
    found = workspace.directory
    return sorted(str(p.relative_to(found)) for p in found.rglob("*") if p.is_file())


# -- whole files


def test_bytes_come_back_and_none_of_them_is_clear_on_the_disk(workspace: Workspace) -> None:
    with sealroom.create("workspace/out.bin") as out:
        out.write(MARK + PLAIN)
    assert read("out.bin") == MARK + PLAIN
    assert files_of(workspace) == ["out.bin.c4gh"]
    sealed = (workspace.directory / "out.bin.c4gh").read_bytes()
    assert sealed.startswith(b"crypt4gh")
    assert MARK not in sealed
    assert (workspace.directory / "out.bin.c4gh").stat().st_mode & 0o077 == 0


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(
        st.sampled_from([0, 1, 100, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 33 * SEGMENT]), max_size=8
    )
)
def test_any_sizes_of_writes_give_the_same_file(workspace: Workspace, cuts: list[int]) -> None:
    expected = b""
    with SealedWriter(sealroom.datasets.api.default_client(), "any.bin", overwrite=True) as out:
        for number, size in enumerate(cuts):
            part = noise(size, number)
            assert out.write(part) == size
            expected += part
        assert out.tell() == len(expected)
    assert read("any.bin") == expected


def test_an_empty_result_is_one(workspace: Workspace) -> None:
    sealroom.create("workspace/empty").close()
    assert read("empty") == b""


def test_text_is_written_with_its_encoding_and_ends_of_lines(workspace: Workspace) -> None:
    with sealroom.create("sealed://workspace/notes/ä.txt", "w", encoding="latin-1", newline="\r\n") as out:
        out.write("Größe\n")
        print("zwei", file=out)
    assert read("notes/ä.txt") == "Größe\r\nzwei\r\n".encode("latin-1")


def test_a_recipient_opens_it_with_the_crypt4gh_command(workspace: Workspace, tmp_path: Path) -> None:
    me = SecretKey.generate()
    (tmp_path / "me.pub").write_bytes(write_public_key(me.public))
    (tmp_path / "me.sec").write_bytes(write_secret_key(me))
    (tmp_path / "me.sec").chmod(0o600)
    with sealroom.create("workspace/out.bin", recipients=[tmp_path / "me.pub"]) as out:
        out.write(PLAIN)
    assert read("out.bin") == PLAIN
    with (workspace.directory / "out.bin.c4gh").open("rb") as sealed:
        done = subprocess.run(
            [CRYPT4GH, "decrypt", "--sk", tmp_path / "me.sec"],
            stdin=sealed, capture_output=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == PLAIN


def test_without_recipients_nobody_else_opens_it(workspace: Workspace) -> None:
    with sealroom.create("workspace/out.bin") as out:
        out.write(PLAIN)
    sealed = io.BytesIO((workspace.directory / "out.bin.c4gh").read_bytes())
    with pytest.raises(Error, match="does not open"):
        decrypt_stream(sealed, io.BytesIO(), SecretKey.generate())


# -- whole or not at all


def test_an_exception_in_the_block_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), sealroom.create("workspace/out.bin") as out:
        out.write(PLAIN[: 1 // 0])
    assert files_of(workspace) == []


def test_an_exception_in_the_block_of_a_text_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), sealroom.create("workspace/out.txt", "w") as out:
        print("half a sen", file=out, flush=bool(1 // 0))
    assert files_of(workspace) == []


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_a_writer_that_is_thrown_away_unclosed_leaves_nothing(workspace: Workspace, mode: str) -> None:
    begun: list[Any] = [sealroom.create("workspace/out.bin", mode)]
    begun[0].write(b"half" if mode == "wb" else "half")
    with pytest.warns(ResourceWarning, match="not closed"):
        begun.clear()
    assert files_of(workspace) == []


def test_no_name_before_the_end(workspace: Workspace) -> None:
    out = sealroom.create("workspace/out.bin")
    out.write(PLAIN)
    assert not (workspace.directory / "out.bin.c4gh").exists()
    assert all(name.startswith(".") for name in files_of(workspace))
    out.close()
    out.close()
    assert files_of(workspace) == ["out.bin.c4gh"]


def test_a_full_disk_is_said_and_leaves_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def full(fd: int, data: Any) -> int:
        if len(data) > 1 << 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data)

    out = sealroom.create("workspace/out.bin")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="no space is left") as caught:
        out.write(PLAIN)
    assert "Free some space" in caught.value.advice
    monkeypatch.undo()
    with pytest.raises(StorageError, match="given up"):
        out.write(b"more")
    with pytest.raises(StorageError, match="given up"):
        out.tell()
    out.close()
    assert files_of(workspace) == []


def test_a_disk_that_is_full_at_the_end_leaves_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = sealroom.create("workspace/out.bin")
    out.write(b"small")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="no space is left"):
        out.close()
    assert files_of(workspace) == []


def test_a_server_that_is_gone_leaves_nothing(
    backend: Backend, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    workspace = Workspace(tmp_path / "workspace")
    with AgentServer(run / "agent.sock", backend, workspace=workspace):
        out = sealroom.create("workspace/out.bin")
        out.write(PLAIN)
    with pytest.raises(NetworkError, match="does not answer"):
        out.close()
    assert files_of(workspace) == []


def test_a_killed_writer_leaves_nothing_that_has_a_name(workspace: Workspace) -> None:
    child = multiprocessing.get_context("spawn").Process(target=write_and_die)
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert all(name.startswith(".") for name in files_of(workspace))
    assert workspace.sweep() == 1
    assert files_of(workspace) == []


def write_and_die() -> None:
    out = sealroom.create("workspace/out.bin")
    out.write(PLAIN)
    os._exit(9)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_file_alone(workspace: Workspace) -> None:
    out = sealroom.create("workspace/out.bin")
    out.write(PLAIN)
    child = multiprocessing.get_context("fork").Process(target=meddle, args=(out,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    out.write(b"end")
    out.close()
    assert read("out.bin") == PLAIN + b"end"


def meddle(out: SealedWriter) -> None:
    with pytest.raises(StorageError, match="another process"):
        out.write(b"from the child")
    out.close()


# -- names


def test_a_result_is_not_overwritten_unless_it_is_said(workspace: Workspace) -> None:
    with sealroom.create("workspace/out.bin") as out:
        out.write(b"first")
    with pytest.raises(StorageError, match="nothing was overwritten"):
        sealroom.create("workspace/out.bin")
    with sealroom.create("workspace/out.bin", overwrite=True) as out:
        out.write(b"second")
    assert read("out.bin") == b"second"
    assert files_of(workspace) == ["out.bin.c4gh"]


def test_of_two_writers_of_one_name_the_first_to_end_wins(workspace: Workspace) -> None:
    one, two = sealroom.create("workspace/out.bin"), sealroom.create("workspace/out.bin")
    one.write(b"one")
    two.write(b"two")
    two.close()
    with pytest.raises(StorageError, match="nothing was overwritten"):
        one.close()
    assert read("out.bin") == b"two"
    assert files_of(workspace) == ["out.bin.c4gh"]


@pytest.mark.parametrize(
    "path", ["out.bin", "heartbeats/out.bin", "workspace", "workspace/", "workspace/../x", "/workspace/x", ""]
)
def test_a_path_outside_of_the_workspace_is_refused(workspace: Workspace, path: str) -> None:
    with pytest.raises(ConfigurationError):
        sealroom.create(path)


@pytest.mark.parametrize("mode", ["rb", "r", "ab", "w+b", "wx", ""])
def test_another_mode_is_a_mistake(mode: str) -> None:
    with pytest.raises(ValueError, match="mode 'wb' or 'w'"):
        sealroom.create("workspace/x", mode)


def test_contradictions_are_mistakes() -> None:
    with pytest.raises(ValueError, match="never overwrites"):
        sealroom.create("workspace/x", "xb", overwrite=True)
    with pytest.raises(ValueError, match="no encoding"):
        sealroom.create("workspace/x", "wb", encoding="utf-8")


def test_a_recipient_that_is_no_key_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "no.pub").write_text("not a key")
    for recipient, said in ((tmp_path / "no.pub", "cannot be used"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(ConfigurationError, match=said):
            sealroom.create("workspace/x", recipients=[recipient])
    assert files_of(workspace) == []


def test_outside_of_a_notebook_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALROOM_RUN", raising=False)
    with pytest.raises(NetworkError, match="does not run in a Sealroom notebook server"):
        sealroom.create("workspace/x")


# -- as a file object


def test_it_is_a_file_that_only_goes_forward(workspace: Workspace) -> None:
    with sealroom.create("workspace/x") as out:
        assert isinstance(out, SealedWriter)
        assert (out.writable(), out.readable(), out.seekable()) == (True, False, False)
        for act in (lambda: out.seek(0), lambda: out.read(1), out.fileno, lambda: out.truncate(0)):
            with pytest.raises(io.UnsupportedOperation):
                act()
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(out)
        assert repr(out) == "<SealedWriter of workspace/x, 0 bytes>"
        assert out.name == "workspace/x"
    with pytest.raises(ValueError, match="closed"):
        out.write(b"late")


def test_threads_write_whole_records(workspace: Workspace) -> None:
    record = 70_001
    with sealroom.create("workspace/records") as out:
        threads = [
            threading.Thread(target=lambda n=n: [out.write(bytes([n]) * record) for _ in range(5)])
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = read("records")
    found = [data[i : i + record] for i in range(0, len(data), record)]
    assert sorted(part[0] for part in found) == sorted(list(range(8)) * 5)
    assert all(part == bytes([part[0]]) * record for part in found)


# -- the libraries that people save with


def test_json(workspace: Workspace) -> None:
    with sealroom.create("workspace/metrics.json", "w") as out:
        json.dump({"auc": 0.91}, out)
    assert json.loads(read("metrics.json")) == {"auc": 0.91}


def test_numpy_save_and_savez(workspace: Workspace) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(200_000, dtype="f4").reshape(400, 500)
    with sealroom.create("workspace/a.npy") as out:
        np.save(out, array.T)
    with sealroom.create("workspace/a.npz") as out:
        np.savez_compressed(out, array=array)
    assert (np.load(io.BytesIO(read("a.npy"))) == array.T).all()
    with sealroom.open("workspace/a.npz") as file:
        assert (np.load(file)["array"] == array).all()


def test_torch_save(workspace: Workspace) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(300, 200)
    with sealroom.create("workspace/model.pt") as out:
        torch.save(model.state_dict(), out)
    with sealroom.open("workspace/model.pt") as file:
        loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded["weight"], model.weight)


def test_pandas_and_arrow_through_a_file(workspace: Workspace) -> None:
    pd = pytest.importorskip("pandas")
    pq = pytest.importorskip("pyarrow.parquet")
    frame = pd.DataFrame({"age": range(1000), "name": [f"n{i}" for i in range(1000)]})
    with sealroom.create("workspace/out.parquet") as out:
        frame.to_parquet(out)
    with sealroom.create("workspace/out.csv", "w") as out:
        frame.to_csv(out, index=False)
    with sealroom.create("workspace/table.parquet") as out:
        pq.write_table(pq.read_table(io.BytesIO(read("out.parquet"))), out)
    with sealroom.open("workspace/table.parquet") as file:
        assert pd.read_parquet(file).equals(frame)
    with sealroom.open("workspace/out.csv") as file:
        assert pd.read_csv(file).equals(frame)
