# SPDX-License-Identifier: BSD-3-Clause
"""What a workshop's file (`workshop.toml`) says."""

from __future__ import annotations

import logging
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from sealroom.errors import ConfigurationError

log = logging.getLogger(__name__)

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}[a-z0-9]$")]


class Lti(BaseModel):
    """The learning platform that people come from (LTI 1.3)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str
    """The platform's issuer identifier."""
    client_id: str = Field(min_length=1)
    """The hub as the platform knows it."""
    authorize_url: str
    """The platform's authorization endpoint."""
    jwks_endpoint: str
    """Where the platform's keys are."""
    username_key: str = "sub"
    """Claim that names a person; `sub` is the only one that is never given to somebody else."""

    @field_validator("issuer", "authorize_url", "jwks_endpoint")
    @classmethod
    def _safe(cls, value: str) -> str:
        parts = urlsplit(value)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ValueError("must be an https address")
        return value


class Workshop(BaseModel):
    """One workshop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    """The hub's group of everybody in it; data owners grant to this group."""
    title: str = Field(min_length=1, max_length=200)
    seats: int = Field(ge=1, le=2000)
    """People who may take part; instructors need no seat."""
    environment: Name
    """The one environment that its servers run."""
    until: AwareDatetime
    """When it ends, with its time zone."""
    signup: Literal["link", "lti"] = "link"
    """`link`: whoever has the link takes a seat. `lti`: people come from a learning platform."""
    instructors: tuple[str, ...] = ()
    """Accounts that see every server of the workshop on the board, and are not bound by its end."""
    idle_minutes: int = Field(default=60, ge=5, le=1440)
    """A server that nobody used for so long is stopped; its files stay."""
    lti: Lti | None = None

    @model_validator(mode="after")
    def _platform(self) -> Workshop:
        if (self.signup == "lti") != (self.lti is not None):
            raise ValueError('signup = "lti" and the table [lti] belong together')
        return self

    def ended(self, now: datetime) -> bool:
        """Tell whether it is over."""
        return now >= self.until

    @property
    def ends(self) -> str:
        """When it ends, for people."""
        return self.until.strftime("%Y-%m-%d %H:%M %Z").strip()


class WorkshopFile:
    """A workshop's file that is read again when it changes: an end can be put off while the hub runs.

    What was read last holds where the file has become unreadable.

    Args:
        path: The file.

    Raises:
        ConfigurationError: It cannot be read now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._known = load(path)

    def __call__(self) -> Workshop:
        """Return what the file says."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._known = load(self._path)
            except ConfigurationError as error:
                log.error("The workshop goes on as it was: %s", error)
        return self._known

    def _look(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0)
        return found.st_mtime_ns, found.st_size


def load(path: Path) -> Workshop:
    """Read a workshop's file.

    Raises:
        ConfigurationError: It is not there, is not TOML, or says something impossible.
    """
    try:
        return Workshop.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigurationError(f"{path}: {f'{where}: ' if where else ''}{message}.") from error
