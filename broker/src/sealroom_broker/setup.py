# SPDX-License-Identifier: BSD-3-Clause
"""Make a broker's state: keys, configuration, database and log. What is there already is left as it is."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sealroom.errors import ConfigurationError

from sealroom_broker.audit import KEY_FILE, Record, create_log_key, log_signer
from sealroom_broker.config import Config, Mode, load_config
from sealroom_broker.files import create_private
from sealroom_broker.migrate import migrate
from sealroom_broker.store import Store
from sealroom_broker.wrap import FileKek, Kek, create_kek
from sealroom_broker.wrap.settings import Provider

CONFIG_FILE = "broker.toml"
PUBLIC_KEY_FILE = "audit.pub"
HUB_SECRET_FILE = "hub.secret"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a new configuration is to say."""

    mode: Mode
    name: str = "sealroom-broker"
    listen: str = "127.0.0.1:8200"
    development_root: Path | None = None
    environments: Sequence[Path] = field(default_factory=tuple)
    publishers: Sequence[Path] = field(default_factory=tuple)
    hub_api_url: str = ""
    hub_service: str = "sealroom-broker"
    hub_url: str = ""
    """Where people find the hub, if owners and auditors log in there."""
    public_url: str = ""
    """Where people find the broker's pages, if owners and auditors log in at the hub."""
    postgresql: str = ""
    """Address of a database that several processes share, in place of a SQLite file."""
    kek: Provider = field(default_factory=FileKek)
    """Who keeps the key-encryption key; paths as seen from here, but a file's as seen from the new folder."""
    vault_token: Path | None = None
    """File with a token of Vault that may make the key, in place of the broker's own."""


def initialise(home: Path, plan: Plan) -> Path:
    """Make the state in a folder and return its configuration file.

    The key-encryption key is made where there is none; one that is there must be as it has to be.

    Raises:
        ConfigurationError: What is there, or what is planned, cannot be.
        StorageError: The folder cannot be written.
    """
    if plan.mode == "production" and plan.development_root is not None:
        raise ConfigurationError("A production broker must not have a development root.")
    if plan.hub_url and not (plan.hub_api_url and plan.public_url):
        raise ConfigurationError("A login at the hub needs the hub's API and the pages' own address too.")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if plan.hub_url and not (home / HUB_SECRET_FILE).exists():
        create_private(home / HUB_SECRET_FILE, secrets.token_hex(32).encode())
    path = home / CONFIG_FILE
    if not path.exists():
        create_private(path, render(plan, home.resolve()).encode())
    config = load_config(path)
    create_kek(config.kek.first, vault_token=plan.vault_token)
    create_log_key(config.keys / KEY_FILE)
    signer = log_signer(config.name, config.keys / KEY_FILE)
    public = config.keys / PUBLIC_KEY_FILE
    if not public.exists():
        create_private(public, f"{signer.verifier}\n".encode())
    _make_state(config)
    return path


def _make_state(config: Config) -> None:
    store = Store.of(config)
    try:
        migrate(store)
        store.bind_mode(config.mode)
        # A broker that runs holds the folder's lock; then the state is there already.
        if store.database.shared or not (config.audit / "checkpoint").exists():
            Record.of(config, store, log_signer(config.name, config.keys / KEY_FILE)).close()
    finally:
        store.close()
    if not store.database.shared:
        config.database.chmod(0o600)


def render(plan: Plan, home: Path) -> str:
    """Return the text of a configuration file."""

    def relative(path: Path) -> str:
        return json.dumps(os.path.relpath(path.resolve(), home))

    lines = [
        "# Configuration of the key broker. Paths are relative to this file.",
        "# mode: production accepts AMD's processors only; development also simulated ones.",
        f"mode = {json.dumps(plan.mode)}",
        f"name = {json.dumps(plan.name)}",
        f"listen = {json.dumps(plan.listen)}",
        *([] if plan.postgresql else ['database = "broker.sqlite"', 'audit = "audit"']),
        *(['kek = "kek.key"'] if isinstance(plan.kek, FileKek) else []),
        *(['log = "json"'] if plan.mode == "production" else []),
    ]
    if plan.development_root is not None:
        lines.append(f"development_root = {relative(plan.development_root)}")
    lines += [
        "",
        "[environments]",
        f"directories = [{', '.join(map(relative, plan.environments))}]",
        f"publishers = [{', '.join(map(relative, plan.publishers))}]",
    ]
    if plan.postgresql:
        lines += ["", "[postgresql]", f"url = {json.dumps(plan.postgresql)}"]
    if plan.hub_api_url:
        lines += [
            "",
            "[identity]",
            'provider = "jupyterhub"',
            f"api_url = {json.dumps(plan.hub_api_url)}",
            f"service = {json.dumps(plan.hub_service)}",
        ]
    if plan.hub_url:
        lines += [
            "",
            "[login]",
            'provider = "jupyterhub"',
            f"hub_url = {json.dumps(plan.hub_url)}",
            f"api_url = {json.dumps(plan.hub_api_url)}",
            f"client_id = {json.dumps(f'service-{plan.hub_service}')}",
            f"client_secret = {json.dumps(HUB_SECRET_FILE)}",
            f"public_url = {json.dumps(plan.public_url)}",
        ]
    if not isinstance(plan.kek, FileKek):
        lines += ["", Kek(first=plan.kek).at(Path.cwd()).text(home).rstrip("\n")]
    return "\n".join(lines) + "\n"
