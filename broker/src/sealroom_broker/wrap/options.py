# SPDX-License-Identifier: BSD-3-Clause
"""The options of `sealroom-broker init` that say who keeps the key-encryption key."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sealroom.errors import ConfigurationError

from sealroom_broker.wrap.settings import FileKek, Kek, Provider

_OPTIONS: Mapping[str, tuple[tuple[str, str, bool, str], ...]] = {
    "pkcs11": (
        ("module", "PATH", True, "the vendor's PKCS#11 library"),
        ("token", "LABEL", False, "the token's label"),
        ("key", "LABEL", False, "the key's label (default: sealroom-kek); it is made if it is not there"),
        ("pin_file", "FILE", True, "file of mode 0600 with the user PIN"),
    ),
    "vault": (
        ("address", "URL", False, "Vault's address"),
        ("mount", "PATH", False, "where its transit engine is (default: transit)"),
        ("key", "NAME", False, "the key's name (default: sealroom); it is made if it is not there"),
        ("namespace", "PATH", False, "the namespace"),
        ("token_file", "FILE", True, "file of mode 0600 with a token"),
        ("role_id", "ID", False, "AppRole in place of a token: its role id"),
        ("secret_id_file", "FILE", True, "file of mode 0600 with the secret id of the AppRole"),
        ("ca", "PEM", True, "certificate authorities of Vault"),
    ),
}


def add_kek_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of `init`."""
    parser.add_argument(
        "--kek", choices=("file", *_OPTIONS), default="file", help="who keeps the key-encryption key"
    )
    for provider, options in _OPTIONS.items():
        for name, metavar, is_path, words in options:
            parser.add_argument(
                f"--{provider}-{name.replace('_', '-')}",
                dest=f"{provider}_{name}",
                metavar=metavar,
                type=Path if is_path else str,
                help=words,
            )
    add_vault_admin(parser)


def add_vault_admin(parser: argparse.ArgumentParser) -> None:
    """Add the option for what the broker's own token may not do."""
    parser.add_argument(
        "--vault-admin-token-file",
        type=Path,
        metavar="FILE",
        help="file of mode 0600 with a token of Vault that may make and rotate the key, "
        "in place of the broker's own",
    )


def kek_of(options: argparse.Namespace) -> Provider:
    """Return who keeps the key-encryption key.

    Raises:
        ConfigurationError: An option is missing, impossible, or of another provider.
    """
    given: dict[str, dict[str, Any]] = {
        provider: {
            name: value
            for name, *_ in fields
            if (value := getattr(options, f"{provider}_{name}")) is not None
        }
        for provider, fields in _OPTIONS.items()
    }
    for provider, values in given.items():
        if values and provider != options.kek:
            option = f"--{provider}-{next(iter(values)).replace('_', '-')}"
            raise ConfigurationError(f"{option} needs --kek {provider}.")
    if options.kek == "file":
        return FileKek()
    try:
        return Kek.model_validate({"provider": options.kek, **given[options.kek]}).first
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = str(problem["loc"][-1]).replace("_", "-")
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        known = {field.replace("_", "-") for field, *_ in _OPTIONS[options.kek]}
        where = f"--{options.kek}-{name}: " if name in known else f"--kek {options.kek}: "
        raise ConfigurationError(f"{where}{message}.") from error
