# SPDX-License-Identifier: BSD-3-Clause
"""The approved environments, and in what two of them differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sealroom.environments import Environment, key_id, load_public_key, verify
from sealroom.errors import Error
from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker.broker import Broker
from sealroom_broker.owner_pages.comparing import compare
from sealroom_broker.owner_pages.environment_view import facts
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.render import Context, Visit, page, reading
from sealroom_broker.problem import not_found


async def environments(request: Request) -> Response:
    """List the approved environments."""
    visit = await reading(request)
    return await page(visit, "environments.html", _environments, visit)


async def environment(request: Request) -> Response:
    """Show one environment."""
    visit = await reading(request)
    return await page(visit, "environment.html", _environment, visit, visit.path("digest"))


async def difference(request: Request) -> Response:
    """Show in what two environments differ."""
    visit = await reading(request)
    return await page(visit, "environment_diff.html", _difference, visit)


def _ordered(broker: Broker) -> list[Environment]:
    return sorted(broker.environments.all().values(), key=lambda one: (one.name, one.version))


def _environments(visit: Visit) -> Context:
    known = _ordered(visit.broker)
    signed = publishers(visit.broker)
    return {"slice": paged(known, visit.query.get("page", "")), "known": known, "publishers": signed}


def _environment(visit: Visit, digest: str) -> Context:
    known = visit.broker.environments.all()
    found = known.get(digest)
    if found is None:
        raise not_found("This broker approves no such environment.")
    others = [one for one in _ordered(visit.broker) if one.digest != digest]
    # The same environment's other versions are what people compare with.
    others.sort(key=lambda one: one.name != found.name)
    return {
        "environment": found,
        "publisher": publishers(visit.broker).get(digest, ""),
        "facts": facts(found),
        "others": others,
    }


def _difference(visit: Visit) -> Context:
    known = visit.broker.environments.all()
    pair = [known.get(visit.query.get(side, "")) for side in ("old", "new")]
    old, new = pair
    if old is None or new is None:
        raise not_found("Choose two environments that this broker approves.")
    return {"old": old, "new": new, "differences": compare(old, new), "known": _ordered(visit.broker)}


def publishers(broker: Broker) -> Mapping[str, str]:
    """Return who signed the approved environments, by digest: the key's file and its short name."""
    settings, found = broker.config.environments, dict[str, str]()
    keys = [(path, _read(path)) for path in settings.publishers]
    for directory in settings.directories:
        for path in sorted(directory.glob("*.toml")):
            manifest, signature = _read(path), _read(path.with_name(f"{path.name}.sig"))
            for key_path, pem in keys:
                try:
                    public = load_public_key(pem)
                    verify(manifest, signature, [public])
                except Error:
                    continue
                digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
                found.setdefault(digest, f"{key_path.name} (key {key_id(public)})")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
