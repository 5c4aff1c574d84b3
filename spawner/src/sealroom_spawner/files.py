# SPDX-License-Identifier: BSD-3-Clause
"""Small files that must be whole or absent, and unreadable to others from their first moment."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a reader, and a crash at any moment, sees the old or the new one.

    Args:
        path: Where it goes; its directory must exist.
        data: What goes in.
        mode: Permissions, set before the file has its name.
    """
    # mkstemp opens with 0600: nobody else can have it open when the permissions widen.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> object:
    """Return a JSON file's value; None if there is no such file or it is not JSON."""
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value


def write_json(path: Path, value: object, *, mode: int = 0o600) -> None:
    """Write a value as JSON, whole or not at all."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n", mode=mode)
