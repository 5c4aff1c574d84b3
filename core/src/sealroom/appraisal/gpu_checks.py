# SPDX-License-Identifier: BSD-3-Clause
"""The checks that appraisal makes of each GPU and NVSwitch, in the order in which they stand in a result."""

from __future__ import annotations

from typing import Final

_SPDM: Final = "NVIDIA attestation report (DMTF DSP0274 1.1.0, MEASUREMENTS)"
_MANIFEST: Final = "Sealroom, environment manifest"
_POLICY: Final = "Sealroom, appraisal policy"
_RIM: Final = "NVIDIA reference integrity manifest (TCG RIM IM 1.01)"

ROWS: Final[tuple[tuple[str, str, str, str, str, str, str], ...]] = (
    (
        "appraisal.gpu.root",
        "gpu",
        "GPU is real",
        "The chain ends at NVIDIA's root, and the processor beside the device is as real as the device.",
        "Sealroom, simulated devices",
        "The GPU is simulated: nothing protects the data in it from whoever runs the machine.",
        "Run the server on a GPU in confidential mode; a development root belongs on a developer's machine.",
    ),
    (
        "appraisal.gpu.nonce",
        "gpu",
        "GPU answers this question",
        "The nonce in the report is the one that follows from the broker's nonce and the server's key.",
        f"{_SPDM}, nonce; KBS protocol 0.4.0, additional-evidence",
        "The GPU's proof is genuine but answers another question than the one asked: it may be an old one.",
        "Let the server gather fresh evidence for the broker's challenge.",
    ),
    (
        "appraisal.gpu.count",
        "gpu",
        "Number of GPUs is the environment's",
        "As many GPUs have proven themselves as a shape with the report's MEASUREMENT has.",
        f"{_MANIFEST}, shapes.gpus",
        "The server has more or fewer GPUs that prove themselves than its environment names.",
        "Start the server with the GPUs of its shape, each of them in confidential mode.",
    ),
    (
        "appraisal.gpu.fleet",
        "gpu",
        "GPUs belong together",
        "All GPUs are different chips of one kind, mode and driver, and their switches are there too.",
        f"{_SPDM}, opaque data; NVIDIA, multi-GPU confidential computing",
        "The GPUs of the server do not fit together: one of them may stand outside of the protection.",
        "Give the server GPUs of one kind, mode and driver, and in protected PCIe mode their switches.",
    ),
    (
        "appraisal.gpu.architecture",
        "gpu",
        "GPU architecture is allowed",
        "The architecture, as the certificates tell it, is one of the environment's and of the policy's.",
        f"{_MANIFEST}, gpu.architectures; {_POLICY}",
        "The server has another kind of GPU than its environment is made for.",
        "Run the server on a GPU that the environment names, or add the architecture to it.",
    ),
    (
        "appraisal.gpu.mode",
        "gpu",
        "GPU mode is allowed",
        "The mode that the report names (SPT, MPT or PPCIE) is one of the environment's and of the policy's.",
        f"{_SPDM}, opaque data, feature flag",
        "The GPU runs in another mode than the environment allows, and other paths to its data may be open.",
        "Set the GPU's confidential mode, and start the server again.",
    ),
    (
        "appraisal.gpu.driver",
        "gpu",
        "GPU driver is allowed",
        "The driver version is one of the environment's and not older than the policy's minimum.",
        f"{_SPDM}, opaque data, driver version",
        "The server runs another GPU driver than its environment names.",
        "Start the server with the driver that the environment names.",
    ),
    (
        "appraisal.gpu.vbios",
        "gpu",
        "GPU firmware version is allowed",
        "The VBIOS version is one of the environment's.",
        f"{_SPDM}, opaque data, VBIOS version",
        "The GPU's own firmware is of another version than the environment names.",
        "Update the GPU's VBIOS, or add its version to the environment.",
    ),
    (
        "appraisal.gpu.reference",
        "gpu",
        "Reference values of the GPU's firmware",
        "Signed, valid reference values are there for driver and VBIOS, of those that the environment names.",
        f"{_RIM}; {_MANIFEST}, gpu.rims",
        "Nobody can tell whether the GPU's firmware is what its maker published.",
        "Fetch the reference manifests for this driver and VBIOS anew, or update the driver.",
    ),
    (
        "appraisal.gpu.measurements",
        "gpu",
        "GPU firmware is what its maker published",
        "Every active reference value equals the measurement in the report with the same index.",
        f"{_RIM}, Payload; {_SPDM}, measurement blocks",
        "The GPU runs firmware that differs from what its maker published for this version.",
        "Fetch the reference manifests anew: they may have been issued again. Else stop using the GPU.",
    ),
    (
        "appraisal.gpu.revocation",
        "gpu",
        "GPU certificates are not revoked",
        "Fresh, signed OCSP answers say that the certificates of device and reference values are good.",
        "RFC 6960; NVIDIA OCSP service",
        "Nobody could say whether the certificates of this GPU still hold.",
        "Let the broker reach the OCSP service, give it fresh answers, or choose a policy that needs none.",
    ),
)
"""Fields of `sealroom.checks.Check`, a row a check."""
