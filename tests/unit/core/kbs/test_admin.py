# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from sealroom.errors import AccessDeniedError, ConfigurationError, NetworkError, ProtocolError
from sealroom.kbs.admin import AuditReader, OwnerClient
from sealroom.kbs.calls import DatasetRegistration, GrantChange, GrantSpec
from support.fake_broker import URL, error

TOKEN = "owner-token-secret"
GRANT = {"id": "g1", "created": "2026-11-01T00:00:00Z", "dataset": "heartbeats", "subject": "ada"}
DATASET = {
    "id": "heartbeats",
    "title": "Heartbeats",
    "manifest_sha256": "00" * 32,
    "files": 1,
    "size": 5,
    "registered": "2026-11-01T00:00:00Z",
}

Answer = Callable[[httpx.Request], httpx.Response]


def connect(answer: Answer) -> OwnerClient:
    return OwnerClient(URL, TOKEN, http=httpx.Client(transport=httpx.MockTransport(answer)))


def answering(seen: list[httpx.Request], content: object) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        return httpx.Response(200, json=content)

    return answer


def test_a_dataset_is_registered() -> None:
    seen: list[httpx.Request] = []
    registration = DatasetRegistration(manifest="bQ==", signature="cw==", owner_key="aw==", secret_key="eA==")
    with connect(answering(seen, DATASET)) as client:
        registered = client.register_dataset(registration)
    assert registered.id == "heartbeats"
    assert (seen[0].method, seen[0].url.path) == ("POST", "/kbs/v0/sealroom/admin/datasets")
    assert json.loads(seen[0].content)["secret_key"] == "eA=="


def test_datasets_are_listed() -> None:
    with connect(answering([], {"datasets": [DATASET]})) as client:
        assert [one.id for one in client.datasets()] == ["heartbeats"]


def test_a_grant_is_added() -> None:
    seen: list[httpx.Request] = []
    until = datetime(2027, 1, 1, tzinfo=UTC)
    with connect(answering(seen, GRANT)) as client:
        grant = client.add_grant(GrantSpec(dataset="heartbeats", subject="ada", until=until))
    assert grant.id == "g1"
    assert json.loads(seen[0].content)["until"] == "2027-01-01T00:00:00Z"


def test_grants_are_listed_for_all_datasets_or_one() -> None:
    seen: list[httpx.Request] = []
    with connect(answering(seen, {"grants": [GRANT]})) as client:
        assert client.grants()[0].subject == "ada"
        client.grants("a&b=c")
    assert [request.url.query for request in seen] == [b"", b"dataset=a%26b%3Dc"]


def test_a_grant_is_withdrawn_by_its_id_alone() -> None:
    seen: list[httpx.Request] = []
    with connect(answering(seen, {**GRANT, "withdrawn": "2026-11-02T00:00:00Z"})) as client:
        assert client.withdraw_grant("../g1").withdrawn is not None
    assert seen[0].method == "DELETE"
    assert seen[0].url.raw_path == b"/kbs/v0/sealroom/admin/grants/..%2Fg1"


def test_the_audit_log_is_read_through_the_owners_calls() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path.removeprefix("/kbs/v0/sealroom/admin/"))
        return httpx.Response(200, content=b"log+0+key\n")

    with connect(answer) as client:
        assert client.audit_key() == "log+0+key"
        assert AuditReader(client).get("tile/entries/x001/000.p/7") == b"log+0+key\n"
    assert seen == ["audit/key", "audit/tile/entries/x001/000.p/7"]


def test_a_key_that_is_no_text_is_refused() -> None:
    with connect(lambda _: httpx.Response(200, content=b"\xff")) as client, pytest.raises(ProtocolError):
        client.audit_key()


def test_a_wrong_token_is_refused_with_advice() -> None:
    wrong = error(401, "AdminAuth", "wrong token")
    with connect(lambda _: wrong) as client, pytest.raises(AccessDeniedError, match="wrong token") as caught:
        client.datasets()
    assert "token" in caught.value.advice
    assert TOKEN not in caught.value.diagnostics()


def test_what_the_broker_does_not_take_is_said_in_its_words() -> None:
    with (
        connect(lambda _: error(400, "ProtocolError", "A grant names either a person or a group.")) as client,
        pytest.raises(ProtocolError, match="either a person or a group"),
    ):
        client.add_grant(GrantSpec(dataset="a"))


def test_a_broker_that_is_not_there_is_a_network_error() -> None:
    with OwnerClient("http://127.0.0.1:9", TOKEN) as client, pytest.raises(NetworkError):
        client.datasets()


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "é"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OwnerClient(URL, token)
    assert not token or token not in caught.value.diagnostics()


def test_the_token_is_not_printed() -> None:
    assert TOKEN not in repr(connect(lambda _: httpx.Response(200)))


# --- changes, projects and keys


def test_a_change_sends_only_what_changes() -> None:
    seen: list[httpx.Request] = []
    with connect(answering(seen, {**GRANT, "version": 2, "gpu": True})) as client:
        assert client.change_grant("../g1", GrantChange(gpu=True)).version == 2
    assert (seen[0].method, seen[0].url.raw_path) == ("PATCH", b"/kbs/v0/sealroom/admin/grants/..%2Fg1")
    assert json.loads(seen[0].content) == {"gpu": True}


def test_an_empty_list_is_a_change() -> None:
    seen: list[httpx.Request] = []
    with connect(answering(seen, GRANT)) as client:
        client.change_grant("g1", GrantChange(environments=(), project="", outputs=False))
    assert json.loads(seen[0].content) == {"environments": [], "project": "", "outputs": False}


def test_projects_are_listed_halted_and_resumed() -> None:
    seen: list[httpx.Request] = []
    project = {"name": "vroni", "state": "halted", "grants": 1, "more": "of a newer broker"}
    with connect(answering(seen, {"projects": [project], **project})) as client:
        assert client.projects()[0].name == "vroni"
        assert client.halt_project("vroni", "Incident").state == "halted"
        client.resume_project("vroni", "Solved")
    base = "/kbs/v0/sealroom/admin/projects"
    assert [(one.method, one.url.path) for one in seen] == [
        ("GET", base),
        ("POST", f"{base}/vroni/halt"),
        ("POST", f"{base}/vroni/resume"),
    ]
    assert json.loads(seen[2].content) == {"reason": "Solved"}


def test_a_key_is_destroyed_with_a_reason() -> None:
    seen: list[httpx.Request] = []
    with connect(answering(seen, {**DATASET, "destroyed": "2026-11-02T00:00:00Z"})) as client:
        assert client.destroy_key("heart/beats", "Over").destroyed is not None
        with pytest.raises(ConfigurationError, match="between 1 and 2000"):
            client.destroy_key("heartbeats", "")
    assert [(one.method, one.url.raw_path) for one in seen] == [
        ("DELETE", b"/kbs/v0/sealroom/admin/datasets/heart%2Fbeats/key")
    ]
    assert json.loads(seen[0].content) == {"reason": "Over"}
