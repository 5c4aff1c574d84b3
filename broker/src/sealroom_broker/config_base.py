# SPDX-License-Identifier: BSD-3-Clause
"""What the sections of the broker's configuration have in common."""

from __future__ import annotations

import ipaddress
from typing import Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

Claim = str | tuple[str, ...]
"""A claim's name, or the names on the way to a nested one: `["realm_access", "roles"]`."""

SignatureAlgorithm = Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"]
"""How tokens may be signed. `none` and the algorithms with shared keys are not among them."""

SIGNATURE_ALGORITHMS: tuple[SignatureAlgorithm, ...] = get_args(SignatureAlgorithm)


class Section(BaseModel):
    """A table of the file; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_url(value: str) -> str:
    """Return an http or https URL as it is.

    Raises:
        ValueError: It is something else, or has a user, a query or a fragment.
    """
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http or https URL")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must be a URL without a user, a query and a fragment")
    return value


def is_loopback(host: str) -> bool:
    """Tell whether a host's name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """Split `host:port` (IPv6 in brackets).

    Raises:
        ValueError: It is not an address with a port.
    """
    parts = urlsplit(f"//{address}")
    if parts.hostname is None or parts.port is None or parts.path or parts.query:
        raise ValueError("must be an address and a port, for example 127.0.0.1:8200")
    return parts.hostname, parts.port
