# SPDX-License-Identifier: BSD-3-Clause
"""What a server can see, tried with real processes; and what is said where it cannot be had."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom.errors import ConfigurationError, StorageError
from sealroom_spawner import launch, orders, separation, view
from sealroom_spawner.launch import LaunchError, Order
from sealroom_spawner.separation import SENTENCES, Separation
from sealroom_spawner.view import Place

UID = 209_999
SEPARATED = separation.detect()
namespaces = pytest.mark.skipif(
    SEPARATED is not Separation.FILES, reason="private views of files need root and mount namespaces"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="another system user needs root")


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets, which other users cannot enter."""
    path = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_each_separation_has_a_sentence() -> None:
    assert set(SENTENCES) == set(Separation)
    assert "same system user" in SENTENCES[Separation.NONE]


def test_an_ordinary_user_has_no_separation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert separation.detect() is Separation.NONE


def test_root_without_namespaces_has_users_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    assert separation.detect() is Separation.USER


def test_what_others_cannot_enter_is_hidden_at_its_top(short: Path) -> None:
    closed = short / "closed" / "deep"
    closed.mkdir(parents=True)
    hidden = separation.hidden_directories([closed])
    assert separation.inside(closed, hidden)
    assert not any(one != other and one in other.parents for one in hidden for other in hidden)


def test_what_everybody_can_enter_is_not_hidden() -> None:
    assert not separation.inside(Path("/usr/bin"), separation.hidden_directories([Path("/usr/bin")]))


def test_a_path_is_inside_itself_and_its_parents_only() -> None:
    assert separation.inside(Path("/a/b"), [Path("/a")])
    assert separation.inside(Path("/a"), [Path("/a")])
    assert not separation.inside(Path("/ab"), [Path("/a")])


# Places


def test_a_home_stays_and_a_run_directory_is_new_each_time(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    (place.home / "kept").touch()
    (place.run / "old.sock").touch()
    place.prepare(enterable=False)
    assert (place.home / "kept").exists()
    assert list(place.run.iterdir()) == []
    for directory in (place.home, place.run, place.home.parent, short / "users"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_named_servers_share_the_home_and_not_the_run_directory(short: Path) -> None:
    one, other = Place.of(short, "alice", "", None), Place.of(short, "alice", "second", None)
    assert one.home == other.home
    assert one.run != other.run


def test_a_name_does_not_lead_out_of_the_state_directory(short: Path) -> None:
    place = Place.of(short, "../../root", "../x", None)
    assert place.home.resolve().is_relative_to(short.resolve())
    assert place.run.resolve().is_relative_to(short.resolve())


def test_a_path_that_is_too_long_for_sockets_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long a path") as caught:
        Place.of(tmp_path / ("x" * 90), "alice", "", None).prepare(enterable=False)
    assert "SEALROOM_HOME" in caught.value.advice


@as_root
def test_a_home_of_somebody_else_is_refused(short: Path) -> None:
    place = Place.of(short, "alice", "", UID)
    place.prepare(enterable=False)
    os.chown(place.home, UID + 1, UID + 1)
    with pytest.raises(StorageError, match="belongs to system user"):
        place.prepare(enterable=False)


def test_a_link_in_the_place_of_a_home_is_refused(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.home.parent.mkdir(parents=True)
    place.home.symlink_to("/")
    with pytest.raises(StorageError, match="belongs to system user"):
        place.prepare(enterable=False)


@as_root
def test_the_run_directory_is_the_hubs_until_it_is_handed_over(short: Path) -> None:
    place = Place.of(short, "alice", "", UID)
    place.prepare(enterable=False)
    assert place.run.stat().st_uid == 0
    place.hand_over()
    assert place.run.stat().st_uid == UID


def test_kernels_talk_through_files_that_only_the_server_can_reach(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    assert view.kernel_directory(place, private=True) == Path("/tmp/jupyter")
    assert view.kernel_directory(place, private=False) == place.run / "j"
    assert view.kernel_directory(Place.of(short / ("x" * 60), "alice", "", None), private=False) is None


def test_new_homes_get_the_notebooks(tmp_path: Path) -> None:
    (tmp_path / "welcome.ipynb").touch()
    (tmp_path / "notes.txt").touch()
    found = view.tutorials(tmp_path, Path("/home/alice"))
    assert found == [(str(tmp_path / "welcome.ipynb"), "/home/alice/welcome.ipynb")]


# Orders


def order(place: Place, code: str, **more: object) -> Order:
    fields: dict[str, object] = {
        "argv": [sys.executable, "-c", code],
        "env": {"HOME": str(place.home), "SHELL": "/bin/sh"},
        "cwd": str(place.home),
        "uid": place.uid,
        "user": "alice",
    }
    return Order(**{**fields, **more})  # type: ignore[arg-type]


async def carry_out(what: Order, log: Path) -> str:
    """Carry an order out and return what the process printed."""
    child = await orders.start(what, log=log, write_down=lambda _process: None)
    await asyncio.to_thread(child.wait)
    return await asyncio.to_thread(log.read_text)


def test_an_order_survives_its_journey() -> None:
    given = Order(
        ["a"], {"b": "c"}, "/", token="t", uid=3, hide=["/tmp"], show=[("/x", True)], seed=[("a", "b")]
    )
    assert Order.from_json(given.to_json()) == given


def test_no_order_is_an_error() -> None:
    with pytest.raises(ValueError, match="went away"):
        Order.from_json(b"")


def test_an_order_does_not_show_its_token() -> None:
    assert "secret" not in repr(Order([], {}, "/", token="secret"))


async def test_the_process_is_written_down_before_it_does_anything(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    seen: list[bool] = []
    child = await orders.start(
        order(place, "open('ran', 'w')"),
        log=short / "log",
        write_down=lambda _process: seen.append((place.home / "ran").exists()),
    )
    child.wait()
    assert seen == [False]
    assert (place.home / "ran").exists()


async def test_a_process_that_could_not_be_written_down_is_ended(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)

    def fail(_process: object) -> None:
        raise StorageError("The disk is full.")

    with pytest.raises(StorageError):
        await orders.start(order(place, "open('ran', 'w')"), log=short / "log", write_down=fail)
    assert not (place.home / "ran").exists()


def test_a_hub_that_dies_before_the_order_leaves_no_server(short: Path) -> None:
    ours, theirs = socket.socketpair()
    child = orders._waiting(theirs, short / "log")
    ours.close()
    assert child.wait(timeout=30) == 1


async def test_the_token_is_in_a_pipe_and_nowhere_else(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    code = (
        "import os; fd = int(os.environ['SEALROOM_TOKEN_FD']); token = os.read(fd, 99).decode(); "
        "seen = open('/proc/self/environ').read() + open('/proc/self/cmdline').read(); "
        "print(token, token in seen, os.read(fd, 1))"
    )
    assert await carry_out(order(place, code, token="the-token"), short / "log") == "the-token False b''\n"


async def test_only_named_descriptors_are_passed_on(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    code = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd'))[:-1])"
    assert await carry_out(order(place, code), short / "log") == "[0, 1, 2]\n"


async def test_files_are_private_and_there_is_no_core_and_no_new_privilege(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    code = (
        "import os, resource; open('f', 'w'); print(oct(os.stat('f').st_mode & 0o777), "
        "resource.getrlimit(resource.RLIMIT_CORE), 'NoNewPrivs:\\t1' in open('/proc/self/status').read())"
    )
    assert await carry_out(order(place, code), short / "log") == "0o600 (1, 1) True\n"


async def test_welcome_files_are_copied_once(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    source, target = short / "welcome", place.home / "deep" / "welcome"
    source.write_text("first")
    seed = [(str(source), str(target))]
    await carry_out(order(place, "", seed=seed), short / "log")
    target.write_text("mine")
    await carry_out(order(place, "", seed=seed), short / "log")
    assert target.read_text() == "mine"


async def test_a_link_in_a_home_is_not_followed_by_the_copy(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    (short / "welcome").write_text("text")
    (place.home / "welcome").symlink_to(short / "elsewhere")
    await carry_out(
        order(place, "", seed=[(str(short / "welcome"), str(place.home / "welcome"))]), short / "log"
    )
    assert not (short / "elsewhere").exists()


async def test_what_cannot_be_read_is_said(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    with pytest.raises(LaunchError, match="cannot read /does/not/exist"):
        await carry_out(order(place, "", need=["/does/not/exist"]), short / "log")


async def test_a_program_that_is_not_there_is_said(short: Path) -> None:
    place = Place.of(short, "alice", "", None)
    place.prepare(enterable=False)
    with pytest.raises(LaunchError, match="could not be started"):
        await carry_out(order(place, "", argv=["/does/not/exist"]), short / "log")


def test_the_launcher_refuses_what_is_no_order(short: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        child = orders._waiting(theirs, short / "log")
        ours.sendall(b"{")
        ours.shutdown(socket.SHUT_WR)
        assert b"could not be started" in ours.recv(999)
    assert child.wait(timeout=30) == 1


LOOK = """
import json, os, subprocess, sys
def listing(path):
    try: return sorted(os.listdir(path))
    except OSError as error: return type(error).__name__
def text(path):
    try: return open(path).read()
    except OSError as error: return type(error).__name__
state = sys.argv[1]
print(json.dumps({
    "uid": [os.getuid(), os.geteuid(), os.getgid(), *os.getgroups()],
    "caps": [line for line in open("/proc/self/status") if line.startswith("CapEff")],
    "state": listing(state), "users": listing(state + "/users"),
    "tmp": listing("/tmp"), "shm": listing("/dev/shm"),
    "other": listing(state + "/users/bob/home"), "key": text(state + "/simulated/ark.key"),
    "login": text(state + "/login.txt"), "dataset": text(state + "/datasets/x.c4gh"),
    "me": subprocess.run(["whoami"], capture_output=True, text=True).stdout,
    "processes": listing("/proc"),
    "write": [os.access(path, os.W_OK) for path in (sys.prefix, state + "/datasets")],
}))
"""


@pytest.fixture
def inhabited(short: Path) -> Path:
    """A state directory with secrets and with another person in it."""
    for name in ("simulated", "datasets"):
        (short / name).mkdir()
    (short / "datasets").chmod(0o755)
    for name in ("simulated/ark.pem", "simulated/ark.key", "login.txt", "datasets/x.c4gh"):
        (short / name).write_text(f"content of {name}")
        (short / name).chmod(0o600)
    for name in ("simulated/ark.pem", "datasets/x.c4gh"):
        (short / name).chmod(0o644)
    other = Place.of(short, "bob", "", UID + 1)
    other.prepare(enterable=SEPARATED is Separation.USER)
    other.hand_over()
    return short


@namespaces
def shown_below_tmp(needed: list[Path | str]) -> set[str]:
    """Return the names in /tmp under which something lies that a server needs."""
    paths = [Path(path).resolve().parts for path in needed]
    return {parts[2] for parts in paths if parts[:2] == ("/", "tmp") and len(parts) > 2}


async def test_a_server_sees_its_own_and_what_is_for_all_and_nothing_else(inhabited: Path) -> None:
    place = Place.of(inhabited, "alice", "", UID)
    place.prepare(enterable=False)
    place.hand_over()
    files = view.needed(place, [], None)
    what = order(place, LOOK, need=[str(path) for path in files.readable])
    what.argv.append(str(inhabited))
    seen = json.loads(await carry_out(view.separated(what, files), inhabited / "log"))
    assert seen["uid"] == [UID, UID, UID]
    assert seen["caps"] == ["CapEff:\t0000000000000000\n"]
    assert seen["state"] == ["datasets", "simulated", "users"]
    assert seen["users"] == ["alice"]
    assert seen["other"] == "FileNotFoundError"
    assert seen["key"] == "FileNotFoundError"
    assert seen["login"] == "FileNotFoundError"
    assert seen["dataset"] == "content of datasets/x.c4gh"
    # A clone or a Python that lies below /tmp is needed, and shown there; nothing else is.
    assert set(seen["tmp"]) == {inhabited.name} | shown_below_tmp([*files.readable, sys.prefix])
    assert seen["shm"] == []
    assert seen["me"] == "alice\n"
    assert seen["write"] == [False, False]
    assert str(os.getpid()) not in seen["processes"]


@as_root
async def test_without_namespaces_the_system_user_still_keeps_servers_apart(inhabited: Path) -> None:
    place = Place.of(inhabited, "alice", "", UID)
    place.prepare(enterable=True)
    place.hand_over()
    what = order(place, LOOK)
    what.argv[0] = "/usr/bin/python3"
    if not os.access(what.argv[0], os.X_OK):
        pytest.skip("no Python that every user can read")
    what.argv.append(str(inhabited))
    seen = json.loads(await carry_out(what, inhabited / "log"))
    assert seen["uid"] == [UID, UID, UID]
    assert seen["other"] == "PermissionError"
    assert seen["key"] == "PermissionError"
    assert seen["login"] == "PermissionError"


@as_root
async def test_a_home_that_cannot_be_written_is_said(short: Path) -> None:
    place = Place.of(short, "alice", "", UID)
    place.prepare(enterable=True)
    with pytest.raises(LaunchError, match="cannot write to its home"):
        await carry_out(order(place, "", cwd="/"), short / "log")


def test_the_probe_says_yes_or_why_not() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sealroom_spawner.launch", "--probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (SEPARATED is Separation.FILES)
    assert (done.stderr == "") == (done.returncode == 0)


def test_a_name_that_would_break_the_user_database_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_mount", lambda *_: pytest.fail("mounted"))
    launch._introduce(1, "a:b\n", "/", "/bin/sh")
