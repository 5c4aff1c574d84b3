# SPDX-License-Identifier: BSD-3-Clause
"""What holds in every deployment: pages, and who may see what."""

from pathlib import Path

import sealroom_spawner

c = get_config()
here = Path(__file__).resolve().parents[1]

# The second directory has the colours of the tiers, which the status service's page shares.
c.JupyterHub.template_paths = [
    str(here / "templates"),
    str(Path(sealroom_spawner.__file__).parent / "templates"),
]
c.JupyterHub.logo_file = str(here / "templates" / "logo.svg")
# The spawner puts the tutorials into every home in which they are missing.
c.Spawner.default_url = "/lab/tree/welcome.ipynb"

c.JupyterHub.custom_scopes = {
    "custom:sealroom:board": {"description": "See what every notebook server has proven"},
    "custom:sealroom:owner": {"description": "Decide about datasets on the key broker's pages"},
    "custom:sealroom:auditor": {"description": "Read the key broker's pages and its audit log"},
}
c.JupyterHub.load_roles.extend(
    [
        {
            "name": "user",
            "description": "A person: their own servers, and the two services that these talk to",
            "scopes": ["self", "access:services!service=sealroom", "access:services!service=sealroom-broker"],
        },
        {
            "name": "sealroom-status",
            "description": "The status service: which servers run",
            "scopes": ["list:users", "read:servers", "read:users:groups"],
            "services": ["sealroom"],
        },
    ]
)
