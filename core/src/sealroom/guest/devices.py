# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of the devices beside the processor: NVIDIA GPUs and NVSwitches.

What this is: what a source of device evidence looks like, and the simulated one. What it is not:
verification. A report is looked into only to see that it answers the nonce that was asked.

The simulated GPUs of a server answer on a Unix socket: a request is the nonce, 32 bytes; the answer is the
number of devices, then for each its name (`ARCHITECTURE uuid`), its report and its chain in PEM, each after
its length. Numbers are unsigned, 4 bytes, little-endian.
"""

from __future__ import annotations

import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from sealroom.errors import NetworkError, ProtocolError

NONCE_SIZE: Final = 32
"""What a GPU takes as nonce (SPDM 1.1, GET_MEASUREMENTS)."""
MAX_DEVICES: Final = 32
"""Our own bound; the largest machines have 8 GPUs and 4 switches."""
MAX_REPORT: Final = 0x2000
"""NVML_CC_GPU_ATTESTATION_REPORT_SIZE."""
MAX_CHAIN: Final = 16 * 1024
"""Our own bound; NVML has room for 0x1400 bytes."""
ARCHITECTURES: Final = ("HOPPER", "BLACKWELL", "LS10")
"""What can attest, by the names of the key broker protocol."""
SOCKET_NAME: Final = "gpu.sock"
"""Name of the socket in a server's run directory."""
_MAX_NAME: Final = 128
_NONCE_OFFSET: Final = 4


@dataclass(frozen=True, slots=True)
class DeviceEvidence:
    """Evidence of one device as gathered: nothing in it is verified."""

    arch: str
    """`HOPPER`, `BLACKWELL` or `LS10`."""
    uuid: str
    """The device's name, as the driver gives it."""
    report: bytes = field(repr=False)
    """SPDM request and response, signed."""
    chain_pem: bytes = field(repr=False)
    """The device's certificates in PEM, leaf first."""


@runtime_checkable
class DeviceProvider(Protocol):
    """A way to get evidence about the devices of this guest."""

    @property
    def name(self) -> str:
        """Stable name, for example `nvml`."""

    def available(self) -> str:
        """Return why this provider cannot be used here; empty if it can. Never raises."""

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        """Gather evidence of every device over a nonce of 32 bytes; there is at least one.

        Raises:
            NetworkError: The source does not answer.
            ProtocolError: It answers with an error or with something else than its protocol.
        """


def check_nonce(nonce: bytes) -> None:
    """Raise ValueError unless there are exactly 32 bytes; nothing is padded or cut."""
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a device's nonce has {NONCE_SIZE} bytes, not {len(nonce)}")


def check_devices(devices: Sequence[DeviceEvidence], nonce: bytes, source: str) -> list[DeviceEvidence]:
    """Return the devices if there are some and each answers the nonce.

    Args:
        devices: What a source gave.
        nonce: What it was asked with.
        source: Who gave it, to begin a sentence with.

    Raises:
        ProtocolError: There are none or too many, or one has another nonce or an impossible size.
    """
    if not 0 < len(devices) <= MAX_DEVICES:
        raise ProtocolError(f"{source} gave evidence of {len(devices)} devices, not of 1 to {MAX_DEVICES}.")
    for device in devices:
        if device.arch not in ARCHITECTURES:
            raise ProtocolError(
                f"{source} gave evidence of a device of the architecture {device.arch[:16]!r}."
            )
        if len(device.report) > MAX_REPORT or not 0 < len(device.chain_pem) <= MAX_CHAIN:
            raise ProtocolError(f"{source} gave a report or a chain of an impossible size.")
        if device.report[_NONCE_OFFSET : _NONCE_OFFSET + NONCE_SIZE] != nonce:
            raise ProtocolError(f"{source} gave a report that answers another nonce.", advice="Try again.")
    return list(devices)


class SimulatedDeviceProvider:
    """Asks the simulated GPUs that belong to this server.

    Args:
        path: The socket that they answer on.
        timeout: Seconds to wait for each step of the answer.
    """

    name = "simulated"

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout

    def available(self) -> str:
        """Return why it cannot be used; empty if the socket is there."""
        try:
            mode = self._path.stat().st_mode
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        return "" if stat.S_ISSOCK(mode) else f"{self._path} is not a socket"

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        """Ask every simulated GPU for a report over 32 bytes of nonce."""
        check_nonce(nonce)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(str(self._path))
                connection.sendall(nonce)
                count = _number(connection)
                if count > MAX_DEVICES:
                    raise ProtocolError(f"The simulated GPUs announce {count} devices.")
                devices = [_device(connection) for _ in range(count)]
        except OSError as error:
            raise NetworkError(
                f"The simulated GPUs do not answer: {error.strerror or error}.",
                advice="Stop this server and start it again from the hub.",
            ) from error
        return check_devices(devices, nonce, "The simulated GPUs")


def _device(connection: socket.socket) -> DeviceEvidence:
    name, report, chain = (_block(connection, limit) for limit in (_MAX_NAME, MAX_REPORT, MAX_CHAIN))
    arch, _, uuid = name.decode("ascii", "replace").partition(" ")
    return DeviceEvidence(arch, uuid, report, chain)


def _block(connection: socket.socket, limit: int) -> bytes:
    size = _number(connection)
    if size > limit:
        raise ProtocolError(f"The simulated GPUs announce {size} bytes; at most {limit} are expected.")
    return _receive(connection, size)


def _number(connection: socket.socket) -> int:
    (number,) = struct.unpack("<I", _receive(connection, 4))
    return int(number)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ProtocolError(
                f"The simulated GPUs closed the connection after {len(data)} of {size} bytes."
            )
        data += part
    return bytes(data)
