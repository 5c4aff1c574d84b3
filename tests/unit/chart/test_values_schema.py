# SPDX-License-Identifier: BSD-3-Clause
"""The schema of the chart's values: every misspelt key is refused, and what is free is known."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from support.chart import SETS, merged
from support.helm import CHART, try_template

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
CHECK = jsonschema.Draft7Validator(SCHEMA)

POD = ("podAnnotations", "podLabels", "nodeSelector", "affinity", "resources.requests", "resources.limits")
PODS = ("hub", "proxy", "broker")
FREE = {
    *(f"{pod}.{place}" for pod in PODS for place in POD),
    *(f"{pod}.topologySpreadConstraints[]" for pod in PODS),
    "environments.files", "environments.egress",
    "hub.config", "hub.extraConfig", "hub.env[]", "hub.serviceAccount.annotations",
    "singleuser.config",
    "proxy.service.annotations", "broker.service.annotations",
    "ingress.annotations", "broker.ingress.annotations",
    "gateway.parentRefs[]", "broker.gateway.parentRefs[]",
    "networkPolicy.dns.namespaceLabels", "networkPolicy.dns.podLabels",
    "networkPolicy.monitoring.namespaceLabels",
    "networkPolicy.proxy.from[]", "networkPolicy.broker.from[]",
    "networkPolicy.hub.egress[]", "networkPolicy.notebook.egress[]", "networkPolicy.broker.egress[]",
    "runtimeClasses.classes[].nodeSelector", "runtimeClasses.classes[].overhead",
    "prePuller.nodeSelector",
    "monitoring.serviceMonitor.labels",
    "global",
}  # fmt: skip
"""Where keys are names that the operator gives, or fields of a type of Kubernetes."""

BROKER: dict[str, Any] = {
    "trusted_proxies": ["192.0.2.1"],
    "identity": {
        "provider": "oidc",
        "issuers": [{"issuer": "https://login.example", "client_id": "broker", "passport": "none"}],
        "visa_issuers": [{"issuer": "https://visas.example", "jwks": "https://visas.example/jwks"}],
    },
    "limits": {"rate": 100, "burst": 10},
    "periods": {"nonce": 60},
    "collateral": {"store": "collateral", "crl": "soft"},
}


def keys(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Give each key of a tree that is not in a free place: its path, the mapping it is in, the key."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item, f"{path}[]")
    elif isinstance(value, dict) and path not in FREE:
        for key in list(value):
            below = f"{path}.{key}" if path else key
            yield below, value, key
            yield from keys(value[key], below)


def tree(name: str) -> dict[str, Any]:
    values = merged(*SETS.get(name, ()))
    if name == "broker":
        values["broker"]["config"] = copy.deepcopy(BROKER)
        values["hub"]["tolerations"] = [{"key": "a", "operator": "Exists"}]
    return values


@pytest.mark.parametrize("name", ["defaults", "broker", *SETS])
def test_the_sets_of_values_are_valid(name: str) -> None:
    assert [error.message for error in CHECK.iter_errors(tree(name))] == []


@pytest.mark.parametrize("name", ["defaults", "broker", *SETS])
def test_every_misspelt_key_is_refused(name: str) -> None:
    values, tried, accepted = tree(name), 0, []
    for path, mapping, key in list(keys(values)):
        original = dict(mapping)
        mapping[f"{key[:-1]}_{key[-1]}"] = mapping.pop(key)
        tried += 1
        if CHECK.is_valid(values):
            accepted.append(path)
        mapping.clear()
        mapping.update(original)
    assert tried > 200
    assert accepted == []


def test_no_place_is_free_but_those_that_are_listed() -> None:
    def free(schema: Any, path: str) -> Iterator[str]:
        while "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            yield path
        for key, one in schema.get("properties", {}).items():
            yield from free(one, f"{path}.{key}" if path else key)
        if "items" in schema:
            yield from free(schema["items"], f"{path}[]")

    assert set(free(SCHEMA, "")) == FREE


def test_every_value_of_the_defaults_is_described() -> None:
    page = (CHART.parents[1] / "docs" / "reference" / "chart-values.md").read_text()
    named = {path for path, _, _ in keys(merged()) if "[]" not in path}
    leaves = {path for path in named if not any(other.startswith(f"{path}.") for other in named)}
    # The key-encryption key is one value with its provider's fields.
    assert {path for path in leaves if f"`{path}`" not in page} == {"broker.kek.provider"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("networkPolicy.apiServer.cidrs", ["169.254.0.0/16"]),
        ("networkPolicy.apiServer.cidrs", ["169.254.169.254/32"]),
        ("networkPolicy.apiServer.cidrs", ["128.0.0.0/1"]),
        ("networkPolicy.notebook.registry.cidrs", ["registry.example"]),
        ("networkPolicy.notebook.registry.ports", [0]),
        ("hub.uid", 0),
        ("hub.image.digest", "sha256:abc"),
        ("hub.baseUrl", "lab"),
        ("broker.kek", {"provider": "vault"}),
        ("broker.kek", {"provider": "file", "pin_file": "x"}),
        ("broker.config", {"mode": "development"}),
        ("broker.config", {"limits": {"rate": "fast"}}),
        ("broker.url", "https://broker.example/kbs"),
    ],
)
def test_a_value_that_cannot_be_is_refused(path: str, value: Any) -> None:
    values = merged()
    *parents, last = path.split(".")
    place = values
    for key in parents:
        place = place[key]
    assert CHECK.is_valid(values)
    place[last] = value
    assert not CHECK.is_valid(values)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"hub": {"imagge": {"tag": "1"}}}, "imagge"),
        ({"networkPolicy": {"notebookk": {}}}, "notebookk"),
        ({"broker": {"config": {"limits": {"rat": 1}}}}, "rat"),
        ({"proxi": {}}, "proxi"),
    ],
)
def test_helm_itself_refuses_a_misspelt_key(helm_program: str, values: dict[str, Any], word: str) -> None:
    done = try_template(values=values)
    assert done.returncode != 0
    assert word in done.stderr


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"images": {"digestsOnly": True}}, "hub.image.digest is missing"),
        ({"broker": {"replicas": 2}}, "several processes need"),
        ({"broker": {"database": {"existingSecret": "db"}}}, "needs broker.keys.existingSecret"),
        ({"broker": {"persistence": {"enabled": False}}}, "would forget its audit log"),
        ({"broker": {"developmentRoot": "PEM"}}, "must not have one"),
        ({"broker": {"url": "http://broker.example"}}, "must be https"),
        ({"broker": {"enabled": False}}, "broker.url is needed"),
        ({"ingress": {"passthrough": True}}, "a certificate of its own"),
        ({"broker": {"gateway": {"passthrough": True}}}, "a certificate of its own"),
        ({"environments": {"existingConfigMap": "a", "files": {"b": "c"}}}, "either existingConfigMap or"),
    ],
)
def test_what_must_not_stand_together_is_refused_with_a_sentence(
    helm_program: str, values: dict[str, Any], sentence: str
) -> None:
    done = try_template(values=values)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize("tool", ["chart_reference", "images_reference"])
def test_what_is_generated_is_not_stale(tool: str) -> None:
    script = Path(__file__).resolve().parents[3] / "tools" / f"{tool}.py"
    if tool == "images_reference" and not (script.parents[1] / ".tools" / "uv").exists():
        pytest.skip("uv is not set up here: `make setup` does it")
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
