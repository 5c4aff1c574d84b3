# SPDX-License-Identifier: BSD-3-Clause
"""Stop a workshop's servers at its end, as a service of the hub.

It asks the hub which servers run and stops those of the workshop's group. What it cannot do now it tries
again; it goes on until the hub ends it, so that a server which was just starting is stopped too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from sealroom_spawner.workshop.settings import Workshop, WorkshopFile

EVERY = 15.0
"""Seconds between two looks."""

log = logging.getLogger(__name__)


async def stop_servers(hub: httpx.AsyncClient, workshop: Workshop) -> int:
    """Stop every server of a workshop's people.

    Args:
        hub: The hub's API, with a token that may do it.
        workshop: The workshop.

    Returns:
        How many were told to stop.

    Raises:
        httpx.HTTPError: The hub does not answer as it should.
    """
    stopped, offset = 0, 0
    while True:
        answer = await hub.get(
            "users", params={"state": "active", "offset": offset},
            headers={"Accept": "application/jupyterhub-pagination+json"},
        )  # fmt: skip
        page: Mapping[str, Any] = answer.raise_for_status().json()
        for user in page["items"]:
            if workshop.name in user.get("groups", ()) and user["name"] not in workshop.instructors:
                for server in user.get("servers", {}):
                    stopped += await _stop(hub, user["name"], server)
        following = page["_pagination"].get("next")
        if not following:
            return stopped
        offset = following["offset"]


async def _stop(hub: httpx.AsyncClient, user: str, server: str) -> int:
    path = f"users/{quote(user, safe='')}/" + (f"servers/{quote(server, safe='')}" if server else "server")
    answer = await hub.delete(path)
    if answer.status_code not in (202, 204, 400, 404):  # 400: it is starting or stopping just now
        answer.raise_for_status()
    return int(answer.is_success)


async def run(workshop: Callable[[], Workshop], hub: httpx.AsyncClient, parent: int) -> None:
    """Look every quarter of a minute, until the hub is gone."""
    while os.getppid() == parent:
        if workshop().ended(datetime.now(UTC)):
            try:
                stopped = await stop_servers(hub, workshop())
                if stopped:
                    log.warning("The workshop is over; stopped %d servers", stopped)
            except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
                log.warning("Servers of the workshop could not be stopped; trying again: %s", error)
        await asyncio.sleep(EVERY)


def main(arguments: list[str]) -> int:
    """Run as the hub's service."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m sealroom_spawner.workshop.ending WORKSHOP.toml\n")
        return 64
    logging.basicConfig(level=logging.INFO)
    parent, workshop = os.getppid(), WorkshopFile(Path(arguments[0]))

    async def serve() -> None:
        headers = {"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"}
        url = f"{os.environ['JUPYTERHUB_API_URL'].rstrip('/')}/"
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as hub:
            await run(workshop, hub, parent)

    asyncio.run(serve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
