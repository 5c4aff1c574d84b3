# SPDX-License-Identifier: BSD-3-Clause
"""What the chart's NetworkPolicies let whom reach, by Kubernetes' rules and without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from support.chart import SETS, End, allowed
from support.helm import objects, template

SELF = {"app.kubernetes.io/name": "sealroom", "app.kubernetes.io/instance": "demo"}


def component(name: str) -> End:
    return End(address=f"10.0.0.{len(name)}", labels={**SELF, "app.kubernetes.io/component": name})


HUB, PROXY, BROKER, TEST = map(component, ("hub", "proxy", "broker", "test"))
NOTEBOOK = End("10.0.1.1", {"sealroom/release": "demo", "sealroom/role": "notebook"})
NEIGHBOUR = End("10.0.1.2", NOTEBOOK.labels)
OTHERS_NOTEBOOK = End("10.0.1.3", {"sealroom/release": "another", "sealroom/role": "notebook"})
UNLABELLED = End("10.0.1.4", {})
SYSTEM = {"kubernetes.io/metadata.name": "kube-system"}
DNS = End("10.0.2.1", {"k8s-app": "kube-dns"}, "kube-system", SYSTEM)
SYSTEM_POD = End("10.0.2.2", {"k8s-app": "other"}, "kube-system", SYSTEM)
ELSEWHERE = End("10.0.3.1", {"app": "shop"}, "shop", {"kubernetes.io/metadata.name": "shop"})
INGRESS = End("10.0.4.1", {"app": "ingress"}, "ingress", {"kubernetes.io/metadata.name": "ingress"})
API_SERVER = End("192.0.2.1")
METADATA = End("169.254.169.254")
METADATA_6 = End("fd00:ec2::254")
WORLD = End("198.51.100.9")
REGISTRY = End("192.0.2.20")
DATABASE = End("192.0.2.11")
INSIDE = [HUB, PROXY, BROKER, TEST, NOTEBOOK, UNLABELLED]


@pytest.fixture
def policies(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in made if item["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    ("target", "port"),
    [(HUB, 8081), (HUB, 8090), (BROKER, 8200)],
    ids=["hub", "status", "broker"],
)
def test_a_notebook_reaches_what_it_needs(policies: Any, target: End, port: int) -> None:
    assert allowed(policies, NOTEBOOK, target, port)


@pytest.mark.parametrize("protocol", ["UDP", "TCP"])
def test_a_notebook_reaches_the_clusters_dns(policies: Any, protocol: str) -> None:
    assert allowed(policies, NOTEBOOK, DNS, 53, protocol)


@pytest.mark.parametrize(
    ("target", "port"),
    [
        (API_SERVER, 443), (API_SERVER, 6443), (NEIGHBOUR, 8888), (METADATA, 80), (METADATA_6, 80),
        (WORLD, 443), (WORLD, 53), (PROXY, 8000), (PROXY, 8001), (BROKER, 9464), (DATABASE, 5432),
        (SYSTEM_POD, 53), (DNS, 443), (ELSEWHERE, 80), (UNLABELLED, 80), (OTHERS_NOTEBOOK, 8888),
    ],
)  # fmt: skip
def test_a_notebook_reaches_nothing_else(policies: Any, target: End, port: int) -> None:
    assert not allowed(policies, NOTEBOOK, target, port)


@pytest.mark.parametrize("source", [NEIGHBOUR, BROKER, TEST, UNLABELLED, ELSEWHERE, WORLD, OTHERS_NOTEBOOK])
def test_a_notebook_is_reached_by_nobody_but_proxy_and_hub(policies: Any, source: End) -> None:
    assert allowed(policies, PROXY, NOTEBOOK, 8888)
    assert allowed(policies, HUB, NOTEBOOK, 8888)
    assert not allowed(policies, source, NOTEBOOK, 8888)
    assert not allowed(policies, PROXY, NOTEBOOK, 22)


@pytest.mark.parametrize("port", [80, 443, 5432, 6443, 8200])
@pytest.mark.parametrize("source", INSIDE)
def test_nobody_reaches_the_metadata_address(policies: Any, source: End, port: int) -> None:
    assert not allowed(policies, source, METADATA, port)
    assert not allowed(policies, source, METADATA_6, port)


@pytest.mark.parametrize("source", [NOTEBOOK, BROKER, TEST, UNLABELLED, ELSEWHERE, WORLD, INGRESS])
def test_the_proxys_own_interface_is_open_to_the_hub_alone(policies: Any, source: End) -> None:
    assert allowed(policies, HUB, PROXY, 8001)
    assert not allowed(policies, source, PROXY, 8001)


def test_the_hub_reaches_the_api_server_and_nobody_else_does(policies: Any) -> None:
    assert allowed(policies, HUB, API_SERVER, 6443)
    assert not any(allowed(policies, one, API_SERVER, 6443) for one in (PROXY, NOTEBOOK, TEST, UNLABELLED))


@pytest.mark.parametrize("port", [8081, 8090])
def test_the_hub_reaches_itself_by_its_service(policies: Any, port: int) -> None:
    assert allowed(policies, HUB, HUB, port)


def test_a_hub_that_nobody_else_may_ask_is_not_open_to_all(helm_program: str) -> None:
    values = {"broker": {"enabled": False, "url": "https://broker.example"}, "tests": {"enabled": False}}
    policies = [item for item in objects(template(values=values)) if item["kind"] == "NetworkPolicy"]
    assert allowed(policies, NOTEBOOK, HUB, 8081)
    assert not any(allowed(policies, one, HUB, 8081) for one in (BROKER, TEST, UNLABELLED, ELSEWHERE, WORLD))


def test_a_pod_without_the_labels_reaches_nothing_and_is_reached_by_nobody(policies: Any) -> None:
    ends = [*INSIDE, DNS, ELSEWHERE, WORLD, API_SERVER]
    ports = (53, 80, 443, 8000, 8081, 8200, 8888)
    assert not any(allowed(policies, UNLABELLED, end, port) for end in ends for port in ports)
    assert not any(allowed(policies, end, UNLABELLED, port) for end in ends for port in ports)


def test_the_broker_is_not_reached_from_the_proxy_or_from_elsewhere(policies: Any) -> None:
    assert allowed(policies, HUB, BROKER, 8200)
    assert not any(allowed(policies, one, BROKER, 8200) for one in (PROXY, ELSEWHERE, UNLABELLED, WORLD))


def test_the_test_pod_reaches_what_it_asks(policies: Any) -> None:
    assert all(allowed(policies, TEST, end, port) for end, port in ((HUB, 8081), (BROKER, 8200)))
    assert allowed(policies, TEST, PROXY, 8000)


def test_people_reach_the_proxy(policies: Any, chosen: str) -> None:
    assert allowed(policies, INGRESS, PROXY, 8000)
    # In the production set only the ingress controller's namespace may.
    assert allowed(policies, WORLD, PROXY, 8000) == (chosen != "production")


def production() -> list[dict[str, Any]]:
    return [item for item in objects(template(*SETS["production"])) if item["kind"] == "NetworkPolicy"]


def test_an_environment_opens_what_it_names_to_its_own_servers_alone(helm_program: str) -> None:
    policies, target = production(), End("192.0.2.40")
    own = End("10.0.1.9", {**(NOTEBOOK.labels or {}), "sealroom/environment": "ecg-gpu"})
    other = End("10.0.1.8", {**(NOTEBOOK.labels or {}), "sealroom/environment": "chest"})
    assert allowed(policies, own, target, 443)
    assert not allowed(policies, own, target, 80)
    assert not allowed(policies, other, target, 443)
    assert not allowed(policies, NOTEBOOK, target, 443)
    assert allowed(policies, own, BROKER, 8200)


def test_the_registry_is_open_to_guests_that_pull_their_image(helm_program: str) -> None:
    policies = production()
    assert allowed(policies, NOTEBOOK, REGISTRY, 443)
    assert not allowed(policies, NOTEBOOK, REGISTRY, 80)


def test_a_broker_elsewhere_is_reached_by_its_address(helm_program: str) -> None:
    values = {
        "broker": {"enabled": False, "url": "https://broker.example"},
        "networkPolicy": {"notebook": {"externalBroker": {"cidrs": ["192.0.2.30/32"]}}},
    }
    policies = [item for item in objects(template(values=values)) if item["kind"] == "NetworkPolicy"]
    assert allowed(policies, NOTEBOOK, End("192.0.2.30"), 443)
    assert allowed(policies, HUB, End("192.0.2.30"), 443)
    assert not allowed(policies, NOTEBOOK, WORLD, 443)


def test_prometheus_reads_the_brokers_metrics_and_nobody_else_does(helm_program: str) -> None:
    policies = production()
    prometheus = End("10.0.5.1", {"app": "prometheus"}, "monitoring",
                     {"kubernetes.io/metadata.name": "monitoring"})  # fmt: skip
    assert allowed(policies, prometheus, BROKER, 9464)
    assert not allowed(policies, NOTEBOOK, BROKER, 9464)


def test_without_default_deny_no_pod_of_others_is_touched(helm_program: str) -> None:
    made = objects(template(values={"networkPolicy": {"defaultDeny": False}}))
    policies = [item for item in made if item["kind"] == "NetworkPolicy"]
    assert allowed(policies, UNLABELLED, WORLD, 443)
    assert not allowed(policies, NOTEBOOK, WORLD, 443)
