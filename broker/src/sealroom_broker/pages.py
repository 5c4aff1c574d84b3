# SPDX-License-Identifier: BSD-3-Clause
"""A page for people who open the broker's address, and the answers for machines that watch it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import __version__
from sealroom_broker.broker import Broker
from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.problem import unavailable
from sealroom_broker.store import Meta
from sealroom_broker.web import answer_json, in_thread

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: key broker</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem; }}
code {{ overflow-wrap: anywhere; }}
dt {{ font-weight: 600; margin-top: 1rem; }}
dd {{ margin: 0; }}
.mode {{ border-left: .4rem solid {colour}; padding: .2rem .8rem; }}
</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p>This is a key broker. It checks what a notebook server proves about itself, and opens a sealed dataset for
the person at that server if the data owner has granted it. Every decision goes into its audit log first.</p>
<p class="mode">{mode}</p>
<dl>
<dt>Version</dt><dd>{version}, KBS protocol 0.4.0</dd>
<dt>Audit log</dt><dd>{entries} entries, signed with <code>{key}</code></dd>
<dt>Approved environments</dt><dd>{environments}</dd>
</dl>
</main>
</body>
</html>
"""

_DEVELOPMENT = (
    "Development: this broker also accepts simulated processors, which protect nothing. "
    "It must not hold data that matter."
)
_PRODUCTION = "Production: this broker accepts the evidence of AMD's processors only."
_MODES = {"development": ("#b26a00", _DEVELOPMENT), "production": ("#1b7f3b", _PRODUCTION)}


async def front(request: Request) -> Response:
    """Say what this is."""
    return HTMLResponse(await in_thread(_front, broker_of(request)))


async def healthz(request: Request) -> Response:
    """Say whether the broker can read its state."""
    broker = broker_of(request)
    await in_thread(_check, broker)
    return answer_json({"status": "ok", "version": __version__})


def _check(broker: Broker) -> None:
    if broker.stopping.is_set():
        raise unavailable("broker.stopping", "The broker is stopping.")
    with broker.store.read() as session:
        session.get(Meta, "mode")


def _front(broker: Broker) -> str:
    colour, mode = _MODES[broker.config.mode]
    environments = [f"{one.title} (version {one.version})" for one in broker.environments.all().values()]
    return _PAGE.format(
        name=escape(broker.config.name),
        colour=colour,
        mode=escape(mode),
        version=escape(__version__),
        entries=broker.record.log.size,
        key=escape(str(broker.record.signer.verifier)),
        environments=escape("; ".join(sorted(environments)) or "none"),
    )


ROUTES: Sequence[BaseRoute] = (
    Route("/", front, methods=["GET"]),
    Route("/healthz", healthz, methods=["GET"]),
)
