# SPDX-License-Identifier: BSD-3-Clause
"""How owners and auditors log in to the broker's pages: the section `[login]`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from sealroom_broker.config_base import (
    SIGNATURE_ALGORITHMS,
    Claim,
    Section,
    SignatureAlgorithm,
    check_url,
)


class OidcLogin(Section):
    """How owners and auditors log in to the broker's pages at an OpenID Connect provider."""

    provider: Literal["oidc"] = "oidc"

    issuer: str
    """The OpenID Connect provider's issuer identifier."""
    client_id: str = Field(min_length=1)
    """The pages as the provider knows them."""
    client_secret: Path | None = None
    """File (0600) with the client's secret; without it the client is a public one."""
    public_url: str
    """Where people reach this broker, with the path under which a proxy hands it on. The provider knows
    `<public_url>/callback` as the redirect."""
    scope: str = "openid profile"
    username: Claim = "preferred_username"
    roles: Claim = "groups"
    """Claim with what `owners` and `auditors` name."""
    owners: tuple[str, ...] = ()
    """Values that make somebody an owner: may register, grant and withdraw."""
    auditors: tuple[str, ...] = ()
    """Values that make somebody an auditor: may read everything and change nothing."""
    algorithms: tuple[SignatureAlgorithm, ...] = Field(default=SIGNATURE_ALGORITHMS, min_length=1)
    leeway: int = Field(default=30, ge=0, le=300)
    """Seconds that the provider's clock may differ from the broker's."""
    hours: float = Field(default=8.0, gt=0, le=72)
    """From a login to its end."""
    ca: Path | None = None
    """Certificate authorities (PEM) of the provider, in place of the system's."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds to wait for the provider."""

    @field_validator("issuer", "public_url")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value)

    @model_validator(mode="after")
    def _somebody_gets_in(self) -> OidcLogin:
        if not self.owners and not self.auditors:
            raise ValueError("name at least one of owners and auditors")
        if "openid" not in self.scope.split():
            raise ValueError("the scope must have openid in it")
        return self


class HubLogin(Section):
    """How owners and auditors log in at the JupyterHub that runs a development broker.

    Whoever administers the hub decides who is an owner; a production broker refuses this section.
    """

    provider: Literal["jupyterhub"]
    hub_url: str
    """Where people find the hub."""
    api_url: str
    """Where the broker finds the hub's API."""
    client_id: str = Field(default="service-sealroom-broker", min_length=1)
    """The broker as the hub's OAuth provider knows it."""
    client_secret: Path
    """File (0600) with the client's secret: the broker's `api_token` as a service of the hub."""
    public_url: str
    """Where people reach this broker. The hub knows `<public_url>/callback` as the redirect. Its host must be
    another than the hub's: browsers send cookies to every port of a host."""
    issuer: str = ""
    """The hub's name in the log; its API's address as the file has it without this."""
    owners: tuple[str, ...] = ("custom:sealroom:owner",)
    """Scopes of the hub that make somebody an owner."""
    auditors: tuple[str, ...] = ("custom:sealroom:auditor",)
    """Scopes of the hub that make somebody an auditor."""
    hours: float = Field(default=8.0, gt=0, le=72)
    """From a login to its end."""
    timeout: float = Field(default=10.0, gt=0, le=60)
    """Seconds to wait for the hub."""

    @field_validator("hub_url", "api_url", "public_url")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value).rstrip("/")

    @model_validator(mode="after")
    def _apart_from_the_hub(self) -> HubLogin:
        if urlsplit(self.hub_url).hostname == urlsplit(self.public_url).hostname:
            raise ValueError("public_url must have another host than hub_url: they would share their cookies")
        return self


def _provider(value: Any) -> str:
    found = (
        value.get("provider", "oidc") if isinstance(value, Mapping) else getattr(value, "provider", "oidc")
    )
    return found if isinstance(found, str) else ""


Login = Annotated[
    Annotated[OidcLogin, Tag("oidc")] | Annotated[HubLogin, Tag("jupyterhub")], Discriminator(_provider)
]
"""Where the pages' visitors log in; an OpenID Connect provider if the section does not say."""
