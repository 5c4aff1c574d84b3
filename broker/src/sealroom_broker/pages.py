# SPDX-License-Identifier: BSD-3-Clause
"""A page for people who open the broker's address."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from sealroom_broker import __version__
from sealroom_broker.broker import Broker
from sealroom_broker.kbs_routes import broker_of
from sealroom_broker.web import in_thread

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
{owner}</main>
</body>
</html>
"""

_OWNER = '<p><a href="owner/">Pages of data owners and auditors</a></p>\n'
_POLICY = (
    "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_DEVELOPMENT = (
    "Development: this broker also accepts simulated processors, which protect nothing. "
    "It must not hold data that matter."
)
_PRODUCTION = "Production: this broker accepts the evidence of AMD's processors only."
_MODES = {"development": ("#b26a00", _DEVELOPMENT), "production": ("#1b7f3b", _PRODUCTION)}


async def front(request: Request) -> Response:
    """Say what this is."""
    page, policy = await in_thread(_front, broker_of(request))
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def _front(broker: Broker) -> tuple[str, str]:
    """Return the page, and a content security policy that allows its own style and nothing else."""
    colour, mode = _MODES[broker.config.mode]
    environments = [f"{one.title} (version {one.version})" for one in broker.environments.all().values()]
    page = _PAGE.format(
        name=escape(broker.config.name),
        colour=colour,
        mode=escape(mode),
        version=escape(__version__),
        entries=broker.record.log.size,
        key=escape(str(broker.record.signer.verifier)),
        environments=escape("; ".join(sorted(environments)) or "none"),
        # Relative: a proxy may hand this on under a path that is not known here.
        owner=_OWNER if broker.logins is not None else "",
    )
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return page, _POLICY.format(digest=digest)


ROUTES: Sequence[BaseRoute] = (Route("/", front, methods=["GET"]),)
