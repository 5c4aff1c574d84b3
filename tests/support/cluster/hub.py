# SPDX-License-Identifier: BSD-3-Clause
"""A hub on the cluster's node with the rights of a service account, its hub service, and a broker.

They are processes of the node, so pods reach them at the node's address; the hub's rights at the cluster are
those that the chart's Role gives. Tests reach the proxy through a port of the host.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import tomli_w
from sealroom.environments import Environment, build, generate_key, public_pem, sign, simulated_cpu
from sealroom.kbs.admin import OwnerClient
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.owners import add_token
from sealroom_broker.setup import Plan, initialise
from sealroom_broker.store import Store

from support.cluster.api import until
from support.cluster.cluster import Cluster
from support.cluster.images import Image
from support.cluster.node import ADDRESS, Gate

REPOSITORY = Path(__file__).resolve().parents[3]
PROXY = REPOSITORY / ".tools/proxy/node_modules/.bin/configurable-http-proxy"
PROXY_PORT, HUB_PORT, API_PORT, STATUS_PORT, BROKER_PORT = 8000, 8081, 8001, 8090, 8443
SEALED, PLAIN = "sealroom_spawner.kube.spawner.SealedKubeSpawner", "kubespawner.KubeSpawner"
PATIENCE = 120.0

RULES = (
    (
        "",
        ("pods", "persistentvolumeclaims", "secrets", "services"),
        ("get", "list", "watch", "create", "delete"),
    ),
    ("", ("events",), ("get", "list", "watch")),
)
"""What KubeSpawner needs of the API: group, resources and verbs."""

_CONFIG = """
import json, sys
from pathlib import Path

c = get_config()
settings = json.loads(Path(__file__).with_name("settings.json").read_text())
for name, traits in settings["traits"].items():
    c[name].update(traits)
c.JupyterHub.load_roles = settings["roles"]
c.JupyterHub.services = [
    {"name": "tests", "api_token": settings["token"]},
    {"name": "sealroom-broker", "display": False},
    {
        "name": "sealroom",
        "url": settings["status_url"],
        "api_token": settings["status_token"],
        "command": [sys.executable, "-P", "-m", "sealroom_spawner.service"],
        "environment": settings["status_environment"],
        "oauth_no_confirm": True,
    },
]
"""


def environment(
    image: Image, name: str = "cluster-cpu", *, runtime_class: str = "", **changes: Any
) -> Environment:
    """Return an environment whose servers are pods of an image.

    Args:
        image: The notebook image.
        name: Its name.
        runtime_class: Its runtime class; that of its shape's by default.
        **changes: Members of its manifest in place of the usual ones.
    """
    plain = simulated_cpu(name=name, vcpus=1, memory_mib=1024)
    shape = {"name": "default", "vcpus": 1, "memory_mib": 1024, "gpus": 0}
    content = plain.model_dump(mode="json", exclude_none=True)
    content |= {
        "images": [{"name": "notebook", "reference": image.name, "digest": image.digest}],
        "shapes": [shape],
        **changes,
    }
    if runtime_class:
        content["runtime_class"] = runtime_class
    return build(tomli_w.dumps(content).encode())


@dataclass
class Person:
    """A person with a token at the hub."""

    hub: Hub
    name: str
    http: httpx.Client

    def start(self, server: str = "", **options: str) -> None:
        """Ask for a server; it need not be ready afterwards."""
        answer = self.http.post(
            f"{self._path}/servers/{server}" if server else f"{self._path}/server", json=options
        )
        assert answer.status_code in (201, 202), answer.text

    def model(self, server: str = "") -> dict[str, Any] | None:
        """Return what the hub knows of a server; None if there is none."""
        found: dict[str, Any] = self.http.get(self._path).raise_for_status().json()
        return (found.get("servers") or {}).get(server)

    def ready(self, server: str = "", patience: float = PATIENCE) -> dict[str, Any]:
        """Wait until a server is ready, and return what the hub knows of it."""

        def ask() -> dict[str, Any] | None:
            model = self.model(server)
            return model if model is not None and model["ready"] else None

        found: dict[str, Any] = until(f"{self.name}'s server is ready", ask, patience, 0.2)
        return found

    def stop(self, server: str = "") -> None:
        """Stop a server and wait until it is no more."""
        path = f"{self._path}/servers/{server}" if server else f"{self._path}/server"
        answer = self.http.delete(path)
        assert answer.status_code in (202, 204), answer.text
        until(f"{self.name}'s server is gone", lambda: self.model(server) is None, PATIENCE, 0.2)

    def progress(self, server: str = "", patience: float = PATIENCE) -> list[str]:
        """Return what the progress page says, to its end."""
        said: list[str] = []
        path = f"{self._path}/servers/{server}/progress" if server else f"{self._path}/server/progress"
        deadline = time.monotonic() + patience
        with self.http.stream("GET", path, timeout=patience) as lines:
            for line in lines.iter_lines():
                event = json.loads(line[5:]) if line.startswith("data:") else {}
                said += [str(event["message"])] if "message" in event else []
                if event.get("ready") or event.get("failed") or time.monotonic() > deadline:
                    break
        return said

    @property
    def _path(self) -> str:
        return f"/hub/api/users/{self.name}"


@dataclass
class Hub:
    """A hub, and what belongs to it.

    Args:
        cluster: Where its servers are.
        spawner: The spawner's class.
        traits: More configuration: class -> trait -> value.
    """

    cluster: Cluster
    spawner: str = SEALED
    traits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    namespace: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    owner_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        self.folder = self.cluster.folder / f"hub-{secrets.token_hex(3)}"
        self.environments = self.folder / "environments"
        self._key = generate_key()
        self._gates: list[Gate] = []
        self.http: httpx.Client
        self.broker_config: Path

    def __enter__(self) -> Self:
        try:
            self._prepare()
            self.start()
            self.cluster.node.start("broker", *self._broker_command(), env=self._python())
            until(
                "the broker answers", lambda: self._answers("broker", self._broker.port, "/healthz"), PATIENCE
            )
        except BaseException as error:
            error.add_note(self.log())
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- set-up ---

    def publish(self, published: Environment) -> None:
        """Offer an environment and let the guests know it; the broker reads what is there at its start."""
        path = self.environments / f"{published.name}.toml"
        path.write_bytes(published.raw)
        path.with_name(f"{path.name}.sig").write_bytes(sign(published.raw, self._key))
        self.cluster.publish(published)

    def _prepare(self) -> None:
        self.environments.mkdir(parents=True)
        (self.environments / "publisher.pub.pem").write_bytes(public_pem(self._key))
        self.namespace = self.cluster.namespace("hub")
        account = _account(self.cluster, self.namespace)
        self.cluster.pki.kubeconfig(self.folder / "kubeconfig", "https://127.0.0.1:6443", token=account)
        self.publish(environment(self.cluster.image("notebook")))
        (self.folder / "jupyterhub_config.py").write_text(_CONFIG)
        (self.folder / "settings.json").write_text(json.dumps(self._settings()))
        self._write_broker()
        self._proxy = self.cluster.forward(ADDRESS, PROXY_PORT)
        self._broker = self.cluster.forward(ADDRESS, BROKER_PORT)
        self._gates += [self._proxy, self._broker]
        headers = {"Authorization": f"token {self.token}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=60.0)

    def _write_broker(self) -> None:
        folder = self.folder / "broker-files"
        folder.mkdir()
        ark = folder / "ark.pem"
        ark.write_bytes(self.cluster.root.ark.pem)
        plan = Plan(
            mode="development",
            development_root=ark,
            environments=[self.environments],
            publishers=[self.environments / "publisher.pub.pem"],
            hub_api_url=f"http://{ADDRESS}:{HUB_PORT}/hub/api",
        )
        self.broker_config = initialise(folder / "state", plan)
        store = Store.of(load_config(self.broker_config))
        self.owner_token = add_token(store, "owner", utc_now())
        store.close()

    def _settings(self) -> dict[str, Any]:
        status = f"http://{ADDRESS}:{STATUS_PORT}"
        status_token = secrets.token_hex(16)
        spawner: dict[str, Any] = {
            "namespace": self.namespace,
            "image_pull_policy": "Never",
            "storage_pvc_ensure": False,
            "start_timeout": 120,
            "http_timeout": 120,
            "k8s_api_request_timeout": 10,
            "default_url": "/lab",
        }
        sealed = {
            "environments_dir": str(self.environments),
            "broker_url": f"http://{ADDRESS}:{BROKER_PORT}",
            "status_url": f"{status}/services/sealroom",
            "status_token": status_token,
        }
        traits: dict[str, dict[str, Any]] = {
            "JupyterHub": {
                "bind_url": f"http://{ADDRESS}:{PROXY_PORT}",
                "hub_bind_url": f"http://{ADDRESS}:{HUB_PORT}",
                "spawner_class": self.spawner,
                "authenticator_class": "dummy",
                "db_url": f"sqlite:///{self.folder}/hub.sqlite",
                "cookie_secret_file": str(self.folder / "cookie_secret"),
                # Servers outlive the hub.
                "cleanup_servers": False,
                "allow_named_servers": True,
                "tornado_settings": {"slow_spawn_timeout": 0},
            },
            "ConfigurableHTTPProxy": {
                "command": [str(PROXY)],
                "api_url": f"http://127.0.0.1:{API_PORT}",
                "pid_file": str(self.folder / "proxy.pid"),
            },
            "Authenticator": {"allow_all": True},
            "KubeSpawner": spawner,
            "SealedKubeSpawner": sealed,
        }
        for name, more in self.traits.items():
            traits.setdefault(name, {}).update(more)
        scopes = ["admin:users", "admin:servers", "access:servers", "tokens", "read:hub", "proxy", "shutdown"]
        services = ["access:services!service=sealroom", "access:services!service=sealroom-broker"]
        return {
            "traits": traits,
            "token": self.token,
            "status_url": status,
            "status_token": status_token,
            "status_environment": {
                "SEALROOM_STATUS_DATABASE": str(self.folder / "status.sqlite"),
                "SEALROOM_BROKER_URL": sealed["broker_url"],
                "SEALROOM_SIMULATED_ONLY": "1",
            },
            "roles": [
                {"name": "tests", "scopes": scopes, "services": ["tests"]},
                {"name": "user", "scopes": ["self", *services]},
            ],
        }

    # --- processes ---

    @property
    def url(self) -> str:
        """Where the host reaches the proxy."""
        return f"http://{self._proxy.address}"

    def start(self) -> None:
        """Start the hub, and wait until it answers."""
        config = self.folder / "jupyterhub_config.py"
        command = (sys.executable, "-P", "-m", "jupyterhub", "--config", config)
        env = {**self._python(), "KUBECONFIG": str(self.folder / "kubeconfig"), "JUPYTERHUB_CRYPT_KEY": ""}
        # Its files are where it starts.
        self.cluster.node.start("hub", "env", "-C", self.folder, *command, env=env)
        try:
            until("the hub answers", lambda: self._answers("hub", self._proxy.port, "/hub/api/"), PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def kill(self) -> None:
        """Kill the hub, as a lost node does; its proxy and its servers go on."""
        self.cluster.node.stop("hub")

    def _answers(self, name: str, port: int, path: str) -> bool:
        if not self.cluster.node.alive(name):
            raise RuntimeError(f"the {name} ended:\n{self.log()}")
        try:
            return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=5).is_success
        except httpx.TransportError:
            return False

    def _broker_command(self) -> list[str | Path]:
        listen = f"{ADDRESS}:{BROKER_PORT}"
        return [
            sys.executable,
            "-m",
            "sealroom_broker",
            "serve",
            "--config",
            self.broker_config,
            "--listen",
            listen,
        ]

    @staticmethod
    def _python() -> dict[str, str]:
        # What the hub starts by name stands beside this Python.
        path = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
        return {"PATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}

    def close(self) -> None:
        """End everything, and remove the namespace with the servers in it."""
        node = self.cluster.node
        for name in ("hub", "broker"):
            if node.alive(name):
                node.stop(name)
        if hasattr(self, "http"):
            self.http.close()
        for gate in self._gates:
            gate.close()
        pid = self.folder / "proxy.pid"
        if pid.is_file():
            # A process id of the node's.
            node.run("kill", "-KILL", pid.read_text().strip())
        if self.namespace:
            self.cluster.drop(self.namespace)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """Return the ends of the hub's and the broker's logs."""
        return "\n".join(self.cluster.node.log(name)[-4000:] for name in ("hub", "broker"))

    # --- who uses it ---

    @contextmanager
    def person(self, name: str) -> Iterator[Person]:
        """Log a person in."""
        self.http.post(f"/hub/api/users/{name}").raise_for_status()
        made = self.http.post(f"/hub/api/users/{name}/tokens", json={}).raise_for_status().json()
        headers = {"Authorization": f"token {made['token']}"}
        with httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=120.0) as http:
            person = Person(self, name, http)
            yield person

    def owner(self) -> OwnerClient:
        """Return the broker as its owner uses it."""
        return OwnerClient(f"http://{self._broker.address}", self.owner_token)

    def pods(self) -> list[dict[str, Any]]:
        """Return the servers' pods."""
        return self.cluster.api.find("Pod", self.namespace, labelSelector="component=singleuser-server")


def _account(cluster: Cluster, namespace: str) -> str:
    """Make the hub's service account with its role, and return its token."""
    rbac = "rbac.authorization.k8s.io"
    where = {"namespace": namespace, "name": "hub"}
    rules = [
        {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}
        for group, resources, verbs in RULES
    ]
    subjects = [{"kind": "ServiceAccount", **where}]
    role = {"apiGroup": rbac, "kind": "Role", "name": "hub"}
    cluster.api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": where})
    cluster.api.create({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": where, "rules": rules})
    cluster.api.create(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": where,
            "roleRef": role,
            "subjects": subjects,
        }
    )
    return cluster.token(namespace, "hub")
