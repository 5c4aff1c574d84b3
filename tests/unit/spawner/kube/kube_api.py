# SPDX-License-Identifier: BSD-3-Clause
"""A Kubernetes API server in this process: lists, watches, stores, and pretends to run pods.

It knows what KubeSpawner asks for, and nothing of scheduling. What the real one does is tried on a real one
(`tests/cluster`).
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler

from .pods import as_stored

Object = dict[str, Any]


class FakeKube:
    """The cluster's state, and what tests do to it."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.watches: list[tuple[str, asyncio.Queue[Object]]] = []
        self.history: list[tuple[int, str, Object]] = []
        self.version = 100
        self.created: list[Object] = []
        """Every pod that was asked for, as it was sent."""
        self.webhook: Callable[[Object], None] = lambda pod: None
        """What an admission webhook does to a pod."""
        self.refuses: tuple[int, str] | None = None
        """Status and message with which creating a pod is refused."""
        self.unanswered = 0
        """How many requests for changes are not answered."""
        self.kubelet: Callable[[FakeKube, Object], Awaitable[None]] = run_pod
        self.tasks: set[asyncio.Future[None]] = set()

    # State

    def pods(self) -> list[Object]:
        """Return the pods."""
        return [value for key, value in self.objects.items() if key[0] == "pods"]

    def put(self, kind: str, value: Object) -> Object:
        """Store an object and tell the watches."""
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        key = (kind, value["metadata"]["namespace"], value["metadata"]["name"])
        change = "MODIFIED" if key in self.objects else "ADDED"
        self.objects[key] = value
        self._tell(kind, change, value)
        return value

    def drop(self, kind: str, namespace: str, name: str) -> Object | None:
        """Remove an object and tell the watches."""
        value = self.objects.pop((kind, namespace, name), None)
        if value is not None:
            self.version += 1
            value["metadata"]["resourceVersion"] = str(self.version)
            self._tell(kind, "DELETED", value)
            for key, other in list(self.objects.items()):
                owners = other["metadata"].get("ownerReferences") or ()
                if value["metadata"]["uid"] in {owner["uid"] for owner in owners}:
                    self.drop(*key)
        return value

    def change(self, pod: Object, edit: Callable[[Object], object]) -> None:
        """Change a stored pod, as somebody with the right to does."""
        value = copy.deepcopy(pod)
        edit(value)
        self.put("pods", value)

    def event(self, pod: Object, reason: str, message: str, kind: str = "Normal") -> None:
        """Write an event about a pod."""
        metadata = pod["metadata"]
        self.put(
            "events",
            {
                "metadata": {
                    "name": f"{metadata['name']}.{uuid.uuid4().hex[:8]}",
                    "namespace": metadata["namespace"],
                    "uid": str(uuid.uuid4()),
                },
                "involvedObject": {"kind": "Pod", "name": metadata["name"]},
                "reason": reason,
                "message": message,
                "type": kind,
                "lastTimestamp": datetime.now(UTC).isoformat(),
                "eventTime": None,
            },
        )

    def _tell(self, kind: str, change: str, value: Object) -> None:
        told = {"type": change, "object": copy.deepcopy(value)}
        self.history.append((self.version, kind, told))
        for watched, queue in self.watches:
            if watched == kind:
                queue.put_nowait(told)

    def run(self, pod: Object) -> None:
        """Let the kubelet have a pod."""
        task = asyncio.ensure_future(self.kubelet(self, pod))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def app(self) -> Application:
        """Return the API."""
        kinds = "pods|events|services|secrets|persistentvolumeclaims"
        return Application(
            [
                (r"/api/v1/namespaces", Namespaces),
                (rf"/api/v1/namespaces/([^/]+)/({kinds})", Collection, {"kube": self}),
                (rf"/api/v1/()({kinds})", Collection, {"kube": self}),
                (rf"/api/v1/namespaces/([^/]+)/({kinds})/([^/]+)", Item, {"kube": self}),
            ]
        )


async def run_pod(kube: FakeKube, pod: Object) -> None:
    """Do what happens to a pod that starts."""
    kube.event(pod, "Scheduled", f"Successfully assigned hub/{pod['metadata']['name']} to node-1")
    await asyncio.sleep(0.05)
    kube.event(pod, "Pulled", "Container image already present on machine")
    kube.event(pod, "Started", "Started container notebook")
    key = ("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
    if key in kube.objects:
        kube.change(kube.objects[key], running)


def running(pod: Object) -> None:
    """Set a pod's status to running."""
    pod["status"] = {
        "phase": "Running",
        "podIP": "10.0.0.7",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [
            {
                "name": item["name"],
                "image": item["image"],
                "imageID": item["image"],
                "ready": True,
                "restartCount": 0,
                "state": {"running": {}},
            }
            for item in pod["spec"]["containers"]
        ],
    }


def pending(*events: tuple[str, str]) -> Callable[[FakeKube, Object], Awaitable[None]]:
    """Return a kubelet that leaves pods pending and writes these events."""

    async def kubelet(kube: FakeKube, pod: Object) -> None:
        for reason, message in events:
            kube.event(pod, reason, message, "Warning")

    return kubelet


class _Handler(RequestHandler):
    def initialize(self, kube: FakeKube) -> None:
        self.kube = kube

    def status_answer(self, status: int, reason: str, message: str) -> None:
        self.set_status(status)
        self.finish({"kind": "Status", "code": status, "reason": reason, "message": message})

    def unanswered(self) -> bool:
        """Tell whether this request goes unanswered, as with an API server that is away."""
        if self.kube.unanswered <= 0:
            return False
        self.kube.unanswered -= 1
        self.request.connection.stream.close()  # type: ignore[union-attr]
        return True


class Collection(_Handler):
    """All objects of a kind."""

    async def get(self, namespace: str, kind: str) -> None:
        """List, or watch."""
        if self.get_argument("watch", "").lower() != "true":
            items = [
                value
                for key, value in self.kube.objects.items()
                if key[0] == kind and namespace in ("", key[1])
            ]
            self.finish({"metadata": {"resourceVersion": str(self.kube.version)}, "items": items})
            return
        queue: asyncio.Queue[Object] = asyncio.Queue()
        since = int(self.get_argument("resourceVersion", "0"))
        for version, watched, told in self.kube.history:
            if watched == kind and version > since:
                queue.put_nowait(told)
        self.kube.watches.append((kind, queue))
        self.set_header("Content-Type", "application/json")
        try:
            await self.flush()
            while True:
                self.write(json.dumps(await queue.get()) + "\n")
                await self.flush()
        except StreamClosedError:
            return
        finally:
            self.kube.watches.remove((kind, queue))

    def post(self, namespace: str, kind: str) -> None:
        """Create."""
        if self.unanswered():
            return
        value = json.loads(self.request.body)
        name = value["metadata"]["name"]
        if kind == "pods" and self.kube.refuses:
            status, message = self.kube.refuses
            self.status_answer(status, "Forbidden", message)
            return
        if (kind, namespace, name) in self.kube.objects:
            self.status_answer(409, "AlreadyExists", f'{kind} "{name}" already exists')
            return
        if kind == "pods":
            self.kube.created.append(copy.deepcopy(value))
            value = as_stored(value)
            value["spec"].pop("nodeName")
            self.kube.webhook(value)
            value["status"] = {"phase": "Pending", "conditions": []}
        value["metadata"].update(namespace=namespace, uid=str(uuid.uuid4()))
        self.kube.put(kind, value)
        if kind == "pods":
            self.kube.run(value)
        self.set_status(201)
        self.finish(value)


class Namespaces(RequestHandler):
    """Namespaces: there is every one that anybody wants."""

    def post(self) -> None:
        """Create."""
        self.set_status(201)
        self.finish(json.loads(self.request.body))


class Item(_Handler):
    """One object."""

    def get(self, namespace: str, kind: str, name: str) -> None:
        """Read."""
        value = self.kube.objects.get((kind, namespace, name))
        if value is None:
            self.status_answer(404, "NotFound", f'{kind} "{name}" not found')
        else:
            self.finish(value)

    def delete(self, namespace: str, kind: str, name: str) -> None:
        """Delete at once."""
        if self.unanswered():
            return
        value = self.kube.drop(kind, namespace, name)
        if value is None:
            self.status_answer(404, "NotFound", f'{kind} "{name}" not found')
        else:
            self.finish(value)
