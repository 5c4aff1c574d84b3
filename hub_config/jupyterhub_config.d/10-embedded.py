# SPDX-License-Identifier: BSD-3-Clause
"""Everything on one machine, with simulated processors: what `make up` starts.

Does nothing without SEALROOM_HOME.
"""

import os
import secrets
import sys

from sealroom_spawner.settings import Settings

if os.environ.get("SEALROOM_HOME"):
    c = get_config()
    settings = Settings.from_environment()
    hub, broker, status = settings.home / "hub", settings.home / "broker", settings.home / "status"
    status_token = secrets.token_urlsafe(32)

    c.JupyterHub.bind_url = settings.hub_bind_url
    c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{settings.hub_api_port}"
    c.JupyterHub.db_url = f"sqlite:///{hub / 'jupyterhub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(hub / "cookie_secret")
    c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{settings.proxy_api_port}"
    c.ConfigurableHTTPProxy.command = list(settings.proxy_command)
    c.ConfigurableHTTPProxy.pid_file = str(hub / "proxy.pid")

    c.JupyterHub.authenticator_class = "sealroom-accounts"
    c.LocalAccountsAuthenticator.accounts_file = str(settings.home / "accounts.json")

    c.JupyterHub.spawner_class = "sealed-local"
    c.SealedLocalSpawner.state_dir = str(settings.home)
    c.SealedLocalSpawner.tutorials = str(settings.clone / "notebooks")
    c.SealedLocalSpawner.broker_url = settings.broker_url
    c.SealedLocalSpawner.status_url = settings.status_url
    c.SealedLocalSpawner.status_token = status_token

    c.JupyterHub.load_roles.extend(
        [
            {
                "name": "sealroom-board",
                "description": "Sees what every notebook server has proven",
                "scopes": ["custom:sealroom:board"],
                "users": ["operator"],
            },
            {
                "name": "sealroom-owner",
                "description": "Decides about datasets on the key broker's pages",
                "scopes": ["custom:sealroom:owner"],
                "users": ["owner"],
            },
        ]
    )
    c.JupyterHub.services.extend(
        [
            {
                "name": "sealroom-broker",
                "display": False,
                "command": [
                    *(sys.executable, "-P", "-m", "sealroom_broker", "serve"),
                    *("--config", str(broker / "broker.toml"), "--listen", settings.broker_listen),
                ],
                "cwd": str(broker),
                "environment": {
                    "SEALROOM_HOME": str(settings.home),
                    "SEALROOM_HUB_URL": settings.hub_url,
                    "SEALROOM_BROKER_PUBLIC_URL": settings.broker_public_url,
                },
                # The owner's pages: the broker is a client of the hub's OAuth provider.
                "api_token": (broker / "hub.secret").read_text().strip(),
                "oauth_redirect_uri": f"{settings.broker_public_url}/callback",
                "oauth_client_allowed_scopes": ["custom:sealroom:owner", "custom:sealroom:auditor"],
                "oauth_no_confirm": True,
            },
            {
                "name": "sealroom",
                "url": settings.status_service_url,
                "api_token": status_token,
                "command": [sys.executable, "-P", "-m", "sealroom_spawner.service"],
                "cwd": str(status),
                "environment": {
                    "SEALROOM_STATUS_DATABASE": str(status / "status.sqlite"),
                    "SEALROOM_BROKER_URL": settings.broker_url,
                    "SEALROOM_SIMULATED_ONLY": "1",
                },
                "oauth_client_allowed_scopes": ["custom:sealroom:board"],
                "oauth_no_confirm": True,
            },
        ]
    )
