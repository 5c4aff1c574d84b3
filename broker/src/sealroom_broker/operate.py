# SPDX-License-Identifier: BSD-3-Clause
"""The operator's commands: `migrate`, `rotate-keys`, `backup`, `restore`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sealroom_broker.backup import backup, restore
from sealroom_broker.broker import open_keyring
from sealroom_broker.config import Config, load_config
from sealroom_broker.migrate import head, migrate
from sealroom_broker.rotate import prepare_kek, rotate_kek
from sealroom_broker.store import Store
from sealroom_broker.wrap import FileKeyWrap


def add_commands(commands: Any) -> None:
    """Add the commands to the program's parser.

    Args:
        commands: What `argparse.ArgumentParser.add_subparsers` returned.
    """
    _migrate_parser(commands.add_parser("migrate", help="bring the database to this version's schema"))
    _rotate_parser(commands.add_parser("rotate-keys", help="make new keys, also while the broker runs"))
    _backup_parser(commands.add_parser("backup", help="back the broker up, also while it runs"))
    _restore_parser(commands.add_parser("restore", help="make a broker of a backup"))


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
        help="only put the new wrapping key into its file, to be copied to the other machines of this broker",
    )
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
    config = load_config(options.config)
    if options.prepare:
        if prepare_kek(config.kek):
            _say(f"{config.kek} has a new key before the old one. Copy it to every machine, then rotate.")
        else:
            _say(f"{config.kek} has two keys already: rotate to finish.")
        return 0
    store = open_store(config)
    try:
        if options.only != "signing":
            count = rotate_kek(config.kek, store)
            _say(f"{config.kek} has a new key; {count} stored secrets are wrapped with it.")
        if options.only != "kek":
            key = open_keyring(config, store, FileKeyWrap.load(config.kek)).rotate(datetime.now(UTC))
            _say(f"{key.kid} signs attestation results from now on.")
    finally:
        store.close()
    return 0


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


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
