# SPDX-License-Identifier: BSD-3-Clause
"""People of a JupyterHub: a token of their server, checked with the hub that issued it.

The hub's `/user` answers for the token itself (jupyterhub 5.5 and 6.1, apihandlers/users.py,
`SelfAPIHandler`): `kind`, `name`, `groups` and the token's expanded `scopes`.

Invariants:

- Only a token of a *user* is a person; services and whatever else the hub knows are not.
- The token must carry the scope to access this broker, and the server that it claims to come from.
- A hub that cannot be asked, or answers something else, is "could not check" (503).
- An answer holds for one attestation period; then the server presents its token again, and the hub is asked
  again. A token that was revoked, or a person who was removed, opens nothing after that.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

import httpx
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from sealroom.kbs.calls import IdentityRequest, Person

from sealroom_broker.config import Identity
from sealroom_broker.identity.base import Login, Presented, could_not_check, printable_token
from sealroom_broker.problem import refused

_MAX_ANSWER = 1 << 20
_MAX_TOKEN = 8192


class _HubAnswer(BaseModel):
    # The hub's model grows with its versions: unknown fields are ignored.
    model_config = ConfigDict(extra="ignore", strict=True)

    kind: Literal["user", "service"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    groups: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


class JupyterHubIdentity:
    """People of a JupyterHub.

    Args:
        settings: Where the hub is, and what it calls this broker.
        transport: Another way to the hub, for tests.
    """

    def __init__(self, settings: Identity, *, transport: httpx.BaseTransport | None = None) -> None:
        self._settings = settings
        # The environment's proxies are not for the hub, and a token must not follow a redirect.
        self._http = httpx.Client(
            timeout=settings.timeout, transport=transport, trust_env=False, follow_redirects=False
        )

    @property
    def issuers(self) -> tuple[str, ...]:
        """The hub."""
        return (self._settings.issuer or self._settings.api_url,)

    @property
    def visa_issuers(self) -> tuple[str, ...]:
        """Nobody: a hub has no passports."""
        return ()

    def check(self, request: IdentityRequest, presented: Presented) -> Login:
        """Return who this is.

        Raises:
            Problem: The token is refused (403), or could not be checked (503).
        """
        if not printable_token(request.token, _MAX_TOKEN):
            raise refused("person.token", "The login that your server presented is not a token of the hub.")
        answer = self._ask(request.token)
        if answer.kind != "user":
            raise refused(
                "person.kind", "The login that your server presented is not a person's but a service's."
            )
        if not _covers(answer.scopes, "access:services", f"service={self._settings.service}"):
            raise refused(
                "person.scope",
                "The login that your server presented may not be used at this broker "
                f"(it lacks the scope access:services!service={self._settings.service}).",
            )
        owner, server = f"user={answer.name}", f"server={answer.name}/{request.server}"
        if not _covers(answer.scopes, "access:servers", owner, server):
            raise refused("person.server", "The login that your server presented belongs to another server.")
        return Login(
            Person(subject=answer.name, name=answer.name, groups=answer.groups, issuer=self.issuers[0])
        )

    def close(self) -> None:
        """Close the connections to the hub."""
        self._http.close()

    def _ask(self, token: str) -> _HubAnswer:
        try:
            response = self._http.get(
                f"{self._settings.api_url}/user", headers={"Authorization": f"token {token}"}
            )
        except httpx.HTTPError as error:
            raise could_not_check("the hub cannot be reached") from error
        if response.status_code in (401, 403):
            raise refused(
                "person.token", "The hub does not know the login that your server presented: log in again."
            )
        if response.status_code != httpx.codes.OK or len(response.content) > _MAX_ANSWER:
            raise could_not_check(f"the hub answered with status {response.status_code}")
        try:
            return _HubAnswer.model_validate_json(response.content)
        except ValidationError as error:
            raise could_not_check("the hub's answer is not understood") from error


def _covers(scopes: Collection[str], base: str, *filters: str) -> bool:
    """Tell whether a token has a scope, whole or narrowed to one of the filters.

    Other filters (`!group=`) are left out: the hub expands those that matter for the token's own user.
    """
    return base in scopes or any(f"{base}!{one}" in scopes for one in filters)
