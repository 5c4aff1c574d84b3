# SPDX-License-Identifier: BSD-3-Clause
"""Which system user a person's servers run as, when the hub may choose.

The numbers need no entry in the system's user database. A number is never given to a second person, also
after the first is gone, because files of theirs may still be there.
"""

from __future__ import annotations

import hashlib
import pwd
from pathlib import Path

from sealroom.errors import StorageError

from sealroom_spawner.files import read_json, write_json

FIRST = 200_000
"""First number to give out: above what distributions give to people, below what user namespaces map."""


BLOCK = 1_000
BLOCKS = 1_000
"""Each installation gives out a block of its own, found by its place."""


def first_of(installation: Path) -> int:
    """Return the first number of an installation.

    Two installations on one machine do not share people, so they must not share system users: each
    ends everything that a user of its own still runs.

    Args:
        installation: Its state directory.
    """
    digest = hashlib.sha256(str(installation.resolve()).encode()).digest()
    return FIRST + BLOCK * (int.from_bytes(digest[:8]) % BLOCKS)


def uid_of(name: str, state: Path, *, first: int = FIRST) -> int:
    """Return the person's number, a new one for a new person.

    Args:
        name: The person's name at the hub.
        state: File that remembers the numbers; the hub's alone.
        first: First number to give out.

    Raises:
        StorageError: The file is damaged; giving out numbers again could give one person another's files.
    """
    known: dict[str, int] = {}
    if state.exists():
        value = read_json(state)
        if not isinstance(value, dict) or not all(isinstance(uid, int) for uid in value.values()):
            raise StorageError(
                f"{state} is damaged.",
                advice="Restore it from a backup: it says which system user owns whose files.",
            )
        known = value
    if name not in known:
        uid = max([first - 1, *known.values()]) + 1
        while _taken(uid):
            uid += 1
        known[name] = uid
        write_json(state, known)
    return known[name]


def _taken(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
