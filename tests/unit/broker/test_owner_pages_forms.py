# SPDX-License-Identifier: BSD-3-Clause
"""The owner's pages: what each form does, for whom it does not, and what it says if something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import httpx
import pytest
from sealroom import testing
from sealroom.audit.entry import AuditEntry
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError, StorageError
from sealroom.kbs.calls import AccessRequest, AccessRequestSpec, GrantChange
from sealroom.kbs.client import KbsClient
from sealroom_broker.audit import Record
from sealroom_broker.store import Store
from support.brokers import GENERAL, Data, World
from support.oidc import ISSUER
from support.owner_pages import Document, Pages

READER = SecretKey.generate()
HEALTH = "DUO:0000006"
OLIVIA = f"olivia (owner-1 at {ISSUER})"


@pytest.fixture
def pages(world: World) -> Iterator[Pages]:
    made = Pages(world)
    yield made
    made.close()


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


@pytest.fixture
def guest(world: World, data: Data) -> KbsClient:
    return world.guest()


@pytest.fixture
def asked(guest: KbsClient) -> AccessRequest:
    return guest.request_access(AccessRequestSpec(dataset="heartbeats", purpose=GENERAL, reason="A study."))


def entries(world: World) -> list[AuditEntry]:
    return [AuditEntry.from_bytes(entry) for _, entry in world.broker.record.log.entries()]


def last(world: World) -> AuditEntry:
    return entries(world)[-1]


def wrong(response: httpx.Response) -> Document:
    """Return the page that says what is wrong with a form."""
    assert response.status_code == 400, response.status_code
    shown = Document(response.text)
    assert "Nothing was done." in shown.text
    return shown


# --- every form, and what guards it

Forms = Callable[[World, AccessRequest], tuple[str, Mapping[str, str]]]

GRANT = {
    "who": "subject",
    "name": "alice",
    "dataset": "heartbeats",
    f"purpose:{GENERAL}": "on",
    "forever": "on",
}
EVERY: dict[str, Forms] = {
    "destroy": lambda world, asked: (
        "/datasets/heartbeats/destroy",
        {"reason": "Over", "confirm": "heartbeats"},
    ),
    "grant-request": lambda world, asked: (
        f"/requests/{asked.id}/grant",
        {f"purpose:{GENERAL}": "on", "forever": "on"},
    ),
    "refuse-request": lambda world, asked: (f"/requests/{asked.id}/refuse", {"refusal": "No."}),
    "new-grant": lambda world, asked: ("/grants/new", GRANT),
    "change-grant": lambda world, asked: (
        f"/grants/{world.grant()}/change",
        {f"purpose:{GENERAL}": "on", "forever": "on", "gpu": "on"},
    ),
    "withdraw-grant": lambda world, asked: (f"/grants/{world.grant()}/withdraw", {}),
    "halt": lambda world, asked: (_project(world), {"reason": "Stop"}),
    "resume": lambda world, asked: (_halted(world), {"reason": "Go on"}),
}


def _project(world: World) -> str:
    if world.owner.projects() and world.owner.projects()[0].state == "halted":
        world.owner.resume_project("vroni", "Go on")
    world.grant(project="vroni")
    return "/projects/vroni/halt"


def _halted(world: World) -> str:
    _project(world)
    world.owner.halt_project("vroni", "Stop")
    return "/projects/vroni/resume"


@pytest.mark.parametrize("form", EVERY)
def test_every_form_does_something(world: World, pages: Pages, asked: AccessRequest, form: str) -> None:
    pages.log_in()
    path, fields = EVERY[form](world, asked)
    before = world.broker.record.log.size
    response = pages.post(path, {**fields, "csrf": pages.csrf})
    assert response.status_code == 303, Document(response.text).text
    assert world.broker.record.log.size > before
    assert last(world).actor == OLIVIA


# What follows does nothing, so that all forms are tried at one broker.


@pytest.mark.parametrize("csrf", [None, "wrong"])
def test_form_that_is_not_the_logins_own(
    world: World, pages: Pages, asked: AccessRequest, csrf: str | None
) -> None:
    pages.log_in()
    for name, form in EVERY.items():
        path, fields = form(world, asked)
        before = world.broker.record.log.size
        response = pages.post(path, fields if csrf is None else {**fields, "csrf": csrf})
        assert response.status_code == 403, name
        assert "This form is not one of your login's" in Document(response.text).text, name
        assert world.broker.record.log.size == before, name


def test_auditor_may_not_act(world: World, pages: Pages, asked: AccessRequest) -> None:
    pages.log_in("auditors")
    csrf = pages.csrf
    for name, form in EVERY.items():
        path, fields = form(world, asked)
        before = world.broker.record.log.size
        response = pages.post(path, {**fields, "csrf": csrf})
        assert response.status_code == 403, name
        assert "This needs the role owner." in Document(response.text).text, name
        assert world.broker.record.log.size == before, name


def test_nobody_acts_without_a_login(world: World, pages: Pages, asked: AccessRequest) -> None:
    pages.log_in()
    csrf = pages.csrf
    pages.jar.clear()
    for name, form in EVERY.items():
        path, fields = form(world, asked)
        before = world.broker.record.log.size
        response = pages.post(path, {**fields, "csrf": csrf})
        # A page, not a redirect: browsers would stop a form's redirect to the provider.
        assert response.status_code == 403, name
        assert "Your login has ended, and nothing was changed." in Document(response.text).text, name
        program = pages.send("POST", f"/owner{path}", data=dict(fields), headers={"Accept": "*/*"})
        assert program.status_code == 303, name
        assert world.broker.record.log.size == before, name


def test_form_does_nothing_when_it_is_opened(world: World, pages: Pages, asked: AccessRequest) -> None:
    pages.log_in()
    for name, form in EVERY.items():
        path, _ = form(world, asked)
        before = world.broker.record.log.size
        response = pages.send("GET", f"/owner{path}")
        assert response.status_code in (200, 303), name
        if response.status_code == 303:
            pages.get(response.headers["location"].removeprefix("/owner"))
        assert world.broker.record.log.size == before, name


def test_pages_with_forms_are_not_for_auditors(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in("auditors")
    for path in (
        "/grants/new",
        f"/grants/{grant}/change",
        f"/grants/{grant}/withdraw",
        "/datasets/heartbeats/destroy",
    ):
        assert "You may not do this" in pages.get(path, 403).text
    for path in ("/grants", f"/grants/{grant}", "/datasets/heartbeats", "/"):
        assert [one[":action"] for one in pages.get(path).forms if one[":method"] == "post"] == ["/logout"]


# --- requests


def test_request_is_granted_as_it_is_offered(
    world: World, pages: Pages, data: Data, guest: KbsClient, asked: AccessRequest
) -> None:
    pages.log_in()
    path = f"/requests/{asked.id}"
    response = pages.submit(path, f"{path}/grant", answer="Welcome.", project="vroni", servers="2")
    shown = pages.done(response)
    assert "The request of alice is granted." in shown.text
    (own,) = guest.own_requests()
    assert (own.state, own.answer, own.answered_by) == ("granted", "Welcome.", OLIVIA)
    (grant,) = world.owner.grants()
    assert (grant.subject, grant.issuer, grant.purposes) == ("alice", "hub", (GENERAL,))
    assert (grant.until, grant.environments) == (
        testing.NOW + timedelta(days=7),
        (world.environment.digest,),
    )
    assert (grant.minimum, grant.servers, grant.project, grant.outputs) == ("simulated", 2, "vroni", False)
    assert guest.release("heartbeats", data.request(READER)).grant == grant.id


def test_request_is_refused_with_words(
    world: World, pages: Pages, guest: KbsClient, asked: AccessRequest
) -> None:
    pages.log_in()
    path = f"/requests/{asked.id}"
    words = "Please name the ethics approval.\r\nThen ask again."
    shown = pages.done(pages.submit(path, f"{path}/refuse", refusal=words))
    assert "The request of alice is refused." in shown.text
    assert "Please name the ethics approval." in shown.text
    assert guest.own_requests()[0].answer == "Please name the ethics approval.\nThen ask again."
    assert not [form for form in shown.forms if form[":action"].endswith(("/grant", "/refuse"))]


def test_refusal_without_words_keeps_the_request_open(
    world: World, pages: Pages, asked: AccessRequest
) -> None:
    pages.log_in()
    path = f"/requests/{asked.id}"
    shown = wrong(pages.submit(path, f"{path}/refuse", refusal="  "))
    assert "Say why; the person reads it." in shown.text
    assert world.owner.requests(state="open")


def test_request_that_somebody_else_answered_meanwhile(
    world: World, pages: Pages, asked: AccessRequest
) -> None:
    pages.log_in()
    fields = pages.get(f"/requests/{asked.id}").form("/grant")
    world.owner.refuse_request(asked.id, "No.")
    shown = wrong(pages.post(f"/requests/{asked.id}/grant", fields))
    assert "already" in shown.text
    assert not world.owner.grants()


def test_answer_keeps_what_was_typed(world: World, pages: Pages, asked: AccessRequest) -> None:
    pages.log_in()
    path = f"/requests/{asked.id}"
    typed = {"servers": "many", "answer": "</textarea><script>alert(1)</script>", "until": "2027-01-01T10:00"}
    response = pages.submit(path, f"{path}/grant", outputs="on", **typed, **{f"purpose:{HEALTH}": "on"})
    shown = wrong(response)
    assert "Give a whole number from 1 to 100000, or nothing." in shown.text
    assert "<script>alert" not in response.text
    kept = shown.form("/grant")
    assert {name: kept[name] for name in typed} == typed
    assert (kept["outputs"], kept[f"purpose:{HEALTH}"], kept[f"purpose:{GENERAL}"]) == ("on", "on", "on")
    assert ("input", "f-servers") in [
        (tag, found.get("id")) for tag, found in shown.elements if found.get("aria-invalid") == "true"
    ]


# --- grants


def test_new_grant(world: World, pages: Pages, data: Data) -> None:
    pages.log_in()
    assert pages.get("/grants/new?dataset=heartbeats").form("")["dataset"] == "heartbeats"
    response = pages.submit("/grants/new", dataset="heartbeats", name="alice", gpu="on", servers="3")
    shown = pages.done(response)
    assert "The grant is given." in shown.text
    (grant,) = world.owner.grants()
    assert (grant.subject, grant.issuer, grant.gpu, grant.servers) == ("alice", "hub", True, 3)
    assert grant.until == testing.NOW + timedelta(days=7)
    assert "alice may read Heartbeats" in shown.text
    assert (last(world).kind, last(world).actor) == ("grant", OLIVIA)


@pytest.mark.parametrize("who", ["group", "visa"])
def test_new_grant_for_others_than_a_person(world: World, pages: Pages, data: Data, who: str) -> None:
    world.people.visa_issuers = ("https://visas.example",)
    pages.log_in()
    pages.done(pages.submit("/grants/new", dataset="heartbeats", who=who, name="cardiology"))
    (grant,) = world.owner.grants()
    assert getattr(grant, who) == "cardiology"
    assert grant.subject == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": ""}, "Say who may use it"),
        ({"name": "a\x00b"}, "a character in it that cannot be shown"),
        ({"name": "\u202ebob"}, "a character in it that cannot be shown"),
        ({"name": "x" * 401}, "at most 400 are possible"),
        ({"who": "everybody"}, "Say whether this is for a person"),
        ({"who": None}, "Say whether this is for a person"),
        ({"dataset": ""}, "Choose a dataset."),
        ({"dataset": "none"}, "This broker has no dataset none."),
        ({f"purpose:{GENERAL}": None}, "Tick at least one purpose."),
        ({"purpose:DUO:9999999": "on"}, "purposes are DUO codes"),
        ({"environment:sha256:xyz": "on"}, "environments are digests"),
        ({"minimum": "none"}, "Choose what a server must prove."),
        ({"until": ""}, "Say when it ends, or tick that it has no end."),
        ({"until": "soon"}, "Give a date and a time"),
        ({"until": "2026-05-01T00:00"}, "This is in the past."),
        ({"until": "0001-01-01T00:00+23:59"}, "Give a date and a time"),
        ({"starts": "2026-07-01T00:00"}, "It must end after it begins."),
        ({"servers": "0"}, "Give a whole number"),
        ({"servers": "\u00b2"}, "Give a whole number"),
        ({"servers": "9" * 5000}, "Give a whole number"),
        ({"project": "../etc"}, "pattern"),
        ({"project": "x" * 65}, "at most 64 are possible"),
        ({"issuer": "https://evil.example"}, "does not know the issuer"),
    ],
)
def test_new_grant_with_something_wrong(
    world: World, pages: Pages, data: Data, changes: dict[str, str | None], sentence: str
) -> None:
    pages.log_in()
    fields: dict[str, str | None] = {"dataset": "heartbeats", "name": "erin", **changes}
    shown = wrong(pages.submit("/grants/new", "", **fields))
    assert sentence in shown.text
    assert not world.owner.grants()
    if changes.get("name", "erin") == "erin":
        assert shown.form("")["name"] == "erin", "what was typed stays"


def test_grant_into_a_halted_project(world: World, pages: Pages, data: Data) -> None:
    world.grant(project="vroni")
    world.owner.halt_project("vroni", "Stop")
    pages.log_in()
    shown = wrong(pages.submit("/grants/new", dataset="heartbeats", name="erin", project="vroni"))
    assert "vroni" in shown.text
    assert len(world.owner.grants()) == 1


def test_grant_is_narrowed_and_extended(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant(until=testing.NOW + timedelta(days=3, seconds=30), gpu=True, servers=3)
    pages.log_in()
    path = f"/grants/{grant}/change"
    changes = {"gpu": None, "servers": "", f"purpose:{HEALTH}": "on", "project": "vroni"}
    shown = pages.done(pages.submit(path, "", **changes))
    assert "The grant is changed; it holds at once." in shown.text
    (changed,) = world.owner.grants()
    assert (changed.gpu, changed.servers, changed.project) == (False, None, "vroni")
    assert set(changed.purposes) == {GENERAL, HEALTH}
    assert changed.until == testing.NOW + timedelta(days=3, seconds=30), "seconds that no field shows stay"
    assert (last(world).kind, last(world).actor) == ("change", OLIVIA)
    pages.done(pages.submit(path, "", forever="on"))
    assert world.owner.grants()[0].until is None


def test_change_of_nothing_is_no_act(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant(until=testing.NOW + timedelta(days=3), starts=testing.NOW + timedelta(days=1))
    pages.log_in()
    before = world.broker.record.log.size
    assert "Nothing was changed." in pages.done(pages.submit(f"/grants/{grant}/change")).text
    assert world.broker.record.log.size == before


def test_change_leaves_alone_what_another_owner_changed_meanwhile(
    world: World, pages: Pages, data: Data
) -> None:
    grant = world.grant(until=testing.NOW + timedelta(days=3))
    pages.log_in()
    fields = pages.get(f"/grants/{grant}/change").form("")
    world.owner.change_grant(grant, GrantChange(gpu=True))
    # The form still says what it said: of a box that is not ticked nobody knows whether somebody meant it.
    pages.done(pages.post(f"/grants/{grant}/change", {**fields, "servers": "1"}))
    assert world.owner.grants()[0].servers == 1


def test_start_cannot_be_taken_away(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant(starts=testing.NOW + timedelta(days=1))
    pages.log_in()
    shown = wrong(pages.submit(f"/grants/{grant}/change", "", starts=""))
    assert "A beginning cannot be taken away." in shown.text


def test_withdrawn_grant_is_not_changed(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in()
    fields = pages.get(f"/grants/{grant}/change").form("")
    world.owner.withdraw_grant(grant)
    shown = wrong(pages.post(f"/grants/{grant}/change", {**fields, "gpu": "on"}))
    assert "A withdrawn grant does not change" in shown.text
    assert "It is withdrawn; a new grant is needed." in pages.get(f"/grants/{grant}/change").text


def test_withdrawal_ends_a_running_server(world: World, pages: Pages, data: Data, guest: KbsClient) -> None:
    grant = world.grant()
    guest.release("heartbeats", data.request(READER))
    pages.log_in()
    path = f"/grants/{grant}/withdraw"
    assert "Servers that run by it lose Heartbeats" in pages.get(path).text
    assert "The grant is withdrawn." in pages.done(pages.submit(path)).text
    assert [one.state for one in guest.session().releases] == ["withdrawn"]
    with pytest.raises(AccessDeniedError):
        guest.release("heartbeats", data.request(READER))
    assert (last(world).kind, entries(world)[-2].kind) == ("refusal", "withdrawal")


def test_withdrawing_again_says_so(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in()
    fields = pages.get(f"/grants/{grant}/withdraw").form("")
    world.owner.withdraw_grant(grant)
    before = world.broker.record.log.size
    shown = pages.done(pages.post(f"/grants/{grant}/withdraw", fields))
    assert "It was withdrawn already." in shown.text
    assert world.broker.record.log.size == before


# --- projects and keys


def test_project_is_halted_and_goes_on(world: World, pages: Pages, data: Data, guest: KbsClient) -> None:
    world.grant(project="vroni")
    guest.release("heartbeats", data.request(READER))
    pages.log_in()
    halted = pages.done(pages.submit("/projects/vroni", "/projects/vroni/halt", reason="Incident 7"))
    assert "The project vroni is halted." in halted.text
    assert "Incident 7" in halted.text
    assert [one.state for one in guest.session().releases] == ["withdrawn"]
    assert (last(world).kind, last(world).detail, last(world).project) == ("halt", "Incident 7", "vroni")
    pages.done(pages.submit("/projects/vroni", "/projects/vroni/resume", reason="Solved"))
    assert [one.state for one in guest.session().releases] == ["active"]


def test_project_is_not_halted_without_a_reason(world: World, pages: Pages, data: Data) -> None:
    world.grant(project="vroni")
    pages.log_in()
    shown = wrong(pages.submit("/projects/vroni", "/projects/vroni/halt", reason=" "))
    assert "Say why; it stands in the audit log." in shown.text
    assert world.owner.projects()[0].state == "running"


def test_key_is_destroyed_after_its_id_was_typed(
    world: World, pages: Pages, data: Data, guest: KbsClient
) -> None:
    world.grant()
    pages.log_in()
    path = "/datasets/heartbeats/destroy"
    assert "1 grant that holds now opens nothing any more." in pages.get(path).text
    shown = pages.done(pages.submit(path, "", reason="The permit was revoked.", confirm="heartbeats"))
    assert "Its key was destroyed" in shown.text
    assert (last(world).kind, last(world).detail) == ("destruction", "The permit was revoked.")
    with pytest.raises(AccessDeniedError) as caught:
        guest.release("heartbeats", data.request(READER))
    assert caught.value.reasons[0][0] == "dataset.destroyed"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"confirm": ""}, "Type heartbeats to confirm."),
        ({"confirm": "Heartbeats"}, "Type heartbeats to confirm."),
        ({"reason": ""}, "Say why"),
    ],
)
def test_key_is_not_destroyed_by_mistake(
    world: World, pages: Pages, data: Data, changes: dict[str, str], sentence: str
) -> None:
    pages.log_in()
    fields = {"reason": "Because", "confirm": "heartbeats", **changes}
    shown = wrong(pages.submit("/datasets/heartbeats/destroy", "", **fields))
    assert sentence in shown.text
    assert shown.form("")["reason"] == fields["reason"]
    assert world.owner.datasets()[0].destroyed is None


def test_key_whose_traces_stay_for_now(
    world: World, pages: Pages, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Store) -> None:
        raise StorageError("The disk is full.")

    monkeypatch.setattr(Store, "erase", fails)
    pages.log_in()
    response = pages.submit("/datasets/heartbeats/destroy", "", reason="Over", confirm="heartbeats")
    assert "Traces in the database's files are not removed yet" in pages.done(response).text
    assert world.owner.datasets()[0].destroyed is not None


def test_act_that_could_not_be_recorded_is_not_done(
    world: World, pages: Pages, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = world.grant()

    def fails(*_: object) -> None:
        raise StorageError("The disk is full.")

    pages.log_in()
    fields = pages.get(f"/grants/{grant}/withdraw").form("")
    monkeypatch.setattr(Record, "append", fails)
    response = pages.post(f"/grants/{grant}/withdraw", fields)
    assert response.status_code == 503
    shown = Document(response.text).text
    assert "Not possible now" in shown
    assert "The disk is full" not in shown
    assert world.owner.grants()[0].withdrawn is None


# --- what is said once


def test_message_is_shown_once(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in()
    pages.done(pages.submit(f"/grants/{grant}/withdraw"))
    assert "The grant is withdrawn." not in pages.get(f"/grants/{grant}").text


@pytest.mark.parametrize("forged", ["x", "e30=.00", "e30=." + "0" * 64, ".", "eyJ4"])
def test_message_that_somebody_planted_is_not_shown(pages: Pages, forged: str) -> None:
    pages.log_in()
    pages.jar["sealroom-flash"] = forged
    shown = pages.get("/")
    assert ("div", "status") not in [(tag, found.get("role")) for tag, found in shown.elements]


def test_message_of_another_login_is_not_shown(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in()
    pages.submit(f"/grants/{grant}/withdraw")
    kept = pages.jar["sealroom-flash"]
    pages.log_in()
    pages.jar["sealroom-flash"] = kept
    assert "The grant is withdrawn." not in pages.get("/").text


def test_cookie_of_a_message(world: World, pages: Pages, data: Data) -> None:
    grant = world.grant()
    pages.log_in()
    response = pages.submit(f"/grants/{grant}/withdraw")
    (line,) = [one for one in response.headers.get_list("set-cookie") if one.startswith("sealroom-flash=")]
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/owner/", "Max-Age=60"} <= {
        one.strip() for one in line.split(";")
    }


def test_form_that_is_too_long(pages: Pages, data: Data) -> None:
    pages.log_in()
    response = pages.send("POST", "/owner/grants/new", content=b"a=" + b"x" * (1 << 20) * 2)
    assert response.status_code == 413


def test_somebody_with_both_roles_may_act(world: World, pages: Pages, data: Data) -> None:
    pages.log_in(groups=["data-owners", "auditors"])
    pages.done(pages.submit("/grants/new", dataset="heartbeats", name="erin"))
    assert world.owner.grants()[0].subject == "erin"
