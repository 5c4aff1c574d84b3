# SPDX-License-Identifier: BSD-3-Clause
"""What the server extension is told: traits with defaults from the environment that the spawner gives."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sealroom.datasets.store import is_far

AGENT_SOCKET = "agent.sock"
"""Name of the agent's socket in the run directory; kernels find it there."""


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Where people log in if not at the hub. A notebook server is a public client: it has no secret."""

    issuer: str
    """The provider's issuer identifier, an HTTPS address."""
    client_id: str
    """The client whose tokens the broker accepts."""
    scope: str = "openid"
    """Scopes to ask for."""
    ways: tuple[str, ...] = ("browser",)
    """`browser`, `device` or both."""
    redirect_url: str = ""
    """The redirect as it is registered, where it cannot be told from the address that the browser uses."""
    userinfo: bool = False
    """Whether the broker gets the access token too, to read the person's visas from the userinfo."""


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How buckets with sealed datasets are reached. No credential is among this, only where they lie."""

    endpoint: str = ""
    """Address of the server; empty for AWS."""
    region: str = ""
    credentials: Path | None = None
    """File with the credentials, which nobody but its owner may read; None: as obstore finds them."""
    anonymous: bool = False
    """Whether requests are not signed, for public buckets."""
    allow_http: bool = False
    """Whether the endpoint may be without TLS."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the Attester and of everything that works with it. No secret is among them."""

    run_dir: Path | None = None
    """The server's own directory: the processor's socket is in it, the agent's socket goes there."""
    broker_url: str = ""
    """Base URL of the key broker, without `/kbs/v0`."""
    status_url: str = ""
    """URL of the hub's status service; empty: nothing is reported."""
    server_name: str = ""
    """The server's name at the hub; empty for the default server."""
    datasets: tuple[Path | str, ...] = ()
    """Directories that hold sealed datasets, one directory each; `s3://bucket/prefix` is one, too."""
    s3: S3Settings = field(default_factory=S3Settings)
    """How those in S3 are reached."""
    mapped: bool | None = None
    """Whether sealed files on this machine may be mapped into memory; None where nobody can cut them."""
    workspace: Path | None = None
    """Where notebooks save sealed results; None: nowhere."""
    environment: Path | None = None
    """The environment's manifest, for its title."""
    root: Path | None = None
    """Certificate of the development root, for people who verify evidence themselves."""
    poll_interval: float = 2.0
    """Seconds between two questions to the broker about this session."""
    grace: float = 60.0
    """Seconds without an answer from the broker after which every key is dropped."""
    renew_margin: float = 60.0
    """Seconds before the end of an attestation result at which a new one is asked for."""
    retry_first: float = 1.0
    """Seconds until the first new try after a failure; doubles with each."""
    retry_most: float = 30.0
    """Longest pause between two tries."""
    timeout: float = 10.0
    """Seconds that one call to the broker or to the status service may take."""

    oidc: OidcSettings | None = None
    """The provider that people log in at; None where the hub says who they are."""

    @property
    def agent_socket(self) -> Path | None:
        """Where kernels reach this server's datasets."""
        return None if self.run_dir is None else self.run_dir / AGENT_SOCKET


def paths_from(environ: Mapping[str, str], name: str) -> list[str]:
    """Return a list of paths from the environment (`os.pathsep` between them); `s3://…` is one."""
    # The colon of s3:// separates nothing.
    parts = re.split(f"{re.escape(os.pathsep)}(?!//)", environ.get(name, ""))
    return [part for part in parts if part.strip()]


def location_of(text: str) -> Path | str:
    """Return where a directory of datasets lies: a path, or a text in S3."""
    return text if is_far(text) else Path(text)
