# SPDX-License-Identifier: BSD-3-Clause
"""Takes the server's token at the hub out of everybody's sight, and leaves JupyterHub's own code working.

JupyterHub's single-user extension reads `JUPYTERHUB_API_TOKEN` when its `HubAuth` objects are first asked
for it (jupyterhub 5.5 and 6.1, services/auth.py, `HubAuth.api_token`): one belongs to the identity provider
(login), one to the extension (activity). Both are made to remember it, then the variable goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from sealroom_jupyter.ports import HubToken

VARIABLES = ("JUPYTERHUB_API_TOKEN", "JPY_API_TOKEN")


def take_token(serverapp: Any) -> HubToken:
    """Return the server's token and take it out of the environment.

    Args:
        serverapp: The Jupyter server, its web application already made.
    """
    token = os.environ.get(VARIABLES[0], "")
    for auth in _auths(serverapp):
        # Reading a trait computes its default and keeps it.
        token = auth.api_token or token
    for name in VARIABLES:
        os.environ.pop(name, None)
    return HubToken(token)


def keep_token_off_disk(serverapp: Any) -> None:
    """Keep the server from writing its identity provider's token into files that kernels can read.

    Under a hub that token is the server's token at the hub. jupyter_server writes it into
    `jpserver-<pid>.json` (for
    `jupyter server list`) and `jpserver-<pid>-open.html` (for a browser on this machine); nobody needs
    either here.
    """
    info = serverapp.server_info

    def without_token() -> dict[str, Any]:
        return {**info(), "token": ""}

    serverapp.server_info = without_token
    serverapp.no_browser_open_file = True


def _auths(serverapp: Any) -> Iterator[Any]:
    manager = getattr(serverapp, "extension_manager", None)
    points = getattr(manager, "extension_points", {})
    holders = [getattr(serverapp, "identity_provider", None), *(point.app for point in points.values())]
    for holder in holders:
        auth = getattr(holder, "hub_auth", None)
        if auth is not None and hasattr(auth, "api_token"):
            yield auth
