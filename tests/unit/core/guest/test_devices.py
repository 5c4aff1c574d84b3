# SPDX-License-Identifier: BSD-3-Clause
"""The simulated GPUs of a server, over their socket; and what every source of device evidence has to hold."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import ConfigurationError, NetworkError, ProtocolError
from sealroom.guest import DeviceProvider, SimulatedDeviceProvider
from sealroom.guest.devices import MAX_CHAIN, MAX_DEVICES, MAX_REPORT, DeviceEvidence, check_devices
from sealroom.simulated.gpu_server import GpuServer

NONCE = bytes(range(32))


def block(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def answering(path: Path, answer: bytes) -> threading.Thread:
    """Answer one request with these bytes and hang up."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(64)
            connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_every_gpu_answers_the_nonce(tmp_path: Path) -> None:
    gpus = [testing.gpu(), testing.gpu("BLACKWELL"), testing.gpu("LS10")]
    with testing.running_gpus(tmp_path / "gpu.sock", gpus):
        provider = SimulatedDeviceProvider(tmp_path / "gpu.sock")
        assert isinstance(provider, DeviceProvider)
        assert provider.available() == ""
        devices = provider.evidence(NONCE)
    assert [device.arch for device in devices] == ["HOPPER", "BLACKWELL", "LS10"]
    assert [device.uuid for device in devices] == [gpu.uuid for gpu in gpus]
    assert [device.report for device in devices] == [gpu.report(NONCE) for gpu in gpus]
    assert [device.chain_pem for device in devices] == [gpu.chain_pem for gpu in gpus]


def test_several_requests_may_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    gpu = testing.gpu()
    name = f"HOPPER {gpu.uuid}".encode()
    with testing.running_gpus(tmp_path / "gpu.sock"), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "gpu.sock"))
        for nonce in (b"a" * 32, b"b" * 32):
            connection.sendall(nonce)
            expected = struct.pack("<I", 1) + block(name) + block(gpu.report(nonce)) + block(gpu.chain_pem)
            assert connection.recv(len(expected), socket.MSG_WAITALL) == expected


def test_altered_reports_are_served_as_they_are(tmp_path: Path) -> None:
    def flip(report: bytes) -> bytes:
        return report[:100] + bytes([report[100] ^ 1]) + report[101:]

    with testing.running_gpus(tmp_path / "gpu.sock", alter=flip):
        (device,) = SimulatedDeviceProvider(tmp_path / "gpu.sock").evidence(NONCE)
    assert device.report == flip(testing.gpu().report(NONCE))


def test_a_live_socket_is_not_taken_over(tmp_path: Path) -> None:
    with testing.running_gpus(tmp_path / "gpu.sock"), pytest.raises(ConfigurationError):
        GpuServer([], tmp_path / "gpu.sock")


def test_absent_gpus_are_said(tmp_path: Path) -> None:
    provider = SimulatedDeviceProvider(tmp_path / "gpu.sock")
    assert "No such file" in provider.available()
    with pytest.raises(NetworkError, match="do not answer"):
        provider.evidence(NONCE)


def test_file_that_is_no_socket_is_said(tmp_path: Path) -> None:
    (tmp_path / "gpu.sock").write_bytes(b"")
    assert "is not a socket" in SimulatedDeviceProvider(tmp_path / "gpu.sock").available()


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_nonce_is_not_padded_or_cut(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SimulatedDeviceProvider(tmp_path / "gpu.sock").evidence(bytes(size))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "closed the connection after 0 of 4"),
        (struct.pack("<I", 0), "0 devices"),
        (struct.pack("<I", MAX_DEVICES + 1), f"announce {MAX_DEVICES + 1} devices"),
        (struct.pack("<I", 1) + struct.pack("<I", 1 << 30), "announce 1073741824 bytes"),
        (struct.pack("<I", 1) + block(b"HOPPER u") + block(b"r")[:-1], "closed the connection"),
        (struct.pack("<I", 1) + block(b"\xff u") + block(b"r") + block(b"c"), "architecture"),
        (struct.pack("<I", 1) + block(b"HOPPER u") + block(b"r") + block(b"c"), "another nonce"),
    ],
    ids=["nothing", "no-device", "many-devices", "long-block", "cut", "no-name", "no-report"],
)
def test_other_answers_are_refused(tmp_path: Path, answer: bytes, what: str) -> None:
    thread = answering(tmp_path / "gpu.sock", answer)
    with pytest.raises(ProtocolError, match=what):
        SimulatedDeviceProvider(tmp_path / "gpu.sock").evidence(NONCE)
    thread.join(timeout=10)


CHANGES: dict[str, tuple[Callable[[DeviceEvidence], DeviceEvidence], str]] = {
    "architecture": (lambda device: replace(device, arch="AMPERE"), "architecture 'AMPERE'"),
    "nonce": (lambda device: replace(device, report=testing.gpu().report(bytes(32))), "another nonce"),
    "short": (lambda device: replace(device, report=device.report[:35]), "another nonce"),
    "long": (lambda device: replace(device, report=device.report.ljust(MAX_REPORT + 1)), "impossible size"),
    "no chain": (lambda device: replace(device, chain_pem=b""), "impossible size"),
    "long chain": (lambda device: replace(device, chain_pem=bytes(MAX_CHAIN + 1)), "impossible size"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_device_evidence_with_one_mistake_is_refused(change: str) -> None:
    right = testing.device_evidence(NONCE)
    assert check_devices([right], NONCE, "It") == [right]
    alter, what = CHANGES[change]
    with pytest.raises(ProtocolError, match=what):
        check_devices([right, alter(right)], NONCE, "It")


@pytest.mark.parametrize("count", [0, MAX_DEVICES + 1])
def test_none_and_too_many_devices_are_refused(count: int) -> None:
    with pytest.raises(ProtocolError, match=f"of {count} devices"):
        check_devices([testing.device_evidence(NONCE)] * count, NONCE, "It")
