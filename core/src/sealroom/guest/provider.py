# SPDX-License-Identifier: BSD-3-Clause
"""What a source of evidence looks like to the rest of Sealroom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

REPORT_DATA_SIZE = 64


@dataclass(frozen=True, slots=True)
class GuestEvidence:
    """Evidence as gathered: nothing in it is verified."""

    tee: str
    """KBS name of the TEE, `snp`."""
    report: bytes = field(repr=False)
    certificates: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Kind (VCEK, VLEK, ASK, ARK) -> certificate in DER; empty where the host gives none."""
    provider: str = ""
    """Name of the provider that gathered it."""


@runtime_checkable
class Provider(Protocol):
    """A way to get evidence about this guest."""

    @property
    def name(self) -> str:
        """Stable name, for example `simulated`."""

    def available(self) -> str:
        """Return why this provider cannot be used here; empty if it can. Never raises."""

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Gather evidence that covers 64 bytes of report data.

        Raises:
            NetworkError: The source does not answer.
            ProtocolError: It answers with an error or with something else than its protocol.
        """


def check_report_data(report_data: bytes) -> None:
    """Raise ValueError unless there are exactly 64 bytes; nothing is padded or cut."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise ValueError(f"report_data has {REPORT_DATA_SIZE} bytes, not {len(report_data)}")
