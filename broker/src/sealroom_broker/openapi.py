# SPDX-License-Identifier: BSD-3-Clause
"""The OpenAPI 3.1 document of the broker, made from its routes and its models.

Paths and methods come from the routes, schemas from the models that parse and write, and the words from
`sealroom_broker.api`. Pages for people are not in it.

Specification: OpenAPI 3.1.1; its schemas are JSON Schema 2020-12, as pydantic writes them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema
from sealroom.kbs.calls import Refusal
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router

from sealroom_broker import __version__
from sealroom_broker.api import OPERATIONS as OTHERS
from sealroom_broker.api.operations import JSON, REQUIREMENTS, SCHEMES, Endpoint, Operation, Success
from sealroom_broker.api.session import PUBLIC, Document
from sealroom_broker.web import in_thread

PAGES: Final = frozenset({"/", "/login", "/callback", "/logout"})
"""Pages for people, and what belongs to their login: not part of the document."""
PAGES_UNDER: Final = "/owner"
"""Where the owner's pages are."""
_SCHEMA: Final = "#/components/schemas/"
_EVERY: Final = ("X-Request-Id",)
_BUSY: Final = (*_EVERY, "Retry-After")
_CONVERTOR: Final = re.compile(r":[a-z]+\}")
_ABOUT: Final = """\
A data owner's broker releases a sealed dataset to an attested notebook server and the person at it.

Whatever is refused is answered with a `Refusal`: 401 means "attest (again)" or "log in (again)", 403 is a
decision with its reasons, 503 means that something could not be checked or kept, which is never a yes.
"""
_HEADERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "X-Request-Id": {
        "description": "Names the request in the broker's log.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


@dataclass(frozen=True, slots=True)
class Served:
    """A route as the application serves it."""

    path: str
    """With every prefix, and with its parameters in braces."""
    methods: frozenset[str]
    endpoint: Endpoint

    @property
    def page(self) -> bool:
        """Whether it is for people, so that the document leaves it out."""
        return self.path in PAGES or self.path == PAGES_UNDER or self.path.startswith(f"{PAGES_UNDER}/")


def served(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[Served]:
    """Yield every route, those of mounted routers with their prefix.

    Raises:
        TypeError: A route is of a kind that nothing here serves.
    """
    for route in routes:
        if isinstance(route, Mount) and isinstance(route.app, Router):
            yield from served(route.app.routes, prefix + route.path)
        elif isinstance(route, Route):
            path = _CONVERTOR.sub("}", prefix + route.path)
            yield Served(path, frozenset(route.methods or ()) - {"HEAD"}, route.endpoint)
        else:
            raise TypeError(f"a route of the kind {type(route).__name__}")


def document(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the document of an application's routes.

    Args:
        routes: The routes, without a proxy's prefix.

    Raises:
        TypeError: A route is of a kind that nothing here serves.
    """
    known = {operation.endpoint: operation for operation in OPERATIONS}
    paths: dict[str, dict[str, Any]] = {}
    described: list[Operation] = []
    for route in served(routes):
        operation = known.get(route.endpoint)
        if operation is not None and not route.page:
            described.append(operation)
            for method in sorted(route.methods):
                paths.setdefault(route.path, {})[method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Sealroom broker",
            "version": __version__,
            "summary": "Key broker of sealed datasets.",
            "description": _ABOUT,
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        # Relative to the document's own address, so that it is right under a proxy's prefix too.
        "servers": [{"url": "../../..", "description": "The broker that this document comes from."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in OPERATIONS if one in described)],
        "paths": paths,
        "components": {
            "schemas": _schemas(described),
            "headers": dict(_HEADERS),
            "securitySchemes": {name: dict(scheme) for name, scheme in SCHEMES.items()},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    needed = REQUIREMENTS[operation.security]
    found: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": [{name: list(scopes) for name, scopes in one.items()} for one in needed],
    }
    if operation.description:
        found["description"] = operation.description
    if operation.parameters:
        found["parameters"] = [
            {
                "name": one.name,
                "in": one.where,
                "required": one.required or one.where == "path",
                "description": one.description,
                "schema": dict(one.schema),
                **({} if one.example is None else {"example": one.example}),
            }
            for one in operation.parameters
        ]
    if operation.body is not None:
        found["requestBody"] = {
            "required": operation.body_required,
            "content": {JSON: _content(operation.body, operation.example)},
        }
    answers: dict[str, Any] = {str(one.status): _success(operation, one) for one in operation.success}
    for status, when in operation.statuses().items():
        answers[str(status)] = {
            "description": when,
            "headers": _headers(_BUSY if status in (429, 503) else _EVERY),
            "content": {JSON: _content(Refusal)},
        }
    found["responses"] = dict(sorted(answers.items()))
    return found


def _success(operation: Operation, answer: Success) -> dict[str, Any]:
    text = answer.description
    if answer.sealed is not None:
        text += f" Its plaintext is a `{answer.sealed.__name__}`."
    found: dict[str, Any] = {"description": text, "headers": _headers(_EVERY)}
    for name, what in answer.headers.items():
        found["headers"][name] = {"description": what, "schema": {"type": "string"}}
    if answer.model is not None:
        found["content"] = {answer.media: _content(answer.model, _whole(answer.model, answer.example))}
    elif answer.media:
        found["content"] = {answer.media: _media({"type": "string"}, answer.example)}
    if operation.links and answer.model is not None:
        found["links"] = {
            name: {"operationId": target, "parameters": {parameter: value}}
            for name, (target, parameter, value) in operation.links.items()
        }
    return found


def _whole(model: type[BaseModel], example: Any) -> Any:
    """Return an example of an answer with every field that an answer has."""
    return None if example is None else model.model_validate(example).model_dump(mode="json", by_alias=True)


def _headers(names: Sequence[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _content(model: type[BaseModel], example: Any = None) -> dict[str, Any]:
    return _media({"$ref": _SCHEMA + model.__name__}, example)


def _media(schema: Mapping[str, Any], example: Any = None) -> dict[str, Any]:
    return {"schema": dict(schema), **({} if example is None else {"example": example})}


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the schemas of all models, those of answers as they are written."""
    wanted: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {}
    for operation in operations:
        if operation.body is not None:
            wanted[operation.body, "validation"] = None
        for answer in operation.success:
            for model in (answer.model, answer.sealed):
                if model is not None:
                    wanted[model, "serialization"] = None
    wanted[Refusal, "serialization"] = None
    _, found = models_json_schema(list(wanted), ref_template=_SCHEMA + "{model}", schema_generator=_Schemas)
    schemas: dict[str, Any] = found.get("$defs", {})
    return dict(sorted(schemas.items()))


class _Schemas(GenerateJsonSchema):
    """Writes schemas with what the source says of each field, and with every field of an answer required."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        """Tell whether a field is always there: in an answer all are, but for those left out where empty."""
        if self.mode == "serialization":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        """Return a model's schema with the docstrings of its fields."""
        found = super().model_schema(schema)
        words = _field_words(schema["cls"])
        fields = getattr(schema["cls"], "model_fields", {})
        for name, text in words.items():
            alias = fields[name].serialization_alias or fields[name].alias or name if name in fields else name
            described = found.get("properties", {}).get(alias)
            if described is not None and "description" not in described:
                described["description"] = text
        return found


def _field_words(model: type[Any]) -> dict[str, str]:
    """Return the docstrings under a model's fields, those of its bases too.

    Without the source, as in a frozen program, there are none.
    """
    words: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
        except (OSError, SyntaxError):
            continue
        (definition,) = tree.body
        body = getattr(definition, "body", [])
        for statement, following in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                words[statement.target.id] = inspect.cleandoc(following.value.value)
    return words


class Published:
    """The document as it is published; made when it is first asked for.

    Args:
        routes: The application's routes, without a proxy's prefix.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    @cached_property
    def body(self) -> bytes:
        """The document as JSON."""
        return json.dumps(document(self._routes), ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def etag(self) -> str:
        """Its entity tag (RFC 9110, section 8.8.3)."""
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


async def openapi(request: Request) -> Response:
    """Publish this document."""
    published: Published = request.app.state.openapi
    body = await in_thread(lambda: published.body)
    # Kept by a client, and asked for again each time: it changes when the broker does.
    headers = {"ETag": published.etag, "Cache-Control": "no-cache"}
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if known & {published.etag, "*"}:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=JSON, headers=headers)


ROUTES: Sequence[BaseRoute] = (Route("/openapi.json", openapi, methods=["GET"]),)
OPERATIONS: Sequence[Operation] = (
    *OTHERS,
    Operation(
        endpoint=openapi,
        tag=PUBLIC,
        security="none",
        description="With the `ETag` of the one that you have in `If-None-Match`, 304 says it is the same.",
        success=(
            Success(
                description="The document.",
                model=Document,
                headers={"ETag": "Tells one document from another."},
            ),
            Success(status=304, description="It is the one that the client has.", media=""),
        ),
    ),
)
"""What the document says of each call."""
