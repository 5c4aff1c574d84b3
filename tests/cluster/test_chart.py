# SPDX-License-Identifier: BSD-3-Clause
"""The chart on a real cluster: installed, tested, a server started through it, upgraded meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sealroom.environments import generate_key, public_pem, sign
from support.cluster.api import until
from support.cluster.chart_image import chart_image
from support.cluster.cluster import Cluster
from support.cluster.fixture import cluster
from support.cluster.hub import environment
from support.cluster.images import Image
from support.helm import CHART, HELM, UnavailableError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900, func_only=True)]
ROOT = Path(CHART).parents[1]
__all__ = ["cluster"]


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> Image:
    """One image for hub, proxy and broker, with the configuration where the chart looks for it."""
    made = chart_image(ROOT / "hub_config")
    cluster.take(made)
    return made


class Release:
    def __init__(self, cluster: Cluster, image: Image, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.namespace = cluster.namespace("chart", {"pod-security.kubernetes.io/enforce": "restricted"})
        key, offered = generate_key(), environment(cluster.image("notebook"))
        cluster.publish(offered)
        self.token = secrets.token_hex(16)
        picture = {"repository": image.name, "digest": image.digest}
        self.values: dict[str, Any] = {
            "images": {"digestsOnly": True, "pullPolicy": "Never"},
            "environments": {
                "simulatedOnly": True,
                "files": {
                    f"{offered.name}.toml": offered.raw.decode(),
                    f"{offered.name}.toml.sig": sign(offered.raw, key).decode(),
                    "publisher.pub.pem": public_pem(key).decode(),
                },
            },
            "hub": {
                "image": picture,
                "config": {
                    "JupyterHub": {"authenticator_class": "dummy"},
                    "Authenticator": {"allow_all": True, "admin_users": ["operator"]},
                    "SealedKubeSpawner": {"image_pull_policy": "Never"},
                },
                "extraConfig": {
                    "10-tests": (
                        f"c.JupyterHub.services.append({{'name': 'tests', 'api_token': '{self.token}'}})\n"
                        "c.JupyterHub.load_roles.append({'name': 'tests', 'services': ['tests'], 'scopes':"
                        " ['admin:users', 'admin:servers', 'admin:server_state', 'access:servers',"
                        " 'list:users']})\n"
                    )
                },
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            },
            "proxy": {"image": picture, "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
            "broker": {
                "image": picture,
                "mode": "development",
                "developmentRoot": cluster.root.ark.pem.decode(),
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            },
            "networkPolicy": {"dns": {"port": 5353}},
        }
        self.http = httpx.Client()

    def helm(self, *words: str) -> str:
        given = self.folder / "values.json"
        given.write_text(json.dumps(self.values))
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.cluster.kubeconfig),
        }
        given_values = ("--values", str(given)) if words[0] in ("install", "upgrade") else ()
        command = [str(HELM.path()), *words, "--namespace", self.namespace, *given_values]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=400)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.why()}"
        return done.stdout

    def why(self) -> str:
        said = []
        for pod in self.cluster.api.find("Pod", self.namespace):
            name = pod["metadata"]["name"]
            said.append(
                f"=== {name} {pod['status'].get('phase')} {self.cluster.events(name, self.namespace)[-6:]}"
            )
            said.extend(
                f"--- {one['name']}: {self.cluster.log(name, self.namespace, one['name'])[-2500:]}"
                for one in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
            )
        return "\n".join(said)

    def pod(self, component: str) -> dict[str, Any]:
        found = self.cluster.api.find(
            "Pod", self.namespace, labelSelector=f"app.kubernetes.io/component={component}"
        )
        running = [one for one in found if "deletionTimestamp" not in one["metadata"]]
        assert len(running) == 1, [one["metadata"]["name"] for one in running]
        return dict(running[0])

    def connect(self) -> None:
        service = self.cluster.api.get("Service", "demo-sealroom-proxy-public", self.namespace)
        gate = self.cluster.forward(service["spec"]["clusterIP"], 80)
        self.http = httpx.Client(
            base_url=f"http://{gate.address}",
            headers={"Authorization": f"token {self.token}"},
            trust_env=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def release(cluster: Cluster, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    try:
        HELM.path()
    except UnavailableError as error:
        pytest.skip(str(error))
    made = Release(cluster, image, tmp_path_factory.mktemp("helm"))
    made.helm("install", "demo", str(CHART), "--wait", "--timeout", "5m")
    made.connect()
    yield made
    made.http.close()


class Server:
    """A person's server, started through the chart's hub."""

    def __init__(self, release: Release) -> None:
        self.release, self.hub = release, release.http
        assert self.hub.post("/hub/api/users/ada").status_code in (201, 409)
        answer = self.hub.post("/hub/api/users/ada/server", json={})
        assert answer.status_code in (201, 202), answer.text
        try:
            until("the server is ready", self.ready, 120.0)
        except AssertionError as error:
            raise AssertionError(f"{self.hub.get('/hub/api/users/ada').text}\n{release.why()}") from error

    def ready(self) -> Any:
        model = self.hub.get("/hub/api/users/ada").json()["servers"].get("")
        return model if model and model["ready"] else None

    @property
    def pod(self) -> dict[str, Any]:
        found = self.release.cluster.api.find(
            "Pod", self.release.namespace, labelSelector="sealroom/role=notebook"
        )
        assert len(found) == 1, [one["metadata"]["name"] for one in found]
        return dict(found[0])

    def reaches(self, host: str, port: int) -> bool:
        """Tell whether something in the server's pod can open a connection."""
        code = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3); print('yes')"
        command = ("python3", "-c", code, host, str(port))
        try:
            said = self.release.cluster.execute(
                self.pod["metadata"]["name"], self.release.namespace, *command
            )
        except AssertionError:
            return False
        return "yes" in said


@pytest.fixture(scope="module")
def server(release: Release) -> Server:
    return Server(release)


def test_charts_own_test_passes(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", "demo")
    assert release.http.get("/hub/health").status_code == 200


def test_server_proves_itself_to_the_charts_broker(server: Server) -> None:
    assert server.hub.get("/user/ada/api/status").status_code == 200
    model = server.hub.get("/hub/api/users/ada?include_stopped_servers").json()
    assert model["servers"][""]["state"]["attestation"]["tier"] == "simulated"


def test_pod_names_its_environment_for_network_policies(server: Server) -> None:
    assert server.pod["metadata"]["labels"]["sealroom/environment"] == "cluster-cpu"


@pytest.mark.parametrize(("name", "port"), [("hub", 8081), ("hub", 8090), ("broker", 8200)])
def test_server_reaches_what_it_needs(server: Server, name: str, port: int) -> None:
    assert server.reaches(f"demo-sealroom-{name}.{server.release.namespace}.svc", port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("kubernetes.default.svc", 443),
        ("demo-sealroom-proxy-api.{namespace}.svc", 8001),
        ("169.254.169.254", 80),
    ],
)
def test_server_reaches_nothing_else(server: Server, host: str, port: int) -> None:
    assert not server.reaches(host.format(namespace=server.release.namespace), port)


def test_upgrade_keeps_servers_proxy_and_secrets(release: Release, server: Server) -> None:
    def uids() -> dict[str, str]:
        return {name: release.pod(name)["metadata"]["uid"] for name in ("hub", "proxy", "broker")}

    def secret() -> Any:
        return release.cluster.api.get("Secret", "demo-sealroom-hub", release.namespace)["data"]

    before, kept, pod = uids(), secret(), server.pod["metadata"]["uid"]
    release.values["hub"]["config"]["JupyterHub"]["shutdown_on_logout"] = False
    release.values["cull"] = {"timeout": 3600}
    release.helm("upgrade", "demo", str(CHART), "--wait", "--timeout", "5m")
    after = uids()
    assert after["hub"] != before["hub"]
    assert (after["proxy"], after["broker"]) == (before["proxy"], before["broker"])
    assert secret() == kept
    assert server.pod["metadata"]["uid"] == pod
    assert server.hub.get("/user/ada/api/status").status_code == 200
    until("the hub knows the server", server.ready, 60.0)
