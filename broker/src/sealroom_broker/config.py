# SPDX-License-Identifier: BSD-3-Clause
"""The broker's configuration file (`broker.toml`): what may stand in it, and what must not stand together.

Paths are relative to the file. Unknown keys are errors: a misspelt security setting must not be ignored.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sealroom.errors import ConfigurationError

Mode = Literal["production", "development"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Environments(_Section):
    """Which environment manifests the broker approves."""

    directories: tuple[Path, ...] = ()
    """Folders with `*.toml` and `*.toml.sig`."""
    publishers: tuple[Path, ...] = ()
    """Ed25519 public keys (PEM). A manifest that none of them signed is not approved."""


class Identity(_Section):
    """Where people's tokens are checked."""

    provider: Literal["jupyterhub"] = "jupyterhub"
    api_url: str
    """The hub's API, for example `http://127.0.0.1:8081/hub/api`."""
    service: str = "sealroom-broker"
    """The broker's name as a service of the hub: a token needs the scope to access it."""
    issuer: str = ""
    """The hub's name in grants' records and in the log; its API's address as the file has it without this."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds to wait for the hub."""

    @field_validator("api_url")
    @classmethod
    def _http(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
            raise ValueError("must be an http or https URL")
        return value.rstrip("/")


class Limits(_Section):
    """Bounds on what a client may send."""

    body: int = Field(default=1 << 20, ge=1 << 10, le=64 << 20)
    """Bytes of a request's body."""
    body_seconds: float = Field(default=30.0, gt=0)
    """Seconds in which a request's body must have arrived."""
    registration: int = Field(default=64 << 20, ge=1 << 10, le=256 << 20)
    """Bytes of an owner's registration: the manifest of a dataset with very many files is large."""
    rate: float = Field(default=200.0, gt=0)
    """Requests a second of one client, on average."""
    burst: int = Field(default=1000, ge=1)
    """Requests of one client at once."""


class Periods(_Section):
    """How long things hold, in seconds."""

    nonce: int = Field(default=300, ge=5, le=3600)
    """From `auth` to `attest`."""
    attestation: int = Field(default=900, ge=5, le=86400)
    """From `attest` to the next one; also the lifetime of the EAR token."""
    session: int = Field(default=86400, ge=60, le=30 * 86400)
    """From a session's last attestation to the end of the session with the person bound to it."""
    signing_key: int = Field(default=30 * 86400, ge=3600)
    """From one EAR signing key to the next."""

    @property
    def nonce_delta(self) -> timedelta:
        """`nonce` as a time span."""
        return timedelta(seconds=self.nonce)

    @property
    def attestation_delta(self) -> timedelta:
        """`attestation` as a time span."""
        return timedelta(seconds=self.attestation)

    @property
    def session_delta(self) -> timedelta:
        """`session` as a time span."""
        return timedelta(seconds=self.session)

    @property
    def signing_key_delta(self) -> timedelta:
        """`signing_key` as a time span."""
        return timedelta(seconds=self.signing_key)


class Config(_Section):
    """Everything that `broker.toml` says."""

    mode: Mode
    """`development` accepts simulated evidence under `development_root`; `production` accepts AMD's only."""
    name: str = Field(default="sealroom-broker", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")
    """Name of this broker: issuer of its EAR tokens and origin of its log."""
    listen: str = "127.0.0.1:8200"
    """Address and port."""
    database: Path = Path("broker.sqlite")
    """SQLite file."""
    audit: Path = Path("audit")
    """Folder of the log and of the evidence that it names."""
    kek: Path = Path("kek.key")
    """Key that wraps dataset keys (0600)."""
    keys: Path = Path()
    """Folder of the EAR signing keys (0600 each)."""
    development_root: Path | None = None
    """Root certificate of simulated processors (PEM)."""
    owner: str = ""
    """Whom people ask for access if a dataset names nobody."""
    environments: Environments = Environments()
    identity: Identity | None = None
    limits: Limits = Limits()
    periods: Periods = Periods()

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        split_address(value)
        return value

    @model_validator(mode="after")
    def _mode_fits(self) -> Config:
        if self.mode == "production" and self.development_root is not None:
            raise ValueError(
                'a production broker must not have a development_root: remove it, or set mode = "development"'
            )
        return self


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file and what a hub says in the environment of a service that it manages.

    Args:
        path: The file.
        environ: Environment variables; JupyterHub's `JUPYTERHUB_SERVICE_*` and `JUPYTERHUB_API_URL` win over
            the file.

    Raises:
        ConfigurationError: The file is not there, is not TOML, or says something impossible.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no configuration file {path}.", advice="Make one with `sealroom-broker init`."
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    try:
        config = Config.model_validate(_with_hub(data, environ or {}))
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {_first_problem(error)}.") from error
    return _resolved(config, path.resolve().parent)


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets).

    Raises:
        ValueError: It is not an address with a port.
    """
    parts = urlsplit(f"//{address}")
    if parts.hostname is None or parts.port is None or parts.path or parts.query:
        raise ValueError("must be an address and a port, for example 127.0.0.1:8200")
    return parts.hostname, parts.port


def _with_hub(data: dict[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Put what the hub says in place of what the file says."""
    service_url = environ.get("JUPYTERHUB_SERVICE_URL", "")
    if service_url:
        data = {**data, "listen": urlsplit(service_url).netloc}
    identity = dict(section) if isinstance(section := data.get("identity"), dict) else {}
    for key, variable in (("api_url", "JUPYTERHUB_API_URL"), ("service", "JUPYTERHUB_SERVICE_NAME")):
        if environ.get(variable):
            # Where the hub is may change with each start of it; who it is does not.
            if key == "api_url" and not identity.get("issuer"):
                identity["issuer"] = identity.get("api_url") or environ[variable]
            identity[key] = environ[variable]
    return {**data, "identity": identity} if identity else data


def _resolved(config: Config, base: Path) -> Config:
    def at(path: Path) -> Path:
        return base / path.expanduser()

    environments = config.environments.model_copy(
        update={
            "directories": tuple(map(at, config.environments.directories)),
            "publishers": tuple(map(at, config.environments.publishers)),
        }
    )
    root = config.development_root
    return config.model_copy(
        update={
            "database": at(config.database),
            "audit": at(config.audit),
            "kek": at(config.kek),
            "keys": at(config.keys),
            "development_root": at(root) if root is not None else None,
            "environments": environments,
        }
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}" if where else message
