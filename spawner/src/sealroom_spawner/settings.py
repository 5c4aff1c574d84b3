# SPDX-License-Identifier: BSD-3-Clause
"""The addresses that the parts of one installation share: `settings.toml` in the state directory."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sealroom.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """What `settings.toml` says, and where everything is."""

    home: Path
    """The state directory."""
    clone: Path
    """The source tree that this installation runs from."""
    hub_url: str
    """Where people find the hub."""
    hub_bind_url: str
    """Where the hub's proxy listens."""
    hub_api_port: int
    proxy_api_port: int
    proxy_command: tuple[str, ...]
    broker_url: str
    status_url: str
    """The status service's address, with its path."""

    @property
    def hub_api_url(self) -> str:
        """Where the hub's parts on this machine reach its REST interface."""
        return f"http://127.0.0.1:{self.hub_api_port}/hub/api"

    @property
    def broker_listen(self) -> str:
        """Address and port that the broker takes."""
        return urlsplit(self.broker_url).netloc

    @property
    def broker_public_url(self) -> str:
        """Where people of this machine find the broker's pages: not the hub's host, for its cookies."""
        parts = urlsplit(self.broker_url)
        host = "127.0.0.1" if urlsplit(self.hub_url).hostname == "localhost" else "localhost"
        return f"{parts.scheme}://{host}:{parts.port}"

    @property
    def status_service_url(self) -> str:
        """The status service's address, without a path."""
        parts = urlsplit(self.status_url)
        return f"{parts.scheme}://{parts.netloc}"

    @classmethod
    def load(cls, home: Path) -> Settings:
        """Read the settings.

        Raises:
            ConfigurationError: There are none, or something is missing.
        """
        path = home / "settings.toml"
        try:
            values = tomllib.loads(path.read_text())
            return cls(
                home=home,
                clone=Path(values["clone"]),
                hub_url=values["hub"]["url"],
                hub_bind_url=values["hub"]["bind_url"],
                hub_api_port=values["hub"]["api_port"],
                proxy_api_port=values["proxy"]["api_port"],
                proxy_command=tuple(values["proxy"]["command"]),
                broker_url=values["broker"]["url"],
                status_url=values["status"]["url"],
            )
        except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(
                f"{path} cannot be used: {error!r}.", advice="`make up` writes it anew."
            ) from error

    @classmethod
    def from_environment(cls) -> Settings:
        """Read the settings of the state directory that `SEALROOM_HOME` names.

        Raises:
            ConfigurationError: The variable is not set, or there are no settings.
        """
        home = os.environ.get("SEALROOM_HOME", "")
        if not home:
            raise ConfigurationError("SEALROOM_HOME is not set.", advice="`make up` sets it.")
        return cls.load(Path(home))
