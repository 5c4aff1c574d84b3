# SPDX-License-Identifier: BSD-3-Clause
"""One simulated secure processor: a chip with a key of its own that answers report requests.

The VCEK is made with the object and lives only in it: no two processors share a key, and none is ever
written down.
"""

from __future__ import annotations

import secrets
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from sealroom.guest.messages import (
    STATUS_INVALID_KEY_SELECTION,
    STATUS_INVALID_PARAMETERS,
    STATUS_SUCCESS,
    ReportRequest,
    ReportResponse,
)
from sealroom.simulated.reports import DEFAULT_POLICY, DEFAULT_TCB, ReportFields, sign_report
from sealroom.simulated.root import Root
from sealroom.snp import ProductLine, TcbVersion
from sealroom.snp.table import build_certificate_table

MAX_VMPL = 3


class Processor:
    """A simulated processor that runs one guest.

    Args:
        root: Development root that endorses the chip.
        at: Time at which the VCEK is issued.
        measurement: Launch digest of the guest, 48 bytes.
        host_data: HOST_DATA given at launch, 32 bytes.
        chip_id: 64 bytes (Turin: 8, then zeros); random if not given.
        tcb: Level of the firmware, all four TCBs alike.
        policy: Guest policy.
        vmpl: Privilege level of the guest; it may ask for reports of this level or less privileged ones.
        version: Version of the reports, 2 to 5.
        changes: Other fields of the report, by name.
    """

    def __init__(
        self,
        root: Root,
        *,
        at: datetime,
        measurement: bytes,
        host_data: bytes,
        chip_id: bytes | None = None,
        tcb: TcbVersion | None = None,
        policy: int = DEFAULT_POLICY,
        vmpl: int = 0,
        version: int = 5,
        **changes: object,
    ) -> None:
        self.line = root.line
        self.vmpl = vmpl
        self._key = ec.generate_private_key(ec.SECP384R1())
        chip_id = chip_id if chip_id is not None else new_chip_id(root.line)
        tcb = tcb or DEFAULT_TCB[root.line]
        vcek = root.issue_vcek(self._key.public_key(), chip_id=chip_id, tcb=tcb, at=at)
        self.certificates = {"VCEK": vcek, "ASK": root.ask.der, "ARK": root.ark.der}
        """Kind -> certificate in DER."""
        self._fields: dict[str, object] = {
            "policy": policy,
            "measurement": measurement,
            "host_data": host_data,
            "chip_id": chip_id,
            "report_id": secrets.token_bytes(32),
            **changes,
        }
        self._tcb = tcb
        self._version = version

    def __repr__(self) -> str:
        return f"Processor(simulated {self.line})"

    @property
    def certificate_table(self) -> bytes:
        """The table of an extended report, with VCEK, ASK and ARK."""
        return build_certificate_table(self.certificates)

    def report(self, report_data: bytes, vmpl: int | None = None) -> bytes:
        """Return a signed report of 1184 bytes for 64 bytes of report data."""
        fields = ReportFields.for_line(
            self.line,
            self._tcb,
            version=self._version,
            report_data=report_data,
            vmpl=self.vmpl if vmpl is None else vmpl,
            **self._fields,
        )
        return sign_report(fields.signed_part(), self._key)

    def answer(self, request: ReportRequest) -> ReportResponse:
        """Answer a guest's request as firmware does: a status, and a report if it is success."""
        if request.key_sel not in (0, 1):
            return ReportResponse(STATUS_INVALID_KEY_SELECTION)
        if not self.vmpl <= request.vmpl <= MAX_VMPL:
            return ReportResponse(STATUS_INVALID_PARAMETERS)
        return ReportResponse(STATUS_SUCCESS, self.report(request.report_data, request.vmpl))


def new_chip_id(line: ProductLine) -> bytes:
    """Return a random CHIP_ID; Turin's has 8 bytes, then zeros."""
    if line is ProductLine.TURIN:
        return secrets.token_bytes(8) + bytes(56)
    return secrets.token_bytes(64)
