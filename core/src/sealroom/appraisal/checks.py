# SPDX-License-Identifier: BSD-3-Clause
"""The checks that appraisal makes, in the order in which they stand in a result.

They have the form of `sealroom.snp.CHECKS`, so that one page of the documentation is made from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sealroom.appraisal.gpu_checks import ROWS as GPU_ROWS
from sealroom.checks import Check

_ABI = "AMD 56860 rev 1.58"
_REPORT = f"{_ABI}, table ATTESTATION_REPORT"
_POLICY = f"{_ABI}, table Guest Policy"
_PLATFORM = f"{_ABI}, table PLATFORM_INFO"
_SEALROOM = "Sealroom, environment manifest"
_ASK_OPERATOR = "Do not use data here until those who run the machine have an explanation."

_ROWS: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    (
        "appraisal.root",
        "root",
        "Processor is real",
        "The chain ends at one of AMD's roots, not at a development root.",
        "Sealroom, simulated processor",
        "The processor is simulated: nothing protects the data from whoever runs the machine.",
        "Run the server on SEV-SNP hardware; a development root belongs on a developer's machine.",
    ),
    (
        "appraisal.environment",
        "environment",
        "Environment is known",
        "The caller named the environment that should run, or said explicitly that there is no expectation.",
        _SEALROOM,
        "Nobody said what should run on this server, so nothing can be said about what does.",
        "Start the server from the hub with one of the environments that the broker approves.",
    ),
    (
        "appraisal.tee",
        "environment",
        "Kind of processor is the environment's",
        "The environment is for the kind of processor that made the report: real or simulated.",
        _SEALROOM,
        "The environment is made for another kind of processor than this server has.",
        "Choose an environment for this kind of processor.",
    ),
    (
        "appraisal.measurement",
        "environment",
        "Software is the environment's",
        "MEASUREMENT is one of the launch measurements that the environment names.",
        f"{_REPORT}, MEASUREMENT",
        "The server was launched with other software than the environment names.",
        "Rebuild the measurements after any change of firmware, kernel, command line or pod shape.",
    ),
    (
        "appraisal.host_data",
        "environment",
        "Configuration is the environment's",
        "HOST_DATA is the digest of the environment's initdata.",
        f"{_REPORT}, HOST_DATA",
        "The server was launched with another configuration than the environment names.",
        "Launch with the exact initdata bytes of the manifest.",
    ),
    (
        "appraisal.guest_policy",
        "environment",
        "Guest policy is the environment's",
        "POLICY is exactly the guest policy that the environment names.",
        _POLICY,
        "The server was launched under other rules for its processor than the environment names.",
        "Launch with the guest policy of the manifest.",
    ),
    (
        "appraisal.id_key",
        "environment",
        "ID block is signed by the environment's key",
        "ID_KEY_DIGEST is the digest of the ID key that the environment names, if it names one.",
        f"{_REPORT}, ID_KEY_DIGEST",
        "Nobody whom the environment trusts signed for what this server was launched with.",
        "Launch with the ID block that belongs to the environment, and with ID_BLOCK_EN set.",
    ),
    (
        "appraisal.author_key",
        "environment",
        "ID key is certified by the environment's author",
        "AUTHOR_KEY_EN is set and AUTHOR_KEY_DIGEST is of the environment's author key, if it names one.",
        f"{_REPORT}, AUTHOR_KEY_EN and AUTHOR_KEY_DIGEST",
        "Nobody whom the environment trusts certified the key that signed for this server's launch.",
        "Launch with the ID authentication information of the environment, and with AUTHOR_KEY_EN set.",
    ),
    (
        "appraisal.minimum_tcb",
        "environment",
        "Firmware is new enough",
        "REPORTED_TCB and LAUNCH_TCB are at least the minimum for this product line.",
        f"{_ABI}, TCB_VERSION",
        "The processor's firmware is older than the environment allows and may have known holes.",
        "Update BIOS, SEV firmware and microcode, and start the server again.",
    ),
    (
        "appraisal.product_line",
        "policy",
        "Product line is allowed",
        "The product line is one of those that the policy names.",
        "Sealroom, appraisal policy",
        "The policy does not allow this generation of processors.",
        "Run the server on another machine, or add the line to the policy.",
    ),
    (
        "appraisal.report_version",
        "policy",
        "Report is new enough",
        "VERSION is at least the policy's minimum.",
        f"{_REPORT}, VERSION",
        "The processor's firmware makes reports of an older version than the policy asks for.",
        "Update the SEV firmware.",
    ),
    (
        "appraisal.debug",
        "policy",
        "Debugging is off",
        "The guest policy does not allow debugging.",
        f"{_POLICY}, DEBUG",
        "The machine's operator may read this server's memory: it was launched with debugging allowed.",
        "Launch without the debug bit in the guest policy.",
    ),
    (
        "appraisal.migration",
        "policy",
        "Migration is off",
        "The guest policy allows no migration agent.",
        f"{_POLICY}, MIGRATE_MA",
        "The server may be moved to another machine by an agent that nobody here has judged.",
        "Launch without the migration bit in the guest policy.",
    ),
    (
        "appraisal.cxl",
        "policy",
        "CXL is off",
        "The guest policy allows no CXL devices or memory.",
        f"{_POLICY}, CXL_ALLOW",
        "The server's memory may lie in devices outside of the processor's protection.",
        "Launch without the CXL bit in the guest policy.",
    ),
    (
        "appraisal.vmpl",
        "policy",
        "Privilege level is allowed",
        "VMPL is one of the levels that the policy names (only 0 by default).",
        f"{_REPORT}, VMPL",
        "The report was made by a less privileged part of the server than the policy allows.",
        "Where a paravisor runs at level 0, use a policy that says so.",
    ),
    (
        "appraisal.requester",
        "policy",
        "Server itself asked for the report",
        "The report was requested by the guest, not by the host (VMPL is not 0xFFFFFFFF).",
        f"{_REPORT}, VMPL",
        "The machine, not your server, asked for this report, so it does not speak for your server's keys.",
        _ASK_OPERATOR,
    ),
    (
        "appraisal.provisional_firmware",
        "policy",
        "Firmware is committed",
        "CURRENT_TCB and the current firmware version equal the committed ones.",
        f"{_REPORT}, CURRENT_TCB and COMMITTED_TCB",
        "The processor runs firmware that its operator can still take back to an older one.",
        "Commit the firmware with SNP_COMMIT, or use a policy that allows provisional firmware.",
    ),
    (
        "appraisal.chip_id",
        "policy",
        "Chip is named",
        "A report signed with a VCEK names its chip (CHIP_ID is not masked).",
        f"{_REPORT}, CHIP_ID and MASK_CHIP_ID",
        "The report hides which chip made it, so it cannot be tied to the certificate's chip.",
        "Clear MASK_CHIP_ID in SNP_CONFIG, or use a VLEK.",
    ),
    (
        "appraisal.signer",
        "policy",
        "Kind of signing key is allowed",
        "The key that signed (VCEK or VLEK) is one that the policy names.",
        f"{_REPORT}, SIGNING_KEY",
        "The report is signed with a kind of key that the policy does not allow.",
        "Let the platform sign with the other key, or change the policy.",
    ),
    (
        "appraisal.guest_svn",
        "policy",
        "Guest's security version is new enough",
        "GUEST_SVN is at least the policy's minimum.",
        f"{_REPORT}, GUEST_SVN",
        "The guest image is older than the policy allows.",
        "Use a newer guest image.",
    ),
    (
        "appraisal.rapl",
        "policy",
        "Power readings are off",
        "RAPL is disabled on the platform and by the guest policy, if the appraisal policy requires it.",
        f"{_PLATFORM}, RAPL_DIS",
        "The machine can measure its power draw finely enough to guess at secrets.",
        "Disable RAPL in the platform and set its bit in the guest policy.",
    ),
    (
        "appraisal.alias_check",
        "policy",
        "Memory was checked for aliases",
        "ALIAS_CHECK_COMPLETE is set, if the policy requires it.",
        f"{_PLATFORM}, ALIAS_CHECK_COMPLETE",
        "Nobody checked that the machine's memory modules are honest about their size (BadRAM).",
        "Update the firmware to one that checks for memory aliases.",
    ),
    (
        "appraisal.ciphertext_hiding",
        "policy",
        "Ciphertext is hidden",
        "Ciphertext hiding is on in the platform and demanded by the guest policy, if required.",
        f"{_PLATFORM}, CIPHERTEXT_HIDING_DRAM_EN",
        "The machine can watch the encrypted memory change.",
        "Switch ciphertext hiding on, where the processor has it.",
    ),
    (
        "appraisal.smt",
        "policy",
        "Hyper-threading is off",
        "SMT is off in the platform, if the policy requires it.",
        f"{_PLATFORM}, SMT_EN",
        "Other workloads may share a processor core with this server.",
        "Switch SMT off in the BIOS.",
    ),
)

CHECKS: Mapping[str, Check] = MappingProxyType({row[0]: Check(*row) for row in (*_ROWS, *GPU_ROWS)})
"""Every check of the appraisal by its id."""
DEVICE_CHECKS = tuple(row[0] for row in GPU_ROWS)
"""Ids of the checks that are made of each GPU and NVSwitch; all others are made of the processor."""
