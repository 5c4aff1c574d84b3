# SPDX-License-Identifier: BSD-3-Clause
"""The Kubernetes API as tests use it: objects are dictionaries, a refusal is an exception with its reason."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

Json = dict[str, Any]

PLURALS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "PersistentVolume": ("/api/v1", "persistentvolumes", False),
    "Pod": ("/api/v1", "pods", True),
    "Event": ("/api/v1", "events", True),
    "Secret": ("/api/v1", "secrets", True),
    "Service": ("/api/v1", "services", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "ResourceQuota": ("/api/v1", "resourcequotas", True),
    "ServiceAccount": ("/api/v1", "serviceaccounts", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "StatefulSet": ("/apis/apps/v1", "statefulsets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies", True),
    "RuntimeClass": ("/apis/node.k8s.io/v1", "runtimeclasses", False),
    "StorageClass": ("/apis/storage.k8s.io/v1", "storageclasses", False),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
}
"""Kind -> group and version, name in addresses, and whether it lives in a namespace."""


class ApiError(AssertionError):
    """The API refused."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Api:
    """Calls as one person or service account.

    Args:
        server: Address of the API server.
        folder: The folder of the cluster's certificates.
        user: Whose certificate is shown; nobody's where there is a token.
        token: A service account's token.
    """

    def __init__(self, server: str, folder: Path, *, user: str = "admin", token: str = "") -> None:
        trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if not token:
            trust.load_cert_chain(folder / f"{user}.crt", folder / f"{user}.key")
        self.http = httpx.Client(
            base_url=server, verify=trust, headers=headers, trust_env=False, timeout=60.0
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(self, method: str, path: str, body: object = None, **more: Any) -> Json:
        """Call the API.

        Raises:
            ApiError: It refused.
        """
        answer = self.http.request(method, path, json=body, **more)
        if not answer.is_success:
            try:
                text = str(answer.json()["message"])
            except (ValueError, KeyError):
                text = answer.text
            raise ApiError(answer.status_code, text)
        found: Json = answer.json()
        return found

    def get(self, kind: str, name: str, namespace: str = "") -> Json:
        """Return one object."""
        return self.call("GET", path_of(kind, namespace, name))

    def find(self, kind: str, namespace: str = "", **parameters: str) -> list[Json]:
        """Return the objects of a kind, of one namespace or of all; see `labelSelector`."""
        found: list[Json] = self.call("GET", path_of(kind, namespace), params=parameters)["items"]
        return found

    def create(self, body: Mapping[str, Any]) -> Json:
        """Make an object."""
        return self.call("POST", path_of(body["kind"], body["metadata"].get("namespace", "")), body)

    def patch(self, kind: str, name: str, body: object, namespace: str = "", *, part: str = "") -> Json:
        """Change an object by a merge patch; `part` is for example `status`."""
        path = path_of(kind, namespace, name) + (f"/{part}" if part else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        return self.call("PATCH", path, body, headers=headers)

    def delete(self, kind: str, name: str, namespace: str = "", *, seconds: int | None = None) -> None:
        """Delete an object; that it is gone already is no mistake."""
        body = {} if seconds is None else {"gracePeriodSeconds": seconds}
        try:
            self.call("DELETE", path_of(kind, namespace, name), body)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def exists(self, kind: str, name: str, namespace: str = "") -> bool:
        """Tell whether an object is there."""
        try:
            self.get(kind, name, namespace)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return False
        return True


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    """Return an object's address, or that of all of its kind."""
    group, plural, namespaced = PLURALS[kind]
    parts = [group, *(("namespaces", namespace) if namespaced and namespace else ()), plural]
    return "/".join([*parts, *([name] if name else [])])


def until(what: str, ask: Callable[[], Any], patience: float = 60.0, pause: float = 0.1) -> Any:
    """Ask until the answer is true, and return it; an error of the API's is asked again.

    Raises:
        AssertionError: It is not true in time; the text has the last answer.
    """
    deadline = time.monotonic() + patience
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = ask()
        except (ApiError, httpx.TransportError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(pause)
    raise AssertionError(f"not in time: {what}; last: {last!r}")
