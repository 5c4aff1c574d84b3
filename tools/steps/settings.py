# SPDX-License-Identifier: BSD-3-Clause
"""Which ports an installation uses, kept in `settings.toml` so that servers find their hub again."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from steps.console import Failure
from steps.paths import Paths

DEFAULT_PORT = 8000
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Addresses:
    """Where the parts of an installation listen."""

    bind: str
    port: int
    hub_api: int
    proxy_api: int
    broker: int
    status: int

    @property
    def url(self) -> str:
        """Where people find the hub."""
        host = LOOPBACK if self.bind in ("0.0.0.0", "::", "") else self.bind
        return f"http://{_bracketed(host)}:{self.port}/"

    @property
    def broker_keys(self) -> str:
        """A page of the broker that answers when it is ready."""
        return f"http://{LOOPBACK}:{self.broker}/kbs/v0/sealroom/jwks"

    @property
    def owner_pages(self) -> str:
        """Where the data owner finds the broker's pages: another host than the hub's, for its cookies."""
        host = LOOPBACK if self.bind == "localhost" else "localhost"
        return f"http://{host}:{self.broker}/owner/"

    @property
    def login_page(self) -> str:
        """The page that answers when the hub is ready."""
        return f"{self.url}hub/login"


def choose(paths: Paths) -> Addresses:
    """Return the addresses to use: the asked-for port, for the rest those of last time if they are free.

    Raises:
        Failure: The port is not a number, or in use.
    """
    known = read(paths.home / "settings.toml")
    bind = os.environ.get("SEALROOM_BIND", "") or (known.bind if known else LOOPBACK)
    port = _port(os.environ.get("SEALROOM_PORT", "")) or (known.port if known else DEFAULT_PORT)
    if not _free(bind, port):
        raise Failure(
            f"Port {port} on {bind} is in use by another program: end that one, or choose another port, "
            f"as in `make up SEALROOM_PORT={port + 1}`."
        )
    taken = {port}
    inner = []
    for last in (known.hub_api, known.proxy_api, known.broker, known.status) if known else (0, 0, 0, 0):
        chosen = last if last and last not in taken and _free(LOOPBACK, last) else _any_port(taken)
        taken.add(chosen)
        inner.append(chosen)
    return Addresses(bind, port, *inner)


def write(paths: Paths, addresses: Addresses, proxy_command: tuple[str, ...]) -> None:
    """Write `settings.toml`."""
    # A JSON text is a TOML basic string for everything that a path or an address can hold.
    text = f"""\
# Written by `make up`. SEALROOM_PORT and SEALROOM_BIND change where the hub listens.
clone = {json.dumps(str(paths.clone))}

[hub]
url = {json.dumps(addresses.url)}
bind_url = {json.dumps(f"http://{_bracketed(addresses.bind)}:{addresses.port}/")}
bind = {json.dumps(addresses.bind)}
port = {addresses.port}
api_port = {addresses.hub_api}

[proxy]
api_port = {addresses.proxy_api}
command = {json.dumps(list(proxy_command))}

[broker]
url = "http://{LOOPBACK}:{addresses.broker}"

[status]
url = "http://{LOOPBACK}:{addresses.status}/services/sealroom"
"""
    path = paths.home / "settings.toml"
    if path.exists() and path.read_text() == text:
        return
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def read(path: Path) -> Addresses | None:
    """Return the addresses of the last start; None if there are none."""
    try:
        values = tomllib.loads(path.read_text())
        hub = values["hub"]
        ports = [urlsplit(values[part]["url"]).port or 0 for part in ("broker", "status")]
        return Addresses(hub["bind"], hub["port"], hub["api_port"], values["proxy"]["api_port"], *ports)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _port(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise Failure(f"SEALROOM_PORT is {text!r}: give a number between 1 and 65535.")
    return int(text)


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port whose last connections are still winding down counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise Failure(f"Port {port} is for the system's administrator: choose one above 1023.") from error
        except OSError:
            return False
    return True


INNER = range(20_000, 32_000)
"""Below what systems give to outgoing connections, which would take a port between its choice and its use."""


def _any_port(taken: set[int]) -> int:
    while True:
        port = random.choice(INNER)
        if port not in taken and _free(LOOPBACK, port):
            return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
