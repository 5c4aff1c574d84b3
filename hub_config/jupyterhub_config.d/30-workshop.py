# SPDX-License-Identifier: BSD-3-Clause
"""Workshop mode: seats, one environment, one group, a deadline.

Does nothing without a file `workshop.toml` in the state directory, or named by SEALROOM_WORKSHOP.
"""

import os
import sys
from pathlib import Path

from sealroom_spawner.workshop import Admission, WorkshopFile

home = os.environ.get("SEALROOM_HOME", "")
named = os.environ.get("SEALROOM_WORKSHOP", "")
workshop_file = Path(named) if named else Path(home or "/nonexistent") / "workshop.toml"

if named or workshop_file.exists():
    c = get_config()
    current = WorkshopFile(workshop_file)
    workshop = current()
    # Where the hub keeps what it must not lose.
    state = Path(os.environ.get("SEALROOM_WORKSHOP_STATE", "") or (Path(home) / "hub" if home else "."))
    admission = Admission(current, state / "workshop.taken.json")

    if workshop.signup == "link":
        from sealroom_spawner.workshop.join import invitation

        c.JupyterHub.authenticator_class = "sealroom-workshop"
        c.WorkshopAuthenticator.accounts_file = c.LocalAccountsAuthenticator.accounts_file
        c.WorkshopAuthenticator.seats_file = str(state / "workshop.seats.json")
        c.WorkshopAuthenticator.code = invitation(state / "workshop.code")
        c.WorkshopAuthenticator.admission = admission
    elif workshop.lti is not None:
        c.JupyterHub.authenticator_class = "ltiauthenticator.lti13.auth.LTI13Authenticator"
        c.LTI13Authenticator.issuer = workshop.lti.issuer
        c.LTI13Authenticator.client_id = {workshop.lti.client_id}
        c.LTI13Authenticator.authorize_url = workshop.lti.authorize_url
        c.LTI13Authenticator.jwks_endpoint = workshop.lti.jwks_endpoint
        c.LTI13Authenticator.username_key = workshop.lti.username_key
        c.LTI13Authenticator.tool_name = workshop.title
        # The platform says who belongs to the course; the seats bound how many.
        c.LTI13Authenticator.allow_all = True
    c.Authenticator.manage_groups = True
    # The hub refuses to start with groups of its own beside the authenticator's.
    c.JupyterHub.load_groups = {}
    c.Authenticator.post_auth_hook = admission.after_login
    c.Authenticator.auth_refresh_age = 60
    c.Spawner.pre_spawn_hook = admission.before_start
    c.Spawner.environments = [workshop.environment]

    c.JupyterHub.load_roles.extend(
        [
            {
                "name": "workshop-instructor",
                "description": f"Sees what the servers of {workshop.name} have proven",
                "scopes": [f"custom:sealroom:board!group={workshop.name}"],
                "users": list(workshop.instructors),
            },
            {
                "name": "workshop-ending",
                "description": "Stops the workshop's servers at its end",
                "scopes": [
                    "list:users",
                    "read:users:groups",
                    "read:servers",
                    f"delete:servers!group={workshop.name}",
                ],
                "services": ["workshop-ending"],
            },
            {
                "name": "idle-culler",
                "description": "Stops servers that nobody uses",
                "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
                "services": ["idle-culler"],
            },
        ]
    )
    c.JupyterHub.services.extend(
        [
            {
                "name": "workshop-ending",
                "display": False,
                "command": [
                    *(sys.executable, "-P", "-m", "sealroom_spawner.workshop.ending"),
                    str(workshop_file.resolve()),
                ],
            },
            {
                "name": "idle-culler",
                "display": False,
                "command": [
                    *(sys.executable, "-P", "-m", "jupyterhub_idle_culler"),
                    f"--timeout={60 * workshop.idle_minutes}",
                ],
            },
        ]
    )
