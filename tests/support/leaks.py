# SPDX-License-Identifier: BSD-3-Clause
"""The secrets of an installation, for tests that look for them where they must not be."""

from __future__ import annotations

import base64

from sealroom.crypt4gh import keys

from support.stack import Stack


def secrets_of(stack: Stack) -> list[bytes]:
    """Return every secret of the first start in the forms in which it could leak."""
    found: list[bytes] = []
    for line in (stack.home / "login.txt").read_text().splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in ("researcher", "visitor", "owner", "operator"):
            found.append(words[1].encode())
    found.append((stack.home / "owner" / "token").read_text().strip().encode())
    for path in (stack.home / "broker" / "kek.key", *(stack.home / "owner" / "keys").glob("*")):
        content = path.read_bytes()
        found += [content.strip()] if len(content) >= 16 else []
        if len(content) == 32:
            found += [content.hex().encode(), base64.b64encode(content)]
    for path in (stack.home / "owner" / "keys").glob("*"):
        raw = keys.read_secret_key(path.read_bytes()).reveal()
        found += [raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"=")]
    for path in (stack.home / "broker").glob("*.pem"):
        # The middle of a private key's base64: a log would hardly break it as the file does.
        found += [line.encode() for line in path.read_text().splitlines()[1:-1] if len(line) >= 32]
    found.append((stack.home / "hub" / "cookie_secret").read_bytes().strip())
    return found
