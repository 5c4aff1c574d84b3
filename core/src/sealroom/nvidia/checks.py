# SPDX-License-Identifier: BSD-3-Clause
"""The checks that verification of NVIDIA devices makes, each with a stable id.

They have the form of `sealroom.snp.CHECKS`, so that one page of the documentation is made from all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sealroom.checks import Check

GROUPS: Final[dict[str, str]] = {
    "device_report": "The report of a device by itself",
    "device_chain": "From the device to NVIDIA's root",
    "device_binding": "The report against certificate and question",
    "rim": "Reference integrity manifests",
    "measurement": "Measurements against reference manifests",
    "nras": "The opinion of NVIDIA's own service",
}
"""Headings under which checks stand."""

_SPDM = "DMTF DSP0274 1.1.0"
_OPEN = "NVIDIA/nvtrust, local_gpu_verifier"
_PKI = "NVIDIA device identity PKI; RFC 5280"
_RIM = "TCG RIM Information Model 1.01; ISO/IEC 19770-2:2015"
_OCSP = "RFC 6960; NVIDIA OCSP service"
_NRAS = "NVIDIA Remote Attestation Service, claims version 3"

_TAMPERED = "Somebody changed the report on its way, or no NVIDIA device made it. Do not trust this GPU."
_DAMAGED = (
    "The evidence is damaged or made up. Do not trust this GPU; start the server again and prove again."
)
_STRANGER = "The certificates that should vouch for the GPU are not NVIDIA's. Do not trust this GPU."
_COPY = "Look for whatever copies, pads or cuts the report between the guest and the verifier."
_CHAIN_AGAIN = "Read the certificates again from the device; five are expected, the signer first."
_MANIFEST = "Nobody can tell whether the GPU's firmware is what its maker published."
_FETCH = "Fetch the manifest anew with `sealroom collateral refresh`."

_ROWS: Final[tuple[tuple[str, str, str, str, str, str, str], ...]] = (
    (
        "nvidia.report.request",
        "device_report",
        "Request is SPDM GET_MEASUREMENTS",
        "The report begins with an SPDM 1.1 request for all measurements with a signature.",
        f"{_SPDM}, table 36",
        _DAMAGED,
        _COPY,
    ),
    (
        "nvidia.report.response",
        "device_report",
        "Response is SPDM MEASUREMENTS",
        "After the request of 37 bytes stands an SPDM 1.1 response with measurements.",
        f"{_SPDM}, table 38",
        _DAMAGED,
        _COPY,
    ),
    (
        "nvidia.report.length",
        "device_report",
        "Length",
        "Every part has the length that it says, and the report ends with the signature of 96 bytes.",
        f"{_SPDM}, table 38",
        _DAMAGED,
        _COPY,
    ),
    (
        "nvidia.report.trailing",
        "device_report",
        "Nothing follows the signature",
        (
            "No byte stands after the signature, at the end that the lengths in the report determine. One "
            "is tolerated and named: a published guest appends it. It is covered by nothing, and it is not "
            "read. More are refused."
        ),
        "NVIDIA's verifiers disagree; confidential-containers/trustee passes over it",
        "A byte was added to the report on its way. It means nothing.",
        "Update the guest component that reads the report from the driver.",
    ),
    (
        "nvidia.report.blocks",
        "device_report",
        "Measurement blocks are well formed",
        "The blocks have the indices 1, 2, 3 … and each holds one value of 48 bytes; their lengths add up.",
        f"{_SPDM}, section 10.11.1",
        _DAMAGED,
        _COPY,
    ),
    (
        "nvidia.report.opaque",
        "device_report",
        "Opaque fields are well formed",
        "Type, length, value, one after the other up to the end, none twice; texts are texts.",
        f"{_OPEN}, spdm_msrt_resp_msg",
        _DAMAGED,
        (
            "The firmware may be newer than this verifier: update Sealroom, and if that does not help, "
            "report it."
        ),
    ),
    (
        "nvidia.chain.present",
        "device_chain",
        "Certificates are there",
        "The chain has the signer, the boot ROM that vouches for it, and what leads to the root.",
        _PKI,
        "The GPU sent no complete set of certificates, so nobody vouches for it.",
        _CHAIN_AGAIN,
    ),
    (
        "nvidia.chain.format",
        "device_chain",
        "Certificates are well formed",
        (
            "Each is an X.509 certificate in DER with a key on P-384, signed with ECDSA and SHA-384; "
            "extensions that it calls critical are known here."
        ),
        _PKI,
        _DAMAGED,
        _CHAIN_AGAIN,
    ),
    (
        "nvidia.chain.root",
        "device_chain",
        "Chain ends at the pinned root",
        "The last certificate is the pinned root byte for byte, or is issued by it.",
        f"{_PKI}; NVIDIA Device Identity CA",
        _STRANGER,
        "Compare the root with NVIDIA's. A development root has to be given explicitly.",
    ),
    (
        "nvidia.chain.links",
        "device_chain",
        "Each certificate is issued by the next",
        "Names fit and the signature verifies with the next certificate's key, from the signer to the root.",
        _PKI,
        _STRANGER,
        _CHAIN_AGAIN,
    ),
    (
        "nvidia.chain.authority",
        "device_chain",
        "Issuers may issue",
        (
            "Every issuer is a certificate authority within its path length; the signer is none, and its "
            "certificate is for signing and not for OCSP answers."
        ),
        _PKI,
        _STRANGER,
        _CHAIN_AGAIN,
    ),
    (
        "nvidia.chain.validity",
        "device_chain",
        "Certificates are valid",
        "The reference time lies within the validity of every certificate.",
        _PKI,
        "The GPU's certificates are not valid at this time.",
        "Check the clock; NVIDIA's device certificates do not expire.",
    ),
    (
        "nvidia.chain.device",
        "device_chain",
        "Device is of a known kind",
        (
            "The signer's name is that of a Hopper or Blackwell GPU or of an NVSwitch, and a GPU's report "
            "names its driver."
        ),
        f"{_PKI}; {_OPEN}",
        "The proof comes from a device of another kind than it says.",
        "Update Sealroom if the device is newer than this version.",
    ),
    (
        "nvidia.chain.ocsp",
        "device_chain",
        "Device is not revoked",
        (
            "A fresh, signed answer says that each certificate from the boot ROM upwards is good. What a "
            "missing answer means is a policy: off, soft or required."
        ),
        _OCSP,
        "NVIDIA withdrew this GPU's certificates, or nobody could say whether it did.",
        "Fetch answers with `sealroom collateral refresh`. A revoked device is taken out of service.",
    ),
    (
        "nvidia.ocsp.format",
        "device_chain",
        "OCSP answers are well formed",
        "Each is a successful OCSP response in DER with nothing after it.",
        _OCSP,
        "The answers about revocation are damaged.",
        "Fetch the answers again.",
    ),
    (
        "nvidia.report.signature",
        "device_binding",
        "Report is signed by the device",
        "ECDSA on P-384 with SHA-384 over request and response verifies with the signer's key.",
        f"{_SPDM}, section 10.11.2",
        _TAMPERED,
        _COPY,
    ),
    (
        "nvidia.report.fwid",
        "device_binding",
        "Firmware id is the certified one",
        (
            "The firmware id in the report (opaque field 20) equals the one in the signer's certificate "
            "(TCG DICE, 2.23.133.5.4.1 or 2.23.133.5.4.1.1). Drivers up to 535 and switches report none."
        ),
        "TCG DICE Attestation Architecture 1.1, section 6.1; NVIDIA/attestation-sdk",
        "The GPU's certificate is for other firmware than the GPU reports.",
        "Restart the GPU; if it stays, take it out of service.",
    ),
    (
        "nvidia.report.nonce",
        "device_binding",
        "Report answers the nonce",
        "The nonce of the request equals the verifier's 32 bytes.",
        f"{_SPDM}, table 36",
        "This proof is an old one or was made for somebody else. Ask for a fresh one.",
        "Look for whatever replays or caches evidence.",
    ),
    (
        "nvidia.rim.format",
        "rim",
        "Manifest is well formed",
        (
            "A SWID tag in UTF-8 without a document type, with one Meta and one Payload of numbered values, "
            "each of 48 bytes."
        ),
        _RIM,
        _MANIFEST,
        _FETCH,
    ),
    (
        "nvidia.rim.present",
        "rim",
        "Manifests for this driver and VBIOS are there",
        (
            "There is a manifest of the driver's version and one of the VBIOS's version (of the "
            "firmware's for a switch)."
        ),
        f"{_OPEN}, rim",
        f"{_MANIFEST} NVIDIA has not published reference values for every version.",
        (
            "Fetch the manifests by the ids that the reason names. If the service has none, use a version"
            " that it has."
        ),
    ),
    (
        "nvidia.rim.version",
        "rim",
        "Manifests are for this device",
        "The version in each manifest equals the version in the report.",
        f"{_OPEN}, rim",
        "The reference values are of another driver or firmware than the GPU's.",
        "Give the manifests of the versions that the report names.",
    ),
    (
        "nvidia.rim.roots",
        "rim",
        "Device and manifests are equally real",
        "A real device is compared with NVIDIA's manifests, a simulated one with simulated manifests.",
        "Sealroom, simulated devices",
        "Real and simulated evidence are mixed, which no honest server does.",
        "Keep development roots out of production.",
    ),
    (
        "nvidia.rim.root",
        "rim",
        "Manifest leads to the pinned root",
        "The last certificate of the signer's chain is the pinned root or is issued by it.",
        f"{_RIM}; NVIDIA CoRIM signing Root CA",
        f"{_MANIFEST} The reference values are not NVIDIA's.",
        _FETCH,
    ),
    (
        "nvidia.rim.links",
        "rim",
        "Signer's chain holds together",
        "Each certificate in the signature is issued by the next.",
        "RFC 5280",
        f"{_MANIFEST} The reference values are not NVIDIA's.",
        _FETCH,
    ),
    (
        "nvidia.rim.authority",
        "rim",
        "Signer's issuers may issue",
        "Every issuer is a certificate authority; the signer is none, and its certificate is for signing.",
        "RFC 5280",
        f"{_MANIFEST} The reference values are not NVIDIA's.",
        _FETCH,
    ),
    (
        "nvidia.rim.validity",
        "rim",
        "Manifest's signer is valid",
        (
            "The reference time lies within the validity of the signer and its issuers. Signers live for "
            "two years."
        ),
        "RFC 5280",
        (
            "The reference values are genuine and too old: their signer's certificate has ended or not "
            "begun. It says nothing bad about the GPU."
        ),
        (
            "Fetch the manifest anew; NVIDIA signs it again. If the service still has the old one, update"
            " driver or VBIOS."
        ),
    ),
    (
        "nvidia.rim.signature",
        "rim",
        "Manifest is signed",
        (
            "One enveloped XML signature covers the whole document: canonical XML 1.1, ECDSA P-384 with "
            "SHA-384. No other algorithm or transform is taken from the file."
        ),
        "W3C XML Signature 1.1; RFC 4051",
        f"{_MANIFEST} Somebody changed the reference values.",
        _FETCH,
    ),
    (
        "nvidia.rim.content",
        "rim",
        "Manifest has reference values",
        "The signed part names a version of a driver or a VBIOS and at least one active value.",
        _RIM,
        _MANIFEST,
        _FETCH,
    ),
    (
        "nvidia.rim.ocsp",
        "rim",
        "Manifest's signer is not revoked",
        (
            "A fresh, signed answer says that the signer and its issuers are good; on hold counts as "
            "good, as in NVIDIA's own verifiers, and is named."
        ),
        _OCSP,
        "NVIDIA withdrew these reference values, or nobody could say whether it did.",
        "Fetch answers and manifest anew with `sealroom collateral refresh`.",
    ),
    (
        "nvidia.rim.collision",
        "rim",
        "Manifests do not contradict each other",
        (
            "There is one manifest of the driver and one of the VBIOS, and no index is active in both. The "
            "same file given twice counts once."
        ),
        f"{_OPEN}, verifier/measurements",
        "The reference values contradict each other.",
        "Give one manifest for the driver and one for the VBIOS.",
    ),
    (
        "nvidia.measurement.count",
        "measurement",
        "Every reference value has a measurement",
        "The report has a measurement block for each active index; index i is block i + 1.",
        f"{_OPEN}, verifier/measurements",
        "The GPU reports fewer measurements than its maker published values for.",
        "Compare driver, VBIOS and manifests; if they fit, report it to the maker.",
    ),
    (
        "nvidia.measurement.values",
        "measurement",
        "Measurements are the published ones",
        (
            "Each measurement with an active reference value equals one of its alternatives. Index 35 is "
            "passed over while the video decoder 0 is off; a failure names each index and the manifest."
        ),
        f"{_OPEN}, verifier/measurements",
        "The GPU runs firmware that differs from what its maker published for this version.",
        (
            "Fetch the manifests anew, in case they were issued again; if that does not help, take the "
            "GPU out of service."
        ),
    ),
    (
        "nvidia.measurement.reissued",
        "measurement",
        "Manifest is the current issue",
        (
            "No index differs by itself for which NVIDIA has issued manifests of one version with several"
            " values (index 9)."
        ),
        "NVIDIA/nvtrust, issues 60, 90 and 132",
        "The GPU is probably good and the reference values old: NVIDIA published several for this version.",
        "Fetch the VBIOS manifest anew with `sealroom collateral refresh`, and compare again.",
    ),
    (
        "nvidia.nras.token",
        "nras",
        "Token is NVIDIA's",
        (
            "The overall token and each device's are signed with ES384 by a published key, by the "
            "expected issuer, and in force at the reference time."
        ),
        _NRAS,
        "NVIDIA's service did not say this.",
        "Fetch the service's keys again; ask the service again.",
    ),
    (
        "nvidia.nras.submods",
        "nras",
        "Device tokens are the overall token's",
        "The SHA-256 of each device's token stands in the overall token.",
        _NRAS,
        "A device's result was swapped for another.",
        "Ask the service again.",
    ),
    (
        "nvidia.nras.nonce",
        "nras",
        "Token answers the nonce",
        "The nonce in the overall token is the verifier's.",
        _NRAS,
        "This result is an old one or was made for somebody else.",
        "Look for whatever replays or caches results.",
    ),
    (
        "nvidia.nras.result",
        "nras",
        "NVIDIA's service says yes",
        "The overall result is true and each device's measurements are a success.",
        _NRAS,
        "NVIDIA's own service does not find this GPU good.",
        "Read the device's claims; compare driver, VBIOS and manifests.",
    ),
)

CHECKS: Mapping[str, Check] = MappingProxyType({row[0]: Check(*row) for row in _ROWS})
"""Every check by its id, in the order in which they are listed."""

REPORT_CHECKS: tuple[str, ...] = tuple(
    check.id
    for check in CHECKS.values()
    if check.group in ("device_report", "device_chain", "device_binding") and check.id != "nvidia.ocsp.format"
)
"""Ids of the checks that `verify_device` makes, or says were not asked, for every report."""
