# SPDX-License-Identifier: BSD-3-Clause
"""The broker's configuration file (`broker.toml`): what may stand in it, and what must not stand together.

Paths are relative to the file. Unknown keys are errors: a misspelt security setting must not be ignored.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from sealroom.errors import ConfigurationError

from sealroom_broker.config_base import (
    SIGNATURE_ALGORITHMS,
    Claim,
    Section,
    SignatureAlgorithm,
    check_url,
    is_loopback,
    split_address,
)
from sealroom_broker.config_login import HubLogin, Login, OidcLogin
from sealroom_broker.wrap.settings import Kek

__all__ = [
    "SIGNATURE_ALGORITHMS",
    "Claim",
    "Config",
    "HubLogin",
    "Identity",
    "Issuer",
    "Login",
    "Mode",
    "OidcLogin",
    "SignatureAlgorithm",
    "VisaIssuer",
    "is_loopback",
    "load_config",
    "split_address",
]

Mode = Literal["production", "development"]

_LOGIN_VARIABLES = (
    ("api_url", "JUPYTERHUB_API_URL"),
    ("client_id", "JUPYTERHUB_CLIENT_ID"),
    ("hub_url", "SEALROOM_HUB_URL"),
    ("public_url", "SEALROOM_BROKER_PUBLIC_URL"),
)
"""What the hub's configuration says of the login in the broker's environment: its ports may change."""

S = TypeVar("S", bound="Section")
Opt = TypeVar("Opt", bound="Section | None")


class Environments(Section):
    """Which environment manifests the broker approves."""

    directories: tuple[Path, ...] = ()
    """Folders with `*.toml` and `*.toml.sig`."""
    publishers: tuple[Path, ...] = ()
    """Ed25519 public keys (PEM). A manifest that none of them signed is not approved."""


class Issuer(Section):
    """An OpenID Connect provider whose people may use datasets."""

    issuer: str
    """Its issuer identifier, exactly as it stands in its tokens."""
    client_id: str = Field(min_length=1)
    """The audience that a token must have: this broker as the provider knows it."""
    authorized_parties: tuple[str, ...] = ()
    """Clients that may have got the token (`azp`); `client_id` alone without it."""
    subject: Claim = "sub"
    """Claim that grants name a person by. `sub` is the only one that a provider may not give to somebody else
    later; take another one only if the provider promises the same for it."""
    username: Claim = "preferred_username"
    """Claim that people are shown by."""
    groups: Claim = "groups"
    """Claim with the person's groups."""
    algorithms: tuple[SignatureAlgorithm, ...] = Field(default=SIGNATURE_ALGORITHMS, min_length=1)
    leeway: int = Field(default=30, ge=0, le=300)
    """Seconds that the provider's clock may differ from the broker's."""
    hold: int = Field(default=0, ge=0, le=86400)
    """Seconds that a login holds after it was presented where its token ends sooner."""
    passport: Literal["none", "token", "userinfo"] = "none"
    """Where the GA4GH passport is: nowhere, in the ID token, or in the provider's userinfo."""
    ca: Path | None = None
    """Certificate authorities (PEM) of the provider, in place of the system's."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds to wait for the provider."""

    @field_validator("issuer")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value)


class VisaIssuer(Section):
    """Who may sign visas of a GA4GH passport."""

    issuer: str
    """The visas' `iss`."""
    jwks: str
    """Where its keys are. A visa's `jku` must be this address."""
    sources: tuple[str, ...] = ()
    """Organisations (`source`) whose decisions it may pass on; all without it."""
    ca: Path | None = None
    """Certificate authorities (PEM) of that address, in place of the system's."""

    @field_validator("jwks")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value)


class Identity(Section):
    """Where people's tokens are checked: with a hub, with OpenID Connect providers, or with both."""

    provider: Literal["jupyterhub", "oidc"] = "jupyterhub"
    """`oidc` leaves the hub out, also where a hub runs this broker."""
    api_url: str = ""
    """The hub's API, for example `http://127.0.0.1:8081/hub/api`."""
    service: str = "sealroom-broker"
    """The broker's name as a service of the hub: a token needs the scope to access it."""
    issuer: str = ""
    """The hub's name in grants' records and in the log; its API's address as the file has it without this."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds to wait for the hub."""
    issuers: tuple[Issuer, ...] = ()
    """OpenID Connect providers."""
    visa_issuers: tuple[VisaIssuer, ...] = ()
    """Who may sign visas; nobody else's count."""

    @field_validator("api_url")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value).rstrip("/") if value else value

    @model_validator(mode="after")
    def _somebody_is_known(self) -> Identity:
        if self.provider == "jupyterhub" and not self.api_url:
            raise ValueError('the hub needs an api_url; without a hub set provider = "oidc"')
        if self.provider == "oidc" and not self.issuers:
            raise ValueError("OpenID Connect needs at least one of identity.issuers")
        names = self.people_issuers
        if len(set(names)) != len(names):
            raise ValueError("each issuer may be named once")
        if any(one.passport != "none" for one in self.issuers) and not self.visa_issuers:
            raise ValueError("a passport needs at least one of identity.visa_issuers")
        return self

    @property
    def people_issuers(self) -> tuple[str, ...]:
        """Who names people here, in the words of grants."""
        hub = (self.issuer or self.api_url,) if self.provider == "jupyterhub" else ()
        return (*hub, *(one.issuer for one in self.issuers))


class Collateral(Section):
    """Where certificates, revocation lists and reference values are that do not come with evidence."""

    store: Path | None = None
    """Folder of the store, see `sealroom collateral`; made when something is first kept."""
    network: bool = False
    """Fetch what is missing from AMD's and NVIDIA's services while a server attests."""
    crl: Literal["off", "soft", "required"] = "off"
    """What AMD's revocation lists decide: nothing; what the list says, if there is one; or that nothing is
    accepted without a current one."""
    kds_url: str = "https://kdsintf.amd.com"
    """AMD's key distribution service, or a relay."""
    rim_url: str = "https://rim.attestation.nvidia.com"
    """NVIDIA's RIM service, or a relay."""
    ocsp_url: str = "https://ocsp.ndis.nvidia.com"
    """NVIDIA's OCSP responder, or a relay."""
    patience: float = Field(default=20.0, gt=0, le=120)
    """Seconds that an attestation waits for a service that is busy."""

    @field_validator("kds_url", "rim_url", "ocsp_url")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value)

    @model_validator(mode="after")
    def _has_a_store(self) -> Collateral:
        if self.store is None and (self.network or self.crl != "off"):
            raise ValueError("network and crl need a store")
        return self


class Limits(Section):
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
    evidence: int = Field(default=512 << 10, ge=1 << 10, le=16 << 20)
    """Bytes of an `attest` message. Eight GPUs and four switches with their chains have about 250 KiB."""
    refused_evidence: int = Field(default=32 << 20, ge=1 << 20)
    """Bytes of refused evidence that one client may leave here in a day."""
    refused_evidence_total: int = Field(default=4 << 30, ge=1 << 20)
    """Bytes of refused evidence that all clients together may leave here in a day."""
    free_disk: int = Field(default=256 << 20, ge=0)
    """Bytes that stay free where the audit log is: with less, no evidence is taken."""
    head_seconds: float = Field(default=15.0, gt=0)
    """Seconds in which a request's head must have arrived."""
    answer_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a client may take to accept a piece of an answer."""
    connections: int = Field(default=1024, ge=1)
    """Connections at once; more are answered with 503."""
    requests: int = Field(default=10, ge=1, le=1000)
    """Open requests for access of one person."""


class Periods(Section):
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


class Tls(Section):
    """The broker's own certificate. Both files are read again on SIGHUP."""

    certificate: Path
    """Its chain (PEM), leaf first."""
    key: Path
    """Its private key (PEM, 0600)."""


class Metrics(Section):
    """Where Prometheus finds `/metrics`; without either setting it is nowhere."""

    listen: str = ""
    """An address and port of its own, without TLS and without a token: not for the open network."""
    token: Path | None = None
    """File (0600) with a token; with it `/metrics` is at the broker's own address too."""

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value


class Postgresql(Section):
    """The database of a broker that runs as several processes, in place of the SQLite file."""

    url: str
    """`postgresql://user@host:port/database`; a socket's folder as `?host=/run/postgresql`."""
    password: Path | None = None
    """File (0600) with the password; read for each connection, so that it can be changed."""
    connections: int = Field(default=16, ge=2, le=512)
    """Connections of one process at most."""
    patience: float = Field(default=15.0, gt=0, le=120)
    """Seconds to wait for a connection, for the other writers, and for an answer."""

    @field_validator("url")
    @classmethod
    def _without_password(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError("must be like postgresql://user@host/database")
        if parts.password is not None or "password=" in parts.query:
            raise ValueError("must have no password in it: name a file with `password`")
        return value


class Config(Section):
    """Everything that `broker.toml` says."""

    mode: Mode
    """`development` accepts simulated evidence under `development_root`; `production` accepts AMD's only."""
    name: str = Field(default="sealroom-broker", pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$")
    """Name of this broker: issuer of its EAR tokens and origin of its log."""
    listen: str = "127.0.0.1:8200"
    """Address and port."""
    database: Path = Path("broker.sqlite")
    """SQLite file; unused with `postgresql`."""
    postgresql: Postgresql | None = None
    """A PostgreSQL database that several processes of one broker share."""
    audit: Path = Path("audit")
    """Folder of the log and of the evidence that it names; with `postgresql` both are in the database."""
    kek: Kek = Kek()
    """Key that wraps dataset keys: a file (0600), or a table that says who keeps it."""
    keys: Path = Path()
    """Folder of the log's key and, without `postgresql`, of the EAR signing keys (0600 each)."""
    tls: Tls | None = None
    metrics: Metrics = Metrics()
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies that say the client's address (`X-Forwarded-For`, `-Proto`)."""
    log: Literal["text", "json"] = "text"
    """Form of the log lines on standard error."""
    development_root: Path | None = None
    """Root certificate of simulated processors (PEM)."""
    development_gpu_root: Path | None = None
    """Folder with the root certificates of simulated GPUs, `gpu-device-root.pem` and `gpu-rim-root.pem`."""
    policy: Path | None = None
    """Appraisal policy (TOML); the strict one without it."""
    owner: str = ""
    """Whom people ask for access if a dataset names nobody."""
    environments: Environments = Environments()
    identity: Identity | None = None
    login: Login | None = None
    collateral: Collateral = Collateral()
    limits: Limits = Limits()
    periods: Periods = Periods()
    _source: Path | None = PrivateAttr(default=None)

    @property
    def source(self) -> Path | None:
        """The file that it was read from."""
        return self._source

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
        if self.mode == "production" and self.development_gpu_root is not None:
            raise ValueError("a production broker must not have a development_gpu_root: remove it")
        if self.mode == "production" and isinstance(self.login, HubLogin):
            raise ValueError(
                "login: at a production broker owners log in at an OpenID Connect provider: whoever "
                "administers the hub could make themselves an owner"
            )
        for proxy in self.trusted_proxies:
            ipaddress.ip_network(proxy)
        for url in self._provider_urls() if self.mode == "production" else ():
            if urlsplit(url).scheme != "https" and not is_loopback(urlsplit(url).hostname or ""):
                raise ValueError(f"{url} must be an https address at a production broker")
        return self

    def _provider_urls(self) -> list[str]:
        urls = [self.login.issuer, self.login.public_url] if isinstance(self.login, OidcLogin) else []
        if self.identity:
            urls += [one.issuer for one in self.identity.issuers]
            urls += [one.jwks for one in self.identity.visa_issuers]
        return urls


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read a configuration file and what a hub says in the environment of a service that it manages.

    Args:
        path: The file.
        environ: Environment variables; JupyterHub's `JUPYTERHUB_SERVICE_*` and `JUPYTERHUB_API_URL` win over
            the file, for a login at the hub also `JUPYTERHUB_CLIENT_ID`, `SEALROOM_HUB_URL` and
            `SEALROOM_BROKER_PUBLIC_URL`.

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
    config._source = path.absolute()  # noqa: SLF001 - not a setting: a file cannot say where it is
    return _resolved(config, path.resolve().parent)


def _with_hub(data: dict[str, object], environ: Mapping[str, str]) -> dict[str, object]:
    """Put what the hub says in place of what the file says."""
    service_url = environ.get("JUPYTERHUB_SERVICE_URL", "")
    if service_url:
        data = {**data, "listen": urlsplit(service_url).netloc}
    identity = _table(data, "identity")
    for key, variable in (("api_url", "JUPYTERHUB_API_URL"), ("service", "JUPYTERHUB_SERVICE_NAME")):
        if environ.get(variable):
            # Where the hub is may change with each start of it; who it is does not.
            if key == "api_url" and not identity.get("issuer") and identity.get("provider") != "oidc":
                identity["issuer"] = identity.get("api_url") or environ[variable]
            identity[key] = environ[variable]
    login = _table(data, "login")
    if login.get("provider") == "jupyterhub":
        login["issuer"] = login.get("issuer") or login.get("api_url") or ""
        login |= {key: environ[variable] for key, variable in _LOGIN_VARIABLES if environ.get(variable)}
        data = {**data, "login": login}
    return {**data, "identity": identity} if identity else data


def _table(data: Mapping[str, object], name: str) -> dict[str, object]:
    return dict(section) if isinstance(section := data.get(name), dict) else {}


def _resolved(config: Config, base: Path) -> Config:
    def at(path: Path) -> Path:
        return base / path.expanduser()

    def with_paths(one: Opt, *names: str) -> Opt:
        paths = {name: at(path) for name in names if (path := getattr(one, name, None)) is not None}
        return one if one is None else one.model_copy(update=paths)

    def with_ca(one: S) -> S:
        ca = getattr(one, "ca", None)
        return one if ca is None else one.model_copy(update={"ca": at(ca)})

    environments = config.environments.model_copy(
        update={
            "directories": tuple(map(at, config.environments.directories)),
            "publishers": tuple(map(at, config.environments.publishers)),
        }
    )
    gpu_root = config.development_gpu_root
    root, login, identity = config.development_root, config.login, config.identity
    if login is not None:
        paths = {"client_secret": login.client_secret, "ca": getattr(login, "ca", None)}
        login = login.model_copy(update={name: at(path) for name, path in paths.items() if path is not None})
    if identity is not None:
        identity = identity.model_copy(
            update={
                "issuers": tuple(map(with_ca, identity.issuers)),
                "visa_issuers": tuple(map(with_ca, identity.visa_issuers)),
            }
        )
    collateral = config.collateral
    if collateral.store is not None:
        collateral = collateral.model_copy(update={"store": at(collateral.store)})
    return config.model_copy(
        update={
            "database": at(config.database),
            "postgresql": with_paths(config.postgresql, "password"),
            "tls": with_paths(config.tls, "certificate", "key"),
            "metrics": with_paths(config.metrics, "token"),
            "audit": at(config.audit),
            "kek": config.kek.at(base),
            "keys": at(config.keys),
            "development_root": at(root) if root is not None else None,
            "development_gpu_root": at(gpu_root) if gpu_root is not None else None,
            "policy": at(config.policy) if config.policy is not None else None,
            "environments": environments,
            "collateral": collateral,
            "identity": identity,
            "login": login,
        }
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    loc = problem["loc"]
    # `first` is how the table [kek] is kept, not how it is written.
    where = ".".join(str(part) for part in loc if loc[0] != "kek" or part != "first")
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{where}: {message}" if where else message
