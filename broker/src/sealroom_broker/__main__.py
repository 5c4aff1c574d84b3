# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom-broker`: make a broker's state, run it, keep it, and make tokens for data owners."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from sealroom.errors import ConfigurationError, Error

from sealroom_broker import __version__
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.files import create_private
from sealroom_broker.operate import add_commands, open_store
from sealroom_broker.owners import SCOPES, Actor, add_token, list_tokens, remove_token
from sealroom_broker.serve import serve
from sealroom_broker.setup import Plan, initialise
from sealroom_broker.store import Store
from sealroom_broker.wrap.options import add_kek_options, kek_of

_SPAN = re.compile(r"\+([1-9][0-9]{0,4})(h|d|w)")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status: 0 done, 1 not possible, 64 wrong usage."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as error:
        return 64 if error.code else 0
    try:
        return int(options.run(options) or 0)
    except Error as error:
        sys.stderr.write(f"sealroom-broker: {error.diagnostics()}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sealroom-broker", description="Key broker of Sealroom.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _init_parser(commands.add_parser("init", help="make keys, configuration, database and log in a folder"))
    _serve_parser(commands.add_parser("serve", help="run the broker"))
    _token_parser(commands.add_parser("token", help="tokens for data owners"))
    add_commands(commands)
    return parser


def _init_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", type=Path, required=True, help="the broker's folder")
    parser.add_argument(
        "--mode", choices=("production", "development"), help="default: production, unless a root is given"
    )
    parser.add_argument("--name", default="sealroom-broker", help="name of the broker and of its log")
    parser.add_argument("--listen", default="127.0.0.1:8200", metavar="ADDRESS:PORT")
    parser.add_argument("--development-root", type=Path, metavar="PEM", help="root of simulated processors")
    parser.add_argument("--environments", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--publisher", type=Path, action="append", default=[], metavar="PEM")
    parser.add_argument(
        "--hub-api-url", default="", metavar="URL", help="API of the hub that knows the people"
    )
    parser.add_argument(
        "--hub-service", default="sealroom-broker", metavar="NAME", help="the broker's name at the hub"
    )
    parser.add_argument(
        "--hub-url",
        default="",
        metavar="URL",
        help="owners and auditors log in to the pages at this hub (development only)",
    )
    parser.add_argument("--public-url", default="", metavar="URL", help="where people find the pages")
    parser.add_argument(
        "--postgresql", default="", metavar="URL", help="a database that several processes share, not a file"
    )
    add_kek_options(parser)
    parser.set_defaults(run=_init)


def _serve_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="in place of the configured address")
    parser.add_argument(
        "--die-with-parent", action="store_true", help="end when the process that started it ends"
    )
    parser.set_defaults(run=_serve)


def _token_parser(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("add", _token_add, "make a token and write it to a file of mode 0600"),
        ("list", _token_list, "list the tokens' names"),
        ("remove", _token_remove, "forget a token"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", type=Path, required=True, metavar="FILE")
        if name != "list":
            command.add_argument("--name", required=True, help="whose token it is; stands in the audit log")
        if name == "add":
            command.add_argument("--out", type=Path, required=True, metavar="FILE")
            command.add_argument(
                "--scope", choices=SCOPES, default="owner", help="what it may do (default: owner)"
            )
            command.add_argument(
                "--dataset",
                dest="datasets",
                action="append",
                metavar="ID",
                help="a dataset that it is for; may be repeated (default: all)",
            )
            command.add_argument(
                "--expires", type=_moment, metavar="WHEN", help="its end: 2027-03-31, or +30d, +12h, +2w"
            )
        command.set_defaults(run=run)


def _init(options: argparse.Namespace) -> int:
    development = options.mode == "development" or (
        options.mode is None and options.development_root is not None
    )
    plan = Plan(
        mode="development" if development else "production",
        name=options.name,
        listen=options.listen,
        development_root=options.development_root,
        environments=options.environments,
        publishers=options.publisher,
        hub_api_url=options.hub_api_url,
        hub_service=options.hub_service,
        hub_url=options.hub_url,
        public_url=options.public_url,
        postgresql=options.postgresql,
        kek=kek_of(options),
        vault_token=options.vault_admin_token_file,
    )
    sys.stdout.write(f"{initialise(options.home, plan)}\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    return serve(
        options.config, listen=options.listen, die_with_parent=options.die_with_parent, environ=os.environ
    )


def _token_add(options: argparse.Namespace) -> int:
    if options.out.exists():
        raise ConfigurationError(f"{options.out} is there already.", advice="Name another file.")
    store = _store(options.config)
    try:
        token = add_token(
            store,
            options.name,
            utc_now(),
            scope=options.scope,
            datasets=options.datasets,
            expires=options.expires,
        )
        create_private(options.out, (token + "\n").encode())
    finally:
        store.close()
    return 0


def _token_list(options: argparse.Namespace) -> int:
    store = _store(options.config)
    try:
        for one in list_tokens(store):
            words = Actor(one.name, one.scope, one.datasets).words
            end = f"until {one.expires:%Y-%m-%d %H:%M}" if one.expires else "without end"
            sys.stdout.write(f"{one.created:%Y-%m-%d %H:%M}  {one.name}  {words}, {end}\n")
    finally:
        store.close()
    return 0


def _token_remove(options: argparse.Namespace) -> int:
    store = _store(options.config)
    try:
        remove_token(store, options.name)
    finally:
        store.close()
    return 0


def _moment(text: str) -> datetime:
    """Read a date (its end), a date and time, or a span from now; without a zone it is UTC."""
    span = _SPAN.fullmatch(text)
    try:
        if span:
            return utc_now() + timedelta(hours=int(span[1]) * _HOURS[span[2]])
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a date like 2027-03-31 nor a span like +30d, +12h or +2w"
        ) from None
    if len(text) <= len("2027-03-31"):
        moment = datetime.combine(moment.date(), time(23, 59, 59))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _store(config: Path) -> Store:
    return open_store(load_config(config))


if __name__ == "__main__":
    sys.exit(main())
