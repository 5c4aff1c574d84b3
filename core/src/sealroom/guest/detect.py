# SPDX-License-Identifier: BSD-3-Clause
"""Choose a provider, and say which were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealroom.errors import ConfigurationError
from sealroom.guest.coco import CocoProvider, Decoder
from sealroom.guest.configfs import ConfigfsProvider
from sealroom.guest.provider import Provider
from sealroom.guest.sevguest import SevGuestProvider
from sealroom.guest.simulated import SOCKET_NAME, SimulatedProvider


@dataclass(frozen=True, slots=True)
class Detection:
    """The chosen provider and what was tried before it."""

    provider: Provider
    tried: tuple[tuple[str, str], ...]
    """Pairs of a provider's name and why it could not be used, in the order in which they were tried."""


def candidates(run_dir: Path, *, decode_coco: Decoder | None = None) -> list[Provider]:
    """Return the providers in the order in which they are tried: real hardware first.

    Args:
        run_dir: The server's run directory, where a simulated processor has its socket.
        decode_coco: Decoder of CoCo's evidence; without one the guest components are not asked.
    """
    coco: list[Provider] = [CocoProvider(decode_coco)] if decode_coco else []
    return [*coco, ConfigfsProvider(), SevGuestProvider(), SimulatedProvider(run_dir / SOCKET_NAME)]


def detect(
    run_dir: Path, *, decode_coco: Decoder | None = None, providers: Sequence[Provider] | None = None
) -> Detection:
    """Return the first provider that can be used.

    Args:
        run_dir: The server's run directory, where a simulated processor has its socket.
        decode_coco: Decoder of CoCo's evidence, see `candidates`.
        providers: Providers to choose from instead of the usual ones.

    Raises:
        ConfigurationError: None can be used; the advice says what was tried.
    """
    tried: list[tuple[str, str]] = []
    for provider in candidates(run_dir, decode_coco=decode_coco) if providers is None else providers:
        reason = provider.available()
        if not reason:
            return Detection(provider, tuple(tried))
        tried.append((provider.name, reason))
    listing = "; ".join(f"{name}: {reason}" for name, reason in tried)
    raise ConfigurationError(
        "This server has no source of evidence, neither a secure processor nor a simulated one.",
        advice=f"Tried {listing}.",
    )
