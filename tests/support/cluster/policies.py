# SPDX-License-Identifier: BSD-3-Clause
"""A stand-in for a network plugin that enforces NetworkPolicies, and for one that provides volumes.

It asks the API for policies, pods and namespaces a few times a second and writes one nftables table of the
node. What it shows is that a policy's selectors, peers and ports are right, not that another network enforces
it. What the node itself sends to a pod is never stopped, as kubelet's probes may not be.

`python -m support.cluster.policies SERVER FOLDER`, in the node's network namespace.
"""

from __future__ import annotations

import itertools
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from support.cluster.storage import provide

PAUSE = 0.25
TABLE = "network_policies"
Json = Mapping[str, Any]
KEEP = "ct state established,related accept;"


def selects(selector: Json | None, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector selects; an absent one selects nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(item, labels) for item in selector.get("matchExpressions") or ())


def _holds(expression: Json, labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":  # codespell:ignore
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    raise ValueError(expression["operator"])


@dataclass(frozen=True)
class State:
    """What the rules are made of."""

    policies: Sequence[Json]
    pods: Sequence[Json]
    namespaces: Mapping[str, Mapping[str, str]]
    """Name -> labels."""

    @classmethod
    def read(cls, api: httpx.Client) -> State:
        """Ask the API."""
        pods = [pod for pod in _items(api, "/api/v1/pods") if _counts(pod)]
        namespaces = {item["metadata"]["name"]: _labels(item) for item in _items(api, "/api/v1/namespaces")}
        return cls(_items(api, "/apis/networking.k8s.io/v1/networkpolicies"), pods, namespaces)

    def peers(self, peers: Sequence[Json] | None, namespace: str, side: str) -> Iterator[str]:
        """Give a match for each peer; one that matches all where there are none to choose from."""
        if not peers:
            yield ""
        for peer in peers or ():
            if "ipBlock" in peer:
                block = peer["ipBlock"]
                without = ", ".join(block.get("except") or ())
                yield f"ip {side} {block['cidr']}" + (f" ip {side} != {{ {without} }}" if without else "")
                continue
            for pod in self.pods:
                if self._is(peer, pod, namespace):
                    yield f"ip {side} {pod['status']['podIP']}"

    def targets(self, ports: Sequence[Json] | None, pods: Sequence[Json]) -> Iterator[str]:
        """Give a match for each port; a named one is looked up in the pods that are reached."""
        if not ports:
            yield ""
        for item in ports or ():
            protocol, port = item.get("protocol", "TCP").lower(), item.get("port")
            if port is None:
                yield f"meta l4proto {protocol}"
            elif isinstance(port, str):
                yield from (f"{protocol} dport {n}" for n in sorted(_named(port, pods)))
            else:
                yield f"{protocol} dport {port}" + (f"-{item['endPort']}" if item.get("endPort") else "")

    def _is(self, peer: Json, pod: Json, namespace: str) -> bool:
        own = pod["metadata"]["namespace"]
        if "namespaceSelector" in peer:
            if not selects(peer["namespaceSelector"], self.namespaces.get(own, {})):
                return False
        elif own != namespace:
            return False
        return "podSelector" not in peer or selects(peer["podSelector"], _labels(pod))


def table(state: State) -> str:
    """Return the whole table, as nft reads it."""
    chains: dict[tuple[str, str], list[str]] = {}
    for policy in state.policies:
        spec, namespace = policy["spec"], policy["metadata"]["namespace"]
        mine = [
            pod
            for pod in state.pods
            if pod["metadata"]["namespace"] == namespace
            and selects(spec.get("podSelector") or {}, _labels(pod))
        ]
        for kind in spec.get("policyTypes") or ("Ingress",):
            for pod in mine:
                rules = chains.setdefault((kind.lower(), pod["status"]["podIP"]), [])
                rules += _rules(state, kind, spec, pod)
    lines = [f"table inet {TABLE}", f"delete table inet {TABLE}", f"table inet {TABLE} {{"]
    for (kind, address), rules in sorted(chains.items()):
        inner = "".join(f"    {rule}\n" for rule in dict.fromkeys(rules))
        lines.append(f"  chain {_chain(kind, address)} {{\n{inner}    counter drop\n  }}")
    # An accept ends one hook only: egress is judged in an earlier one than ingress, so both must agree.
    hooks = (("forward", "egress", "saddr", 10), ("forward", "ingress", "daddr", 20))
    for hook, kind, side, priority in (*hooks, ("input", "egress", "saddr", 10)):
        jumps = "".join(
            f"    ip {side} {address} jump {_chain(kind, address)}\n"
            for found, address in sorted(chains)
            if found == kind
        )
        head = f"type filter hook {hook} priority {priority}; {KEEP}"
        lines.append(f"  chain {hook}_{kind} {{\n    {head}\n{jumps}  }}")
    return "\n".join([*lines, "}", ""])


def _rules(state: State, kind: str, spec: Json, pod: Json) -> Iterator[str]:
    namespace = pod["metadata"]["namespace"]
    key, peers, side = ("ingress", "from", "saddr") if kind == "Ingress" else ("egress", "to", "daddr")
    for rule in spec.get(key) or ():
        reached = [pod] if kind == "Ingress" else state.pods
        matches = itertools.product(
            state.peers(rule.get(peers), namespace, side),
            list(state.targets(rule.get("ports"), reached)),
        )
        yield from (" ".join(part for part in (*match, "accept") if part) for match in matches)


def _named(name: str, pods: Sequence[Json]) -> set[int]:
    return {
        port["containerPort"]
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container.get("ports") or ()
        if port.get("name") == name
    }


def _chain(kind: str, address: str) -> str:
    return f"{kind}_{address.replace('.', '_')}"


def _labels(item: Json) -> Mapping[str, str]:
    return item["metadata"].get("labels") or {}


def _counts(pod: Json) -> bool:
    status = pod["status"]
    on = not pod["spec"].get("hostNetwork") and status.get("phase") in ("Pending", "Running")
    return bool(on and status.get("podIP"))


def _items(api: httpx.Client, path: str) -> list[Json]:
    found: list[Json] = api.get(path).raise_for_status().json()["items"]
    return found


def main() -> None:
    """Look and write until killed."""
    server, folder = sys.argv[1], Path(sys.argv[2])
    trust = ssl.create_default_context(cafile=str(folder / "pki" / "ca.crt"))
    trust.load_cert_chain(folder / "pki" / "admin.crt", folder / "pki" / "admin.key")
    written = ""
    with httpx.Client(base_url=server, verify=trust, trust_env=False, timeout=10.0) as api:
        while True:
            try:
                provide(api, folder / "volumes")
                wanted = table(State.read(api))
                if wanted != written:
                    subprocess.run(["nft", "-f", "-"], input=wanted, text=True, check=True)
                    written = wanted
                # Tests that change a policy wait for the end of a round.
                (folder / "policies.round").touch()
            except (httpx.HTTPError, subprocess.CalledProcessError, KeyError, ValueError) as error:
                print(f"{type(error).__name__}: {error}", flush=True)
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
