# SPDX-License-Identifier: BSD-3-Clause
"""A good pod with what it has to be, and what an API server makes of a pod."""

from __future__ import annotations

import copy
from typing import Any

import tomli_w
from sealroom.environments import Environment, build, simulated_cpu
from sealroom_spawner.kube.expectation import PodExpectation

DIGEST = f"sha256:{'a' * 64}"
REPOSITORY = "registry.example.org:5000/sealroom/notebook"
IMAGE = f"{REPOSITORY}@{DIGEST}"
INITDATA = "H4sIAAAAAAAC/0="
CC_INIT_DATA = "io.katacontainers.config.hypervisor.cc_init_data"

EXPECTED = PodExpectation(
    environment="demo",
    runtime_class="kata-qemu-nvidia-gpu-snp",
    image=IMAGE,
    cpu_millis=4000,
    memory_bytes=8 << 30,
    namespaces=frozenset({"hub"}),
    gpus=1,
    args=("python", "-P", "-m", "sealroom_jupyter.singleuser"),
    annotations={
        "io.containerd.cri.runtime-handler": "kata-qemu-nvidia-gpu-snp",
        "io.katacontainers.config.runtime.create_container_timeout": "600",
        CC_INIT_DATA: INITDATA,
    },
    labels={"component": "singleuser-server", "hub.jupyter.org/username": "alice"},
    env={"SEALROOM_BROKER_URL": "https://broker.example.org", "SEALROOM_SERVER_NAME": ""},
    claims=frozenset({"claim-alice"}),
    secrets=frozenset({"jupyter-alice"}),
    config_maps=frozenset({"settings"}),
    containers={"sidecar": f"registry.example.org/sidecar@sha256:{'b' * 64}"},
)

_POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "jupyter-alice",
        "namespace": "hub",
        "annotations": {"hub.jupyter.org/username": "alice", **EXPECTED.annotations},
        "labels": {"component": "singleuser-server", "hub.jupyter.org/username": "alice"},
    },
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "OnFailure",
        "runtimeClassName": "kata-qemu-nvidia-gpu-snp",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "notebook",
                "image": IMAGE,
                "args": ["python", "-P", "-m", "sealroom_jupyter.singleuser"],
                "env": [
                    {"name": "SEALROOM_BROKER_URL", "value": "https://broker.example.org"},
                    {"name": "SEALROOM_SERVER_NAME", "value": ""},
                    {"name": "JUPYTERHUB_API_TOKEN", "value": "a-token"},
                ],
                "ports": [{"name": "notebook-port", "containerPort": 8888}],
                "resources": {
                    "limits": {"cpu": 4.0, "memory": 8 << 30, "nvidia.com/pgpu": 1},
                    "requests": {"cpu": 4.0, "memory": 8 << 30, "nvidia.com/pgpu": 1},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "home", "mountPath": "/home/jovyan"},
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            {"name": "home", "persistentVolumeClaim": {"claimName": "claim-alice"}},
        ],
    },
}


def good_pod() -> dict[str, Any]:
    """Return a pod in which nothing is weak."""
    return copy.deepcopy(_POD)


def as_stored(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what API server, scheduler and kubelet make of a pod, as Kubernetes 1.34 was seen to do."""
    stored = copy.deepcopy(pod)
    spec = stored["spec"]
    for name, value in {
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "serviceAccount": "default",
        "serviceAccountName": "default",
        "terminationGracePeriodSeconds": 30,
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        "securityContext": {},
    }.items():
        spec.setdefault(name, value)
    spec["nodeName"] = "node-1"
    spec["overhead"] = {"cpu": "250m", "memory": "160Mi"}
    spec["nodeSelector"] = {"katacontainers.io/kata-runtime": "true"}
    spec["tolerations"] = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    ]
    for container in [*spec["containers"], *(spec.get("initContainers") or [])]:
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.pop("lifecycle", None)
        for variable in container.get("env") or ():
            if variable.get("value") == "":
                del variable["value"]
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
        for amounts in (container.get("resources") or {}).values():
            for name, value in amounts.items():
                amounts[name] = f"{value:g}" if isinstance(value, float) else str(value)
    for volume in spec.get("volumes") or ():
        for kind in ("secret", "configMap"):
            if kind in volume:
                volume[kind].setdefault("defaultMode", 420)
    return stored


def environment(name: str = "demo", **changes: Any) -> Environment:
    """Return an environment for pods: simulated, two shapes, an image by digest."""

    base = simulated_cpu(name=name).model_dump(mode="json", exclude_none=True)
    base.pop("shapes")
    content = {
        **base,
        "title": "Demo",
        "images": [
            {
                "name": "notebook",
                "reference": "registry.example.org:5000/sealroom/notebook:1",
                "digest": DIGEST,
            }
        ],
        "shapes": [
            {"name": "small", "vcpus": 2, "memory_mib": 4096, "gpus": 0},
            {"name": "large", "vcpus": 4, "memory_mib": 8192, "gpus": 1},
        ],
        **changes,
    }
    if content["tee"] == "snp":
        for shape in content["shapes"]:
            shape.setdefault("measurements", ["ab" * 48])
    return build(tomli_w.dumps(content).encode())
