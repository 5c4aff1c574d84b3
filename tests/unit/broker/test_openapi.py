# SPDX-License-Identifier: BSD-3-Clause
"""The document of the broker's calls says what is served, and its examples are what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from sealroom.audit.log import is_log_path
from sealroom_broker import api
from sealroom_broker.api.owner import LOG_FILE
from sealroom_broker.app import create_app, routes
from sealroom_broker.openapi import OPERATIONS, document, served
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Route
from support.brokers import InProcess, World

URL = "/kbs/v0/sealroom/openapi.json"
METHODS = {"get", "put", "post", "delete", "patch", "options", "head", "trace"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document(routes())


def calls(made: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and operation of each call of the document."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_it_is_a_document_as_the_specification_wants_it(made: dict[str, Any]) -> None:
    assert made["openapi"].startswith("3.1.")
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(made)] == []


def test_every_route_is_in_it_and_nothing_else(made: dict[str, Any]) -> None:
    there = {
        (route.path, method.lower())
        for route in served(routes())
        if not route.page
        for method in route.methods
    }
    assert {(path, method) for path, method, _ in calls(made)} == there
    assert len(there) >= 20


def test_every_description_is_of_a_route_that_is_served_once() -> None:
    endpoints = [route.endpoint for route in served(routes()) if not route.page]
    described = [operation.endpoint for operation in OPERATIONS]
    assert sorted(one.__name__ for one in described) == sorted(one.__name__ for one in endpoints)
    assert set(described) == set(endpoints)


def test_pages_for_people_are_not_in_it(made: dict[str, Any]) -> None:
    pages = {route.path for route in served(routes()) if route.page}
    assert {"/", "/login", "/callback", "/logout"} <= pages
    assert not pages & set(made["paths"])
    assert not [path for path in pages if path.startswith("/kbs")]


def test_operations_have_names_of_their_own_and_a_summary(made: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in calls(made)]
    assert len(ids) == len(set(ids))
    for _, _, operation in calls(made):
        assert operation["summary"], operation["operationId"]
        assert operation["tags"][0] in [tag["name"] for tag in made["tags"]]


def test_parameters_are_those_of_the_paths(made: dict[str, Any]) -> None:
    for path, _, operation in calls(made):
        named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert named == set(re.findall(r"\{([a-z_]+)\}", path)), path


def test_every_refusal_has_the_protocols_form(made: dict[str, Any]) -> None:
    for path, method, operation in calls(made):
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"]
            if int(status) >= 400 and path != "/readyz":
                content = answer["content"]["application/json"]["schema"]
                assert content == {"$ref": "#/components/schemas/Refusal"}, (method, path, status)


@pytest.mark.parametrize(
    ("path", "methods", "scheme"),
    [
        ("/kbs/v0/auth", {"post"}, None),
        ("/kbs/v0/sealroom/session", {"get"}, "session"),
        ("/kbs/v0/sealroom/admin/grants", {"get", "post"}, "owner"),
        ("/metrics", {"get"}, "metrics"),
    ],
)
def test_who_may_call(made: dict[str, Any], path: str, methods: set[str], scheme: str | None) -> None:
    assert set(made["paths"][path]) == methods
    for operation in made["paths"][path].values():
        assert [list(one) for one in operation["security"]] == ([[scheme]] if scheme else [])


def test_every_admin_call_needs_an_owners_token_and_every_other_none(made: dict[str, Any]) -> None:
    for path, _, operation in calls(made):
        if path.startswith("/kbs/v0/sealroom/admin/"):
            assert operation["security"] == [{"owner": []}], path
        elif path.startswith("/kbs/v0/sealroom/"):
            assert operation["security"] in ([{"session": []}], []), path


def test_examples_are_what_the_schemas_say(made: dict[str, Any]) -> None:
    found = 0
    for path, method, operation in calls(made):
        contents = [operation.get("requestBody", {}).get("content", {})]
        contents += [answer.get("content", {}) for answer in operation["responses"].values()]
        for content in contents:
            for media in content.values():
                if "example" in media:
                    found += 1
                    complaints(made, media["schema"], media["example"], f"{method} {path}")
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                complaints(made, parameter["schema"], parameter["example"], f"{method} {path}")
    assert found >= 30


def complaints(made: dict[str, Any], schema: dict[str, Any], value: object, where: str) -> None:
    """Fail if a value is not what a schema of the document says."""
    whole = {**schema, "components": made["components"]}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    assert [f"{where}: {error.message}" for error in validator.iter_errors(value)] == []


def test_examples_of_bodies_are_accepted_by_the_models() -> None:
    bodies = [one for one in OPERATIONS if one.body is not None and one.example is not None]
    assert len(bodies) >= 8
    for operation in bodies:
        assert operation.body is not None
        operation.body.model_validate_json(json.dumps(operation.example), strict=True)


def test_words_of_the_fields_come_from_the_source(made: dict[str, Any]) -> None:
    schemas = made["components"]["schemas"]
    assert (
        schemas["GrantSpec"]["properties"]["group"]["description"] == "Everybody in this group of the issuer."
    )
    # A grant has the words of what it is made of, too.
    assert schemas["Grant"]["properties"]["group"]["description"] == "Everybody in this group of the issuer."
    assert "tee-pubkey" in schemas["RuntimeData"]["properties"]


def test_fields_of_answers_are_always_there_and_those_of_bodies_may_be_left_out(made: dict[str, Any]) -> None:
    schemas = made["components"]["schemas"]
    assert schemas["GrantSpec"]["required"] == ["dataset"]
    assert set(schemas["Grant"]["required"]) == set(schemas["Grant"]["properties"])
    assert schemas["GrantSpec"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["Grant"]


@pytest.mark.parametrize(
    "path",
    ["checkpoint", "tile/0/000", "tile/entries/x001/234.p/17", f"evidence/{'0' * 64}", "", "key", "tile/0"],
)
def test_pattern_of_the_logs_files_is_the_logs_own(path: str) -> None:
    assert bool(re.search(LOG_FILE, path)) == is_log_path(path)


def test_route_of_another_kind_is_not_passed_over() -> None:
    with pytest.raises(TypeError, match="Host"):
        list(served([Host("other.example", create_nothing)]))  # type: ignore[arg-type]


async def create_nothing(_request: Request) -> Response:
    return Response()


def test_route_without_a_description_is_seen() -> None:
    bare = [*routes(), Route("/bare", create_nothing, methods=["GET"])]
    assert "/bare" in {route.path for route in served(bare)}
    assert "/bare" not in document(bare)["paths"]


def test_operations_of_the_package_are_all_of_them_but_its_own() -> None:
    assert {one.id for one in OPERATIONS} - {one.id for one in api.OPERATIONS} == {"openapi"}


# --- as it is published


def test_published_document_is_the_one_of_the_code(world: World, made: dict[str, Any]) -> None:
    answer = world.http().get(URL)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == made


def test_client_that_has_it_is_told_so(world: World) -> None:
    http = world.http()
    first = http.get(URL)
    assert (first.headers["cache-control"], bool(first.headers["etag"])) == ("no-cache", True)
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = http.get(URL, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert http.get(URL, headers={"If-None-Match": '"other"'}).status_code == 200


def test_its_server_is_right_under_a_proxys_prefix(world: World) -> None:
    app = create_app(world.broker, prefix="/services/sealroom-broker")
    with httpx.Client(transport=InProcess(app, world.portal), base_url="http://broker.test") as http:
        for prefix in ("", "/services/sealroom-broker"):
            answer = http.get(f"{prefix}{URL}")
            (server,) = answer.json()["servers"]
            base = str(httpx.URL(f"http://broker.test{prefix}{URL}").join(server["url"])).rstrip("/")
            assert base == f"http://broker.test{prefix}"
            assert http.get(f"{base}/healthz").status_code == 200


def test_it_is_printed(made: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sealroom_broker", "openapi"], capture_output=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == made


def test_the_reference_page_is_what_the_code_says() -> None:
    tool = Path(__file__).parents[3] / "tools" / "api_reference.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
