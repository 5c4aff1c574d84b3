# SPDX-License-Identifier: BSD-3-Clause
"""The operator's commands: `migrate`, `rotate-keys`, `backup`, `restore`, `openapi`."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealroom.errors import ConfigurationError

from sealroom_broker.app import routes
from sealroom_broker.backup import backup, restore
from sealroom_broker.broker import open_keyring
from sealroom_broker.config import Config, load_config
from sealroom_broker.migrate import head, migrate
from sealroom_broker.openapi import document
from sealroom_broker.rotate import move_kek, prepare_kek, prepare_move, rotate_kek
from sealroom_broker.store import Store
from sealroom_broker.wrap import Chain, FileKek
from sealroom_broker.wrap.options import add_vault_admin
from sealroom_broker.wrap.settings import load_kek


def add_commands(commands: Any) -> None:
    """Add the commands to the program's parser.

    Args:
        commands: What `argparse.ArgumentParser.add_subparsers` returned.
    """
    _migrate_parser(commands.add_parser("migrate", help="bring the database to this version's schema"))
    _rotate_parser(commands.add_parser("rotate-keys", help="make new keys, also while the broker runs"))
    _backup_parser(commands.add_parser("backup", help="back the broker up, also while it runs"))
    _restore_parser(commands.add_parser("restore", help="make a broker of a backup"))
    printed = commands.add_parser("openapi", help="print the OpenAPI document of the broker's calls")
    printed.set_defaults(run=_openapi)


def open_store(config: Config) -> Store:
    """Open a broker's database for a command; a SQLite file gets the newest schema first.

    Raises:
        StorageError: It cannot be used.
    """
    store = Store.of(config)
    try:
        if not store.database.shared:
            migrate(store)
    except BaseException:
        store.close()
        raise
    return store


def _migrate_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.set_defaults(run=_migrate)


def _rotate_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--only",
        choices=("signing", "kek"),
        help="the key that signs attestation results, or the wrapping key",
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="only put the new wrapping key into its file, or the new keeper into broker.toml, before the "
        "old one: to be done on every machine of this broker first",
    )
    parser.add_argument(
        "--to",
        type=Path,
        metavar="FILE",
        help="move to the keeper of the wrapping key that this file's [kek] names; broker.toml is changed",
    )
    parser.add_argument(
        "--destroy-old",
        action="store_true",
        help="destroy the older versions of the key on a token or in Vault: older backups do not open then",
    )
    add_vault_admin(parser)
    parser.set_defaults(run=_rotate)


def _backup_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="where to with the keys; else left out")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to; made by this")
    parser.set_defaults(run=_backup)


def _restore_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="the keys of the backup")
    parser.add_argument("--home", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--newer-log", type=Path, metavar="DIR", help="the audit folder of the lost broker, if it survived"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the backup")
    parser.set_defaults(run=_restore)


def _migrate(options: argparse.Namespace) -> int:
    store = Store.of(load_config(options.config))
    try:
        migrate(store)
    finally:
        store.close()
    _say(f"The database has the schema {head()}.")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    _check_rotation(options)
    config = load_config(options.config)
    store = open_store(config)
    try:
        if options.prepare:
            _prepare(options, config, store)
            return 0
        if options.only != "signing":
            _rotate_kek(options, config, store)
        if options.only != "kek":
            config = load_config(options.config)
            wrap = Chain(config.kek)
            try:
                key = open_keyring(config, store, wrap).rotate(datetime.now(UTC))
            finally:
                wrap.close()
            _say(f"{key.kid} signs attestation results from now on.")
    finally:
        store.close()
    return 0


def _check_rotation(options: argparse.Namespace) -> None:
    if options.only == "signing" and (options.prepare or options.to or options.destroy_old):
        raise ConfigurationError("--only signing leaves the wrapping key as it is.")
    if options.destroy_old and (options.to or options.prepare):
        raise ConfigurationError(
            "--destroy-old goes with a rotation alone.", advice="Rotate first, and destroy when it is done."
        )


def _prepare(options: argparse.Namespace, config: Config, store: Store) -> None:
    admin: Path | None = options.vault_admin_token_file
    if options.to:
        if prepare_move(options.config, load_kek(options.to, alone=True), vault_token=admin):
            _say(f"{options.config} names the new keeper before the old one. Do this on every machine first.")
        else:
            _say(f"{options.config} names it first already: go on without --prepare.")
    elif prepare_kek(config.kek, store, vault_token=admin):
        first = config.kek.first
        if isinstance(first, FileKek):
            _say(f"{first.path} has a new key before the old one. Copy it to every machine, then rotate.")
        else:
            _say(f"There is a new version of {first.where}. All machines have it; go on without --prepare.")
    else:
        _say("A rotation was begun already: rotate to finish.")


def _rotate_kek(options: argparse.Namespace, config: Config, store: Store) -> None:
    admin: Path | None = options.vault_admin_token_file
    if options.to:
        target = load_kek(options.to, alone=True)
        count = move_kek(options.config, target, store, vault_token=admin)
        _say(f"{count} stored secrets were moved: {target.first.where} wraps them, {options.config} says so.")
        for path in config.kek.files:
            if path not in target.files:
                _say(f"{path} is not used any more. Destroy it when no backup needs it.")
        return
    first = config.kek.first
    count = rotate_kek(config.kek, store, destroy=options.destroy_old, vault_token=admin)
    if isinstance(first, FileKek):
        _say(f"{first.path} has a new key; {count} stored secrets are wrapped with it.")
    else:
        _say(f"There is a new version of {first.where}; {count} stored secrets are wrapped with it.")
        _say(
            "The older versions are destroyed: older backups do not open any more."
            if options.destroy_old
            else "The older versions stay for older backups; --destroy-old destroys them."
        )


def _backup(options: argparse.Namespace) -> int:
    made = backup(options.config, options.folder, options.keys, datetime.now(UTC))
    _say(f"{made.folder} has the configuration and the log with {made.entries} entries.")
    if made.database:
        _say("The database is in it.")
    else:
        _say("The database is not in it: dump it with `pg_dump --format=custom`.")
    _say(
        f"{made.keys} has the keys: keep it elsewhere."
        if made.keys
        else "The keys are not in it: use --keys."
    )
    for one in made.elsewhere:
        _say(f"Not in it, and needed to open it: {one}. Whoever keeps that key backs it up.")
    return 0


def _restore(options: argparse.Namespace) -> int:
    made = restore(options.folder, options.keys, options.home, datetime.now(UTC), newer_log=options.newer_log)
    _say(f"{made.config} can be served. Its log has {made.entries} entries; {made.secrets} secrets open.")
    if made.newer:
        _say(
            f"{made.newer} entries are newer than the backup: {made.withdrawn} withdrawals were done again, "
            "new grants and registrations must be made again."
        )
    else:
        _say("What was granted or withdrawn after the backup is not in it: ask the data owners.")
    return 0


def _openapi(_options: argparse.Namespace) -> int:
    _say(json.dumps(document(routes()), ensure_ascii=False, indent=2))
    return 0


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
