# SPDX-License-Identifier: BSD-3-Clause
"""A running cluster, and what tests do with it.

Real: etcd, the API server, the controllers, the scheduler, kube-proxy, kubelet, containerd, runc and the
CNI plugins. Stand-ins, each in a module that says what it shows: Kata's runtime (`tools/runtime`, a wrapper
around runc that records what it is given), the guests (`guests.py`), GPUs (`tools/deviceplugin`), the
network's enforcement of policies (`policies.py`), volumes (`storage.py`) and DNS (`tools/dns`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sealroom.environments import Environment
from sealroom.simulated import gpu_root, root

from support.cluster import config, images
from support.cluster.api import Api, ApiError, Json, until
from support.cluster.build import VERSION, Programs
from support.cluster.config import API, NODE, PGPU, RUNTIME_CLASSES
from support.cluster.images import Image
from support.cluster.node import ADDRESS, Gate, PseudoNode, remove, remove_dead
from support.cluster.objects import dns as dns_objects
from support.cluster.objects import pod, runtime_class
from support.cluster.pki import Authority, identities
from support.cluster.storage import STORAGE_CLASS

TESTS = Path(__file__).resolve().parents[2]
CRI = "io.kubernetes.cri."
PREFIX = "sealroom-k8s-"
PATIENCE = 180.0
STARTING = 60.0


@dataclass(frozen=True)
class Record:
    """What Kata would have been given for one container."""

    runtime_class: str
    id: str
    config: Mapping[str, Any]
    """OCI runtime configuration, as containerd wrote it."""

    @property
    def annotations(self) -> Mapping[str, str]:
        """All annotations, containerd's own among them."""
        found: Mapping[str, str] = self.config.get("annotations") or {}
        return found

    @property
    def kata(self) -> dict[str, str]:
        """The annotations that are for Kata."""
        return {
            name: text for name, text in self.annotations.items() if name.startswith("io.katacontainers.")
        }

    @property
    def is_sandbox(self) -> bool:
        """Whether it is the pod itself: what the guest is launched with."""
        return self.annotations.get(f"{CRI}container-type") == "sandbox"

    @property
    def pod(self) -> tuple[str, str]:
        """Namespace and name of the pod."""
        names = (f"{CRI}sandbox-namespace", f"{CRI}sandbox-name")
        return (self.annotations.get(names[0], ""), self.annotations.get(names[1], ""))


class Cluster:
    """A cluster of one node; use it as a context manager.

    Args:
        programs: What it is made of.
    """

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        remove_dead(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        (self.folder / "tests.pid").write_text(str(os.getpid()))
        self.node = PseudoNode(self.folder, programs.own / "pause")
        self.times: dict[str, float] = {}
        """Seconds from the beginning until each step was done."""
        self._began = time.monotonic()
        self._gates: list[Gate] = []
        self._imports = ThreadPoolExecutor(1)
        self._images: dict[str, Future[Image]] = {}
        self._lock = threading.Lock()
        self.api: Api

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.why())
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- start and end ---

    def _start(self) -> None:
        pause, dns = images.pause(self.programs), images.dns(self.programs)
        self._write(pause)
        self.node.__enter__()
        self._done("node")
        self.start("etcd")
        self.start("containerd")
        self.start("apiserver")
        self.start("guests")
        gate = self.node.forward("127.0.0.1", 6443)
        self._gates.append(gate)
        self.server = f"https://{gate.address}"
        self.kubeconfig = self.pki.kubeconfig(self.folder / "host.kubeconfig", self.server, user="admin")
        """A kubeconfig of an administrator, for programs of the host."""
        until("containerd answers", lambda: self._ctr("version"), PATIENCE)
        for image in (pause, dns):
            self.take(image)
        self.api = Api(self.server, self.pki.folder)
        until("the API server is ready", lambda: self.api.http.get("/readyz").is_success, PATIENCE)
        self._done("API server")
        for name in ("controller-manager", "scheduler", "proxy", "kubelet", "policies"):
            self.start(name)
        self._make_objects(dns)
        until("the node is ready", self.is_ready, STARTING)
        self._done("node ready")
        self.set_gpus(0)
        self.start("deviceplugin")
        until("service accounts", lambda: self.api.exists("ServiceAccount", "default", "default"), PATIENCE)
        until("the guests listen", (self.folder / "guests.sock").exists, PATIENCE)
        until("GPUs are offered", lambda: PGPU in self.allocatable(), PATIENCE)
        self._done("ready")

    def _write(self, pause: Image) -> None:
        for name in ("bin", "records", "environments", "volumes"):
            (self.folder / name).mkdir()
        (self.folder / "gpus").write_text("0")
        for name in RUNTIME_CLASSES:
            # Its own name tells the program which class it stands for.
            program = self.folder / "bin" / name
            program.write_bytes((self.programs.own / "runtime").read_bytes())
            program.chmod(0o755)
        self.pki = Authority(self.folder / "pki")
        for who in identities(NODE, [ADDRESS], config.API_SERVICE):
            self.pki.issue(who)
        self.pki.signing_key("accounts")
        for name in ("controller-manager", "scheduler", "proxy", "node", "admin"):
            self.pki.kubeconfig(self.folder / f"{name}.kubeconfig", API, user=name)
        self.root = root.create(self.folder / "simulated")
        """The root of the guests' simulated processors."""
        self.gpu_root = gpu_root.create(self.folder / "simulated-gpus")
        config.write(self.folder, self.programs, self.node.cgroup, pause.tagged)

    def _done(self, step: str) -> None:
        self.times[step] = round(time.monotonic() - self._began, 1)

    def close(self) -> None:
        """End everything."""
        if hasattr(self, "api"):
            self.api.http.close()
        self._imports.shutdown(cancel_futures=True)
        for gate in self._gates:
            gate.close()
        self.node.close()
        keep = os.environ.get("SEALROOM_KEEP_CLUSTER")
        if not keep:
            remove(self.folder)

    def start(self, name: str) -> None:
        """Start one of the components."""
        folder, programs = self.folder, self.programs
        python = {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
        own: dict[str, list[str | Path]] = {
            "guests": [sys.executable, "-m", "support.cluster.guests", folder],
            "policies": [sys.executable, "-m", "support.cluster.policies", API, folder],
        }
        if name in own:
            self.node.start(name, *own[name], env=python)
            return
        commands: dict[str, list[str | Path]] = {
            "etcd": config.etcd(folder),
            "containerd": config.containerd(folder),
            "apiserver": config.apiserver(folder, programs),
            "controller-manager": config.controller_manager(folder, programs),
            "scheduler": config.scheduler(folder, programs),
            "proxy": config.proxy(folder, programs),
            "kubelet": config.kubelet(folder, programs),
            "deviceplugin": [programs.own / "deviceplugin", "-count", folder / "gpus"],
        }
        self.node.start(name, *commands[name])

    def stop(self, name: str) -> None:
        """Kill one of the components, as a crash does; pods go on running."""
        self.node.stop(name)

    def why(self) -> str:
        """Return the ends of all logs, for a report of a failure."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}"
            for path in sorted((self.folder / "logs").glob("*.log"))
        )

    def _make_objects(self, dns: Image) -> None:
        for name in RUNTIME_CLASSES:
            self.api.create(runtime_class(name))
        self.api.create(
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {
                    "name": STORAGE_CLASS,
                    "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
                },
                "provisioner": "registry.test/directory",
                "volumeBindingMode": "Immediate",
            }
        )
        for body in dns_objects(dns):
            self.api.create(body)

    # --- the node ---

    def is_ready(self) -> bool:
        """Tell whether the node is ready."""
        conditions = self.api.get("Node", NODE)["status"].get("conditions", ())
        return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)

    def allocatable(self) -> dict[str, str]:
        """Return what pods can ask of the node."""
        found: dict[str, str] = self.api.get("Node", NODE)["status"].get("allocatable", {})
        return found

    def set_gpus(self, count: int) -> None:
        """Say how many pass-through GPUs the node has, and wait until the scheduler can know."""
        (self.folder / "gpus").write_text(str(count))
        if self.node.alive("deviceplugin"):
            self.node.notify("deviceplugin", signal.SIGHUP)
            until("the GPUs", lambda: self.allocatable().get(PGPU) == str(count), PATIENCE)

    def publish(self, environment: Environment) -> None:
        """Let guests whose pods fit this environment have its measurements from now on."""
        (self.folder / "environments" / f"{environment.name}.toml").write_bytes(environment.raw)

    # --- images ---

    def image(self, name: str) -> Image:
        """Return an image that pods can use: `notebook`, `hub`, `pause` or `dns`; made at first use."""
        with self._lock:
            if name not in self._images:
                self._images[name] = self._imports.submit(self._make_image, name)
        return self._images[name].result(900.0)

    def _make_image(self, name: str) -> Image:
        makers = {"notebook": images.notebook, "hub": images.hub, "pause": images.pause, "dns": images.dns}
        image = makers[name](self.programs)
        self.take(image)
        return image

    def take(self, image: Image) -> None:
        """Give an image to the node."""
        self._ctr("images", "import", image.archive)
        self._ctr("images", "tag", "--force", image.tagged, image.reference)

    def _ctr(self, *words: str | Path) -> str:
        try:
            return self.node.run(
                "ctr",
                "--address",
                self.folder / "containerd.sock",
                "--namespace",
                "k8s.io",
                *words,
                timeout=600,
            )
        except AssertionError as error:
            # `until` asks again for an error of the API's.
            raise ApiError(0, str(error)) from error

    # --- objects ---

    def namespace(self, prefix: str = "test", labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace and return its name; pods can be made in it."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": dict(labels or {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        until("its account", lambda: self.api.exists("ServiceAccount", "default", name), PATIENCE)
        return name

    def drop(self, namespace: str, *, wait: bool = False) -> None:
        """Delete a namespace with all that is in it; its pods are not waited for."""
        for found in self.api.find("Pod", namespace):
            self.api.delete("Pod", found["metadata"]["name"], namespace, seconds=0)
        self.api.delete("Namespace", namespace)
        if wait:
            until("the namespace is gone", lambda: not self.api.exists("Namespace", namespace), PATIENCE)

    def as_account(self, namespace: str, name: str) -> Api:
        """Return calls as a service account of a namespace; close it."""
        return Api(self.server, self.pki.folder, token=self.token(namespace, name))

    def token(self, namespace: str, name: str) -> str:
        """Return a token of a service account."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str(self.api.call("POST", path, body)["status"]["token"])

    def kubectl(self, *words: str | Path, input: str | None = None) -> str:  # noqa: A002 - as subprocess
        """Run kubectl on the host as an administrator."""
        command = [self.programs.kubernetes / "kubectl", "--kubeconfig", self.kubeconfig, *words]
        done = subprocess.run(
            [str(word) for word in command], input=input, capture_output=True, text=True, check=False,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {words}: {done.stderr}"
        return done.stdout

    # --- pods ---

    def run(self, pod: Json, patience: float = PATIENCE) -> Json:
        """Make a pod and return it when it is ready."""
        about = self.api.create(pod)["metadata"]
        return self.ready(about["name"], about["namespace"], patience)

    def ready(self, name: str, namespace: str, patience: float = PATIENCE) -> Json:
        """Return a pod when it is ready; fail with its events where it is not in time, or has failed."""

        def ask() -> Json | None:
            pod = self.api.get("Pod", name, namespace)
            conditions = pod["status"].get("conditions", ())
            return pod if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else None

        try:
            found: Json = until(f"{name} is ready", ask, patience)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n{self.events(name, namespace)}\n{self.log(name, namespace)}"
            ) from None
        return found

    def finished(self, pod: Json, patience: float = PATIENCE) -> tuple[str, str]:
        """Run a pod to its end and return its phase (`Succeeded`, `Failed`) and its output."""
        about = self.api.create(pod)["metadata"]
        name, namespace = about["name"], about["namespace"]

        def ask() -> str:
            phase = str(self.api.get("Pod", name, namespace)["status"].get("phase"))
            return phase if phase in ("Succeeded", "Failed") else ""

        try:
            phase = until(f"{name} ends", ask, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.events(name, namespace)}") from None
        return str(phase), self.log(name, namespace)

    def gone(self, name: str, namespace: str, patience: float = PATIENCE) -> None:
        """Wait until a pod is gone."""
        until(f"{name} is gone", lambda: not self.api.exists("Pod", name, namespace), patience)

    def events(self, name: str, namespace: str) -> list[str]:
        """Return reason and message of an object's events, oldest first."""
        found = self.api.find("Event", namespace, fieldSelector=f"involvedObject.name={name}")
        found.sort(key=lambda event: event["metadata"]["creationTimestamp"])
        return [f"{event['reason']}: {event['message']}" for event in found]

    def event(self, name: str, namespace: str, part: str, patience: float = PATIENCE) -> str:
        """Wait for an event of an object that has this text in it, and return it."""

        def ask() -> str:
            return next((text for text in self.events(name, namespace) if part in text), "")

        return str(until(f"an event of {name} with {part!r}", ask, patience))

    def log(self, name: str, namespace: str, container: str = "") -> str:
        """Return a container's output; empty where there is none."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        answer = self.api.http.get(path, params={"container": container} if container else {})
        return answer.text if answer.is_success else ""

    def execute(self, name: str, namespace: str, *words: str, container: str = "") -> str:
        """Run a command in a pod and return its output."""
        chosen = ("-c", container) if container else ()
        return self.kubectl("exec", "-n", namespace, name, *chosen, "--", *words)

    def records(self, namespace: str, pod: str) -> list[Record]:
        """Return what Kata would have been given for a pod, the sandbox first, oldest first."""
        found = []
        for path in (self.folder / "records").glob("*.json"):
            content = json.loads(path.read_text())
            record = Record(content["runtime_class"], content["id"], content["config"])
            if record.pod == (namespace, pod):
                found.append((content["time"], record))
        return [record for _, record in sorted(found, key=lambda item: item[0])]

    # --- network ---

    def forward(self, host: str, port: int) -> Gate:
        """Open a port on the host that leads to a pod or a service; close it."""
        return self.node.forward(host, port)

    def expose(self, port: int, at: int = 0) -> Gate:
        """Let pods reach a port of the host's loopback at the node's address; close it."""
        return self.node.expose(port, at)

    def policies_apply(self) -> None:
        """Wait until what stands in the API now is enforced."""
        # Two rounds: one that begins after this, and its end.
        marker = self.folder / "policies.round"
        for _ in range(2):
            with contextlib.suppress(FileNotFoundError):
                marker.unlink()
            until("the policies are enforced", marker.exists, PATIENCE)


__all__ = ["NODE", "VERSION", "Cluster", "Image", "Record", "pod", "runtime_class"]
