# SPDX-License-Identifier: BSD-3-Clause
"""Ports for servers."""

from __future__ import annotations

import random
import socket

import pytest
from sealroom_spawner import ports


def test_a_port_is_free_and_in_the_range() -> None:
    port = ports.free_port()
    assert port in ports.RANGE
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = ports.free_port(), ports.free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        offered = iter([taken, free])
        monkeypatch.setattr(random, "choice", lambda _range: next(offered))
        assert ports.free_port() == free


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        ports.free_port("192.0.2.1")
