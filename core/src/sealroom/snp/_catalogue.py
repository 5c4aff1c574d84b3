# SPDX-License-Identifier: BSD-3-Clause
"""The texts of `sealroom.snp.checks.CHECKS`: data only.

A row is (id, group, title, meaning, source, what a failure means to a researcher, what it means to an
operator). `ABI` is AMD publication 56860, "SEV Secure Nested Paging Firmware ABI Specification"; `KDS` is
AMD publication 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification".
"""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """A heading under which checks stand."""

    title: str
    always: bool
    """True if `verify_report` accounts for the checks of this group for every report."""


GROUPS: dict[str, Group] = {
    "report": Group("The report by itself", always=True),
    "vek": Group("The endorsement certificate (VCEK or VLEK) by itself", always=True),
    "chain": Group("From the endorsement certificate to AMD's root", always=True),
    "crl": Group("Revocation", always=True),
    "binding": Group("The report against its endorsement certificate", always=True),
    "expected": Group("What the caller expects", always=False),
    "container": Group("What the report came in", always=False),
}

_ABI = "AMD 56860 rev 1.58"
_KDS = "AMD 57230 rev 1.00"
_REPORT = f"{_ABI}, table ATTESTATION_REPORT"
_VCEK = f"{_KDS}, VCEK certificate definition"
_X509 = "RFC 5280"

_TAMPERED = "Somebody changed the report on its way, or no AMD processor made it. Do not trust this server."
_DAMAGED = (
    "The evidence is damaged or made up. Do not trust this server; start it again and ask for a fresh proof."
)
_CERTIFICATE = (
    "The certificate that should vouch for the processor is not one of AMD's. Do not trust this server."
)
_FETCH_AGAIN = (
    "Fetch the certificate again from AMD's Key Distribution Service for this chip and this firmware."
)
_NEWER = (
    "The firmware may be newer than this verifier: update Sealroom, and if that does not help, report it."
)
_COPY = "Look for whatever copies, pads or cuts the report between the guest and the verifier."

CATALOGUE: tuple[tuple[str, str, str, str, str, str, str], ...] = (
    # --- the report by itself
    (
        "snp.report.length",
        "report",
        "Length",
        "The report is exactly 1184 bytes: none missing, none after it.",
        f"{_REPORT} (size 0x4A0)",
        _DAMAGED,
        _COPY,
    ),
    (
        "snp.report.version",
        "report",
        "Version",
        "VERSION is 2, 3, 4 or 5, the layouts that this verifier knows.",
        f"{_REPORT}, VERSION",
        "The report has a layout that this verifier does not know, so nothing in it can be relied on.",
        _NEWER,
    ),
    (
        "snp.report.signature_algo",
        "report",
        "Signature algorithm",
        "SIGNATURE_ALGO is 1: ECDSA on P-384 with SHA-384.",
        f"{_REPORT}, SIGNATURE_ALGO",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.policy",
        "report",
        "Guest policy is well formed",
        "POLICY has its bit 17 set and its bits 63 to 26 clear, as every policy that firmware accepts.",
        f"{_ABI}, table Guest Policy",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.vmpl",
        "report",
        "Privilege level exists",
        "VMPL is 0 to 3, or 0xFFFFFFFF for a report that the host asked for.",
        f"{_REPORT}, VMPL",
        _TAMPERED,
        _COPY,
    ),
    (
        "snp.report.key_info",
        "report",
        "Key information is well formed",
        "SIGNING_KEY is a defined value (0 VCEK, 1 VLEK, 7 none) and the bits 31 to 5 beside it are clear.",
        f"{_REPORT}, offset 0x48",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.reserved",
        "report",
        "Reserved bytes are zero",
        "The bytes at 0x4C, 0x18B, 0x1EB, 0x1EF and 0x208 that AMD reserves are all zero.",
        f"{_REPORT}, reserved fields",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.version_fields",
        "report",
        "Only fields of its version",
        (
            "Fields that came with a later version are zero: CPUID before version 3, mitigation vectors "
            "before version 5."
        ),
        f"{_REPORT}, CPUID_FAM_ID, LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.signature_encoding",
        "report",
        "Signature is encoded as specified",
        "R and S use 48 of their 72 bytes, little-endian, and every byte after them in SIGNATURE is zero.",
        f"{_ABI}, table Signature format for ECDSA P-384 with SHA-384",
        _TAMPERED,
        _COPY,
    ),
    (
        "snp.report.signature_range",
        "report",
        "Signature numbers are in range",
        "R and S are each between 1 and the order of P-384 less one.",
        "FIPS 186-5, section 6.4.2, step 1",
        _TAMPERED,
        "An all-zero signature means that the firmware was told not to sign (MASK_CHIP_KEY).",
    ),
    (
        "snp.report.signing_key",
        "report",
        "Report is signed",
        "SIGNING_KEY names a key; 7 means that the firmware did not sign.",
        f"{_REPORT}, SIGNING_KEY",
        "The processor did not sign this report, so it proves nothing.",
        "Load a VLEK, or clear MASK_CHIP_KEY in SNP_CONFIG.",
    ),
    (
        "snp.report.product_line",
        "report",
        "Processor is known",
        (
            "From version 3 on, CPUID family and model name a Milan, Genoa (with Bergamo and Siena) or "
            "Turin part."
        ),
        f"{_REPORT}, CPUID_FAM_ID and CPUID_MOD_ID; {_KDS}, determining the product name",
        "The report names a processor that this verifier has no root certificate for.",
        _NEWER,
    ),
    # --- the endorsement certificate
    (
        "snp.vek.present",
        "vek",
        "Endorsement certificate is there",
        "A VCEK or VLEK certificate came with the report or was given.",
        f"{_KDS}, chapter 4",
        "Without the processor's certificate nobody can tell whether the report is genuine.",
        (
            "Let the host put certificates into the extended report, or fetch the VCEK for this chip and "
            "firmware."
        ),
    ),
    (
        "snp.vek.der",
        "vek",
        "Certificate is well formed",
        "The certificate is one DER structure of X.509, nothing missing, nothing after it.",
        f"{_X509}, section 4.1; ITU-T X.690, section 10",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.version",
        "vek",
        "Certificate is X.509 version 3",
        "The version field says 3.",
        _VCEK,
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.signature_algorithm",
        "vek",
        "Certificate is signed with RSASSA-PSS, SHA-384, salt 48",
        (
            "Both algorithm fields are the same and say RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt "
            "length 48."
        ),
        f"{_VCEK}; RFC 4055, section 3.1",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.names",
        "vek",
        "Certificate names are AMD's",
        (
            "Subject is SEV-VCEK or SEV-VLEK, issuer is SEV-line or SEV-VLEK-line of the same kind, and "
            "the other parts of both names are equal."
        ),
        _VCEK,
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.key",
        "vek",
        "Certified key is on P-384",
        "The key is a point on the curve P-384 in uncompressed form.",
        _VCEK,
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.extensions",
        "vek",
        "Certificate extensions are known",
        (
            "No extension stands twice, none of AMD's and no critical one is unknown, none has another "
            "encoding than AMD's."
        ),
        f"{_VCEK}, extensions; {_X509}, section 4.2",
        _CERTIFICATE,
        _NEWER,
    ),
    (
        "snp.vek.required_extensions",
        "vek",
        "Certificate says everything it must",
        (
            "structVersion, productName and every security patch level of the line are there; fmcSPL on "
            "Turin only."
        ),
        f"{_VCEK}, extensions",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.kind",
        "vek",
        "Certificate is of one kind",
        "A VCEK has hwID and no cspID; a VLEK has cspID and no hwID.",
        f"{_VCEK}, extensions hwID and cspID",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.hwid",
        "vek",
        "Chip id has the length of its line",
        "hwID is 64 bytes (Milan, Genoa) or 8 bytes (Turin), bare or as a DER OCTET STRING.",
        f"{_VCEK}, extension hwID",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.product_name",
        "vek",
        "Product name is of the issuer's line",
        "productName is a product of the line that the issuer's name gives (Bergamo and Siena are Genoa's).",
        f"{_VCEK}, extension productName",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    # --- the chain
    (
        "snp.ask.present",
        "chain",
        "Intermediate certificate is there",
        (
            "The ASK (for a VCEK) or ASVK (for a VLEK) that the certificate's issuer names is pinned, or "
            "came along."
        ),
        f"{_KDS}, cert_chain",
        "The link between the processor's certificate and AMD's root is missing.",
        "Give the ASK or ASVK with the evidence, or update the verifier.",
    ),
    (
        "snp.ask.format",
        "chain",
        "Intermediate certificate is well formed",
        (
            "One DER structure, version 3, RSASSA-PSS as above, RSA key of 4096 bits, allowed to sign "
            "certificates."
        ),
        f"{_KDS}, ASK and ASVK certificates; {_X509}, sections 4.1 and 4.2",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.ark.pinned",
        "chain",
        "Root is the pinned one",
        (
            "The chain ends in the root certificate that the verifier was given, and the evidence brings "
            "no other root."
        ),
        f"{_KDS}, ARK certificate",
        (
            "The evidence leads to a root that is not AMD's: anybody can make such a chain. Do not trust "
            "this server."
        ),
        "A simulated processor needs its development root given explicitly; a real one never does.",
    ),
    (
        "snp.ark.self_signed",
        "chain",
        "Root is signed by itself",
        "The root certificate's signature verifies with its own key.",
        f"{_KDS}, ARK certificate; {_X509}, section 6.1",
        _CERTIFICATE,
        "The root certificate that was given is damaged.",
    ),
    (
        "snp.ask.signature",
        "chain",
        "Root signed the intermediate",
        "The intermediate's signature verifies with the root's key, and its issuer is the root's name.",
        f"{_KDS}, ASK and ASVK certificates; RFC 8017, section 8.1.2",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.signature",
        "chain",
        "Intermediate signed the endorsement certificate",
        "The certificate's signature verifies with the key of the ASK (VCEK) or ASVK (VLEK).",
        f"{_VCEK}; RFC 8017, section 8.1.2",
        _CERTIFICATE,
        _FETCH_AGAIN,
    ),
    (
        "snp.vek.validity",
        "chain",
        "Endorsement certificate is valid at the time",
        "The reference time lies between notBefore and notAfter of the VCEK or VLEK.",
        f"{_X509}, section 4.1.2.5",
        "The processor's certificate is out of date or was issued later than the time asked about.",
        "Fetch a new certificate (a VLEK lives one year), and check the verifier's clock.",
    ),
    (
        "snp.ask.validity",
        "chain",
        "Intermediate is valid at the time",
        "The reference time lies between notBefore and notAfter of the ASK or ASVK.",
        f"{_X509}, section 4.1.2.5",
        "AMD's intermediate certificate is not valid at the time asked about.",
        "Check the verifier's clock; otherwise fetch the current chain.",
    ),
    (
        "snp.ark.validity",
        "chain",
        "Root is valid at the time",
        "The reference time lies between notBefore and notAfter of the root.",
        f"{_X509}, section 4.1.2.5",
        "The root certificate is not valid at the time asked about.",
        "Check the verifier's clock.",
    ),
    # --- revocation
    (
        "snp.crl.format",
        "crl",
        "Revocation list is well formed",
        (
            "The list is one DER structure of X.509 version 2 with nextUpdate and no critical extension "
            "that is unknown."
        ),
        f"{_X509}, section 5",
        "It could not be found out whether AMD revoked a certificate.",
        "Fetch the revocation list again.",
    ),
    (
        "snp.crl.issuer",
        "crl",
        "Revocation list is of this root",
        "At least one of the given lists is issued by the root that the chain ends in.",
        f"{_KDS}, crl; {_X509}, section 6.3.3",
        "It could not be found out whether AMD revoked a certificate.",
        "Give the revocation list of this product line.",
    ),
    (
        "snp.crl.signature",
        "crl",
        "Root signed the revocation list",
        "The list's signature verifies with the root's key.",
        f"{_X509}, section 6.3.3, step g",
        "Somebody forged the revocation list. Do not trust this server until a genuine one was checked.",
        "Fetch the revocation list again.",
    ),
    (
        "snp.crl.not_revoked",
        "crl",
        "Nothing in the chain is revoked",
        "The serial numbers of the intermediate and of the root are on none of the lists.",
        f"{_X509}, section 6.3.3",
        "AMD revoked the key that vouches for this processor. Do not trust this server.",
        "Fetch the current chain and a new VCEK from AMD's Key Distribution Service.",
    ),
    (
        "snp.crl.not_future",
        "crl",
        "Revocation list is not from the future",
        "thisUpdate of the list is not after the reference time.",
        f"{_X509}, section 5.1.2.4",
        "It could not be found out whether a certificate was revoked at the time asked about.",
        "Give a list that was current at that time, and check the verifier's clock.",
    ),
    (
        "snp.crl.not_stale",
        "crl",
        "Revocation list is current",
        "nextUpdate of the list is not before the reference time.",
        f"{_X509}, section 5.1.2.5",
        "The list is out of date, so it could not be found out whether AMD revoked a certificate since.",
        "Fetch the current revocation list; AMD issues one about every 46 days.",
    ),
    # --- report against certificate
    (
        "snp.binding.line",
        "binding",
        "Report and certificate are of one product line",
        (
            "The line that CPUID in the report gives is the line of the certificate's issuer. Version 2 "
            "has no CPUID."
        ),
        f"{_REPORT}, CPUID_FAM_ID and CPUID_MOD_ID; {_VCEK}",
        "The report and the certificate are not of the same processor. Do not trust this server.",
        _FETCH_AGAIN,
    ),
    (
        "snp.report.tcb_layout",
        "binding",
        "Firmware versions have their line's layout",
        "The reserved bytes in each of the four TCB_VERSION fields are zero.",
        f"{_ABI}, table TCB_VERSION",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.chip_id_layout",
        "binding",
        "Chip id has its line's layout",
        "On Turin CHIP_ID is 8 bytes and 56 zero bytes.",
        f"{_REPORT}, CHIP_ID",
        _TAMPERED,
        _NEWER,
    ),
    (
        "snp.report.tcb_order",
        "binding",
        "Firmware versions are in a possible order",
        "No component of REPORTED_TCB or COMMITTED_TCB is above the same component of CURRENT_TCB.",
        f"{_ABI}, section on TCB versions",
        _TAMPERED,
        "Firmware cannot report this; look for what changed the report.",
    ),
    (
        "snp.binding.signing_key",
        "binding",
        "Report names the kind of key it is verified with",
        "SIGNING_KEY says VCEK for a VCEK certificate and VLEK for a VLEK certificate.",
        f"{_REPORT}, SIGNING_KEY",
        "The report was signed by another key than the one presented. Do not trust this server.",
        "Give the VCEK for SIGNING_KEY 0, the VLEK for SIGNING_KEY 1.",
    ),
    (
        "snp.binding.tcb",
        "binding",
        "Certificate is for the reported firmware",
        "Every security patch level in the certificate equals its component of REPORTED_TCB.",
        f"{_VCEK}, extensions blSPL to fmcSPL; {_REPORT}, REPORTED_TCB",
        "The certificate vouches for other firmware than the report claims. Do not trust this server.",
        "Firmware was updated: fetch the certificate for the reported TCB.",
    ),
    (
        "snp.binding.chip_id",
        "binding",
        "Certificate is for this chip",
        "hwID in the VCEK equals CHIP_ID. Not asked for a VLEK, or where CHIP_ID is masked with zeros.",
        f"{_VCEK}, extension hwID; {_REPORT}, CHIP_ID",
        "The certificate belongs to another processor. Do not trust this server.",
        _FETCH_AGAIN,
    ),
    (
        "snp.report.signature",
        "binding",
        "Processor signed the report",
        "The ECDSA signature over the first 672 bytes of the report verifies with the certified key.",
        f"{_REPORT}, SIGNATURE; FIPS 186-5, section 6.4",
        _TAMPERED,
        "Look for what changed the report, and check that the certificate is for the reported TCB.",
    ),
    # --- expectations
    (
        "snp.expected.nonce",
        "expected",
        "Report answers the nonce",
        "REPORT_DATA is the digest that covers the nonce which the verifier chose.",
        "RFC 9334, section 10.2",
        "The proof is not an answer to your question: it may be an old one that somebody replays.",
        "Ask for a fresh proof with a new nonce.",
    ),
    (
        "snp.expected.report_data",
        "expected",
        "REPORT_DATA is as expected",
        "All 64 bytes of REPORT_DATA are the expected ones.",
        f"{_REPORT}, REPORT_DATA",
        "The proof is genuine but about something else than you asked for.",
        "Check what the guest puts into REPORT_DATA.",
    ),
    (
        "snp.expected.host_data",
        "expected",
        "HOST_DATA is as expected",
        "All 32 bytes of HOST_DATA are the expected ones.",
        f"{_REPORT}, HOST_DATA",
        "The server was started with another configuration than the expected one.",
        "Check the initdata that the launch was given.",
    ),
    # --- containers
    (
        "snp.table.format",
        "container",
        "Certificate table is well formed",
        (
            "Every entry lies inside the table, none overlap, none stands twice, and an all-zero entry "
            "ends the list."
        ),
        "AMD 56421 rev 2.03, section 4.1.8.1",
        _DAMAGED,
        "Look for whatever builds the certificate table on the host.",
    ),
    (
        "snp.hcl.format",
        "container",
        "Azure HCL report is well formed",
        "Signature HCLA, an SNP report at offset 0x20 and runtime data whose lengths agree.",
        "Microsoft Azure, guest attestation for confidential VMs, HCL report",
        _DAMAGED,
        _COPY,
    ),
    (
        "snp.hcl.runtime_data",
        "container",
        "Azure runtime data is covered by the report",
        "The first 32 bytes of REPORT_DATA are the SHA-256 of the runtime data, the other 32 are zero.",
        "Microsoft Azure, guest attestation for confidential VMs, HCL report",
        "The keys that came with the report are not the ones that the processor vouched for.",
        _COPY,
    ),
    (
        "snp.bundle.format",
        "container",
        "Evidence bundle is well formed",
        "The JSON document has format sealroom-evidence/1 and its binary members decode.",
        "Sealroom, evidence bundle",
        _DAMAGED,
        "Save the evidence again from the notebook server.",
    ),
)
"""The checks, from the bytes of the report outwards."""
