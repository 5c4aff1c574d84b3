# SPDX-License-Identifier: BSD-3-Clause
"""What tests of the chart share: its sets of values, Kubernetes' schema, and what NetworkPolicies allow."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml  # type: ignore[import-untyped]

from support.helm import CHART

HERE = Path(__file__).resolve().parents[1] / "unit" / "chart"
SETS: dict[str, tuple[Path, ...]] = {
    "small": (HERE / "values" / "small.yaml",),
    "production": (CHART / "values-production.yaml", HERE / "values" / "production.yaml"),
    "workshop": (HERE / "values" / "workshop.yaml",),
}
"""The sets of values that are rendered and reviewed."""
NAMESPACE = "sealroom"
Json = Mapping[str, Any]


def merged(*files: Path) -> dict[str, Any]:
    """Return the values that the chart sees: its own defaults, and files on top."""
    found: dict[str, Any] = {}
    for file in (CHART / "values.yaml", *files):
        found = _overlaid(found, yaml.safe_load(file.read_text(encoding="utf-8")))
    return found


def _overlaid(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return copy.deepcopy(above)
    keys = {**below, **above}
    return {
        key: _overlaid(below[key], above[key]) if key in below and key in above else keys[key] for key in keys
    }


class KubernetesSchema:
    """Kubernetes' OpenAPI document as a check that knows every field.

    Args:
        document: The OpenAPI document, version 2.
    """

    def __init__(self, document: Json) -> None:
        self._definitions = {name: _strict(one) for name, one in document["definitions"].items()}
        self._kinds = {
            (group["group"], group["version"], group["kind"]): name
            for name, one in document["definitions"].items()
            for group in one.get("x-kubernetes-group-version-kind", ())
        }

    def knows(self, item: Json) -> bool:
        """Tell whether the object's kind is one of Kubernetes' own."""
        return self._key(item) in self._kinds

    def problems(self, item: Json) -> list[str]:
        """Return what is wrong with an object."""
        schema = {
            "$ref": f"#/definitions/{self._kinds[self._key(item)]}",
            "definitions": self._definitions,
        }
        found = jsonschema.Draft4Validator(schema).iter_errors(item)
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]

    @staticmethod
    def _key(item: Json) -> tuple[str, str, str]:
        group, _, version = item["apiVersion"].rpartition("/")
        return group, version, item["kind"]


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    if str(node.get("description", "")).startswith("Quantity is a fixed-point"):
        return {"type": ["integer", "number", "string"]}
    made = {key: _strict(value) for key, value in node.items() if key not in ("description", "format")}
    if "properties" in node:
        made["properties"] = {name: _strict(one) for name, one in node["properties"].items()}
        made.setdefault("additionalProperties", False)
    return made


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod, or an address outside of the cluster."""

    address: str = ""
    labels: Mapping[str, str] | None = None
    """A pod's labels; None for what is no pod."""
    namespace: str = NAMESPACE
    namespace_labels: Mapping[str, str] = field(default_factory=dict)


def allowed(policies: Sequence[Json], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Tell whether NetworkPolicies let a connection pass, as Kubernetes defines it.

    Both the source's egress and the target's ingress must allow it; a pod that no policy of a direction
    selects is not isolated in that direction.
    """
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(policies: Sequence[Json], side: str, own: End, other: End, port: int, protocol: str) -> bool:
    if own.labels is None:
        return True
    mine = [one for one in policies if side in one["spec"]["policyTypes"] and _selects_pod(one, own)]
    if not mine:
        return True
    key, peers = ("egress", "to") if side == "Egress" else ("ingress", "from")
    return any(
        _has_port(rule.get("ports"), port, protocol) and _has_peer(rule.get(peers), other, policy)
        for policy in mine
        for rule in policy["spec"].get(key) or ()
    )


def _selects_pod(policy: Json, pod: End) -> bool:
    labels = pod.labels or {}
    return policy["metadata"]["namespace"] == pod.namespace and _selects(
        policy["spec"]["podSelector"], labels
    )


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    if not set(selector) <= {"matchLabels"}:
        raise NotImplementedError(f"a selector with {sorted(selector)}")
    return all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items())


def _has_port(ports: Sequence[Json] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        one.get("protocol", "TCP") == protocol and one.get("port", port) == port for one in ports
    )


def _has_peer(peers: Sequence[Json] | None, other: End, policy: Json) -> bool:
    return not peers or any(_is_peer(peer, other, policy) for peer in peers)


def _is_peer(peer: Json, other: End, policy: Json) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        inside = _inside(other.address, block["cidr"])
        return inside and not any(_inside(other.address, one) for one in block.get("except") or ())
    if other.labels is None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], other.namespace_labels):
            return False
    elif other.namespace != policy["metadata"]["namespace"]:
        return False
    return "podSelector" not in peer or _selects(peer["podSelector"], other.labels)


def _inside(address: str, network: str) -> bool:
    if not address:
        return False
    one, other = ipaddress.ip_address(address), ipaddress.ip_network(network)
    return one.version == other.version and one in other


def pods(objects: Sequence[Json]) -> Iterator[tuple[str, Json]]:
    """Give each pod, or template of pods, with the name of what it is of."""
    for item in objects:
        if item["kind"] == "Pod":
            yield f"Pod/{item['metadata']['name']}", item
        elif item["kind"] in ("Deployment", "DaemonSet", "Job", "StatefulSet"):
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]


def containers(pod: Json) -> Iterator[Json]:
    """Give the containers of a pod, those that run before it too."""
    yield from pod["spec"].get("initContainers") or ()
    yield from pod["spec"]["containers"]
