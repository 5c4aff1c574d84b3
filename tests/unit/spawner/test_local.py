# SPDX-License-Identifier: BSD-3-Clause
"""The spawner, with real processes: a real simulated processor, and a small program as notebook server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sealroom_spawner import local, processes, records
from sealroom_spawner.local import SERVER_SCOPES, RefusedError, SealedLocalSpawner
from sealroom_spawner.proving import refusal
from sealroom_spawner.separation import SENTENCES, Separation, detect
from sealroom_spawner.status import Event, Stage
from sealroom_spawner.store import Store
from tornado.web import HTTPError

from .conftest import MakeSpawner

SEPARATED = detect()


@asynccontextmanager
async def starting(spawner: SealedLocalSpawner) -> AsyncIterator[asyncio.Task[str]]:
    """Start a server in the background, as the hub does."""
    task = asyncio.create_task(spawner.start())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(check: Callable[[], object], seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.05)):
        if check():
            return
        await asyncio.sleep(0.05)
    pytest.fail("did not come about")


def seen(state: Path, user: str = "alice") -> dict[str, Any]:
    """Return what the server saw, once it has written it in full."""
    try:
        found: dict[str, Any] = json.loads((state / "users" / user / "home" / "seen.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def prove(store: Store, tier: str = "simulated", user: str = "alice") -> None:
    """Let the service know that a server has proven itself."""
    store.record(user, "", Event(Stage.EVIDENCE, "Evidence.", "none", 1.0))
    event = Event(Stage.VERIFIED, "It is so.", tier, 2.0)
    store.record(user, "", event, environment="simulated-cpu", until=time.time() + 3600)


async def start_proven(spawner: SealedLocalSpawner, state: Path, store: Store) -> str:
    user = spawner.user.name
    async with starting(spawner) as task:
        await until(lambda: seen(state, user))
        prove(store, user=user)
        return await asyncio.wait_for(asyncio.shield(task), 30)


async def test_a_server_starts_with_its_processor_and_is_verified(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner()
    url = await start_proven(spawner, state, store)
    assert url == f"http://127.0.0.1:{spawner.port}"
    assert await spawner.poll() is None
    assert spawner.attestation["tier"] == "simulated"
    assert spawner.shown_tier.title == "Simulated TEE (not a real one)"
    assert (state / "users" / "alice" / "run" / "sp.sock").is_socket()
    (record,) = [record for _path, record in records.read_all(state / "hub" / "servers")]
    assert all(processes.alive(process) for process in record.processes)
    assert len(record.processes) == 2


async def test_no_secret_is_in_the_servers_environment_or_command_line(
    make_spawner: MakeSpawner, state: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONFIGPROXY_AUTH_TOKEN", "the-proxys")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the-hubs")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    await start_proven(make_spawner(), state, store)
    saw = seen(state)
    assert saw["token"] == "hub-token-of-alice"
    text = json.dumps([saw["env"], saw["argv"]])
    assert "hub-token" not in text
    assert "the-" not in text
    assert "PYTHONPATH" not in saw["env"]
    assert saw["cwd"] == saw["env"]["HOME"] == str(state / "users" / "alice" / "home")


async def test_the_server_is_told_where_everything_is(
    make_spawner: MakeSpawner, state: Path, store: Store, status_url: str
) -> None:
    await start_proven(make_spawner(), state, store)
    env = seen(state)["env"]
    assert env["SEALROOM_RUN"] == str(state / "users" / "alice" / "run")
    assert env["SEALROOM_BROKER_URL"] == "http://127.0.0.1:1"
    assert env["SEALROOM_STATUS_URL"] == status_url
    assert env["SEALROOM_DATASETS"] == str(state / "datasets")
    assert env["SEALROOM_ENVIRONMENT"] == str(state / "environments" / "simulated-cpu.toml")
    assert env["SEALROOM_ROOT"] == str(state / "simulated" / "ark.pem")
    assert env["SEALROOM_SERVER_NAME"] == ""


async def test_kernels_do_not_talk_over_tcp(make_spawner: MakeSpawner, state: Path, store: Store) -> None:
    await start_proven(make_spawner(), state, store)
    assert "--KernelManager.transport=ipc" in seen(state)["argv"]


@pytest.mark.skipif(SEPARATED is not Separation.FILES, reason="needs root and mount namespaces")
async def test_two_people_get_system_users_of_their_own(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    for user in ("alice", "bob"):
        await start_proven(make_spawner(user, separation=Separation.FILES), state, store)
    assert seen(state, "alice")["uid"] != seen(state, "bob")["uid"]
    assert 0 not in (seen(state, "alice")["uid"], seen(state, "bob")["uid"])


async def test_the_stages_are_told_as_they_happen(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner()
    told: list[dict[str, Any]] = []

    async def listen() -> None:
        async for event in spawner.progress():
            told.append(event)  # noqa: PERF401 - looked at while it grows

    async with starting(spawner) as task:
        listener = asyncio.create_task(listen())
        await until(lambda: seen(state))
        store.record("alice", "", Event(Stage.EVIDENCE, "Evidence.", "none", 1.0))
        await until(lambda: any(event["message"] == "Evidence gathered" for event in told))
        assert not task.done()
        prove(store)
        await asyncio.wait_for(asyncio.shield(task), 30)
        await until(lambda: told[-1]["message"].startswith("Verified"))
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    assert "Simulated TEE (not a real one)" in told[-1]["message"]
    assert "sealroom-simulated" in told[-1]["html_message"]
    assert [event["progress"] for event in told] == sorted(event["progress"] for event in told)
    assert told[-1]["progress"] < 100


async def test_a_refused_proof_is_told_and_the_server_starts_all_the_same(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner()
    async with starting(spawner) as task:
        await until(lambda: seen(state))
        store.record("alice", "", Event(Stage.REFUSED, "The measurement is another.", "contraindicated", 1.0))
        await asyncio.wait_for(asyncio.shield(task), 30)
    assert any("Not verified: The measurement is another." in e["message"] for e in spawner._events)
    assert await spawner.poll() is None


async def test_a_proof_that_does_not_come_is_told_and_not_waited_for_forever(
    make_spawner: MakeSpawner, state: Path
) -> None:
    spawner = make_spawner(proof_timeout=1.0)
    await asyncio.wait_for(spawner.start(), 60)
    assert "has not proven itself yet" in spawner._events[-1]["message"]


async def test_where_affirming_is_demanded_a_simulated_server_does_not_start(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner(must_affirm=True)
    async with starting(spawner) as task:
        await until(lambda: seen(state))
        prove(store)
        with pytest.raises(HTTPError, match="demands a genuine TEE"):
            await asyncio.wait_for(asyncio.shield(task), 30)


async def test_a_server_that_ends_at_once_is_said(make_spawner: MakeSpawner, state: Path) -> None:
    spawner = make_spawner(cmd=[sys.executable, "-c", "raise SystemExit('cannot')"])
    with pytest.raises(HTTPError, match="ended while starting"):
        await asyncio.wait_for(spawner.start(), 60)
    assert "cannot" in (state / "hub" / "servers" / "alice+.notebook.log").read_text()


async def test_a_processor_that_does_not_start_is_said(make_spawner: MakeSpawner, state: Path) -> None:
    (state / "simulated" / "ark.key").write_text("no key")
    with pytest.raises(HTTPError, match="simulated secure processor did not start"):
        await asyncio.wait_for(make_spawner().start(), 60)


async def test_a_program_that_is_not_there_is_said(make_spawner: MakeSpawner) -> None:
    with pytest.raises(HTTPError, match="could not be started"):
        await asyncio.wait_for(make_spawner(cmd=["/does/not/exist"]).start(), 60)


async def test_a_long_path_is_said(make_spawner: MakeSpawner, state: Path) -> None:
    with pytest.raises(HTTPError, match="too long a path"):
        await asyncio.wait_for(make_spawner("a" * 62 + "b").start(), 60)


async def test_stop_ends_everything_and_leaves_no_record(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner()
    await start_proven(spawner, state, store)
    ((_path, record),) = records.read_all(state / "hub" / "servers")
    await spawner.stop()
    assert not any(processes.alive(process) for process in record.processes)
    assert records.read_all(state / "hub" / "servers") == []
    assert store.get("alice", "") is None
    assert await spawner.poll() is not None
    assert "notebook" not in spawner.get_state()


async def test_a_killed_server_is_noticed_and_its_processor_ended(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    spawner = make_spawner()
    await start_proven(spawner, state, store)
    ((_path, record),) = records.read_all(state / "hub" / "servers")
    assert record.notebook is not None
    os.kill(record.notebook.pid, signal.SIGKILL)
    await until(lambda: not processes.alive(record.notebook))  # type: ignore[arg-type]
    assert await spawner.poll() is not None
    assert record.processor is not None
    assert not processes.alive(record.processor)


async def test_a_server_is_known_again_after_a_restart_of_the_hub(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    first = make_spawner()
    await start_proven(first, state, store)
    remembered = json.loads(json.dumps(first.get_state()))
    second = make_spawner()
    second.load_state(remembered)
    assert await second.poll() is None
    assert second.shown_tier.css == "sealroom-simulated"
    await second.stop()
    assert await first.poll() is not None


async def test_what_a_killed_hub_left_behind_is_ended_by_the_next_start(
    make_spawner: MakeSpawner, state: Path, store: Store
) -> None:
    await start_proven(make_spawner(), state, store)
    ((_path, left),) = records.read_all(state / "hub" / "servers")
    (state / "users" / "alice" / "home" / "seen.json").unlink()
    await start_proven(make_spawner(), state, store)
    assert not any(processes.alive(process) for process in left.processes)


@pytest.mark.parametrize("remembered", [{}, {"pid": 7}, {"notebook": None}, {"notebook": {"pid": "7"}}])
async def test_a_state_without_a_server_is_no_server(
    make_spawner: MakeSpawner, remembered: dict[str, Any]
) -> None:
    spawner = make_spawner()
    spawner.load_state(remembered)
    assert await spawner.poll() is not None


@pytest.mark.parametrize(
    "options", [{"environment": "other"}, {"cmd": ["sh"]}, {"environment": ["simulated-cpu"]}]
)
async def test_refused_options_are_not_remembered(make_spawner: MakeSpawner, options: dict[str, Any]) -> None:
    spawner = make_spawner()
    remembered = SimpleNamespace(user_options=options, name="", display_name="", server=None)
    spawner.orm_spawner = remembered
    with pytest.raises(RefusedError) as caught:
        await spawner._run_apply_user_options(options)
    assert caught.value.status_code == 400
    assert caught.value.jupyterhub_message
    assert not remembered.user_options
    assert spawner.user_options == {}


async def test_the_form_says_what_separates(make_spawner: MakeSpawner) -> None:
    for separation in Separation:
        page = await make_spawner(separation=separation).get_options_form()
        assert "Simulated TEE, CPU" in page
        assert SENTENCES[separation].split("'")[0] in page


def test_the_form_is_used(make_spawner: MakeSpawner) -> None:
    spawner = make_spawner()
    assert spawner.options_form
    assert spawner.run_options_from_form({"environment": ["simulated-cpu"]}) == {
        "environment": "simulated-cpu"
    }


def test_separation_is_found_out_once(make_spawner: MakeSpawner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find() -> Separation:
        asked.append(1)
        return Separation.USER

    monkeypatch.setattr(local, "detect", find)
    monkeypatch.setattr(SealedLocalSpawner, "_detected", None)
    found = [SealedLocalSpawner(user=SimpleNamespace(name=name)).separation for name in ("a", "b")]
    assert found == ["user", "user"]
    assert len(asked) == 1


def test_a_servers_token_may_do_four_things(make_spawner: MakeSpawner) -> None:
    assert tuple(make_spawner().server_token_scopes) == SERVER_SCOPES
    assert not [
        scope for scope in SERVER_SCOPES if "admin" in scope or scope.startswith(("servers", "tokens"))
    ]


async def test_certificates_are_refused(make_spawner: MakeSpawner) -> None:
    with pytest.raises(HTTPError, match="internal_ssl"):
        await make_spawner().move_certs({})


def test_a_sentence_with_a_percent_sign_is_shown_as_it_is() -> None:
    error = refusal("100 % of %s")
    assert error.jupyterhub_message == "100 % of %s"
    assert "100 % of %s" in str(error)
