# SPDX-License-Identifier: BSD-3-Clause
"""Which key-encryption key a broker has: the `[kek]` table of its configuration.

`kek = "kek.key"` is the short form of a key in a file. PINs, tokens and secret ids are never here, nor in the
environment: each is a file of mode 0600 that is named here.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sealroom.errors import ConfigurationError

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_MOUNT = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
_HEADER = re.compile(r"\s*\[\[?\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*kek\s*[.=]")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileKek(_Section):
    """A key in a file."""

    provider: Literal["file"] = "file"
    path: Path = Path("kek.key")
    """The file (0600)."""

    @property
    def where(self) -> str:
        """Where the key is, in words."""
        return f"the file {self.path}"

    @property
    def credentials(self) -> tuple[Path, ...]:
        """Files with what lets the broker use the key; the key itself is not among them."""
        return ()


class Pkcs11Kek(_Section):
    """A key on a token that is reached by PKCS#11, and that never leaves it."""

    provider: Literal["pkcs11"]
    module: Path
    """The vendor's library, for example `/usr/lib/softhsm/libsofthsm2.so`."""
    token: str = Field(min_length=1, max_length=32)
    """The token's label."""
    key: str = Field(default="sealroom-kek", pattern=_NAME)
    """The key's label; versions of it end in `-v1`, `-v2` …, and the highest one wraps."""
    pin_file: Path
    """File (0600) with the user PIN."""
    imported: bool = False
    """Accept a key that was once outside of the token, from a key ceremony for example."""
    timeout: float = Field(default=5.0, gt=0, le=30)
    """Seconds to wait for the token."""

    @property
    def where(self) -> str:
        """Where the key is, in words."""
        return f"the key {self.key!r} of the PKCS#11 token {self.token!r}"

    @property
    def credentials(self) -> tuple[Path, ...]:
        """Files with what lets the broker use the key."""
        return (self.pin_file,)


class VaultKek(_Section):
    """A key of the transit engine of HashiCorp Vault or OpenBao, and that never leaves it."""

    provider: Literal["vault"]
    address: str
    """For example `https://vault.example:8200`."""
    mount: str = Field(default="transit", pattern=_MOUNT)
    """Where the transit engine is mounted."""
    key: str = Field(default="sealroom", pattern=_NAME)
    """The key's name."""
    namespace: str = ""
    token_file: Path | None = None
    """File (0600) with a token; read again when it changes."""
    role_id: str = ""
    """AppRole in place of a token: its role id,"""
    secret_id_file: Path | None = None
    """and a file (0600) with its secret id."""
    approle_mount: str = Field(default="approle", pattern=_MOUNT)
    """Where AppRole is mounted."""
    ca: Path | None = None
    """Certificate authorities (PEM) of Vault, in place of the system's."""
    imported: bool = False
    """Accept a key that was once outside of Vault."""
    timeout: float = Field(default=5.0, gt=0, le=30)
    """Seconds to wait for an answer."""

    @field_validator("address")
    @classmethod
    def _https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("must be an https address: dataset keys go over this connection")
        if parts.username is not None or parts.query or parts.fragment or parts.path.strip("/"):
            raise ValueError("must be an address without a user, a path, a query and a fragment")
        return value.rstrip("/")

    @field_validator("namespace")
    @classmethod
    def _header_value(cls, value: str) -> str:
        if value and re.fullmatch(_MOUNT, value) is None:
            raise ValueError("must be a path of names, for example research/genomes")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> VaultKek:
        approle = bool(self.role_id) and self.secret_id_file is not None
        if approle == (self.token_file is not None) or bool(self.role_id) != (
            self.secret_id_file is not None
        ):
            raise ValueError("name either token_file, or role_id and secret_id_file")
        return self

    @property
    def where(self) -> str:
        """Where the key is, in words."""
        return f"the key {self.mount}/{self.key} of Vault at {self.address}"

    @property
    def credentials(self) -> tuple[Path, ...]:
        """Files with what lets the broker use the key."""
        return tuple(path for path in (self.token_file, self.secret_id_file) if path is not None)


Provider: TypeAlias = FileKek | Pkcs11Kek | VaultKek
_Tagged = Annotated[Provider, Field(discriminator="provider")]


class Kek(_Section):
    """The key that wraps, and those that only unwrap: `[kek]` and `[[kek.former]]`."""

    first: _Tagged = FileKek()
    former: tuple[_Tagged, ...] = Field(default=(), max_length=4)
    """Other providers that still open what they wrapped, while everything moves to the first one."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, str | Path):
            return {"first": FileKek(path=Path(value))}
        if isinstance(value, Mapping) and "first" not in value:
            first = {"provider": "file", **{key: one for key, one in value.items() if key != "former"}}
            return {"first": first, "former": value.get("former", ())}
        return value

    @model_validator(mode="after")
    def _once_each(self) -> Kek:
        if len(set(self.all)) != len(self.all):
            raise ValueError("each provider may be named once")
        return self

    @property
    def all(self) -> tuple[Provider, ...]:
        """All providers, the one that wraps first."""
        return (self.first, *self.former)

    @property
    def files(self) -> tuple[Path, ...]:
        """The key files among them, in their order."""
        return tuple(one.path for one in self.all if isinstance(one, FileKek))

    def at(self, base: Path) -> Kek:
        """Return the same with paths that are relative to a folder made absolute."""
        first, *former = (_located(one, lambda path: base / path.expanduser()) for one in self.all)
        return Kek(first=first, former=tuple(former))

    def text(self, base: Path) -> str:
        """Return its tables as TOML, with paths inside of a folder relative to it."""

        def seen_from(path: Path) -> Path:
            return path.relative_to(base) if path.is_relative_to(base) else path

        headers = ("[kek]", *("[[kek.former]]" for _ in self.former))
        tables = (
            "\n".join([header, *_fields(_located(one, seen_from))])
            for header, one in zip(headers, self.all, strict=True)
        )
        return "\n\n".join(tables) + "\n"


def load_kek(path: Path, *, alone: bool = False) -> Kek:
    """Read the key-encryption key's part of a configuration file.

    Args:
        path: The file.
        alone: Refuse a file with anything else in it.

    Raises:
        ConfigurationError: It cannot be read, or says something impossible.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.") from error
    if alone and set(data) != {"kek"}:
        raise ConfigurationError(
            f"{path} must have a [kek] table and nothing else.",
            advice="The rest of broker.toml stays as it is.",
        )
    return parse_kek(data, path)


def parse_kek(data: Mapping[str, Any], path: Path) -> Kek:
    """Return what a configuration file's content says of the key-encryption key.

    Raises:
        ConfigurationError: It says something impossible.
    """
    try:
        return Kek.model_validate(data.get("kek", {})).at(path.resolve().parent)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in ("kek", *problem["loc"]) if part != "first")
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        raise ConfigurationError(f"{path}: {where}: {message}.") from error


def replace_kek(text: str, kek: Kek, path: Path) -> str:
    """Return a configuration file's text with other `[kek]` tables, and everything else as it was.

    Args:
        text: The old text.
        kek: What it is to say, with absolute paths.
        path: The file.

    Raises:
        ConfigurationError: The text is such that this cannot be done without a person.
    """
    base = path.resolve().parent
    new = "".join(_without_kek(text)).rstrip("\n") + "\n\n" + kek.text(base)
    try:
        before, after = tomllib.loads(text), tomllib.loads(new)
        same = parse_kek(after, path) == kek
    except (tomllib.TOMLDecodeError, ConfigurationError):
        same, before, after = False, {}, {}
    before.pop("kek", None)
    after.pop("kek", None)
    if not same or before != after:
        raise ConfigurationError(
            f"{path} is written in a way that this program does not change.",
            advice=f"Put these lines in place of its `kek` by hand: {kek.text(base)!r}",
        )
    return new


def _without_kek(text: str) -> Iterator[str]:
    table, held = "", list[str]()
    for line in text.splitlines(keepends=True):
        found = _HEADER.fullmatch(line.rstrip("\n"))
        if found:
            table = found["name"].replace(" ", "")
        inside = table == "kek" or table.startswith("kek.")
        if inside and not found and (not line.strip() or line.lstrip().startswith("#")):
            # It may belong to the table that comes next.
            held.append(line)
            continue
        if inside or (not table and _KEY.match(line)):
            held.clear()
            continue
        yield from held
        held.clear()
        yield line


def _located(one: Provider, move: Any) -> Provider:
    fields = [name for name, value in one if isinstance(value, Path)]
    return one.model_copy(update={name: move(getattr(one, name)) for name in fields})


def _fields(one: Provider) -> list[str]:
    fields = {"provider": one.provider, **one.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(one, FileKek):
        fields["path"] = one.path
    return [f"{name} = {_toml(value)}" for name, value in fields.items()]


def _toml(value: object) -> str:
    # What JSON and TOML have in common: strings, numbers and truth values.
    return json.dumps(os.fspath(value) if isinstance(value, Path) else value)
