# SPDX-License-Identifier: BSD-3-Clause
"""Results and the end of access, with the real parts: kernel, server, agent, broker."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sealroom.crypt4gh import SecretKey, decrypt_stream, write_public_key
from sealroom.datasets.workspace import Workspace
from sealroom.errors import AccessDeniedError, StorageError
from sealroom.kbs.calls import Person, SessionState
from sealroom_jupyter.followers import Followers
from sealroom_jupyter.memory import no_core_files, swap_on_disk
from support.sealed import PLAIN
from unit.jupyter.conftest import Room
from unit.jupyter.fakes import ROSALIND
from unit.jupyter.stand import Stand, eventually, standing

pytestmark = pytest.mark.timeout(300)

UNLOCK = 'import sealroom; sealroom.unlock("heartbeats", show=False)\n'
SAVE = """
import sealroom
with sealroom.create("workspace/sums.txt", "w", overwrite=True) as out:
    print("the sum is 4711", file=out)
"""
READ = """
import sealroom
print(sealroom.open("workspace/sums.txt").read().decode())
"""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with standing() as made:
        made.start_server()
        yield made


def test_a_result_is_saved_in_one_kernel_and_read_in_another(stand: Stand) -> None:
    assert stand.execute(SAVE) == ""
    assert "the sum is 4711" in stand.execute(READ)
    sealed = stand.home / "user" / "workspace" / "sums.txt.c4gh"
    assert sealed.read_bytes().startswith(b"crypt4gh")


def test_after_a_restart_only_a_recipient_opens_a_result(stand: Stand) -> None:
    me = SecretKey.generate()
    (stand.home / "user" / "me.pub").write_bytes(write_public_key(me.public))
    assert stand.execute(SAVE.replace("overwrite=True", 'overwrite=True, recipients=["~/me.pub"]')) == ""
    stand.kill("server")
    stand.start_server()
    assert "no result 'sums.txt'" in stand.execute(READ)
    clear = io.BytesIO()
    with (stand.home / "user" / "workspace" / "sums.txt.c4gh").open("rb") as sealed:
        decrypt_stream(sealed, clear, me)
    assert clear.getvalue() == b"the sum is 4711\n"


def test_what_may_not_leave_is_not_sealed_to_anybody_else(stand: Stand) -> None:
    (stand.home / "user" / "me.pub").write_bytes(write_public_key(SecretKey.generate().public))
    grant = stand.grant()
    said = stand.execute(UNLOCK + SAVE.replace("overwrite=True", 'overwrite=True, recipients=["~/me.pub"]'))
    assert "AccessDeniedError" in said
    assert "Your grant for Heartbeats of record 208 does not let results leave." in said
    assert stand.execute(SAVE) == ""
    stand.withdraw(grant)


MEANWHILE = """
import io, pathlib, time
import pandas as pd
from sealroom_jupyter.widget import DatasetWidget
unlocked = sealroom.unlock("heartbeats", show=False)
widget = DatasetWidget(unlocked)
file = sealroom.open("heartbeats/ecg.bin")
beats = pd.read_csv(sealroom.open("heartbeats/labels/beats.csv"))
read, end = 0, time.monotonic() + 100
while time.monotonic() < end:
    try:
        read += len(file.pread(0, 300_000))
    except sealroom.errors.AccessDeniedError as error:
        print("ended:", error.message)
        break
    pathlib.Path("begun").touch()
print("read some:", read > 0)
try:
    file.pread(0, 10)
except sealroom.errors.AccessDeniedError:
    print("and stays so")
print("frame:", len(beats), int(beats["beat"].sum()))
widget.look()
print("widget:", widget.card["state"]["label"], widget.card["reasons"])
"""


def test_a_key_withdrawn_while_a_cell_reads_ends_the_read_and_leaves_the_frame(stand: Stand) -> None:
    grant = stand.grant()
    said: list[str] = []
    cell = threading.Thread(target=lambda: said.append(stand.execute("import sealroom" + MEANWHILE, 120)))
    cell.start()
    eventually((stand.home / "user" / "begun").exists, "the first read")
    stand.withdraw(grant)
    cell.join(120)
    (text,) = said
    assert "ended: " in text, text
    assert "was withdrawn" in text
    assert "read some: True" in text
    assert "and stays so" in text
    assert "frame: 50 100" in text
    assert "widget: Grant withdrawn" in text
    assert "was withdrawn" in text.partition("widget:")[2]
    shown = stand.dataset()
    assert shown["state"] == "withdrawn"
    assert "was withdrawn" in shown["ended"]["sentence"]


def test_neither_the_server_nor_a_kernel_leaves_a_core_file(stand: Stand) -> None:
    limits = Path(f"/proc/{stand.processes['server'].pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert all(int(word) <= 1 for word in line.split()[4:6])
    said = stand.execute("import resource; print(max(resource.getrlimit(resource.RLIMIT_CORE)))")
    assert int(said) <= 1


# -- trust and people, without the real parts


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def followed(room: Room, workspace: Workspace) -> Room:
    room.attester.follow(Followers(room.shelf, workspace))
    return room


def test_results_are_not_read_while_trust_is_lost(followed: Room, workspace: Workspace) -> None:
    followed.turn()
    assert workspace.files() == ()
    followed.broker.refusal = AccessDeniedError("No.", reasons=(("policy.none", "No."),))
    followed.turn(400)
    with pytest.raises(AccessDeniedError, match="Results are not read now"):
        workspace.files()
    followed.broker.refusal = None
    followed.turn(400)
    assert workspace.files() == ()


def test_another_persons_login_ends_the_results_of_the_first(room: Room, workspace: Workspace) -> None:
    followers = Followers(room.shelf, workspace)
    room.turn()
    session = room.broker.session()
    followers.session_changed(room.broker, session)
    key = workspace.info().key
    followers.session_changed(room.broker, session)
    assert workspace.info().key == key
    followers.session_changed(room.broker, with_person(session, None))
    assert workspace.info().key == key
    other = ROSALIND.model_copy(update={"subject": "francis"})
    followers.session_changed(room.broker, with_person(session, other))
    assert workspace.info().key != key


def with_person(session: SessionState, person: Person | None) -> SessionState:
    return session.model_copy(update={"person": person})


def test_the_grants_word_on_results_is_shown_and_counts_until_the_server_ends(room: Room) -> None:
    room.turn()
    assert room.shelf.bound() == ""
    room.shelf.unlock("heartbeats")
    assert room.shelf.bound() == "Your grant for Heartbeats of record 208 does not let results leave."
    room.shelf.lock("heartbeats")
    assert room.shelf.bound() != "", "the data were here"
    room.broker.outputs = True
    assert room.shelf.unlock("heartbeats").outputs is True
    assert room.shelf.bound() == ""
    assert room.shelf.record("heartbeats").outputs is True


# -- memory


def test_a_limit_of_core_files_is_set_for_children_too() -> None:
    child = "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    code = "import subprocess, sys; from sealroom_jupyter.memory import no_core_files; no_core_files(); "
    code += f"subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("(1, 1)", "(0, 0)")


def test_a_limit_that_is_stricter_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a limit was raised")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    monkeypatch.setattr(resource, "setrlimit", never)
    no_core_files()


def test_swap_on_a_disk_is_told_from_swap_in_memory(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text(
        "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 8 0 100\n/dev/sda2  partition 8 0 -2\n"
    )
    assert swap_on_disk(swaps) == ("/dev/sda2",)
    swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n")
    assert swap_on_disk(swaps) == ()
    assert swap_on_disk(tmp_path / "absent") == ()


def test_the_csv_of_the_frame_is_the_one_that_was_sealed() -> None:
    assert PLAIN["labels/beats.csv"].count(b"1,2") == 50


def test_a_workspace_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        Workspace(tmp_path / "file").info()
