# SPDX-License-Identifier: BSD-3-Clause
"""Evidence that is authentic and bound to what it was presented with: the only thing that is appraised."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from sealroom.errors import BindingError
from sealroom.snp import VerifiedReport


@dataclass(frozen=True, slots=True)
class VerifiedEvidence:
    """A verified report that covers the data it was presented with.

    Raises:
        BindingError: The report covers other data than `report_data`.
    """

    cpu: VerifiedReport
    """Made by `sealroom.snp.verify_report`, and by nothing else."""
    report_data: bytes
    """The 64 bytes that the report has to cover, computed by the relying party from its own nonce."""

    def __post_init__(self) -> None:
        if not isinstance(self.cpu, VerifiedReport):
            raise TypeError("cpu must be a VerifiedReport")
        if not hmac.compare_digest(self.cpu.report.report_data, self.report_data):
            raise BindingError(
                "The report is genuine but answers another question than the one asked.",
                advice="Ask for a fresh proof.",
                check="snp.expected.report_data",
            )
