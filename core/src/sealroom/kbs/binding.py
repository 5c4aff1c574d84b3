# SPDX-License-Identifier: BSD-3-Clause
"""What a piece of evidence must cover: the digest of the broker's nonce and the guest's key.

KBS protocol 0.4.0 as Trustee has it (attestation-service/src/lib.rs and guest-components
kbs_protocol/src/client/rcar_client.rs): the CPU's REPORT_DATA is the hash of the canonical JSON of nonce, key
and the devices' evidence; a device's nonce is the hash of nonce and key alone. So the CPU vouches for the
devices' evidence, and each device for the key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final, Literal, get_args

from sealroom.canonical import canonical_json
from sealroom.errors import BindingError, ProtocolError

HashAlgorithm = Literal["sha256", "sha384", "sha512"]
"""The hash algorithms that we can bind with; Trustee also names `sm3`."""

HASH_ALGORITHMS: Final[tuple[HashAlgorithm, ...]] = get_args(HashAlgorithm)
DEFAULT_HASH: Final[HashAlgorithm] = "sha384"
"""What both sides use when the broker selects none."""

REPORT_DATA_SIZE: Final = 64
"""AMD 56860, ATTESTATION_REPORT, REPORT_DATA."""

__all__ = [
    "DEFAULT_HASH",
    "HASH_ALGORITHMS",
    "REPORT_DATA_SIZE",
    "HashAlgorithm",
    "canonical_json",
    "check_report_data",
    "cpu_digest",
    "cpu_report_data",
    "device_nonce",
    "hash_algorithm",
]


def hash_algorithm(name: str) -> HashAlgorithm:
    """Return the algorithm of this name, in any case.

    Raises:
        ProtocolError: It is none of `HASH_ALGORITHMS`.
    """
    for known in HASH_ALGORITHMS:
        if name.lower() == known:
            return known
    raise ProtocolError(f"The broker asks for the hash algorithm {name[:16]!r}, which is not supported.")


def cpu_digest(
    nonce: str,
    tee_pubkey: Mapping[str, str],
    additional_evidence: str = "",
    algorithm: HashAlgorithm = DEFAULT_HASH,
) -> bytes:
    """Return the digest that the primary TEE's evidence must cover.

    Args:
        nonce: The challenge's nonce, as the string that was sent.
        tee_pubkey: The guest's public JWK, as it was sent.
        additional_evidence: The devices' evidence, as the string that was sent; empty without devices.
        algorithm: What the broker selected.
    """
    covered = {"additional-evidence": additional_evidence, "nonce": nonce, "tee-pubkey": dict(tee_pubkey)}
    return hashlib.new(algorithm, canonical_json(covered)).digest()


def cpu_report_data(
    nonce: str,
    tee_pubkey: Mapping[str, str],
    additional_evidence: str = "",
    algorithm: HashAlgorithm = DEFAULT_HASH,
) -> bytes:
    """Return the 64 bytes of REPORT_DATA: `cpu_digest`, zeros after it."""
    return cpu_digest(nonce, tee_pubkey, additional_evidence, algorithm).ljust(REPORT_DATA_SIZE, b"\0")


def device_nonce(
    nonce: str,
    tee_pubkey: Mapping[str, str],
    algorithm: HashAlgorithm = DEFAULT_HASH,
    *,
    size: int | None = None,
) -> bytes:
    """Return the nonce that a device's evidence must answer.

    Args:
        nonce: The challenge's nonce, as the string that was sent.
        tee_pubkey: The guest's public JWK, as it was sent.
        algorithm: What the broker selected.
        size: How many of the digest's first bytes the device takes (32 for an NVIDIA GPU); all without it.
    """
    digest = hashlib.new(algorithm, canonical_json({"nonce": nonce, "tee-pubkey": dict(tee_pubkey)})).digest()
    return digest if size is None else digest[:size]


def check_report_data(
    report_data: bytes,
    nonce: str,
    tee_pubkey: Mapping[str, str],
    additional_evidence: str = "",
    algorithm: HashAlgorithm = DEFAULT_HASH,
) -> None:
    """Check that a report covers this nonce, this key and these devices.

    Raises:
        BindingError: It covers something else.
    """
    expected = cpu_report_data(nonce, tee_pubkey, additional_evidence, algorithm)
    if not hmac.compare_digest(report_data, expected):
        raise BindingError(
            "The report does not cover this nonce, key and device evidence.",
            advice="Gather fresh evidence for the broker's challenge and attest again.",
            check="report_data",
        )
