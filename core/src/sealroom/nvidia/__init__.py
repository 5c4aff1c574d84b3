# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of NVIDIA GPUs and NVSwitches: parse it, verify that it is authentic, compare it with references.

What this is: reports of Hopper and Blackwell GPUs and of LS10 switches, verified to NVIDIA's pinned roots or
to explicitly given development roots; reference manifests and stored OCSP answers. What this is not: a
judgement whether what is verified is acceptable (`sealroom.appraisal`), or a client of NVIDIA's services
(`sealroom.collateral`). No IO, no clock, no HTTP.

```python
device = verify_device(report, load_chain(pem), roots=NvidiaRoots.nvidia(), at=now, nonce=nonce)
rims = [verify_rim(xml, roots=NvidiaRoots.nvidia(), at=now) for xml in (driver, vbios)]
compare(device, rims)
```
"""

from sealroom.nvidia.certificates import Certificate, load_chain
from sealroom.nvidia.checks import CHECKS, GROUPS, REPORT_CHECKS
from sealroom.nvidia.compare import compare, rim_ids
from sealroom.nvidia.ocsp import OcspPolicy
from sealroom.nvidia.opaque import Architecture, OpaqueType
from sealroom.nvidia.rim import VerifiedRim, clear_rim_cache, verify_rim
from sealroom.nvidia.roots import NvidiaRoots
from sealroom.nvidia.spdm import DeviceReport
from sealroom.nvidia.verify import (
    DeviceExamination,
    VerifiedDevice,
    clear_device_cache,
    examine_device,
    verify_device,
    with_revocation,
)

__all__ = [
    "CHECKS",
    "GROUPS",
    "REPORT_CHECKS",
    "Architecture",
    "Certificate",
    "DeviceExamination",
    "DeviceReport",
    "NvidiaRoots",
    "OcspPolicy",
    "OpaqueType",
    "VerifiedDevice",
    "VerifiedRim",
    "clear_device_cache",
    "clear_rim_cache",
    "compare",
    "examine_device",
    "load_chain",
    "rim_ids",
    "verify_device",
    "verify_rim",
    "with_revocation",
]
