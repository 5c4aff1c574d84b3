# SPDX-License-Identifier: BSD-3-Clause
"""AMD SEV-SNP evidence: parse it and verify that it is authentic.

What this is: reports of version 2 to 5 from Milan, Genoa (with Bergamo and Siena) and Turin, signed with a
VCEK or a VLEK, verified to AMD's pinned roots or to explicitly given development roots. What this is not: a
judgement whether what is verified is acceptable (`sealroom.appraisal`), or a client of AMD's services. No
IO, no clock, no HTTP.

```python
verified = verify_report(report, vek, roots=Roots.amd(), at=datetime.now(UTC), intermediates=[ask])
verified.report.measurement
```
"""

from sealroom.snp.certificates import CaCertificate, Vek, VekKind
from sealroom.snp.checks import CHECKS, REPORT_CHECKS, Check, CheckResult, Outcome
from sealroom.snp.crl import RevocationList, verify_crl
from sealroom.snp.fields import GuestPolicy, KeyInfo, PlatformInfo
from sealroom.snp.report import Report
from sealroom.snp.roots import Roots, load_certificates
from sealroom.snp.structure import REPORT_SIZE, SIGNED_SIZE, VMPL_HOST
from sealroom.snp.tcb import ProductLine, TcbVersion, line_from_cpuid
from sealroom.snp.verify import (
    Examination,
    VerifiedChain,
    VerifiedReport,
    check_expectations,
    choose_vek,
    examine_report,
    verify_report,
    verify_vek,
)

__all__ = [
    "CHECKS",
    "REPORT_CHECKS",
    "REPORT_SIZE",
    "SIGNED_SIZE",
    "VMPL_HOST",
    "CaCertificate",
    "Check",
    "CheckResult",
    "Examination",
    "GuestPolicy",
    "KeyInfo",
    "Outcome",
    "PlatformInfo",
    "ProductLine",
    "Report",
    "RevocationList",
    "Roots",
    "TcbVersion",
    "Vek",
    "VekKind",
    "VerifiedChain",
    "VerifiedReport",
    "check_expectations",
    "choose_vek",
    "examine_report",
    "line_from_cpuid",
    "load_certificates",
    "verify_crl",
    "verify_report",
    "verify_vek",
]
