# SPDX-License-Identifier: BSD-3-Clause
"""Results in the workspace: who may read them back, and what is refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sealroom
from sealroom.crypt4gh import CIPHER_SEGMENT, SEGMENT, PublicKey, SecretKey
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.workspace import Workspace
from sealroom.datasets.writer import SealedWriter
from sealroom.errors import (
    AccessDeniedError,
    Error,
    FormatError,
    IntegrityError,
    ProtocolError,
    StorageError,
)
from support.sealed import Backend, noise

PLAIN = noise(3 * SEGMENT + 500, 7)


class Place:
    """A workspace behind a running agent."""

    def __init__(self, agent: AgentServer, workspace: Workspace) -> None:
        self.agent, self.workspace = agent, workspace
        self.client = AgentClient(agent.path)
        self.why = ""

    def save(self, name: str = "out.bin", data: bytes = PLAIN, *, overwrite: bool = False) -> Path:
        with SealedWriter(self.client, name, overwrite=overwrite) as out:
            out.write(data)
        return self.sealed(name)

    def sealed(self, name: str = "out.bin") -> Path:
        return self.workspace.directory / f"{name}.c4gh"

    def read(self, name: str = "out.bin") -> bytes:
        with sealroom.open(f"workspace/{name}") as file:
            return file.read()


@pytest.fixture(params=[True, False], ids=["lists-kept", "lists-made-again"])
def place(
    backend: Backend,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Place]:
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    made: list[Place] = []
    workspace = Workspace(
        tmp_path / "workspace", bound=lambda: made[0].why, records_limit=1 << 20 if request.param else 0
    )
    with AgentServer(run / "agent.sock", backend, workspace=workspace) as agent:
        made.append(Place(agent, workspace))
        yield made[0]
        made[0].client.close()


def test_what_was_saved_is_read_back(place: Place) -> None:
    place.save()
    assert place.read() == PLAIN
    with sealroom.open("workspace/out.bin") as file:
        assert file.pread(SEGMENT - 10, 20) == PLAIN[SEGMENT - 10 : SEGMENT + 10]


def test_results_are_listed_by_name(place: Place) -> None:
    place.save("b/model.bin", b"1234")
    place.save("a.csv", b"x,y\n")
    listed = [(file.name, file.size, file.media_type) for file in place.client.files("workspace")]
    assert listed == [("a.csv", 4, "text/csv"), ("b/model.bin", 4, "application/octet-stream")]


def test_a_result_that_was_deleted_is_not_listed(place: Place) -> None:
    place.save().unlink()
    assert place.client.files("workspace") == ()
    with pytest.raises(StorageError, match="no result"):
        place.read()


def test_a_removed_result_is_gone(place: Place) -> None:
    path = place.save()
    place.client.remove("out.bin")
    assert not path.exists()
    with pytest.raises(StorageError, match=r"no result 'out\.bin'"):
        place.client.remove("out.bin")


def test_an_overwritten_result_reads_as_the_new_one(place: Place) -> None:
    place.save()
    assert place.read() == PLAIN
    place.save(data=b"new", overwrite=True)
    assert place.read() == b"new"


def test_the_list_of_segments_does_not_stay_on_the_disk(place: Place) -> None:
    place.save()
    assert [path.name for path in place.workspace.directory.iterdir()] == ["out.bin.c4gh"]


def damaged(place: Place, change: str) -> None:
    path = place.save()
    data = bytearray(path.read_bytes())
    start = len(data) - len(PLAIN) - 4 * 28
    if change == "flipped":
        data[start + CIPHER_SEGMENT + 100] ^= 1
    elif change == "cut":
        del data[-600:]
    elif change == "swapped":
        first = data[start : start + CIPHER_SEGMENT]
        second = data[start + CIPHER_SEGMENT : start + 2 * CIPHER_SEGMENT]
        data[start : start + 2 * CIPHER_SEGMENT] = second + first
    elif change == "longer":
        data += bytes(10)
    elif change == "another header":
        data[30] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("change", ["flipped", "cut", "swapped", "longer", "another header"])
def test_a_result_that_was_changed_on_the_disk_is_refused(place: Place, change: str) -> None:
    damaged(place, change)
    with pytest.raises(IntegrityError, match=r"out\.bin was changed after it was saved") as caught:
        place.read()
    assert "data owner" not in caught.value.diagnostics()


def test_a_result_that_somebody_else_sealed_to_the_workspace_is_refused(place: Place) -> None:
    from io import BytesIO

    from sealroom.crypt4gh import encrypt_stream

    path = place.save()
    forged = BytesIO()
    encrypt_stream(BytesIO(PLAIN), forged, [PublicKey.from_base64(place.client.workspace().key)])
    path.write_bytes(forged.getvalue())
    with pytest.raises(IntegrityError, match="was changed after it was saved"):
        place.read()


def test_a_file_that_was_put_there_is_no_result(place: Place) -> None:
    shutil.copy(place.save(), place.sealed("copy.bin"))
    with pytest.raises(StorageError, match=r"no result 'copy\.bin'"):
        place.read("copy.bin")


def test_nothing_is_read_while_trust_is_lost_and_then_again(place: Place) -> None:
    place.save()
    with sealroom.open("workspace/out.bin") as file:
        assert file.read(10) == PLAIN[:10]
        place.workspace.suspend("The broker is silent.")
        with pytest.raises(AccessDeniedError, match="The broker is silent"):
            file.pread(0, 10)
        with pytest.raises(AccessDeniedError, match="The broker is silent"):
            place.client.files("workspace")
        place.save("more.bin")
        place.workspace.resume()
        assert file.pread(0, 10) == PLAIN[:10]


def test_a_forgotten_key_ends_reading_and_the_next_one_is_another(place: Place) -> None:
    path = place.save()
    before = place.client.workspace().key
    place.workspace.forget()
    with pytest.raises(StorageError, match="no result"):
        place.read()
    assert path.exists()
    assert place.client.workspace().key != before


def test_a_result_that_was_begun_before_the_key_was_forgotten_is_not_kept(place: Place) -> None:
    out = SealedWriter(place.client, "late.bin")
    out.write(b"x")
    place.workspace.forget()
    with pytest.raises(ProtocolError, match="another key"):
        out.close()
    assert list(place.workspace.directory.iterdir()) == []


def test_a_closed_workspace_gives_no_key(place: Place) -> None:
    place.save()
    place.workspace.close("The notebook server was stopped.")
    for ask in (place.client.workspace, lambda: place.client.files("workspace")):
        with pytest.raises(AccessDeniedError, match="was stopped"):
            ask()


def test_no_secret_crosses_the_socket_or_is_in_the_workspace_text(place: Place) -> None:
    place.save()
    secret: SecretKey = place.workspace._secret  # type: ignore[assignment]
    told = place.client.workspace().model_dump_json() + repr(place.workspace)
    assert secret.reveal().hex() not in told
    assert not any(secret.reveal() in path.read_bytes() for path in place.workspace.directory.iterdir())


def test_parts_of_dead_writers_are_swept_and_those_of_living_ones_are_not(place: Place) -> None:
    directory = place.workspace.directory
    out = SealedWriter(place.client, "deep/living.bin")
    out.write(PLAIN)
    for name in (".dead.bin.c4gh.0123.part", ".dead.bin.c4gh.0123.part.segments", ".x.part.segments"):
        (directory / name).write_bytes(b"left")
    (directory / ".mine").write_text("a person's own")
    assert place.workspace.sweep() == 1
    assert [path.name for path in directory.iterdir() if path.is_file()] == [".mine"]
    out.close()
    assert place.read("deep/living.bin") == PLAIN


# -- what a kernel could say that no writer says


def a_part(place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, object]]:
    """Write a part, and return its name and fields, not kept yet."""
    said: list[tuple[str, dict[str, object]]] = []

    def keep(file: str, part: str, entry: dict[str, object], *, overwrite: bool) -> None:
        said.append((part, entry))

    out = SealedWriter(place.client, "out.bin")
    out.write(PLAIN)
    with monkeypatch.context() as patch:
        patch.setattr(place.client, "keep", keep)
        out.close()
    return said[0]


@pytest.mark.parametrize("name", ["../out.bin", "/out.bin", "", "a//b", "a/../b", ".", "x\0y"])
def test_a_name_outside_of_the_workspace_is_refused(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, entry = a_part(place, monkeypatch)
    with pytest.raises((FormatError, ProtocolError)):
        place.client.keep(name, part, entry, overwrite=True)


@pytest.mark.parametrize("part", ["../.x.part", "out.bin", ".x", "a/.x.part", "", ".x.part/../y"])
def test_a_part_outside_of_the_workspace_is_refused(
    place: Place, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, entry = a_part(place, monkeypatch)
    with pytest.raises(ProtocolError, match="no writer gives"):
        place.client.keep("out.bin", part, entry, overwrite=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 1),
        ("header_sha256", "00" * 32),
        ("segments_root", "00" * 32),
        ("cipher_size", 5),
        ("more", 1),
    ],
)
def test_a_part_that_is_not_what_is_said_is_not_kept(
    place: Place, field: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, entry = a_part(place, monkeypatch)
    with pytest.raises(Error):
        place.client.keep("out.bin", part, {**entry, field: value}, overwrite=True)
    assert not place.sealed().exists()


def test_a_part_that_is_a_pipe_does_not_hold_up_the_agent(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, entry = a_part(place, monkeypatch)
    os.mkfifo(place.workspace.directory / ".pipe.part")
    with pytest.raises(StorageError, match="not a file"):
        place.client.keep("out.bin", ".pipe.part", entry, overwrite=True)


def test_an_agent_without_a_workspace_says_so(agent: AgentServer) -> None:
    with pytest.raises(ProtocolError, match="does not know this operation"):
        AgentClient(agent.path).workspace()


def test_recipients_are_refused_where_results_may_not_leave(place: Place) -> None:
    place.why = "Your grant for Heartbeats does not let results leave."
    me = SecretKey.generate()
    with pytest.raises(AccessDeniedError, match="does not let results leave"):
        SealedWriter(place.client, "out.bin", recipients=[me.public])
    place.save()


def test_recipients_are_refused_at_the_end_too(place: Place) -> None:
    out = SealedWriter(place.client, "out.bin", recipients=[SecretKey.generate().public])
    out.write(PLAIN)
    place.why = "Your grant for Heartbeats does not let results leave."
    with pytest.raises(AccessDeniedError, match="does not let results leave"):
        out.close()
    assert list(place.workspace.directory.iterdir()) == []
