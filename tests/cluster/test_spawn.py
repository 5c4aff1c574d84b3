# SPDX-License-Identifier: BSD-3-Clause
"""A real hub starts attested servers as pods of a real Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sealroom.environments import initdata_annotation
from support.cluster.api import until
from support.cluster.cluster import Cluster
from support.cluster.config import PGPU, RUNTIME_CLASSES
from support.cluster.hub import PROXY, Hub, Person, environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300, func_only=True)]

INIT_DATA = "io.katacontainers.config.hypervisor.cc_init_data"
GPU_SHAPE = {"name": "default", "vcpus": 1, "memory_mib": 1024, "gpus": 1}


@pytest.fixture(scope="module")
def hub(cluster: Cluster) -> Iterator[Hub]:
    if not PROXY.exists():
        pytest.skip("the hub's proxy is not here: `make up` or `make test` brings it")
    # The last stages are to be seen: by default the progress page ends with them.
    with Hub(cluster, traits={"SealedKubeSpawner": {"linger": 2.0}}) as made:
        yield made


@pytest.fixture
def alice(hub: Hub, request: pytest.FixtureRequest) -> Iterator[Person]:
    # A person for each test: what one leaves behind is no other's.
    name = f"alice-{abs(hash(request.node.name)) % 100_000}"
    with hub.person(name) as person:
        yield person
        if person.model() is not None:
            person.stop()


def pod_of(hub: Hub, person: Person) -> dict[str, Any]:
    found = [
        pod
        for pod in hub.pods()
        if pod["metadata"]["annotations"].get("hub.jupyter.org/username") == person.name
    ]
    assert len(found) == 1, [pod["metadata"]["name"] for pod in found]
    return found[0]


def test_a_server_starts_stops_and_starts_again(hub: Hub, alice: Person) -> None:
    for _ in range(2):
        alice.start()
        alice.ready()
        status = alice.http.get(f"/user/{alice.name}/api/status")
        assert status.status_code == 200, status.text
        assert pod_of(hub, alice)["spec"]["runtimeClassName"] == RUNTIME_CLASSES[0]
        alice.stop()
        until("the pod is gone", lambda: not [p for p in hub.pods() if alice.name in str(p["metadata"])])


def test_kata_is_given_the_environments_initdata_and_shape(cluster: Cluster, hub: Hub, alice: Person) -> None:
    alice.start()
    alice.ready()
    pod = pod_of(hub, alice)
    meant = environment(cluster.image("notebook"))
    assert meant.initdata is not None
    sandbox, container = cluster.records(hub.namespace, pod["metadata"]["name"])
    assert sandbox.kata[INIT_DATA] == initdata_annotation(meant.initdata.body)
    assert sandbox.kata["io.katacontainers.config.runtime.create_container_timeout"] == "600"
    resources = container.config["linux"]["resources"]
    assert resources["memory"]["limit"] == 1 << 30
    assert resources["cpu"]["quota"] == resources["cpu"]["period"]
    assert container.config["root"]["readonly"] is True
    assert container.config["process"]["user"]["uid"] == 1000
    assert not any("serviceaccount" in mount["destination"] for mount in container.config["mounts"])


def test_the_server_proves_itself_by_the_guest_components_and_is_shown_as_simulated(
    hub: Hub, alice: Person
) -> None:
    alice.start()
    said = alice.progress()
    assert any(text.startswith("Verified: ") and "imulated" in text for text in said), "\n".join(said)
    shown = alice.http.get(f"/user/{alice.name}/sealroom/api/status")
    assert shown.status_code == 200, shown.text
    assert shown.json()["tier"] == "simulated", shown.text


def test_a_server_waits_for_a_gpu_and_says_so(cluster: Cluster, hub: Hub, alice: Person) -> None:
    hub.publish(environment(cluster.image("notebook"), "cluster-gpu", shapes=[GPU_SHAPE]))
    alice.start(environment="cluster-gpu")
    until("the pod is there", lambda: [p for p in hub.pods() if alice.name in str(p["metadata"])])
    name = pod_of(hub, alice)["metadata"]["name"]
    assert PGPU in cluster.event(name, hub.namespace, "FailedScheduling")
    cluster.set_gpus(1)
    try:
        alice.ready()
        assert pod_of(hub, alice)["spec"]["runtimeClassName"] == RUNTIME_CLASSES[1]
        alice.stop()
    finally:
        cluster.set_gpus(0)


def test_an_environment_that_is_not_on_offer_is_refused(hub: Hub, alice: Person) -> None:
    alice.start(environment="other")
    assert "There is no such environment." in alice.progress()[-1]
    assert all(alice.name not in str(pod["metadata"]) for pod in hub.pods())


def test_a_running_server_is_known_to_a_hub_that_was_killed_and_started_again(
    hub: Hub, alice: Person
) -> None:
    alice.start()
    alice.ready()
    before = pod_of(hub, alice)["metadata"]["uid"]
    hub.kill()
    # The proxy was the hub's child and went with it, or not: the way to the pod is there again afterwards.
    hub.start()
    alice.ready()
    assert pod_of(hub, alice)["metadata"]["uid"] == before
    until("the way to it", lambda: alice.http.get(f"/user/{alice.name}/api/status").status_code == 200)
