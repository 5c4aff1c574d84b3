# SPDX-License-Identifier: BSD-3-Clause
"""The cluster that the other tests here run on does what a site's does, as far as they rely on it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom.environments import Environment, initdata_annotation, simulated_cpu
from sealroom.kbs.devices import decode_devices
from sealroom.kbs.evidence import snp_from_json
from support.cluster import images
from support.cluster.api import ApiError, until
from support.cluster.cluster import NODE, VERSION, Cluster, pod
from support.cluster.config import PGPU, RUNTIME_CLASSES
from support.cluster.node import remove_dead

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300, func_only=True)]

PYTHON = "/opt/sealroom/bin/python"
INIT_DATA = "io.katacontainers.config.hypervisor.cc_init_data"
VCPUS = "io.katacontainers.config.hypervisor.default_vcpus"
COCO = "http://127.0.0.1:8006"
SERVE = (
    "import http.server as h; h.ThreadingHTTPServer(('', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
)
ASK = "import base64 as b, urllib.request as u; print(b.b64encode(u.urlopen({url!r}).read()).decode())"
REACH = "import socket; socket.create_connection(({host!r}, {port}), {seconds}); print('reached')"


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    return cluster.image("notebook").reference


@pytest.fixture(scope="module")
def environment(cluster: Cluster) -> Environment:
    made = simulated_cpu(name=f"cluster-{secrets.token_hex(4)}", vcpus=3)
    cluster.publish(made)
    return made


def sleeper(namespace: str, name: str, image: str, **more: Any) -> dict[str, Any]:
    return pod(namespace, name, image, "sleep", "3600", **more)


def server(namespace: str, name: str, image: str, port: int = 8888, **more: Any) -> dict[str, Any]:
    made = pod(namespace, name, image, PYTHON, "-c", SERVE.format(port=port), **more)
    probe = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    made["spec"]["containers"][0] |= {"readinessProbe": probe, "ports": [{"containerPort": port}]}
    return made


def ask(cluster: Cluster, namespace: str, name: str, path: str) -> bytes:
    said = cluster.execute(name, namespace, PYTHON, "-c", ASK.format(url=COCO + path))
    return base64.b64decode(said)


def reaches(cluster: Cluster, namespace: str, name: str, host: str, port: int, seconds: float = 2.0) -> bool:
    code = REACH.format(host=host, port=port, seconds=seconds)
    try:
        return "reached" in cluster.execute(name, namespace, PYTHON, "-c", code)
    except AssertionError as error:
        if "TimeoutError" in str(error):
            return False
        # Anything else is no answer to the question.
        raise


@contextmanager
def gpus(cluster: Cluster, count: int) -> Iterator[None]:
    cluster.set_gpus(count)
    try:
        yield
    finally:
        cluster.set_gpus(0)


# --- node and images ---


def test_the_node_is_ready_and_of_the_version_that_is_meant(cluster: Cluster) -> None:
    node = cluster.api.get("Node", NODE)
    assert cluster.is_ready()
    assert node["status"]["nodeInfo"]["kubeletVersion"] == VERSION
    assert cluster.api.call("GET", "/version")["gitVersion"] == VERSION
    assert VERSION in cluster.kubectl("get", "nodes")


def test_a_pod_runs_its_image_by_digest(cluster: Cluster, namespace: str, image: str) -> None:
    assert "@sha256:" in image
    running = cluster.run(sleeper(namespace, "by-digest", image))
    assert image.split("@")[1] in running["status"]["containerStatuses"][0]["imageID"]


def test_another_digest_is_not_found(cluster: Cluster, namespace: str, image: str) -> None:
    other = f"{image.split('@')[0]}@sha256:{'0' * 64}"
    cluster.api.create(sleeper(namespace, "other", other))
    assert other in cluster.event("other", namespace, "ErrImageNeverPull")


def test_our_packages_are_in_the_notebook_image(cluster: Cluster, namespace: str, image: str) -> None:
    code = "import sealroom_jupyter as s, sealroom.kbs.client, jupyterlab, os; print(os.getuid(), s.__file__)"
    phase, said = cluster.finished(pod(namespace, "imports", image, PYTHON, "-c", code))
    assert (phase, said.split()[0]) == ("Succeeded", "1000"), said
    assert said.split()[1].startswith("/opt/sealroom/lib/")


def test_the_hub_image_has_the_hub_its_spawner_its_proxy_and_the_broker(
    cluster: Cluster, namespace: str
) -> None:
    code = """
import subprocess, sealroom_spawner.kube.spawner, sealroom_spawner.service, sealroom_broker.app
for program in ("jupyterhub", "configurable-http-proxy"):
    print(subprocess.check_output([program, "--version"], text=True))
"""
    hub = cluster.image("hub").reference
    phase, said = cluster.finished(pod(namespace, "hub", hub, PYTHON, "-c", code))
    assert phase == "Succeeded", said


def test_what_tests_that_were_killed_have_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    for name, process in (("dead", gone), ("alive", str(os.getpid())), ("new", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tests.pid").write_text(process)
    remove_dead(tmp_path.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"alive", "new"}


def test_the_same_content_gives_the_same_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("x = 1\n")
    monkeypatch.setitem(images.OURS, "sealroom_broker", str(tmp_path / "package"))
    made = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        made.append(images._own("package", ("sealroom_broker",)))
    assert made[0].name == made[1].name
    assert made[0].read_bytes() == made[1].read_bytes()
    (tmp_path / "package" / "module.py").write_text("x = 2\n")
    assert images._own("package", ("sealroom_broker",)).name != made[0].name


# --- runtime classes ---


@pytest.mark.parametrize("runtime", RUNTIME_CLASSES)
def test_what_kata_would_be_given_is_what_was_asked_for(
    cluster: Cluster, namespace: str, image: str, environment: Environment, runtime: str
) -> None:
    assert environment.initdata is not None
    asked = {
        INIT_DATA: initdata_annotation(environment.initdata.body),
        "io.katacontainers.config.hypervisor.default_memory": "2048",
        "io.katacontainers.config.runtime.create_container_timeout": "600",
    }
    limits = {"cpu": "2", "memory": "1Gi"}
    cluster.run(
        sleeper(
            namespace, "asked", image, runtime=runtime, annotations={**asked, "other": "1"}, resources=limits
        )
    )
    sandbox, container = cluster.records(namespace, "asked")
    assert (sandbox.is_sandbox, container.is_sandbox) == (True, False)
    assert {record.runtime_class for record in (sandbox, container)} == {runtime}
    assert sandbox.kata == asked
    assert container.config["process"]["args"] == ["sleep", "3600"]
    assert container.config["process"]["noNewPrivileges"] is True
    assert not container.config["process"]["capabilities"].get("bounding")
    assert container.config["linux"]["resources"]["memory"]["limit"] == 1 << 30
    cpu = container.config["linux"]["resources"]["cpu"]
    assert cpu["quota"] / cpu["period"] == 2


def test_a_pod_without_a_runtime_class_is_not_recorded(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.run(sleeper(namespace, "plain", image))
    assert cluster.records(namespace, "plain") == []


def test_the_class_adds_its_overhead_and_chooses_the_node(
    cluster: Cluster, namespace: str, image: str
) -> None:
    spec = cluster.api.create(sleeper(namespace, "overhead", image, runtime=RUNTIME_CLASSES[0]))["spec"]
    assert spec["overhead"] == {"cpu": "250m", "memory": "160Mi"}
    assert spec["nodeSelector"]["katacontainers.io/kata-runtime"] == "true"


def test_a_class_that_is_not_defined_is_refused(cluster: Cluster, namespace: str, image: str) -> None:
    with pytest.raises(ApiError, match='"kata-qemu-unknown" not found') as refused:
        cluster.api.create(sleeper(namespace, "unknown", image, runtime="kata-qemu-unknown"))
    assert refused.value.status == 403


def test_a_class_whose_runtime_the_node_lacks_leaves_the_pod_pending(
    cluster: Cluster, namespace: str, image: str
) -> None:
    name = f"absent-{secrets.token_hex(4)}"
    body = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": name,
    }
    cluster.api.create(body)
    try:
        cluster.api.create(sleeper(namespace, "absent", image, runtime=name))
        said = cluster.event("absent", namespace, "FailedCreatePodSandBox")
        assert f'no runtime for "{name}" is configured' in said
        assert cluster.api.get("Pod", "absent", namespace)["status"]["phase"] == "Pending"
    finally:
        cluster.api.delete("Pod", "absent", namespace, seconds=0)
        cluster.api.delete("RuntimeClass", name)


# --- the simulated guest ---


def test_the_guest_gives_evidence_that_covers_the_nonce_and_says_it_is_simulated(
    cluster: Cluster, namespace: str, image: str, environment: Environment
) -> None:
    assert environment.initdata is not None
    annotations = {INIT_DATA: initdata_annotation(environment.initdata.body), VCPUS: "3"}
    cluster.run(sleeper(namespace, "guest", image, runtime=RUNTIME_CLASSES[0], annotations=annotations))
    nonce = secrets.token_bytes(64)
    text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
    found = ask(cluster, namespace, "guest", f"/aa/evidence?runtime_data={text}&encoding=base64")
    report, certificates = snp_from_json(json.loads(found))
    assert report[0x50:0x90] == nonce
    assert report[0x90:0xC0] == environment.shape().measurement_bytes[0]
    assert report[0xC0:0xE0] == environment.host_data
    assert certificates["ARK"] == cluster.root.ark.der
    information = json.loads(ask(cluster, namespace, "guest", "/info"))
    assert "simulated" in information["version"]
    assert "additional_tees" not in information


def test_a_guest_of_another_shape_has_another_measurement(
    cluster: Cluster, namespace: str, image: str, environment: Environment
) -> None:
    assert environment.initdata is not None
    annotations = {INIT_DATA: initdata_annotation(environment.initdata.body), VCPUS: "4"}
    cluster.run(sleeper(namespace, "shape", image, runtime=RUNTIME_CLASSES[0], annotations=annotations))
    report, _ = snp_from_json(json.loads(ask(cluster, namespace, "shape", "/aa/evidence?runtime_data=x")))
    assert report[0xC0:0xE0] == environment.host_data
    assert report[0x90:0xC0] != environment.shape().measurement_bytes[0]


def test_a_guest_does_not_start_with_initdata_that_it_cannot_read(
    cluster: Cluster, namespace: str, image: str
) -> None:
    broken = {INIT_DATA: base64.b64encode(b"not gzip").decode()}
    cluster.api.create(sleeper(namespace, "broken", image, runtime=RUNTIME_CLASSES[0], annotations=broken))
    assert "initdata" in cluster.event("broken", namespace, "simulated Kata")


def test_no_guest_answers_in_a_plain_pod(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.run(sleeper(namespace, "nobody", image))
    with pytest.raises(AssertionError, match="Connection refused"):
        ask(cluster, namespace, "nobody", "/info")


# --- GPUs ---


def test_gpus_that_are_all_taken_leave_a_pod_pending_until_there_is_another(
    cluster: Cluster, namespace: str, image: str
) -> None:
    limits = {"cpu": "100m", "memory": "256Mi", PGPU: "1"}
    with gpus(cluster, 1):
        cluster.run(sleeper(namespace, "first", image, runtime=RUNTIME_CLASSES[1], resources=limits))
        cluster.api.create(sleeper(namespace, "second", image, runtime=RUNTIME_CLASSES[1], resources=limits))
        assert f"Insufficient {PGPU}" in cluster.event("second", namespace, "FailedScheduling")
        assert cluster.api.get("Pod", "second", namespace)["status"]["phase"] == "Pending"
        cluster.set_gpus(2)
        cluster.ready("second", namespace)
        assert cluster.execute("second", namespace, "env").count("PCI_RESOURCE_NVIDIA_COM_PGPU=gpu-") == 1


def test_the_guest_of_a_pod_with_two_gpus_gives_the_evidence_of_two(
    cluster: Cluster, namespace: str, image: str
) -> None:
    limits = {"cpu": "100m", "memory": "256Mi", PGPU: "2"}
    with gpus(cluster, 2):
        cluster.run(sleeper(namespace, "two", image, runtime=RUNTIME_CLASSES[1], resources=limits))
        nonce = secrets.token_bytes(32)
        text = base64.urlsafe_b64encode(nonce).rstrip(b"=").decode()
        found = ask(cluster, namespace, "two", f"/aa/additional-evidence?runtime_data={text}&encoding=base64")
        devices = decode_devices(found.decode())
        assert len({device.uuid for device in devices}) == 2
        assert all(nonce in device.report for device in devices)
        assert json.loads(ask(cluster, namespace, "two", "/info"))["additional_tees"] == ["nvidia"]


# --- network ---


def test_a_name_of_a_service_leads_to_its_pod(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.run(server(namespace, "web", image, labels={"app": "web"}))
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8888}]}
    about = {"name": "web", "namespace": namespace}
    made = cluster.api.create({"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": spec})
    cluster.run(sleeper(namespace, "client", image))
    until("the service leads there", lambda: reaches(cluster, namespace, "client", "web", 80))
    with cluster.forward(made["spec"]["clusterIP"], 80) as gate:
        assert httpx.get(f"http://{gate.address}/", trust_env=False).status_code == 200


def test_pods_reach_a_port_of_the_host_that_is_opened_to_them_and_no_other(
    cluster: Cluster, namespace: str, image: str
) -> None:
    cluster.run(server(namespace, "far", image))
    address = cluster.api.get("Pod", "far", namespace)["status"]["podIP"]
    cluster.run(sleeper(namespace, "near", image))
    with cluster.forward(address, 8888) as host, cluster.expose(host.port) as gate:
        assert reaches(cluster, namespace, "near", gate.host, gate.port)
        with pytest.raises(AssertionError, match="Connection refused"):
            reaches(cluster, namespace, "near", gate.host, host.port)


def test_a_default_deny_policy_is_enforced_and_what_another_allows_is_open(
    cluster: Cluster, namespace: str, image: str
) -> None:
    cluster.run(server(namespace, "web", image, labels={"app": "web"}))
    cluster.run(sleeper(namespace, "friend", image, labels={"app": "friend"}))
    cluster.run(sleeper(namespace, "stranger", image))
    web = cluster.api.get("Pod", "web", namespace)["status"]["podIP"]
    assert reaches(cluster, namespace, "stranger", web, 8888)
    deny = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    cluster.api.create(policy(namespace, "deny", deny))
    cluster.policies_apply()
    assert not reaches(cluster, namespace, "stranger", web, 8888)
    assert not reaches(cluster, namespace, "friend", web, 8888)
    selected = {"podSelector": {"matchLabels": {"app": "friend"}}}
    ports = [{"port": 8888, "protocol": "TCP"}]
    web_only = {"podSelector": {"matchLabels": {"app": "web"}}}
    ingress = {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"from": [selected], "ports": ports}],
    }
    cluster.api.create(policy(namespace, "in", ingress))
    cluster.policies_apply()
    # One side is not enough.
    assert not reaches(cluster, namespace, "friend", web, 8888)
    egress = {**selected, "policyTypes": ["Egress"], "egress": [{"to": [web_only], "ports": ports}]}
    cluster.api.create(policy(namespace, "out", egress))
    cluster.policies_apply()
    assert reaches(cluster, namespace, "friend", web, 8888)
    assert not reaches(cluster, namespace, "stranger", web, 8888)


def test_a_default_deny_policy_keeps_pods_from_the_api_server_and_from_dns(
    cluster: Cluster, namespace: str, image: str
) -> None:
    cluster.run(sleeper(namespace, "client", image))
    assert reaches(cluster, namespace, "client", "kubernetes.default.svc", 443)
    cluster.api.create(policy(namespace, "deny", {"podSelector": {}, "policyTypes": ["Egress"]}))
    cluster.policies_apply()
    for host, port in (("10.96.0.1", 443), ("10.250.0.1", 6443), ("10.96.0.10", 53)):
        assert not reaches(cluster, namespace, "client", host, port)


def policy(namespace: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": spec,
    }


# --- rights ---


def test_a_service_account_may_what_its_role_says_and_nothing_else(cluster: Cluster, namespace: str) -> None:
    rbac = "rbac.authorization.k8s.io"
    where = {"namespace": namespace, "name": "spawner"}
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    cluster.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": where})
    cluster.api.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": where, "rules": rules})
    cluster.api.create(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": where,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "spawner"},
            "subjects": [{"kind": "ServiceAccount", **where}],
        }
    )
    with cluster.as_account(namespace, "spawner") as account:
        assert until("the role counts", lambda: account.find("Pod", namespace) == [])
        for kind, other in (("Secret", namespace), ("Pod", "kube-system"), ("Pod", "")):
            with pytest.raises(ApiError) as refused:
                account.find(kind, other)
            assert refused.value.status == 403
        with pytest.raises(ApiError, match="cannot create") as refused:
            account.create(sleeper(namespace, "own", "registry.test/pause:test"))
        assert refused.value.status == 403


def test_a_token_that_is_none_is_not_accepted(cluster: Cluster) -> None:
    from support.cluster.api import Api

    with Api(cluster.server, cluster.pki.folder, token="none") as nobody, pytest.raises(ApiError) as refused:
        nobody.find("Namespace")
    assert refused.value.status == 401


def test_a_restricted_namespace_refuses_a_privileged_pod(cluster: Cluster, image: str) -> None:
    namespace = cluster.namespace(labels={"pod-security.kubernetes.io/enforce": "restricted"})
    try:
        cluster.run(sleeper(namespace, "restricted", image))
        weak = sleeper(namespace, "privileged", image)
        weak["spec"]["containers"][0]["securityContext"] = {"privileged": True}
        with pytest.raises(ApiError, match='violates PodSecurity "restricted:latest": privileged'):
            cluster.api.create(weak)
    finally:
        cluster.drop(namespace)


# --- volumes, and what fails ---


def test_what_is_written_to_a_claim_is_there_for_the_next_pod(
    cluster: Cluster, namespace: str, image: str
) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    about = {"name": "home", "namespace": namespace}
    cluster.api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": spec})
    volumes = [{"name": "home", "persistentVolumeClaim": {"claimName": "home"}}]
    said = []
    for name, code in (
        ("writes", "open('/home/x', 'w').write('kept')"),
        ("reads", "print(open('/home/x').read())"),
    ):
        made = pod(namespace, name, image, PYTHON, "-c", code, volumes=volumes)
        made["spec"]["containers"][0]["volumeMounts"] = [{"name": "home", "mountPath": "/home"}]
        said.append(cluster.finished(made))
    assert [phase for phase, _ in said] == ["Succeeded", "Succeeded"], said
    assert said[1][1].strip() == "kept"


def test_pods_outlive_the_api_server(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.run(server(namespace, "outlives", image))
    before = cluster.api.get("Pod", "outlives", namespace)["status"]
    cluster.stop("apiserver")
    try:
        with cluster.forward(before["podIP"], 8888) as gate:
            assert httpx.get(f"http://{gate.address}/", trust_env=False).status_code == 200
        with pytest.raises(httpx.TransportError):
            cluster.api.http.get("/readyz")
    finally:
        cluster.start("apiserver")
    until("the API server is back", lambda: cluster.api.http.get("/readyz").is_success)
    after = cluster.ready("outlives", namespace)["status"]
    assert after["containerStatuses"][0]["containerID"] == before["containerStatuses"][0]["containerID"]
