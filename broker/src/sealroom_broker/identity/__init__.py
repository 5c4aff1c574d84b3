# SPDX-License-Identifier: BSD-3-Clause
"""Who is at the server: a person's login, checked with whoever issued it.

- `jupyterhub`: a token of the hub that started the server, checked by asking the hub.
- `oidc`: an ID token of any OpenID Connect provider, bound to the attested key by its nonce.
- `visas`: the GA4GH passport that may come with it.

Invariants:

- A login is of a person, for this broker, and for this server; otherwise it is refused (403).
- What cannot be checked is "could not check" (503) and never a person.
- No token is stored: a login holds for a time, and the server presents it again before that ends.
"""

from __future__ import annotations

import contextlib

from sealroom.kbs.calls import IdentityRequest

from sealroom_broker.config import Identity
from sealroom_broker.identity.base import IdentityProvider, Login, Presented
from sealroom_broker.identity.jupyterhub import JupyterHubIdentity
from sealroom_broker.identity.oidc import OidcIdentity
from sealroom_broker.problem import refused

__all__ = [
    "IdentityProvider",
    "JupyterHubIdentity",
    "Login",
    "OidcIdentity",
    "Presented",
    "Providers",
    "open_identity",
]


class Providers:
    """All that the configuration names, each asked for its own logins.

    Args:
        hub: The hub, if people of one may come.
        oidc: The OpenID Connect providers, if there are any.
    """

    def __init__(self, hub: JupyterHubIdentity | None, oidc: OidcIdentity | None) -> None:
        self._hub = hub
        self._oidc = oidc

    @property
    def issuers(self) -> tuple[str, ...]:
        """Who names people here."""
        return tuple(name for one in (self._hub, self._oidc) if one is not None for name in one.issuers)

    @property
    def visa_issuers(self) -> tuple[str, ...]:
        """Whose visas count."""
        return self._oidc.visa_issuers if self._oidc is not None else ()

    def check(self, request: IdentityRequest, presented: Presented) -> Login:
        """Return who this is, and until when that holds.

        Raises:
            Problem: The login is refused (403), or could not be checked (503).
        """
        provider = self._hub if request.provider == "jupyterhub" else self._oidc
        if provider is None:
            raise refused(
                "person.provider", f"This broker does not accept logins of the kind {request.provider}."
            )
        return provider.check(request, presented)

    def close(self) -> None:
        """Close all connections."""
        with contextlib.ExitStack() as stack:
            for one in (self._hub, self._oidc):
                if one is not None:
                    stack.callback(one.close)


def open_identity(settings: Identity) -> Providers:
    """Make what checks people's logins; nothing is asked yet.

    Raises:
        ConfigurationError: A file of certificate authorities cannot be read.
    """
    hub = JupyterHubIdentity(settings) if settings.provider == "jupyterhub" else None
    oidc = OidcIdentity(settings.issuers, settings.visa_issuers) if settings.issuers else None
    return Providers(hub, oidc)
