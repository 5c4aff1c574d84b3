# SPDX-License-Identifier: BSD-3-Clause
"""A workshop: its file, its seats, its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sealroom.errors import ConfigurationError
from sealroom_spawner.accounts import PasswordHash
from sealroom_spawner.workshop import Admission, Workshop, WorkshopFile, load
from sealroom_spawner.workshop.ending import stop_servers
from sealroom_spawner.workshop.join import WorkshopAuthenticator, invitation
from tornado.web import HTTPError

END = datetime(2027, 1, 8, 18, 0, tzinfo=UTC)
GOOD = {
    "name": '"summer-school"',
    "title": '"Hearts and networks"',
    "seats": "2",
    "environment": '"simulated-cpu"',
    "until": "2027-01-08T18:00:00Z",
    "instructors": '["tina"]',
}
LTI = """
[lti]
issuer = "https://moodle.example"
client_id = "hub"
authorize_url = "https://moodle.example/mod/lti/auth.php"
jwks_endpoint = "https://moodle.example/mod/lti/certs.php"
"""


def written(folder: Path, more: str = "", **changes: str | None) -> Path:
    path = folder / "workshop.toml"
    fields: dict[str, str | None] = {**GOOD, **changes}
    path.write_text(
        "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None) + more
    )
    return path


class Clock:
    def __init__(self) -> None:
        self.now = END - timedelta(hours=1)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(tmp_path: Path, clock: Clock) -> Admission:
    return Admission(WorkshopFile(written(tmp_path)), tmp_path / "taken.json", clock=clock)


async def login(admission: Admission, name: str, *, admin: bool = False) -> list[str]:
    model = await admission.after_login(None, None, {"name": name, "admin": admin})
    return list(model["groups"])


# --- the file


def test_file_is_read(tmp_path: Path) -> None:
    workshop = load(written(tmp_path))
    assert (workshop.name, workshop.seats, workshop.until, workshop.signup) == (
        "summer-school",
        2,
        END,
        "link",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seats": "0"}, "seats"),
        ({"seats": None}, "seats"),
        ({"name": '"Summer School"'}, "name"),
        ({"until": "2027-01-08T18:00:00"}, "until.*timezone"),
        ({"until": '"soon"'}, "until"),
        ({"signup": '"lti"'}, "belong together"),
        ({"signup": '"open"'}, "signup"),
        ({"idle_minutes": "0"}, "idle_minutes"),
        ({"seat": "3"}, "seat"),
        ({"title": '"'}, "cannot be read"),
    ],
)
def test_file_that_cannot_be(tmp_path: Path, change: dict[str, str | None], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load(written(tmp_path, "", **change))


def test_platform_without_lti_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="belong together"):
        load(written(tmp_path, LTI))
    assert load(written(tmp_path, LTI, signup='"lti"')).lti is not None


@pytest.mark.parametrize("field", ["issuer", "authorize_url", "jwks_endpoint"])
def test_platform_without_tls_is_an_error(tmp_path: Path, field: str) -> None:
    lines = [line.replace("https:", "http:") if line.startswith(field) else line for line in LTI.splitlines()]
    with pytest.raises(ConfigurationError, match=f"{field}.*https"):
        load(written(tmp_path, "\n".join(lines), signup='"lti"'))


# --- seats


async def test_who_has_a_seat_is_in_the_group(admission: Admission) -> None:
    assert await login(admission, "anna") == ["summer-school"]


async def test_nobody_gets_a_seat_beyond_the_last(admission: Admission) -> None:
    for name in ("anna", "ben"):
        await login(admission, name)
    with pytest.raises(HTTPError) as caught:
        await login(admission, "chen")
    assert "All 2 seats" in caught.value.jupyterhub_message  # type: ignore[attr-defined]
    assert await login(admission, "anna") == ["summer-school"]


async def test_instructors_and_operators_need_no_seat(admission: Admission) -> None:
    assert await login(admission, "tina") == []
    assert await login(admission, "operator", admin=True) == []
    assert admission.taken == {}


async def test_seats_outlive_the_hub(admission: Admission, tmp_path: Path, clock: Clock) -> None:
    await login(admission, "anna")
    again = Admission(lambda: admission.workshop, tmp_path / "taken.json", clock=clock)
    assert set(again.taken) == {"anna"}


async def test_damaged_file_of_seats_gives_nobody_a_seat(admission: Admission, tmp_path: Path) -> None:
    (tmp_path / "taken.json").write_text('{"anna": ')
    with pytest.raises(ConfigurationError, match="damaged"):
        await login(admission, "ben")


# --- the end


async def test_after_the_end_nobody_of_it_logs_in(admission: Admission, clock: Clock) -> None:
    await login(admission, "anna")
    clock.now = END
    with pytest.raises(HTTPError, match="ended at 2027-01-08 18:00"):
        await login(admission, "anna")
    assert await login(admission, "tina") == []


@pytest.mark.parametrize(
    ("name", "admin", "refused"), [("anna", False, True), ("tina", False, False), ("operator", True, False)]
)
async def test_after_the_end_no_server_of_it_starts(
    admission: Admission, clock: Clock, name: str, admin: bool, refused: bool
) -> None:
    spawner = SimpleNamespace(user=SimpleNamespace(name=name, admin=admin))
    await admission.before_start(spawner)
    clock.now = END
    if refused:
        with pytest.raises(HTTPError, match="ended"):
            await admission.before_start(spawner)
    else:
        await admission.before_start(spawner)


async def test_end_that_is_put_off_holds_at_once(admission: Admission, tmp_path: Path, clock: Clock) -> None:
    clock.now = END
    assert admission.over
    written(tmp_path, until="2027-01-09T18:00:00+01:00")
    assert await login(admission, "anna") == ["summer-school"]


def test_file_that_was_spoilt_changes_nothing(admission: Admission, tmp_path: Path, clock: Clock) -> None:
    written(tmp_path, seats="-1")
    assert (admission.workshop.seats, admission.over) == (2, False)
    (tmp_path / "workshop.toml").unlink()
    clock.now = END
    assert (admission.workshop.seats, admission.over) == (2, True)


class Hub:
    """A hub's API in pages of one; it remembers what was stopped."""

    def __init__(self, *users: dict[str, Any], answer: int = 204) -> None:
        self.users, self.answer = users, answer
        self.stopped: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.stopped.append(request.url.path)
            return httpx.Response(self.answer)
        offset = int(request.url.params["offset"])
        more = {"offset": offset + 1, "limit": 1} if offset + 1 < len(self.users) else None
        items = list(self.users[offset : offset + 1])
        return httpx.Response(200, json={"items": items, "_pagination": {"next": more}})

    @property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url="http://hub/api/", transport=httpx.MockTransport(self))


def person(name: str, *servers: str, group: str = "summer-school") -> dict[str, Any]:
    return {"name": name, "groups": [group], "servers": {one: {} for one in servers}}


async def test_servers_of_the_workshop_are_stopped(tmp_path: Path) -> None:
    hub = Hub(
        person("anna", "", "second one"),
        person("bob", "", group="lab"),
        person("tina", ""),
        person("c/d", ""),
    )
    async with hub.client as client:
        assert await stop_servers(client, load(written(tmp_path))) == 3
    assert hub.stopped == [
        "/api/users/anna/server",
        "/api/users/anna/servers/second one",
        "/api/users/c/d/server",
    ]


async def test_server_that_is_starting_is_left_for_the_next_look(tmp_path: Path) -> None:
    hub = Hub(person("anna", ""), answer=400)
    async with hub.client as client:
        assert await stop_servers(client, load(written(tmp_path))) == 0


async def test_hub_that_refuses_is_an_error(tmp_path: Path) -> None:
    hub = Hub(person("anna", ""), answer=403)
    async with hub.client as client:
        with pytest.raises(httpx.HTTPStatusError):
            await stop_servers(client, load(written(tmp_path)))


# --- sign-up by link


Make = Callable[[], WorkshopAuthenticator]


@pytest.fixture
def make(tmp_path: Path, admission: Admission) -> Make:
    (tmp_path / "accounts.json").write_text(
        json.dumps({"tina": {"password": PasswordHash.of("hers").to_json(), "admin": False}})
    )

    def new() -> WorkshopAuthenticator:
        return WorkshopAuthenticator(
            accounts_file=str(tmp_path / "accounts.json"),
            seats_file=str(tmp_path / "seats.json"),
            code=invitation(tmp_path / "code"),
            admission=admission,
            first_delay=0.0,
            longest_delay=0.0,
        )

    return new


async def test_seat_logs_in_with_its_password(make: Make) -> None:
    authenticator = make()
    name, password = await authenticator.new_seat()
    assert name == "summer-school-01"
    assert await authenticator.authenticate(None, {"username": name, "password": password}) == name
    assert await authenticator.authenticate(None, {"username": name, "password": "other"}) is None
    assert await authenticator.authenticate(None, {"username": "tina", "password": "hers"}) == "tina"


async def test_seat_is_known_after_a_restart_of_the_hub(make: Make) -> None:
    name, password = await make().new_seat()
    again = make()
    assert name in again.allowed_users
    assert await again.authenticate(None, {"username": name, "password": password}) == name


async def test_twenty_at_once_get_the_two_seats(make: Make, tmp_path: Path) -> None:
    authenticator = make()
    found = await asyncio.gather(*(authenticator.new_seat() for _ in range(20)), return_exceptions=True)
    names = sorted(one[0] for one in found if isinstance(one, tuple))
    assert names == ["summer-school-01", "summer-school-02"]
    assert all("seats are taken" in str(one) for one in found if isinstance(one, BaseException))
    assert set(json.loads((tmp_path / "seats.json").read_text())) == set(names)


async def test_seat_has_no_name_of_an_account(make: Make, tmp_path: Path) -> None:
    accounts = json.loads((tmp_path / "accounts.json").read_text())
    (tmp_path / "accounts.json").write_text(json.dumps(accounts | {"summer-school-01": accounts["tina"]}))
    assert (await make().new_seat())[0] == "summer-school-02"


async def test_no_seat_after_the_end(make: Make, clock: Clock) -> None:
    clock.now = END
    with pytest.raises(HTTPError, match="ended"):
        await make().new_seat()


async def test_session_of_a_seat_ends_with_the_workshop(make: Make, clock: Clock) -> None:
    authenticator = make()
    name, _ = await authenticator.new_seat()
    seat, tina = (SimpleNamespace(name=one, admin=False) for one in (name, "tina"))
    assert await authenticator.refresh_user(seat)
    clock.now = END
    assert not await authenticator.refresh_user(seat)
    assert await authenticator.refresh_user(tina)


def test_passwords_of_seats_are_stored_as_hashes(make: Make, tmp_path: Path) -> None:
    _, password = asyncio.run(make().new_seat())
    path = tmp_path / "seats.json"
    assert password not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_invitation_stays_and_is_private(tmp_path: Path) -> None:
    code = invitation(tmp_path / "code")
    assert len(code) >= 43
    assert invitation(tmp_path / "code") == code
    assert (tmp_path / "code").stat().st_mode & 0o777 == 0o600
    (tmp_path / "code").write_text("")
    with pytest.raises(ConfigurationError, match="no invitation"):
        invitation(tmp_path / "code")


def test_workshop_is_over_at_its_end(tmp_path: Path) -> None:
    workshop: Workshop = load(written(tmp_path))
    assert not workshop.ended(END - timedelta(seconds=1))
    assert workshop.ended(END)
