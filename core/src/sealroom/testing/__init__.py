# SPDX-License-Identifier: BSD-3-Clause
"""Builders for tests of every distribution: chains, certificates, reports and evidence.

Each is right, or has the one mistake that was asked for.

RSA keys take seconds to make, so they are made once per process and shared by all chains.

```python
chain = testing.chain()                                   # Genoa, simulated names
evidence = testing.evidence(report_data, environment)     # what a guest would send
roots = Roots.development(chain.root.pem)
broken = testing.chip(extensions={"3.1": None})           # a VCEK without blSPL
device = testing.device_evidence(nonce)                   # what a guest with a Hopper GPU would send
```
"""

from sealroom.testing.builders import (
    AMD_LIKE_NAMES,
    CHIP_ID,
    EPOCH,
    NOW,
    Chip,
    chain,
    chip,
    development_roots,
    environment,
    evidence,
    later,
    rsa_key,
    vek,
    verified_evidence,
)
from sealroom.testing.gpus import device_evidence, gpu, gpu_root, running_gpus
from sealroom.testing.processor import running_processor

__all__ = [
    "AMD_LIKE_NAMES",
    "CHIP_ID",
    "EPOCH",
    "NOW",
    "Chip",
    "chain",
    "chip",
    "development_roots",
    "device_evidence",
    "environment",
    "evidence",
    "gpu",
    "gpu_root",
    "later",
    "rsa_key",
    "running_gpus",
    "running_processor",
    "vek",
    "verified_evidence",
]
