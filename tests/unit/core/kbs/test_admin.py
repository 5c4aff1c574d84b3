# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest
from sealroom.errors import AccessDeniedError, ConfigurationError, NetworkError, ProtocolError
from sealroom.kbs.admin import AuditReader, OwnerClient
from sealroom.kbs.calls import DatasetRegistration, GrantSpec
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
