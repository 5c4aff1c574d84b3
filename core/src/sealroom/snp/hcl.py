# SPDX-License-Identifier: BSD-3-Clause
"""Azure's HCL report: an SNP report and the runtime data that it covers, from a confidential VM's vTPM.

What this is: a strict parser and the check that REPORT_DATA covers the runtime data. What this is not:
verification of the report inside, or of anything that the vTPM's key signed.

Invariants:

- The runtime data is returned only after its digest was compared with REPORT_DATA.
- Zeros after the runtime data are the padding of the vTPM's index; anything else is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

from sealroom.errors import BindingError, FormatError
from sealroom.snp.structure import REPORT_SIZE

REPORT_OFFSET: Final = 0x20
"""Where the SNP report stands."""
MAX_HCL: Final = 1 << 16
"""Longest HCL report in bytes; the vTPM's index has 2600."""
_MAGIC: Final = b"HCLA"
_TYPE_SNP: Final = 2
_HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}
_RUNTIME_OFFSET: Final = REPORT_OFFSET + REPORT_SIZE
_RUNTIME_HEADER: Final = struct.Struct("<IIIII")
_CHECK: Final = "snp.hcl.format"


@dataclass(frozen=True, slots=True)
class HclReport:
    """An HCL report whose runtime data is covered by the report inside."""

    report: bytes
    """The 1184 bytes of the SNP report, not yet verified."""
    runtime_data: bytes
    """The covered JSON document: public keys of the vTPM and facts about the VM."""

    @classmethod
    def from_bytes(cls, data: bytes) -> HclReport:
        """Parse an HCL report and check that its report covers its runtime data.

        Args:
            data: The content of the vTPM's index, or a longer file that ends with zeros.

        Raises:
            FormatError: It is no HCL report, or its lengths do not agree.
            BindingError: REPORT_DATA is not the digest of the runtime data.
        """
        if data[:4] != _MAGIC:
            raise _bad("The file does not start with HCLA.", "signature", 0)
        end = _RUNTIME_OFFSET + _RUNTIME_HEADER.size
        if not end <= len(data) <= MAX_HCL:
            raise _bad(f"An HCL report of {len(data)} bytes cannot be.", "HCL report", len(data))
        size, _version, kind, hash_type, length = _RUNTIME_HEADER.unpack_from(data, _RUNTIME_OFFSET)
        if kind != _TYPE_SNP:
            raise _bad(f"Report type {kind} is not 2, SEV-SNP.", "report type", _RUNTIME_OFFSET + 8)
        if hash_type not in _HASHES:
            raise _bad(f"Hash type {hash_type} is not one of 1 to 3.", "hash type", _RUNTIME_OFFSET + 12)
        if size != _RUNTIME_HEADER.size + length or end + length > len(data):
            raise _bad(
                f"Runtime data of {length} bytes does not fit into {size} and {len(data)}.",
                "runtime data size",
                _RUNTIME_OFFSET + 16,
            )
        if any(data[end + length :]):
            raise _bad("Bytes follow the runtime data.", "runtime data", end + length)
        report, runtime_data = data[REPORT_OFFSET:_RUNTIME_OFFSET], data[end : end + length]
        digest = hashlib.new(_HASHES[hash_type], runtime_data).digest()
        if not hmac.compare_digest(digest.ljust(64, b"\0"), report[0x50:0x90]):
            raise BindingError(
                "REPORT_DATA is not the digest of the runtime data in the HCL report.",
                check="snp.hcl.runtime_data",
            )
        return cls(report, runtime_data)


def _bad(message: str, field: str, offset: int) -> FormatError:
    return FormatError(message, field=field, offset=offset, check=_CHECK)
