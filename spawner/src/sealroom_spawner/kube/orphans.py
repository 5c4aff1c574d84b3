# SPDX-License-Identifier: BSD-3-Clause
"""Delete pods of servers that the hub knows nothing of: a hub that is killed during a start leaves them.

A hub service: `python -m sealroom_spawner.kube.orphans`, with the scopes `list:users` and `read:servers`. It
asks the hub which servers run or start, and the cluster which pods there are. A pod is deleted if it is old
enough and was unknown twice in a row.

Invariants:

- Without an answer of the hub nothing is deleted.
- Only pods with KubeSpawner's own labels are looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import aiohttp
from kubernetes_asyncio import client
from kubernetes_asyncio.client.rest import ApiException
from kubespawner.clients import load_config, shared_client

log = logging.getLogger(__name__)

USER: Final = "hub.jupyter.org/username"
SERVER: Final = "hub.jupyter.org/servername"
MIN_AGE: Final = 120.0
"""Seconds for which a pod is left alone: the hub may be about to learn of it."""

Key = tuple[str, str]


def known_servers(users: Iterable[Mapping[str, Any]]) -> set[Key]:
    """Return the servers that run or start, by user and name, from the hub's list of users."""
    return {
        (str(user["name"]), str(name))
        for user in users
        for name, server in (user.get("servers") or {}).items()
        if server.get("ready") or server.get("pending") or server.get("started")
    }


def unknown_pods(pods: Iterable[Mapping[str, Any]], known: set[Key], now: datetime) -> set[Key]:
    """Return the pods, by namespace and name, that are old enough and of no server that the hub knows.

    Args:
        pods: Pods as the API gives them.
        known: What `known_servers` found.
        now: The time.
    """
    found = set()
    for pod in pods:
        metadata = pod["metadata"]
        notes = metadata.get("annotations") or {}
        created = datetime.fromisoformat(metadata["creationTimestamp"])
        if USER not in notes or metadata.get("deletionTimestamp"):
            continue
        if (now - created).total_seconds() < MIN_AGE:
            continue
        if (notes[USER], notes.get(SERVER, "")) not in known:
            found.add((metadata["namespace"], metadata["name"]))
    return found


class Reaper:
    """Looks at the hub and the cluster, again and again.

    Args:
        hub_url: The hub's REST interface.
        token: The service's token.
        namespace: The namespace of the servers; empty: all.
        component: KubeSpawner's `component_label`.
    """

    def __init__(self, hub_url: str, token: str, namespace: str, component: str) -> None:
        self._hub_url = hub_url.rstrip("/")
        self._token = token
        self._namespace = namespace
        self._selector = f"app.kubernetes.io/managed-by=kubespawner,app.kubernetes.io/component={component}"
        self._suspects: set[Key] = set()

    async def look(self, now: datetime) -> set[Key]:
        """Look once; return what was deleted."""
        known = await self._known()
        if known is None:
            self._suspects = set()
            return set()
        unknown = unknown_pods(await self._pods(), known, now)
        gone, self._suspects = unknown & self._suspects, unknown
        for namespace, name in sorted(gone):
            log.warning("Pod %s/%s belongs to no server of the hub and is deleted", namespace, name)
            try:
                await self._api.delete_namespaced_pod(name, namespace, body=client.V1DeleteOptions())
            except ApiException as error:
                if error.status != 404:
                    raise
        return gone

    @property
    def _api(self) -> Any:
        return shared_client("CoreV1Api")

    async def _pods(self) -> list[dict[str, Any]]:
        options = {"label_selector": self._selector, "_preload_content": False}
        if self._namespace:
            answer = await self._api.list_namespaced_pod(self._namespace, **options)
        else:
            answer = await self._api.list_pod_for_all_namespaces(**options)
        body = await answer.read()
        if answer.status != 200:
            raise ApiException(status=answer.status, reason=body.decode("utf-8", "replace"))
        return list(json.loads(body)["items"])

    async def _known(self) -> set[Key] | None:
        """Return the servers that the hub knows; None if it does not say."""
        found: set[Key] = set()
        headers = {
            "Authorization": f"token {self._token}",
            "Accept": "application/jupyterhub-pagination+json",
        }
        url: str | None = f"{self._hub_url}/users?state=active"
        timeout = aiohttp.ClientTimeout(total=30)
        try:
            async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
                while url:
                    async with session.get(url) as answer:
                        if answer.status != 200:
                            return None
                        page = await answer.json()
                    found |= known_servers(page["items"])
                    following = page["_pagination"].get("next")
                    url = following["url"] if following else None
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            log.info("The hub does not say which servers it knows: %s", error)
            return None
        return found


async def run(reaper: Reaper, interval: float) -> None:
    """Look until the process ends.

    Args:
        reaper: Who looks.
        interval: Seconds between two looks.
    """
    while True:
        try:
            await reaper.look(datetime.now(UTC))
        except (ApiException, aiohttp.ClientError, TimeoutError) as error:
            log.warning("The cluster does not answer: %s", error)
        await asyncio.sleep(interval)


def main() -> None:
    """Run as a service of the hub, which says everything in the environment."""
    parser = argparse.ArgumentParser(description="Delete pods of servers that the hub does not know.")
    parser.add_argument("--namespace", default=os.environ.get("POD_NAMESPACE", ""))
    parser.add_argument("--component", default="singleuser-server")
    parser.add_argument("--interval", type=float, default=30.0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    load_config()
    reaper = Reaper(
        os.environ["JUPYTERHUB_API_URL"],
        os.environ["JUPYTERHUB_API_TOKEN"],
        arguments.namespace,
        arguments.component,
    )
    asyncio.run(run(reaper, arguments.interval))


if __name__ == "__main__":
    main()
