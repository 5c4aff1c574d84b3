# SPDX-License-Identifier: BSD-3-Clause
"""Sort the roots that a person gave with --root: one of processors, one of devices, one of manifests.

Without any the makers' own roots are used. A root that was given replaces the maker's; it is never added.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sealroom.errors import FormatError
from sealroom.nvidia import Certificate, NvidiaRoots
from sealroom.snp import Roots, load_certificates

_RIM: Final = "RIM"
"""Stands in the name of every root of manifests' signers, and in that of no root of devices."""


@dataclass(frozen=True, slots=True)
class TrustedRoots:
    """The roots to verify with."""

    snp: Roots
    """Of processors."""
    nvidia: NvidiaRoots
    """Of GPUs, switches and their reference manifests."""


def sort_roots(files: Sequence[bytes]) -> TrustedRoots:
    """Return the roots that some files hold.

    Args:
        files: Contents of PEM or DER files, each with one certificate or several.

    Raises:
        FormatError: A file holds no certificate, or there are two roots of one kind.
    """
    processors: list[bytes] = []
    devices: list[Certificate] = []
    manifests: list[Certificate] = []
    for data in files:
        for der in load_certificates(data):
            root = _on_p384(der)
            if root is None:
                processors.append(der)
            else:
                (manifests if _RIM in root.name else devices).append(root)
    if len(devices) > 1 or len(manifests) > 1:
        raise FormatError("There are two roots of devices, or two of reference manifests.")
    nvidia = NvidiaRoots.nvidia()
    if devices:
        nvidia = NvidiaRoots.development(devices[0].der, manifests[0].der if manifests else b"")
    elif manifests:
        raise FormatError("There is a root of reference manifests without one of devices.")
    return TrustedRoots(Roots.from_pem(_pem(processors)) if processors else Roots.amd(), nvidia)


def _on_p384(der: bytes) -> Certificate | None:
    try:
        return Certificate.from_der(der, "root")
    except FormatError:
        return None


def _pem(certificates: Sequence[bytes]) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        for der in certificates
    )
