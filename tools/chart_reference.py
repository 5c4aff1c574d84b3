# SPDX-License-Identifier: BSD-3-Clause
"""Write the chart's values.schema.json and docs/reference/chart-values.md from helm/sealroom/schema.yaml.

python tools/chart_reference.py            write both
python tools/chart_reference.py --check    fail if one of them is not what would be written

In the source an object has the properties that it names and no others, unless `free` says what its keys are.
What the broker's configuration file may say comes from the broker's own code (`x-broker`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from sealroom_broker.config import Config
from sealroom_broker.wrap.settings import FileKek, Pkcs11Kek, VaultKek

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "sealroom"
SCHEMA = CHART / "values.schema.json"
PAGE = ROOT / "docs" / "reference" / "chart-values.md"
SET_BY_CHART = (
    *("mode", "name", "listen", "database", "postgresql", "audit", "kek", "keys", "tls", "metrics"),
    *("development_root", "development_gpu_root", "policy", "environments"),
)
"""Keys of `broker.toml` that other values of the chart decide."""
HEAD = """\
<!-- Written by tools/chart_reference.py from helm/sealroom/schema.yaml. Do not edit. -->

# Values of the Helm chart

`helm` refuses a value that is not here, so that a misspelt one is not ignored. Where the table says *free*,
the keys are names that you give or a type of Kubernetes, and nobody checks them before the cluster does.
"""


def source() -> dict[str, Any]:
    """Return the source as it is written."""
    loaded: dict[str, Any] = yaml.safe_load((CHART / "schema.yaml").read_text(encoding="utf-8"))
    return loaded


def schema() -> dict[str, Any]:
    """Return the schema that `helm` uses."""
    text = source()
    text.pop("x-pod")
    made = _closed(text)
    made["definitions"] |= _broker_definitions()
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of sealroom", **made}


def _closed(node: Any) -> Any:
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "x-broker" in node:
        # A reference hides what stands beside it, which is its description only.
        return {"$ref": f"#/definitions/broker-{node['x-broker']}"}
    if "$ref" in node:
        return {"$ref": node["$ref"]}
    made = {key: _closed(value) for key, value in node.items() if key != "free"}
    if node.get("type") == "object" and "free" not in node:
        made["additionalProperties"] = False
    return made


def _broker_definitions() -> dict[str, Any]:
    config = Config.model_json_schema(ref_template="#/definitions/broker-{model}")
    definitions = config.pop("$defs")
    properties = {key: value for key, value in config["properties"].items() if key not in SET_BY_CHART}
    made = {
        "config": {"type": "object", "properties": properties, "additionalProperties": False},
        "kek": _kek_schema(),
    }
    made |= {name: definition for name, definition in definitions.items() if _used(name, definitions, made)}
    return {f"broker-{name}": _plain(definition) for name, definition in made.items()}


def _used(name: str, definitions: dict[str, Any], made: dict[str, Any]) -> bool:
    text, before = json.dumps(made), ""
    while text != before:
        before = text
        text += "".join(
            json.dumps(one) for other, one in definitions.items()
            if f'broker-{other}"' in text and json.dumps(one) not in text
        )  # fmt: skip
    return f'#/definitions/broker-{name}"' in text


def _kek_schema() -> dict[str, Any]:
    former = [_provider(model) for model in (FileKek, Pkcs11Kek, VaultKek)]
    first = [_provider(model) for model in (FileKek, Pkcs11Kek, VaultKek)]
    for one in first:
        one["properties"]["former"] = {"type": "array", "maxItems": 4, "items": {"oneOf": former}}
    return {"oneOf": first}


def _provider(model: type[FileKek | Pkcs11Kek | VaultKek]) -> dict[str, Any]:
    made = model.model_json_schema()
    made["required"] = sorted({*made.get("required", ()), "provider"})
    return made


def _plain(node: Any) -> Any:
    """Leave out what only documents, and what draft 7 does not know."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    dropped = ("title", "description", "default", "format", "discriminator")
    return {
        key: {name: _plain(one) for name, one in value.items()} if key == "properties" else _plain(value)
        for key, value in node.items()
        if key not in dropped
    }


def render() -> str:
    """Return the page."""
    text, values = source(), yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    parts = [HEAD]
    parts.append("\n| value | default | meaning |\n|---|---|---|\n")
    definitions = text["definitions"]
    top = {name: one for name, one in text["properties"].items() if name != "global"}
    grouped = [name for name, one in top.items() if "properties" in _resolved(one, definitions)]
    parts += [_row(name, top[name], values, definitions) for name in top if name not in grouped]
    for name in grouped:
        node = _resolved(top[name], definitions)
        parts.append(f"\n## `{name}`\n")
        if node.get("description"):
            parts.append(f"\n{node['description']}\n")
        parts.append("\n| value | default | meaning |\n|---|---|---|\n")
        rows = _leaves(f"{name}.", node, definitions)
        parts += [_row(path, one, values, definitions) for path, one in rows]
    return "".join(parts)


def _leaves(prefix: str, node: dict[str, Any], definitions: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node["properties"].items():
        one = _resolved(child, definitions)
        if "properties" in one:
            if (one.get("description") and "$ref" not in child) or "description" in child:
                yield f"{prefix}{name}", {**one, "properties": None}
            yield from _leaves(f"{prefix}{name}.", one, definitions)
        else:
            yield f"{prefix}{name}", one


def _resolved(node: dict[str, Any], definitions: Any) -> dict[str, Any]:
    if "$ref" not in node:
        return node
    base = definitions[node["$ref"].rpartition("/")[2]]
    return {**_resolved(base, definitions), **{k: v for k, v in node.items() if k != "$ref"}}


def _row(path: str, node: dict[str, Any], values: Any, definitions: Any) -> str:
    one, default = _resolved(node, definitions), values
    for key in path.split("."):
        default = default[key]
    shown = "" if one.get("properties", 1) is None else f"`{json.dumps(default)}`"
    words = [str(one.get("description", "")).strip()]
    if "enum" in one:
        words.append("One of " + ", ".join(f"`{choice}`" for choice in one["enum"] if choice) + ".")
    if "free" in one:
        words.append(f"*Free:* {one['free']}.")
    meaning = " ".join(word for word in words if word).replace("|", "\\|")
    return f"| `{path}` | {shown} | {meaning} |\n"


def main() -> int:
    """Write both, or compare them."""
    parser = argparse.ArgumentParser(description="Write the chart's schema and its page.")
    parser.add_argument("--check", action="store_true", help="fail if one of them is stale")
    arguments = parser.parse_args()
    made = {SCHEMA: json.dumps(schema(), indent=1) + "\n", PAGE: render()}
    for path, text in made.items():
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            name = path.relative_to(ROOT)
            print(f"{name} is stale: run python tools/chart_reference.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
