# SPDX-License-Identifier: BSD-3-Clause
"""How this server reaches sealed datasets in S3: from settings, with credentials from a file.

The file has one `name = value` line each for `access_key_id`, `secret_access_key` and, where there is one,
`session_token`; the names and sections of an AWS credentials file are understood, too. What it protects is
sealed data: whoever has the credentials reads cipher text.

Invariants:

- The credentials are in no environment, setting, log or `repr`: kernels do not inherit them.
- A file that others may read is refused.
"""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

from sealroom.datasets.s3_source import S3Options
from sealroom.datasets.store import read_file
from sealroom.errors import ConfigurationError, Error

from sealroom_jupyter.settings import S3Settings

_NAMES = ("access_key_id", "secret_access_key", "session_token")
_LARGEST = 64 << 10
_OTHERS = 0o077


def options_of(settings: S3Settings) -> S3Options:
    """Return how buckets are reached.

    Raises:
        ConfigurationError: The file of credentials cannot be used, or others may read it.
    """
    found: dict[str, Any] = {} if settings.credentials is None else {**read_credentials(settings.credentials)}
    return S3Options(
        endpoint=settings.endpoint,
        region=settings.region,
        anonymous=settings.anonymous,
        allow_http=settings.allow_http,
        **found,
    )


def read_credentials(path: Path) -> dict[str, str]:
    """Read a file of credentials.

    Raises:
        ConfigurationError: It cannot be read, others may read it, or the two keys are not in it.
    """
    try:
        mode = path.stat().st_mode
        text = read_file(path, _LARGEST).decode()
    except (OSError, Error, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(f"The S3 credentials {path} cannot be read: {said}.") from None
    if mode & _OTHERS:
        raise ConfigurationError(
            f"The S3 credentials {path} may be read by others.", advice=f"Run `chmod 600 {path}`."
        )
    values = _parse(text)
    if not values.get("access_key_id") or not values.get("secret_access_key"):
        raise ConfigurationError(
            f"The S3 credentials {path} lack access_key_id or secret_access_key.",
            advice="Write one line for each: name = value.",
        )
    return values


def _parse(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text if text.lstrip().startswith("[") else f"[default]\n{text}")
    except configparser.Error:
        # Its text quotes the line.
        raise ConfigurationError("The file of S3 credentials has a line that is not name = value.") from None
    section = "default" if parser.has_section("default") else next(iter(parser.sections()), "")
    items = dict(parser.items(section)) if section else {}
    named = {name.removeprefix("aws_"): value for name, value in items.items()}
    return {name: named[name] for name in _NAMES if name in named}
