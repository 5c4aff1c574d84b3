# SPDX-License-Identifier: BSD-3-Clause
"""Objects that tests make, and those that every cluster has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from support.cluster.api import Json
from support.cluster.config import DNS_SERVICE
from support.cluster.images import Image


def runtime_class(name: str) -> Json:
    """Return a RuntimeClass as kata-deploy makes it, with less overhead."""
    return {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": name,
        "overhead": {"podFixed": {"cpu": "250m", "memory": "160Mi"}},
        "scheduling": {"nodeSelector": {"katacontainers.io/kata-runtime": "true"}},
    }


def pod(
    namespace: str,
    name: str,
    image: str,
    *command: str,
    runtime: str = "",
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    resources: Mapping[str, str] | None = None,
    **spec: Any,
) -> Json:
    """Return a pod of one container, without more rights than a notebook server has.

    Args:
        namespace: Where it is.
        name: Its name.
        image: Reference of its image, which must be on the node.
        *command: What runs in it instead of what the image says.
        runtime: Runtime class.
        annotations: Annotations.
        labels: Labels.
        resources: Limits, which are the requests, too.
        **spec: Other fields of its spec.
    """
    limits = dict(resources or {"cpu": "100m", "memory": "256Mi"})
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "resources": {"limits": limits, "requests": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if command:
        container["command"] = list(command)
    fields: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        **({"runtimeClassName": runtime} if runtime else {}),
        **spec,
    }
    metadata = {
        "name": name,
        "namespace": namespace,
        "annotations": dict(annotations or {}),
        "labels": dict(labels or {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": fields}


def dns(image: Image) -> Sequence[Json]:
    """Return the objects of the cluster's DNS, where sites have theirs: pods that policies can name."""
    where = {"name": "kube-dns", "namespace": "kube-system"}
    labels = {"k8s-app": "kube-dns"}
    rbac = "rbac.authorization.k8s.io"
    ports = [
        {"name": kind.lower(), "port": 53, "targetPort": 5353, "protocol": kind} for kind in ("UDP", "TCP")
    ]
    container = {
        "name": "dns",
        "image": image.tagged,
        "imagePullPolicy": "Never",
        "ports": [{"containerPort": 5353, "protocol": "UDP"}],
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {"serviceAccountName": "kube-dns", "containers": [container]},
    }
    rules = [
        {"apiGroups": [""], "resources": ["services"], "verbs": ["list"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
    ]
    return (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": where},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "kube-dns"},
            "rules": rules,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kube-dns"},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "kube-dns"},
            "subjects": [{"kind": "ServiceAccount", **where}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": where,
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**where, "labels": labels},
            "spec": {"clusterIP": DNS_SERVICE, "selector": labels, "ports": ports},
        },
    )
