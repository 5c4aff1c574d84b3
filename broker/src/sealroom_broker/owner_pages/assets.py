# SPDX-License-Identifier: BSD-3-Clause
"""Style sheet, script and icon, each at an address with its hash in it: browsers may keep them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sealroom_broker.problem import not_found

_TYPES: Final[Mapping[str, str]] = {
    "owner.css": "text/css",
    "owner.js": "text/javascript",
    "owner.svg": "image/svg+xml",
}
FOLDER: Final = "/owner/static/"


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file."""

    name: str
    data: bytes

    @property
    def path(self) -> str:
        """Where it is, without the public path of the pages."""
        return f"{FOLDER}{hashlib.sha256(self.data).hexdigest()[:16]}/{self.name}"

    @property
    def media_type(self) -> str:
        """Its media type."""
        return _TYPES[self.name]


@cache
def assets() -> Mapping[str, Asset]:
    """Return the static files by name."""
    folder = files("sealroom_broker") / "static"
    return {name: Asset(name, (folder / name).read_bytes()) for name in _TYPES}


async def static_file(request: Request) -> Response:
    """Return a static file; of another version than this broker's there is none."""
    wanted = FOLDER + request.path_params["path"]
    for asset in assets().values():
        if asset.path == wanted:
            headers = {"Cache-Control": "public, max-age=31536000, immutable"}
            return Response(asset.data, media_type=asset.media_type, headers=headers)
    raise not_found("There is no such file.")
