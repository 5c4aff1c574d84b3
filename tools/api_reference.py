# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/reference/broker-api.md from the broker's OpenAPI document.

python tools/api_reference.py            write the page
python tools/api_reference.py --check    fail if the page is not what would be written
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sealroom_broker.app import routes
from sealroom_broker.openapi import document

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "broker-api.md"
HEAD = """\
<!-- Written by tools/api_reference.py from the code. Do not edit. -->

# Calls of the broker

The same as an OpenAPI 3.1 document: `GET /kbs/v0/sealroom/openapi.json` of a running broker, or
`sealroom-broker openapi`. An operation's id there is the label `call` of the broker's metrics.

Whatever is refused is answered with a [`Refusal`](#refusal). 401 means "attest (again)" or "log in (again)",
403 is a decision with its reasons, 503 means that something could not be checked or kept, which is never a
yes; `Retry-After` says when to try again. Every answer has an `X-Request-Id`, which names it in the broker's
log. 429, 500 and 503 may answer every call and are left out below unless they mean more.
"""
WHO = {
    "session": "the session (its cookie)",
    "attestation": "the session's attestation result (`Authorization: Bearer`)",
    "owner": "an owner's token (`Authorization: Bearer`)",
    "metrics": "the token for metrics (`Authorization: Bearer`)",
}
COMMON = ("429", "500", "503")


def render() -> str:
    """Return the page."""
    made = document(routes())
    usual = _usual(made)
    parts = [HEAD]
    for tag in made["tags"]:
        parts.append(f"\n## {tag['name']}\n")
        for path, method, operation in _operations(made):
            if tag["name"] in operation["tags"]:
                parts += _call(path, method, operation, usual)
    parts.append("\n## Messages\n")
    for name, schema in made["components"]["schemas"].items():
        parts += _message(name, schema)
    return "".join(parts)


def _operations(made: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _usual(made: Mapping[str, Any]) -> dict[str, str]:
    """Return what the common statuses say at most calls."""
    said: dict[str, list[str]] = {status: [] for status in COMMON}
    for _, _, operation in _operations(made):
        for status in COMMON:
            if status in operation["responses"]:
                said[status].append(operation["responses"][status]["description"])
    return {status: max(set(texts), key=texts.count) for status, texts in said.items()}


def _call(path: str, method: str, operation: Mapping[str, Any], usual: Mapping[str, str]) -> list[str]:
    parts = [
        f"\n### `{method} {path}`\n\n{operation['summary']}. {operation.get('description', '')}".rstrip()
    ]
    who = " or ".join(WHO[name] for one in operation["security"] for name in one) or "anybody"
    parts.append(f"\n\n- Who: {who}.\n- Id: `{operation['operationId']}`.\n")
    if operation.get("parameters"):
        parts.append("\n| parameter | in | value | |\n|---|---|---|---|\n")
        for one in operation["parameters"]:
            must = "" if one["required"] else " Optional."
            name, words = f"`{one['name']}`", _line(one["description"]) + must
            parts.append(f"| {name} | {one['in']} | {_type(one['schema'])} | {words} |\n")
    if "requestBody" in operation:
        (media,) = operation["requestBody"]["content"].values()
        may = "" if operation["requestBody"]["required"] else ", which may be left out"
        parts.append(f"\nRequest: {_type(media['schema'])}{may}.\n{_example(media)}")
    parts.append("\n| status | answer | |\n|---|---|---|\n")
    shown: list[tuple[str, Mapping[str, Any]]] = []
    for status, answer in operation["responses"].items():
        if answer["description"] == usual.get(status):
            continue
        content: Mapping[str, Mapping[str, Any]] = answer.get("content", {})
        kind, media = next(iter(content.items()), ("", {}))
        body = _type(media["schema"]) if "$ref" in media.get("schema", {}) else f"`{kind}`" if kind else "-"
        parts.append(f"| {status} | {body} | {_line(answer['description'])} |\n")
        shown += [(status, media)] if "example" in media else []
    return [*parts, *(f"\n{status}:\n{_example(media)}" for status, media in shown)]


def _message(name: str, schema: Mapping[str, Any]) -> list[str]:
    parts = [f"\n### {name}\n"]
    if schema.get("description"):
        parts.append(f"\n{schema['description']}\n")
    if "properties" in schema:
        parts.append("\n| field | value | |\n|---|---|---|\n")
        for field, value in schema["properties"].items():
            must = "" if field in schema.get("required", ()) else f" Optional{_default(value)}."
            words = (_line(value.get("description", "")) + must).strip()
            parts.append(f"| `{field}` | {_type(value)} | {words} |\n")
    return parts


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    return "" if default in (None, "", [], {}) else f"; without it `{json.dumps(default)}`"


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return kind + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    words = []
    if "format" in schema:
        words.append(schema["format"])
    if "pattern" in schema:
        words.append("`{}`".format(schema["pattern"].replace("|", "\\|")))
    for low, high, unit in (("minimum", "maximum", ""), ("minLength", "maxLength", " characters")):
        if low in schema or high in schema:
            words.append(f"{schema.get(low, 0)} to {schema.get(high, 'any number')}{unit}")
    return f" ({', '.join(words)})" if words else ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _example(media: Mapping[str, Any]) -> str:
    if "example" not in media:
        return ""
    example = media["example"]
    if isinstance(example, str):
        return f"\n```\n{example.rstrip()}\n```\n"
    return f"\n```json\n{json.dumps(example, ensure_ascii=False, indent=2)}\n```\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write docs/reference/broker-api.md from the code.")
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    arguments = parser.parse_args()
    page = render()
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            print(f"docs/reference/{PAGE.name} is stale: run python tools/api_reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
