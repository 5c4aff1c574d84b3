# SPDX-License-Identifier: BSD-3-Clause
"""What `make` does around a running installation, and the one sentence when something stands in the way."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.programs import free_port
from support.stack import REPOSITORY, Session, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def bootstrap(
    *words: str, python: str = sys.executable, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "tools/bootstrap.py", *words],
        cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the steps importable, as `tools/bootstrap.py` does."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tools"))
    yield
    for name in [name for name in sys.modules if name == "steps" or name.startswith("steps.")]:
        del sys.modules[name]


def environment(stack: Stack, **more: str) -> dict[str, str]:
    return {**stack.environment, **more}


def eventually(check: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.3)


def tiers(session: Session) -> list[tuple[str, str]]:
    """Return the servers that a person may see, and their tiers."""
    servers = session.client.get("/services/sealroom/api/servers").raise_for_status().json()["servers"]
    return [(each["user"], each["tier"]) for each in servers]


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and is not yet taken notice of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# A running installation


def test_a_second_up_says_that_it_runs_and_where(stack: Stack) -> None:
    said = stack.bootstrap("up")
    assert "already running" in said
    assert f"{stack.url}/" in said
    assert str(stack.home / "login.txt") in said


def test_up_prints_no_password(stack: Stack) -> None:
    said = stack.bootstrap("up")
    for user in ("researcher", "visitor", "owner", "operator"):
        assert stack.password(user) not in said


def test_status_says_what_runs(stack: Stack) -> None:
    assert "answers" in stack.bootstrap("status")


def test_only_this_machine_is_listened_to(stack: Stack) -> None:
    ports = set()
    for value in stack.settings.values():
        if isinstance(value, dict):
            ports |= {port for key, port in value.items() if key.endswith("port")}
            ports |= {int(match[1]) for match in [re.search(r":(\d+)", value.get("url", ""))] if match}
    assert len(ports) >= 5
    listening = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        address, port = words[1].split(":")
        if words[3] == "0A" and int(port, 16) in ports:
            listening[int(port, 16)] = address
    assert set(listening) == ports
    assert set(listening.values()) == {"0100007F"}


def test_the_state_is_private(stack: Stack) -> None:
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    for name in (
        *("login.txt", "accounts.json", "hub/cookie_secret", "hub/hub.log", "owner/token"),
        *("owner/signing.pem", "environments/publisher.pem", "simulated/ark.key", "broker/kek.key"),
    ):
        assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE((stack.home / "hub").stat().st_mode) == 0o700


def test_accounts_hold_no_password(stack: Stack) -> None:
    accounts = (stack.home / "accounts.json").read_text()
    assert not [
        user for user in ("researcher", "visitor", "owner", "operator") if stack.password(user) in accounts
    ]


def test_no_clear_data_is_left(stack: Stack) -> None:
    assert not list(Path("/dev/shm").glob("sealroom-clear-*"))
    assert not list(stack.home.rglob("*sealroom-clear-*"))
    assert {path.name for path in (stack.home / "datasets").iterdir()} >= {"heartbeats"}
    assert not list((stack.home / "datasets").rglob("*.npy"))


def test_a_killed_hub_is_found_and_started_anew_with_its_servers_kept(stack: Stack) -> None:
    session = stack.login("operator")
    session.start_server()
    try:
        run = stack.home / "users" / "operator" / "run" / "server.pid"
        server = run.read_text()
        os.kill(int((stack.home / "hub" / "hub.pid").read_text().split()[0]), signal.SIGKILL)
        assert "Ready" in stack.bootstrap("up")
        assert run.read_text() == server
        # Until it reaches the broker again the server says that it cannot be sure.
        eventually(lambda: session.api("status").json()["tier"] == "simulated")
        eventually(lambda: ("operator", "simulated") in tiers(session))
    finally:
        session.stop_server()
        session.client.close()


def test_everybody_but_the_operator_sees_own_servers_only(stack: Stack) -> None:
    operator, visitor = stack.login("operator"), stack.login("visitor")
    visitor.start_server()
    try:
        assert ("visitor", "simulated") in tiers(operator)
        visitor.stop_server()
        operator.start_server()
        assert tiers(visitor) == []
    finally:
        for session in (operator, visitor):
            session.stop_server()
            session.client.close()


def test_the_broker_is_not_behind_the_hubs_proxy(stack: Stack) -> None:
    import httpx

    assert httpx.get(f"{stack.url}/services/sealroom-broker/", follow_redirects=True).status_code == 404


def test_a_wrong_password_is_refused(stack: Stack) -> None:
    import httpx

    with httpx.Client(base_url=stack.url, timeout=60) as browser:
        browser.get("/hub/login")
        answer = browser.post(
            "/hub/login",
            data={"username": "researcher", "password": "wrong", "_xsrf": browser.cookies["_xsrf"]},
        )
    assert answer.status_code == 403
    assert "Invalid username or password" in answer.text


def test_an_environment_that_is_not_on_offer_is_refused_and_forgotten(stack: Stack) -> None:
    session = stack.login("operator")
    path = "/hub/api/users/operator/server"
    refused = session.client.post(path, json={"user_options": {"environment": "other"}})
    assert refused.status_code == 400
    assert "no environment other" in refused.json()["message"]
    plain = session.client.post(path, json={})
    try:
        assert plain.status_code in (201, 202), plain.text
    finally:
        session.stop_server()
        session.client.close()


# An installation of its own, started and ended


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Stack]:
    """A copy of the running installation's first start, which is not running."""
    home = tmp_path_factory.mktemp("own") / "state"
    shutil.copytree(stack.home, home, ignore=shutil.ignore_patterns("hub", "users", "status", "*.sock"))
    (home / "settings.toml").unlink()
    port = free_port()
    environment = {**stack.environment, "SEALROOM_HOME": str(home), "SEALROOM_PORT": str(port)}
    made = Stack(home, port, environment)
    yield made
    made.bootstrap("down")


def test_down_ends_all_that_up_started_and_up_keeps_what_was_made(own: Stack) -> None:
    own.bootstrap("up")
    session = own.login("researcher")
    session.start_server()
    session.client.close()
    pids = [int((own.home / "hub" / name).read_text().split()[0]) for name in ("hub.pid", "proxy.pid")]
    pids.append(int((own.home / "users" / "researcher" / "run" / "server.pid").read_text()))
    password, kept = own.password("researcher"), own.settings
    assert "ended" in own.bootstrap("down")
    assert not [pid for pid in pids if runs(pid)]
    assert not list((own.home / "hub" / "servers").glob("*.json"))
    assert "Nothing was running" in own.bootstrap("down")
    assert "not running" in own.bootstrap("status")
    own.bootstrap("up")
    assert own.password("researcher") == password
    assert own.settings == kept


def test_a_server_that_the_database_forgot_is_ended(own: Stack) -> None:
    own.bootstrap("up")
    session = own.login("researcher")
    session.start_server()
    session.client.close()
    pid = int((own.home / "users" / "researcher" / "run" / "server.pid").read_text())
    os.kill(int((own.home / "hub" / "hub.pid").read_text().split()[0]), signal.SIGKILL)
    for name in ("jupyterhub.sqlite", "jupyterhub.sqlite-wal", "jupyterhub.sqlite-shm"):
        (own.home / "hub" / name).unlink(missing_ok=True)
    own.bootstrap("up")
    assert not runs(pid)


# Sentences


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return what was said, having checked that it is one sentence and no traceback."""
    said = done.stderr.strip()
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_a_port_in_use_is_said_with_what_to_do(stack: Stack, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        env = environment(stack, SEALROOM_HOME=str(tmp_path / "state"), SEALROOM_PORT=str(port))
        said = one_sentence(bootstrap("up", env=env))
    assert f"Port {port}" in said
    assert f"SEALROOM_PORT={port + 1}" in said


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "80 80"])
def test_a_port_that_is_none_is_said(stack: Stack, tmp_path: Path, port: str) -> None:
    env = environment(stack, SEALROOM_HOME=str(tmp_path / "state"), SEALROOM_PORT=port)
    assert "between 1 and 65535" in one_sentence(bootstrap("up", env=env))


def test_an_old_python_is_said(tmp_path: Path) -> None:
    # The check must come before anything that an old Python does not understand.
    script = (REPOSITORY / "tools" / "bootstrap.py").read_text()
    before = script[: script.index("from steps")]
    old = "import sys; sys.version_info = (3, 6, 15, 'final', 0)\n" + before.replace("import sys\n", "", 1)
    (tmp_path / "bootstrap.py").write_text(old)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "bootstrap.py"), "up"], capture_output=True, text=True, check=False
    )
    assert "needs Python 3.11 or newer" in one_sentence(done)


def test_the_check_for_an_old_python_is_written_for_one() -> None:
    import ast

    script = (REPOSITORY / "tools" / "bootstrap.py").read_text()
    tree = ast.parse(script, feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]
    first = next(node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert isinstance(first, ast.Import)
    assert first.names[0].name == "sys"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The tools and sources of a clone in which nothing is set up."""
    clone = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            target = clone / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return clone


def test_no_network_is_said_with_what_to_do(bare: Path) -> None:
    env = {
        **{
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SEALROOM_", "UV_", "PIP_"))
        },
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_RETRIES": "0",
        "SEALROOM_PORT": str(free_port()),
    }
    done = subprocess.run(
        [sys.executable, "tools/bootstrap.py", "up"],
        cwd=bare, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "cannot be reached; connect to the internet" in one_sentence(done)


def test_clean_removes_what_was_set_up_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    home = tmp_path / "state"
    (home / "hub").mkdir(parents=True)
    (home / "settings.toml").touch()
    for name in (".venv", ".tools", "extensions/jupyter/node_modules"):
        (bare / name).mkdir(parents=True)
    before = {path for path in bare.rglob("*") if path.is_file()}
    env = {**os.environ, "SEALROOM_HOME": str(home)}
    subprocess.run(
        [sys.executable, "tools/bootstrap.py", "clean"], cwd=bare, env=env, check=True, timeout=120
    )
    assert not home.exists()
    assert not [
        name for name in (".venv", ".tools", "extensions/jupyter/node_modules") if (bare / name).exists()
    ]
    assert {path for path in before if "__pycache__" not in path.parts and not path.exists()} == set()


def test_clean_does_not_touch_a_directory_that_is_no_installation(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    env = {**os.environ, "SEALROOM_HOME": str(tmp_path / "mine")}
    subprocess.run(
        [sys.executable, "tools/bootstrap.py", "clean"], cwd=bare, env=env, check=True, timeout=120
    )
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_an_unknown_command_is_said() -> None:
    done = bootstrap("upp")
    assert done.returncode == 64
    assert "Say what to do" in done.stderr


def test_make_says_what_there_is() -> None:
    said = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for target in ("up", "down", "clean", "test", "lint", "bench", "docs", "demo-refusals"):
        assert re.search(rf"make {target} +\w", said)


# Parts of the steps


@pytest.mark.parametrize(
    ("version", "enough"),
    [("v20.19.0", True), ("v20.18.9", False), ("v21.7.0", False), ("v22.11.0", False), ("v22.12.0", True),
     ("v24.1.0", True), ("v18.20.0", False), ("", False), ("20.19.0", False)],
)  # fmt: skip
@pytest.mark.usefixtures("tools")
def test_which_node_is_new_enough(version: str, enough: bool) -> None:
    from steps import node_side

    assert node_side._new_enough(version) is enough


@pytest.mark.usefixtures("tools")
def test_a_half_done_step_counts_as_not_done(tmp_path: Path) -> None:
    from steps.paths import Stamp

    stamp = Stamp(tmp_path / "stamps" / "step")
    assert not stamp.fits("key")
    stamp.write("key")
    assert stamp.fits("key", tmp_path)
    assert not stamp.fits("other")
    assert not stamp.fits("key", tmp_path / "product that is gone")
    stamp.remove()
    assert not stamp.fits("key")


@pytest.mark.usefixtures("tools")
def test_addresses_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steps import settings
    from steps.paths import Paths

    port = free_port()
    monkeypatch.setenv("SEALROOM_PORT", str(port))
    monkeypatch.delenv("SEALROOM_BIND", raising=False)
    paths = Paths(REPOSITORY, tmp_path)
    chosen = settings.choose(paths)
    settings.write(paths, chosen, ('a "quoted" node', "proxy"))
    assert settings.read(tmp_path / "settings.toml") == chosen
    assert settings.choose(paths) == chosen
    assert chosen.url == f"http://127.0.0.1:{port}/"
    assert len({chosen.port, chosen.hub_api, chosen.proxy_api, chosen.broker, chosen.status}) == 5
    written = tomllib.loads((tmp_path / "settings.toml").read_text())
    assert written["proxy"]["command"] == ['a "quoted" node', "proxy"]


@pytest.mark.usefixtures("tools")
def test_an_inner_port_that_was_taken_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steps import settings
    from steps.paths import Paths

    monkeypatch.setenv("SEALROOM_PORT", str(free_port()))
    paths = Paths(REPOSITORY, tmp_path)
    chosen = settings.choose(paths)
    settings.write(paths, chosen, ())
    with socket.socket() as other:
        other.bind(("127.0.0.1", chosen.broker))
        other.listen()
        again = settings.choose(paths)
    assert again.broker != chosen.broker
    assert again.hub_api == chosen.hub_api


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ENOTFOUND registry", "connect to the internet"),
        ("No space left on device", "disk is full"),
        ("boom", "boom"),
    ],
)
def test_why_a_program_failed_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    from steps.console import Failure, run

    with pytest.raises(Failure, match=sentence):
        run([sys.executable, "-c", f"raise SystemExit({text!r})"], log=tmp_path / "log", what="try")
