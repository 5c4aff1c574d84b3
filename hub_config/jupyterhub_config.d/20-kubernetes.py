# SPDX-License-Identifier: BSD-3-Clause
"""A hub on Kubernetes, whose servers are pods: what the Helm chart runs.

Does nothing without SEALROOM_HUB_VALUES, the name of a file (JSON or TOML). The chart writes it; whoever has
no chart writes one with the same keys. Secrets are files in the folder that `secrets_dir` names, not in the
environment: `cookie-secret`, `crypt-key`, `proxy-token`, `status-token` and `metrics-token`.
"""

import json
import os
import sys
import tomllib
from pathlib import Path

FORMAT = "sealroom-hub-values/1"
SPAWNER = "sealroom_spawner.kube.SealedKubeSpawner"


def read_values(path: Path) -> dict:
    """Return what the file says."""
    text = path.read_text(encoding="utf-8")
    values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    if values.get("format") != FORMAT:
        raise ValueError(f"{path} must say format = {FORMAT!r}")
    return values


def read_secret(folder: Path, name: str) -> str:
    """Return a secret's text, without the newline at its end."""
    return (folder / name).read_text(encoding="utf-8").strip()


def database_url(text: str) -> str:
    """Return a URL for SQLAlchemy: plain `postgresql://` would mean another driver than the one here."""
    scheme, separator, rest = text.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgresql", "postgres") else text


def culler(settings: dict) -> tuple[dict, dict]:
    """Return the service that stops idle servers, and its role."""
    command = [sys.executable, "-P", "-m", "jupyterhub_idle_culler"]
    command += [f"--timeout={settings['timeout']}", f"--cull-every={settings['every']}"]
    command += [f"--max-age={settings['max_age']}"] if settings.get("max_age") else []
    command += ["--cull-users"] if settings.get("users") else []
    command += ["--remove-named-servers"] if settings.get("remove_named_servers") else []
    scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
    role = {
        "name": "sealroom-culler",
        "description": "Stops servers that nobody uses",
        "scopes": [*scopes, *(["admin:users"] if settings.get("users") else [])],
        "services": ["sealroom-culler"],
    }
    return {"name": "sealroom-culler", "command": command, "display": False}, role


if os.environ.get("SEALROOM_HUB_VALUES"):
    c = get_config()
    values = read_values(Path(os.environ["SEALROOM_HUB_VALUES"]))
    state, secrets = Path(values["state_dir"]), Path(values["secrets_dir"])
    status_token, status_port = read_secret(secrets, "status-token"), int(values.get("status_port", 8090))
    hub = dict(values["hub"])
    base_url = hub.pop("base_url", "/")

    c.JupyterHub.bind_url = f"http://0.0.0.0:8000{base_url}"
    c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"
    for trait, value in hub.items():
        c.JupyterHub[trait] = value
    # Servers and the proxy outlive the hub: it finds them again when it is back.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 0}
    c.JupyterHub.cookie_secret = bytes.fromhex(read_secret(secrets, "cookie-secret"))
    c.CryptKeeper.keys = [bytes.fromhex(read_secret(secrets, "crypt-key"))]
    database = values.get("database_file", "")
    c.JupyterHub.db_url = (
        database_url(Path(database).read_text(encoding="utf-8").strip())
        if database
        else f"sqlite:///{state / 'jupyterhub.sqlite'}"
    )
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = values["proxy_api_url"]
    c.ConfigurableHTTPProxy.auth_token = read_secret(secrets, "proxy-token")
    c.Authenticator.admin_users = set(values.get("admin_users", ()))

    c.JupyterHub.spawner_class = SPAWNER
    # The tutorials are in the image, if they are anywhere.
    c.Spawner.default_url = "/lab"
    for trait, value in values.get("spawner", {}).items():
        c.SealedKubeSpawner[trait] = value
    c.SealedKubeSpawner.status_token = status_token

    address = os.environ.get("POD_IP") or "127.0.0.1"
    address = f"[{address}]" if ":" in address else address
    status = state / "status"
    status.mkdir(parents=True, exist_ok=True)
    c.JupyterHub.services.extend(
        [
            # Where it is, is nothing that this hub needs to know: it asks the hub who somebody is.
            {"name": "sealroom-broker", "display": False},
            {
                "name": "sealroom",
                # The proxy in its own pod reaches it there; the Service has another address.
                "url": f"http://{address}:{status_port}",
                "api_token": status_token,
                "command": [sys.executable, "-P", "-m", "sealroom_spawner.service"],
                "cwd": str(status),
                "environment": {
                    "SEALROOM_STATUS_DATABASE": str(status / "status.sqlite"),
                    "SEALROOM_BROKER_URL": values["broker_url"],
                    **({"SEALROOM_SIMULATED_ONLY": "1"} if values.get("simulated_only") else {}),
                },
                "oauth_client_allowed_scopes": ["custom:sealroom:board"],
                "oauth_no_confirm": True,
            },
            {
                # Pods of servers that a hub which was killed during their start knows nothing of.
                "name": "sealroom-orphans",
                "display": False,
                "command": [sys.executable, "-P", "-m", "sealroom_spawner.kube.orphans"],
            },
            {
                "name": "sealroom-metrics",
                "api_token": read_secret(secrets, "metrics-token"),
                "display": False,
            },
        ]
    )
    board = {kind: names for kind, names in values.get("board", {}).items() if names}
    c.JupyterHub.load_roles.append(
        {
            "name": "sealroom-orphans",
            "description": "Deletes pods of servers that the hub does not know",
            "scopes": ["list:users", "read:servers"],
            "services": ["sealroom-orphans"],
        }
    )
    c.JupyterHub.load_roles.append(
        {
            "name": "sealroom-metrics",
            "description": "Prometheus",
            "scopes": ["read:metrics"],
            "services": ["sealroom-metrics"],
        }
    )
    if board:
        c.JupyterHub.load_groups = {name: {"users": []} for name in board.get("groups", ())}
        c.JupyterHub.load_roles.append(
            {
                "name": "sealroom-board",
                "description": "Sees what every notebook server has proven",
                "scopes": ["custom:sealroom:board"],
                **board,
            }
        )
    if values.get("cull", {}).get("enabled"):
        service, role = culler(values["cull"])
        c.JupyterHub.services.append(service)
        c.JupyterHub.load_roles.append(role)
