# SPDX-License-Identifier: BSD-3-Clause
"""Run `sealroom verify` as an auditor does, on files that a test writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sealroom import testing
from sealroom.cli import run
from sealroom.kbs.devices import encode_devices
from sealroom.simulated.gpu import SimulatedGpu

NONCE = bytes(range(32))
NOW = testing.NOW.isoformat()
Printed = pytest.CaptureFixture[str]


class Bench:
    """A directory with files, and the command over them.

    Args:
        directory: Where files are written.
        capsys: Takes what is printed.
    """

    def __init__(self, directory: Path, capsys: Printed) -> None:
        self.directory = directory
        self._capsys = capsys

    def save(self, name: str, data: bytes) -> str:
        """Save bytes and return the path."""
        (self.directory / name).write_bytes(data)
        return str(self.directory / name)

    def text(self, *arguments: str, at: str = NOW) -> tuple[int, str]:
        """Verify; return exit status and everything that was printed."""
        status = run(["verify", *arguments, "--at", at])
        printed = self._capsys.readouterr()
        return status, printed.out + printed.err

    def json(self, *arguments: str, at: str = NOW) -> tuple[int, dict[str, Any]]:
        """Verify; return exit status and the JSON result."""
        status = run(["verify", "--json", *arguments, "--at", at])
        return status, json.loads(self._capsys.readouterr().out)

    def roots(self, *, cpu: bool = False) -> list[str]:
        """Return the options that name the development roots."""
        gpu = testing.gpu_root()
        roots = ["--root", self.save("gpu.pem", gpu.device_pem), "--root", self.save("rim.pem", gpu.rim_pem)]
        return [*roots, "--root", self.save("ark.pem", testing.chip().root.pem)] if cpu else roots

    def rims(self, *documents: bytes) -> list[str]:
        """Return the options that name manifests."""
        return self.options("--rim", documents)

    def options(self, option: str, documents: Sequence[bytes]) -> list[str]:
        """Return an option once for each document, which is saved."""
        return [
            part
            for number, data in enumerate(documents)
            for part in (option, self.save(f"{option[2:]}-{number}", data))
        ]

    def device(self, on: SimulatedGpu | None = None, nonce: bytes = NONCE, **changes: Any) -> list[str]:
        """Return the arguments for the report of a simulated GPU and its chain."""
        on = on or testing.gpu()
        report = self.save("report.bin", on.report(nonce, **changes))
        return [report, "--chain", self.save("chain.pem", on.chain_pem)]

    def devices(self, *chips: SimulatedGpu, nonce: bytes = NONCE) -> str:
        """Return the path of a list of simulated GPUs' evidence."""
        text = encode_devices([testing.device_evidence(nonce, on=chip) for chip in chips])
        return self.save("devices.json", text.encode())


@pytest.fixture
def bench(tmp_path: Path, capsys: Printed) -> Bench:
    return Bench(tmp_path, capsys)


def outcomes(result: Mapping[str, Any]) -> dict[str, str]:
    """Return check -> outcome of a result, a device or a manifest."""
    return {check["id"]: check["outcome"] for check in result["checks"]}


def failures(result: Mapping[str, Any]) -> list[str]:
    """Return the checks that failed."""
    return [one for one, outcome in outcomes(result).items() if outcome == "failed"]


def sdk_list(*chips: SimulatedGpu, nonce: bytes = NONCE) -> bytes:
    """Return evidence as NVIDIA's own tools save it."""
    return json.dumps(
        [
            {
                "arch": chip.architecture,
                "nonce": nonce.hex(),
                "evidence": base64.b64encode(chip.report(nonce)).decode(),
                "certificate": base64.b64encode(chip.chain_pem).decode(),
            }
            for chip in chips
        ]
    ).encode()
