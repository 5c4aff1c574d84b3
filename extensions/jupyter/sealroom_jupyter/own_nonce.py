# SPDX-License-Identifier: BSD-3-Clause
"""Evidence over a person's own nonce: "verify yourself".

REPORT_DATA is what `sealroom.snp.bundle.report_data_for` says: a digest with a prefix that keeps such
evidence apart from the evidence of a key broker's handshake, so that nobody can pass one off as the other.
It covers the evidence of the GPUs, each of which answers `device_nonce`.
"""

from __future__ import annotations

import base64
from datetime import datetime

from sealroom.errors import FormatError
from sealroom.kbs.devices import encode_devices
from sealroom.snp.bundle import FORMAT, NONCE_SIZES, device_nonce_for, report_data_for

from sealroom_jupyter.messages import EvidenceBundle
from sealroom_jupyter.ports import Devices, Evidence

MIN_NONCE, MAX_NONCE = NONCE_SIZES[0], NONCE_SIZES[-1]
"""Bytes. Fewer can be guessed; more adds nothing to a hash of 64 bytes."""


def parse_nonce(text: str) -> bytes:
    """Parse a nonce in hex.

    Raises:
        FormatError: It is not hex, too short or too long.
    """
    try:
        nonce = bytes.fromhex(text) if text.isascii() and not any(c.isspace() for c in text) else None
    except ValueError:
        nonce = None
    if nonce is None:
        raise FormatError("The nonce is not written in hex digits.", field="nonce", advice=_ADVICE)
    if len(nonce) not in NONCE_SIZES:
        raise FormatError(f"The nonce has {len(nonce)} bytes.", field="nonce", advice=_ADVICE)
    return nonce


_ADVICE = f"Use {MIN_NONCE} to {MAX_NONCE} random bytes, as {2 * MIN_NONCE} to {2 * MAX_NONCE} hex digits."


def report_data(nonce: bytes, devices: str = "") -> bytes:
    """Return the 64 bytes that the report covers.

    Args:
        nonce: The person's nonce.
        devices: The evidence of the GPUs, as `gather_devices` returns it.

    Raises:
        FormatError: The nonce is too short or too long.
    """
    _check_size(nonce)
    return report_data_for(nonce, devices)


def gather_devices(nonce: bytes, devices: Devices) -> str:
    """Return the evidence of the GPUs as the bundle carries it; empty on a server without one.

    Raises:
        FormatError: The nonce is too short or too long.
        EvidenceError: There is a GPU, and it gives no evidence.
    """
    _check_size(nonce)
    return encode_devices(devices.evidence(device_nonce_for(nonce)))


def _check_size(nonce: bytes) -> None:
    if len(nonce) not in NONCE_SIZES:
        raise FormatError(f"The nonce has {len(nonce)} bytes.", field="nonce", advice=_ADVICE)


def bundle(
    nonce: bytes, evidence: Evidence, *, devices: str = "", provider: str, created: datetime
) -> EvidenceBundle:
    """Return what is saved as `*.evidence.json`."""
    prefix = f"{FORMAT}+devices\0" if devices else f"{FORMAT}\0"
    covered = {"devices": "sha384"} if devices else {}
    return EvidenceBundle(
        nonce=nonce.hex(),
        report=base64.b64encode(evidence.report).decode(),
        certificates={kind: base64.b64encode(der).decode() for kind, der in evidence.certificates.items()},
        additional_evidence=devices,
        runtime_data={"algorithm": "sha512", "prefix": prefix, **covered, "nonce": nonce.hex()},
        provider=provider,
        created=created.replace(microsecond=0),
    )
