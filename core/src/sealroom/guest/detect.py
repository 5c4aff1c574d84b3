# SPDX-License-Identifier: BSD-3-Clause
"""Choose a provider, and say which were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sealroom.errors import ConfigurationError
from sealroom.guest import devices as gpus
from sealroom.guest.coco import CocoDeviceProvider, CocoProvider, Decoder, DeviceDecoder
from sealroom.guest.configfs import ConfigfsProvider
from sealroom.guest.devices import DeviceProvider, SimulatedDeviceProvider
from sealroom.guest.nvml import NvmlProvider
from sealroom.guest.provider import Provider
from sealroom.guest.sevguest import SevGuestProvider
from sealroom.guest.simulated import SOCKET_NAME, SimulatedProvider


@dataclass(frozen=True, slots=True)
class Detection:
    """The chosen providers and what was tried before them."""

    provider: Provider
    tried: tuple[tuple[str, str], ...]
    """Pairs of a provider's name and why it could not be used, in the order in which they were tried."""
    devices: DeviceProvider | None = None
    """Where the evidence of GPUs comes from; None where there is none to be had."""
    devices_tried: tuple[tuple[str, str], ...] = ()
    """The same as `tried`, for the devices."""


@dataclass(frozen=True, slots=True)
class DeviceDetection:
    """The chosen source of device evidence and what was tried before it."""

    provider: DeviceProvider | None
    tried: tuple[tuple[str, str], ...]


def candidates(run_dir: Path, *, decode_coco: Decoder | None = None) -> list[Provider]:
    """Return the providers in the order in which they are tried: real hardware first.

    Args:
        run_dir: The server's run directory, where a simulated processor has its socket.
        decode_coco: Decoder of CoCo's evidence; without one the guest components are not asked.
    """
    coco: list[Provider] = [CocoProvider(decode_coco)] if decode_coco else []
    return [*coco, ConfigfsProvider(), SevGuestProvider(), SimulatedProvider(run_dir / SOCKET_NAME)]


def device_candidates(run_dir: Path, *, decode_coco: DeviceDecoder | None = None) -> list[DeviceProvider]:
    """Return the sources of device evidence in the order in which they are tried: real hardware first.

    Args:
        run_dir: The server's run directory, where simulated GPUs have their socket.
        decode_coco: Decoder of CoCo's device evidence; without one the guest components are not asked.
    """
    coco: list[DeviceProvider] = [CocoDeviceProvider(decode_coco)] if decode_coco else []
    return [*coco, NvmlProvider(), SimulatedDeviceProvider(run_dir / gpus.SOCKET_NAME)]


def detect(
    run_dir: Path,
    *,
    decode_coco: Decoder | None = None,
    decode_coco_devices: DeviceDecoder | None = None,
    providers: Sequence[Provider] | None = None,
    devices: Sequence[DeviceProvider] | None = None,
) -> Detection:
    """Return the first provider that can be used, and the first for devices if there is one.

    Args:
        run_dir: The server's run directory, where a simulated processor has its socket.
        decode_coco: Decoder of CoCo's evidence, see `candidates`.
        decode_coco_devices: Decoder of CoCo's device evidence, see `device_candidates`.
        providers: Providers to choose from instead of the usual ones.
        devices: Sources of device evidence to choose from instead of the usual ones.

    Raises:
        ConfigurationError: None can be used; the advice says what was tried.
    """
    tried: list[tuple[str, str]] = []
    for provider in candidates(run_dir, decode_coco=decode_coco) if providers is None else providers:
        reason = provider.available()
        if not reason:
            found = detect_devices(run_dir, decode_coco=decode_coco_devices, providers=devices)
            return Detection(provider, tuple(tried), found.provider, found.tried)
        tried.append((provider.name, reason))
    listing = "; ".join(f"{name}: {reason}" for name, reason in tried)
    raise ConfigurationError(
        "This server has no source of evidence, neither a secure processor nor a simulated one.",
        advice=f"Tried {listing}.",
    )


def detect_devices(
    run_dir: Path,
    *,
    decode_coco: DeviceDecoder | None = None,
    providers: Sequence[DeviceProvider] | None = None,
) -> DeviceDetection:
    """Return the first source of device evidence that can be used; a server without a GPU has none.

    Args:
        run_dir: The server's run directory, where simulated GPUs have their socket.
        decode_coco: Decoder of CoCo's device evidence, see `device_candidates`.
        providers: Sources to choose from instead of the usual ones.
    """
    tried: list[tuple[str, str]] = []
    for provider in device_candidates(run_dir, decode_coco=decode_coco) if providers is None else providers:
        reason = provider.available()
        if not reason:
            return DeviceDetection(provider, tuple(tried))
        tried.append((provider.name, reason))
    return DeviceDetection(None, tuple(tried))
