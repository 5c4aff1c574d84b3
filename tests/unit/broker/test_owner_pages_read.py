# SPDX-License-Identifier: BSD-3-Clause
"""The owner's pages: what each of them shows, to whom, and what protects it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sealroom import testing
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import InclusionProof, verify_inclusion_of
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import Description
from sealroom.environments import Environment
from sealroom.errors import AccessDeniedError
from sealroom.kbs.calls import AccessRequest, AccessRequestSpec
from sealroom.kbs.client import KbsClient
from sealroom_broker.app import create_app
from sealroom_broker.owner_pages.assets import assets
from support.brokers import GENERAL, Data, World
from support.brokers import world as open_world
from support.oidc import ISSUER
from support.owner_pages import Document, Pages
from support.postgres import Postgres

READER = SecretKey.generate()
EVERY = (
    "/",
    "/datasets",
    "/datasets/heartbeats",
    "/requests",
    "/grants",
    "/projects",
    "/environments",
    "/servers",
    "/audit",
    "/audit/0",
)


@pytest.fixture
def pages(world: World) -> Iterator[Pages]:
    made = Pages(world)
    yield made
    made.close()


@pytest.fixture
def data(world: World) -> Data:
    return world.seal()


def ask(guest: KbsClient, **changes: Any) -> AccessRequest:
    fields = {"dataset": "heartbeats", "purpose": GENERAL, "reason": "A study of arrhythmia."}
    return guest.request_access(AccessRequestSpec.model_validate(fields | changes))


def refuse(guest: KbsClient, data: Data) -> None:
    with pytest.raises(AccessDeniedError):
        guest.release("heartbeats", data.request(READER))


# --- who sees them


def test_who_is_not_logged_in_is_sent_to_the_login(pages: Pages, data: Data) -> None:
    for path in EVERY:
        response = pages.send("GET", f"/owner{path}?page=2")
        assert response.status_code == 303, path
        assert response.headers["location"].startswith("/login?next=%2Fowner"), path
        assert "page%3D2" in response.headers["location"], path
        assert data.manifest.title not in response.text, path


def test_login_leads_back_to_the_page(pages: Pages) -> None:
    pages.log_in()
    assert pages.get("/").text.count("Overview")


@pytest.mark.parametrize("role", ["data-owners", "auditors"])
def test_owner_and_auditor_read_every_page(pages: Pages, data: Data, role: str) -> None:
    pages.log_in(role)
    for path in EVERY:
        shown = pages.get(path)
        assert ("auditor, reads only" in shown.text) == (role == "auditors"), path
        assert [tag for tag, _ in shown.elements].count("h1") == 1, path
        assert "Development broker." in shown.text, path


def test_pages_of_processes_that_share_a_database(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create()
    with open_world(tmp_path, postgresql=url) as world:
        data, pages = world.seal(), Pages(world)
        try:
            guest = world.guest()
            asked = ask(guest)
            grant = world.grant()
            guest.release("heartbeats", data.request(READER))
            pages.log_in()
            for path in (
                *EVERY,
                f"/requests/{asked.id}",
                f"/grants/{grant}",
                "/audit?kind=release&person=ali",
            ):
                assert [tag for tag, _ in pages.get(path).elements].count("h1") == 1, path
            pages.done(pages.submit(f"/grants/{grant}/withdraw"))
            proof = InclusionProof.from_bytes(pages.send("GET", "/owner/audit/3/proof").content)
            proof.verify(world.broker.record.signer.verifier)
        finally:
            pages.close()
    postgres.give_back(url)


def test_login_that_ended(pages: Pages, world: World) -> None:
    pages.log_in()
    world.clock.forward(hours=9)
    assert pages.send("GET", "/owner/grants").status_code == 303


def test_person_without_a_role_reads_why(pages: Pages) -> None:
    query = pages.send("GET", "/login?next=/owner/").headers["location"]
    pages.claims = {"groups": ["others"]}
    state = re.search(r"state=([\w-]+)", query)
    nonce = re.search(r"nonce=([\w-]+)", query)
    assert state is not None
    assert nonce is not None
    pages._nonce = nonce[1]
    response = pages.send("GET", f"/callback?code=a&state={state[1]}&iss={ISSUER}")
    assert response.status_code == 403
    assert "You are neither an owner nor an auditor here." in Document(response.text).text


def test_broker_without_a_login_says_how_to_get_one(world: World) -> None:
    response = world.http().get("/owner/", headers={"Accept": "text/html"})
    assert response.status_code == 200
    assert "[login]" in response.text
    assert "public_url" in response.text
    for path in ("/owner/grants", "/owner/audit/0"):
        assert world.http().get(path, headers={"Accept": "text/html"}).status_code == 404


def test_overview_is_at_the_folder(pages: Pages) -> None:
    response = pages.log_in().send("GET", "/owner")
    assert (response.status_code, response.headers["location"]) == (303, "/owner/")


def test_api_token_opens_no_page(pages: Pages, world: World) -> None:
    headers = {"Authorization": f"Bearer {world.owner_token}"}
    assert pages.send("GET", "/owner/grants", headers=headers).status_code == 303


# --- what protects them


def test_headers_of_a_page(pages: Pages, data: Data) -> None:
    pages.log_in()
    for path in EVERY:
        response = pages.send("GET", f"/owner{path}")
        policy = response.headers["content-security-policy"]
        assert policy == (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; "
            "form-action 'self'; frame-ancestors 'none'"
        ), path
        assert response.headers["cache-control"] == "no-store", path
        assert response.headers["referrer-policy"] == "no-referrer", path
        assert response.headers["x-content-type-options"] == "nosniff", path
        # The policy stops both; a page must not need them either.
        for tag, found in Document(response.text).elements:
            assert "style" not in found, path
            assert not any(name.startswith("on") for name in found), path
            assert tag != "style", path
            assert tag != "script" or found["src"].startswith("/owner/static/"), path


def test_pages_behind_a_proxy_trust_their_own_folder_only(world: World, data: Data) -> None:
    pages = Pages(world, public_url="https://hub.example/services/keys")
    try:
        response = pages.log_in().send("GET", "/owner/")
        source = "https://hub.example/services/keys/owner/static/"
        assert f"style-src {source}; script-src {source};" in response.headers["content-security-policy"]
        targets = Document(response.text).links()
        assert "/services/keys/owner/grants" in targets
        assert all(target.startswith(("/services/keys/", "#")) for target in targets)
    finally:
        pages.close()


def test_pages_under_a_prefix(world: World, data: Data) -> None:
    pages = Pages(world, public_url="https://hub.example/services/keys")
    try:
        world.app = create_app(pages.broker, prefix="/services/keys")
        pages.log_in()
        response = pages.send("GET", "/services/keys/owner/datasets")
        assert response.status_code == 200
        assert 'aria-current="page">Datasets' in response.text
    finally:
        pages.close()


def test_static_files_have_their_hash_in_the_path(pages: Pages) -> None:
    for asset in assets().values():
        response = pages.send("GET", asset.path)
        assert (response.status_code, response.content) == (200, asset.data)
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert response.headers["content-type"].startswith(asset.media_type)
        assert asset.path in str(pages.send("GET", "/owner/nothing").text)


NO_FILES = (
    "0000000000000000/owner.css",
    "../templates/layout.html",
    "..%2f..%2fbroker.toml",
    "owner.css",
    "%2e%2e/%2e%2e/etc/passwd",
)


def test_static_files_that_are_none(pages: Pages) -> None:
    pages.log_in()
    for path in NO_FILES:
        assert pages.send("GET", f"/owner/static/{path}").status_code == 404, path


NOTHING = (
    "/nothing",
    "/datasets/other",
    "/datasets/..%2f..%2fetc%2fpasswd",
    "/datasets/%00",
    "/grants/none",
    "/requests/none",
    "/projects/none",
    "/environments/sha256:00",
    "/environments/diff",
    "/environments/diff?old=a&new=b",
    "/audit/999",
    "/audit/-1",
    "/audit/1e3",
    "/audit/%C2%B2",
    "/audit/99999999999999999999",
    "/audit/999/proof",
    "/evidence/" + "0" * 64,
    "/evidence/..%2f..%2fkek.key",
    "/evidence/" + "0" * 63 + "G",
)


def test_what_is_not_there_is_a_page_that_says_so(pages: Pages) -> None:
    pages.log_in()
    for path in NOTHING:
        shown = pages.get(path, 404)
        assert "Not found" in shown.text, path
        assert "/owner/" in shown.links(), path


def test_program_gets_errors_in_the_protocols_form(pages: Pages) -> None:
    response = pages.log_in().send("GET", "/owner/nothing", headers={"Accept": "application/json"})
    assert (response.status_code, response.json()["detail"]) == (404, "There is no such page.")


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_names_reasons_and_titles_are_text(world: World, pages: Pages, monkeypatch: Any) -> None:
    """Whatever people, owners and publishers write stands there as they wrote it."""
    evil = f"Evil {EVIL}"
    world.seal(Description(id="evil", title=evil, owner=evil, description=evil, source=evil, licence=evil))
    second = testing.environment(version="2")
    old, new = (f"title = {json.dumps(one)}".encode() for one in (second.title, evil))
    renamed = Environment.from_toml(second.raw.replace(old, new))
    assert renamed.title == evil
    world.publish(renamed)
    person = rename_alice(world, evil, monkeypatch)
    guest = world.guest("token-of-alice", provider=lambda covered: testing.evidence(covered, renamed))
    asked = ask(guest, dataset="evil", reason=evil)
    world.grant(dataset="evil", subject=person, project="p")
    world.owner.halt_project("p", evil)
    pages.log_in(preferred_username="olivia")
    paths = [
        "/",
        "/datasets",
        "/datasets/evil",
        "/datasets/evil/destroy",
        "/requests",
        f"/requests/{asked.id}",
        "/grants",
        f"/grants/{world.owner.grants()[0].id}",
        f"/grants/{world.owner.grants()[0].id}/change",
        "/grants/new?dataset=evil",
        "/projects",
        "/projects/p",
        "/environments",
        f"/environments/{renamed.digest}",
        f"/environments/diff?old={world.environment.digest}&new={renamed.digest}",
        "/servers",
        "/audit",
        f"/audit/{world.broker.record.log.size - 1}",
        f"/audit/{asked.audit_index}",
        "/audit?person=" + EVIL.replace("'", "%27").replace("<", "%3C").replace('"', "%22"),
        "/grants?person=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    ]
    seen = 0
    for path in paths:
        response = pages.send("GET", f"/owner{path}")
        assert response.status_code == 200, path
        assert "<script>alert" not in response.text, path
        assert "<img" not in response.text, path
        assert not [found for tag, found in Document(response.text).elements if "onerror" in found], path
        seen += "alert(1)" in response.text
    assert seen > 15


def rename_alice(world: World, name: str, monkeypatch: Any) -> str:
    """Give alice another name and return her subject."""
    from support import brokers

    person = brokers.PEOPLE["token-of-alice"].model_copy(update={"name": name, "groups": (name,)})
    monkeypatch.setitem(brokers.PEOPLE, "token-of-alice", person)
    return person.subject


# --- what they show


def test_overview_of_a_broker_where_nothing_happened(pages: Pages) -> None:
    shown = pages.log_in().get("/")
    assert "Nothing waits" in shown.text
    assert "Nobody was refused lately." in shown.text


def test_overview_says_what_needs_the_owner(world: World, data: Data, pages: Pages) -> None:
    guest = world.guest()
    asked = ask(guest)
    refuse(guest, data)
    ending = world.grant(until=testing.NOW + timedelta(days=13))
    world.grant(until=testing.NOW + timedelta(days=15), subject="later")
    world.grant(project="vroni", subject="bob")
    world.owner.halt_project("vroni", "Incident 7")
    shown = pages.log_in().get("/")
    assert "1 open request" in shown.text
    assert "1 grant ends within 14 days" in shown.text
    assert "1 project is halted" in shown.text
    assert "Incident 7" in shown.text
    assert "alice has no grant for heartbeats." in shown.text
    assert {f"/owner/requests/{asked.id}", f"/owner/grants/{ending}", "/owner/projects/vroni"} <= set(
        shown.links()
    )
    assert str(world.broker.record.signer.verifier) in shown.text


def test_permit_that_ends_soon_is_on_the_overview(world: World, pages: Pages) -> None:
    data = Data.seal(world.folder)
    end = testing.NOW + timedelta(days=20)
    registration = data.registration().model_copy(update={"keep_until": end})
    world.owner.register_dataset(registration)
    pages.log_in()
    assert "1 permit ends within 30 days" in pages.get("/").text
    assert "ends 2026-06-21 00:00 UTC (in 20 days)" in pages.get("/datasets/heartbeats").text


def test_dataset_with_its_manifest_grants_requests_releases_and_refusals(
    world: World, data: Data, pages: Pages
) -> None:
    guest = world.guest()
    refuse(guest, data)
    asked = ask(guest)
    grant = world.grant(until=testing.NOW + timedelta(days=30))
    guest.release("heartbeats", data.request(READER))
    shown = pages.log_in().get("/datasets/heartbeats")
    for words in (
        "Heart Centre",
        "data@heart.example",
        "general research use",
        "ecg.bin",
        "70.0 kB",
        data.manifest.sha256,
        data.manifest.files[0].segments_root,
        "alice may read Heartbeats for general research use until 2026-07-01 00:00 UTC",
        "on verified or simulated servers of every approved environment. Results may not leave.",
        "alice has no grant for heartbeats.",
        "Release",
    ):
        assert words in shown.text, words
    assert {f"/owner/grants/{grant}", f"/owner/requests/{asked.id}"} <= set(shown.links())


def test_files_of_a_dataset_are_paged(world: World, pages: Pages) -> None:
    files = {f"f{number:03}.txt": b"x" for number in range(120)}
    world.seal(Description(id="many", title="Many", owner="O"), files)
    pages.log_in()
    first, second = pages.get("/datasets/many"), pages.get("/datasets/many?page=2")
    assert "f099.txt" in first.text
    assert "f100.txt" not in first.text
    assert "Page 1 of 2, 120 in all" in first.text
    assert "f100.txt" in second.text
    for odd in ("0", "-1", "99", "x", "1e9", "%C2%B2"):
        assert "of 2, 120 in all" in pages.get(f"/datasets/many?page={odd}").text


def test_request_beside_the_servers_evidence(world: World, data: Data, pages: Pages) -> None:
    guest = world.guest()
    asked = ask(guest, until=testing.NOW + timedelta(days=3))
    world.clock.forward(minutes=5)
    pages.log_in()
    shown = pages.get(f"/requests/{asked.id}")
    for words in (
        "alice asks for Heartbeats",
        "A study of arrhythmia.",
        "cardiology",
        "Simulated TEE (not a real one)",
        "the operator of its machine can see everything in it",
        "(5 minutes ago)",
        asked.server.evidence,
        world.environment.title,
        "Nothing but a grant stands in the way now.",
    ):
        assert words in shown.text, words
    fields = shown.form("/grant")
    assert fields[f"purpose:{GENERAL}"] == "on"
    assert fields[f"environment:{world.environment.digest}"] == "on"
    assert fields["until"] == "2026-06-04T00:00", "sooner than a week, as it was asked for"
    evidence = pages.send("GET", f"/owner/evidence/{asked.server.evidence}")
    assert json.loads(evidence.content)["tee-evidence"]
    assert evidence.headers["content-disposition"].startswith("attachment")
    assert evidence.headers["content-type"] == "application/octet-stream"


def test_request_from_a_server_whose_proof_is_too_old_by_now(world: World, data: Data, pages: Pages) -> None:
    asked = ask(world.guest())
    world.clock.forward(hours=1)
    shown = pages.log_in().get(f"/requests/{asked.id}")
    assert "What stands in the way besides a grant" in shown.text
    assert "The server's last attestation ended" in shown.text


def test_open_requests_stand_first(world: World, data: Data, pages: Pages) -> None:
    first = ask(world.guest())
    world.clock.forward(minutes=1)
    second = ask(world.guest("token-of-bob"))
    world.owner.refuse_request(second.id, "No.")
    pages.log_in()
    links = [one for one in pages.get("/requests").links() if "/requests/" in one]
    assert links == [f"/owner/requests/{first.id}", f"/owner/requests/{second.id}"]
    refused = pages.get("/requests?state=refused").links()
    assert f"/owner/requests/{first.id}" not in refused
    assert "No request fits this filter" in pages.get("/requests?state=granted").text


def test_grants_with_their_states_and_filters(world: World, data: Data, pages: Pages) -> None:
    now, ids = testing.NOW, dict[str, str]()
    terms: dict[str, dict[str, Any]] = {
        "active": {},
        "soon": {"until": now + timedelta(days=3)},
        "later": {"starts": now + timedelta(days=3)},
        "over": {"until": now + timedelta(seconds=30)},
        "taken": {},
        "still": {"project": "p"},
    }
    for name, fields in terms.items():
        ids[name] = world.grant(subject=name, **fields)
    world.owner.withdraw_grant(ids["taken"])
    world.owner.halt_project("p", "Stop")
    world.clock.forward(minutes=1)
    pages.log_in()
    expected = {
        "active": "active",
        "ends_soon": "soon",
        "not_started": "later",
        "ended": "over",
        "withdrawn": "taken",
        "halted": "still",
    }
    for state, name in expected.items():
        links = [one for one in pages.get(f"/grants?state={state}").links() if "/grants/" in one]
        assert links == ["/owner/grants/new", f"/owner/grants/{ids[name]}"], state
    assert len([one for one in pages.get("/grants").links() if "/grants/" in one]) == 7
    assert [one for one in pages.get("/grants?person=SOO").links() if "/grants/" in one][1:] == [
        f"/owner/grants/{ids['soon']}"
    ]
    assert "No grant fits" in pages.get("/grants?dataset=other").text
    gone = pages.get(f"/grants/{ids['taken']}")
    assert "taken could read Heartbeats" in gone.text
    assert "it was withdrawn on 2026-06-01 00:00 UTC" in gone.text


def test_grants_are_paged(world: World, data: Data, pages: Pages) -> None:
    for number in range(60):
        world.grant(subject=f"person-{number:02}")
    shown = pages.log_in().get("/grants?person=person")
    assert "Page 1 of 2, 60 in all" in shown.text
    assert "?person=person&page=2" in shown.links()
    links = shown.links() + pages.get("/grants?person=person&page=2").links()
    assert len({one for one in links if re.search("/grants/[0-9a-f]{16}", one)}) == 60


def test_name_of_a_person_stands_before_the_subject(
    world: World, data: Data, pages: Pages, monkeypatch: Any
) -> None:
    rename_alice(world, "Alice Smith", monkeypatch)
    world.guest()
    world.grant()
    assert "Alice Smith (alice) may read" in pages.log_in().get("/grants").text


def test_servers_with_what_they_proved_and_hold(world: World, data: Data, pages: Pages) -> None:
    world.grant()
    guest = world.guest()
    released = guest.release("heartbeats", data.request(READER))
    pages.log_in()
    shown = pages.get("/servers")
    for words in (
        "alice",
        "Simulated TEE",
        "cpu0",
        "Heartbeats: may be read there now",
        world.environment.title,
    ):
        assert words in shown.text, words
    assert f"/owner/audit/{released.audit_index}" in shown.links()
    world.clock.forward(minutes=30)
    late = pages.get("/servers")
    assert "Its proof is too old" in late.text
    assert "may be read there now" not in late.text


def test_environments_and_their_difference(world: World, pages: Pages) -> None:
    old = world.environment
    new = world.publish(testing.environment(version="2"))
    pages.log_in()
    shown = pages.get("/environments")
    assert old.digest in shown.text
    assert new.digest in shown.text
    assert "publisher.pub.pem (key " in shown.text
    one = pages.get(f"/environments/{new.digest}")
    for words in (new.shapes[0].measurements[0], "Pod shapes", "No debugging", "HOST_DATA"):
        assert words in one.text, words
    difference = pages.get(f"/environments/diff?old={old.digest}&new={new.digest}")
    assert "fields differ" in difference.text
    assert "version" in difference.text
    same = pages.get(f"/environments/diff?old={old.digest}&new={old.digest}")
    assert "They say the same" in same.text


def test_no_environment_says_what_to_do(world: World, pages: Pages) -> None:
    for path in (world.folder / "environments").glob("*.toml"):
        path.unlink()
    assert "This broker approves no environment" in pages.log_in().get("/environments").text


# --- the audit log


def test_entry_with_its_evidence_and_its_proof(world: World, data: Data, pages: Pages) -> None:
    world.grant()
    guest = world.guest()
    released = guest.release("heartbeats", data.request(READER))
    pages.log_in()
    index = released.audit_index
    shown = pages.get(f"/audit/{index}")
    for words in ("Release", "alice", released.audit_leaf, "sealroom audit check-proof", "ark.pem"):
        assert words in shown.text, words
    key = VerifierKey.parse(pages.send("GET", "/owner/audit/key").text)
    proof = InclusionProof.from_bytes(pages.send("GET", f"/owner/audit/{index}/proof").content)
    entry, head = proof.verify(key)
    assert (entry.kind, entry.dataset, head.size) == ("release", "heartbeats", world.broker.record.log.size)
    value = pages.send("GET", f"/owner/audit/{index}/proof.json").json()
    decoded = [base64.b64decode(one) for one in value["proof"]]
    checkpoint = pages.send("GET", "/owner/audit/checkpoint").content
    assert value["checkpoint"].encode() == checkpoint
    verify_inclusion_of(base64.b64decode(value["entry"]), value["index"], decoded, checkpoint, key)


def test_refusal_with_its_reasons(world: World, data: Data, pages: Pages) -> None:
    refuse(world.guest(), data)
    index = world.broker.record.log.size - 1
    shown = pages.log_in().get(f"/audit/{index}")
    assert "Why not" in shown.text
    assert "grant.none" in shown.text


def test_proof_of_each_entry_holds(world: World, data: Data, pages: Pages) -> None:
    for number in range(8):
        world.grant(subject=f"p{number}")
    pages.log_in()
    for index in range(world.broker.record.log.size):
        proof = InclusionProof.from_bytes(pages.send("GET", f"/owner/audit/{index}/proof").content)
        proof.verify(world.broker.record.signer.verifier)


def test_entry_that_cannot_be_read_is_not_hidden(world: World, pages: Pages) -> None:
    index = world.broker.record.log.append(b'{"format":"of another program"}')
    pages.log_in()
    assert "This program cannot read the entry" in pages.get("/audit").text
    shown = pages.get(f"/audit/{index}")
    assert "of another program" in shown.text
    assert pages.send("GET", f"/owner/audit/{index}/proof").status_code == 503
