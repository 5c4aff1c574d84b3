# SPDX-License-Identifier: BSD-3-Clause
"""Put the broker's configuration and secrets into its folder, before it starts.

The broker reads secrets from files of mode 0600 that it owns. Kubernetes mounts them as root's, so they are
copied, into memory or onto the broker's own volume. Arguments: the folder, and where everything is mounted.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

SECRETS = ("keys", "tls", "files")


def private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


def database(url: str) -> tuple[str, str]:
    """Split a URL into one without the password, and the password."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("postgresql", "postgres") or not parts.hostname:
        sys.exit("The database's URL in the Secret must be like postgresql://user:password@host/database.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = f":{parts.port}" if parts.port else ""
    user = f"{quote(unquote(parts.username))}@" if parts.username else ""
    rest = urlunsplit((scheme, f"{user}{host}{port}", parts.path, parts.query, ""))
    return rest, unquote(parts.password or "")


def main(home: Path, mounts: Path) -> None:
    """Copy everything."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in SECRETS:
        target = {"keys": home, "tls": home / "tls", "files": home / "secrets"}[name]
        # A Secret is mounted as links into a hidden folder, and several stand in a folder each.
        for path in sorted((mounts / name).rglob("*")):
            hidden = any(part.startswith("..") for part in path.relative_to(mounts / name).parts)
            if path.is_file() and not hidden:
                private(target / path.name, path.read_bytes())
    text = (mounts / "config" / "broker.toml").read_text(encoding="utf-8")
    secret = mounts / "database" / "url"
    if secret.is_file():
        url, password = database(secret.read_text(encoding="utf-8").strip())
        text += f"\n[postgresql]\nurl = {json.dumps(url)}\n"
        if password:
            private(home / "secrets" / "database.password", password.encode())
            text += 'password = "secrets/database.password"\n'
    private(home / "broker.toml", text.encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
