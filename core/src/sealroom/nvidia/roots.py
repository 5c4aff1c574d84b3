# SPDX-License-Identifier: BSD-3-Clause
"""What is trusted: the root of devices and the root of reference manifests.

NVIDIA's are pinned package data. Development roots are an explicit argument and are never merged with them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, Self

from cryptography import x509

from sealroom.errors import FormatError
from sealroom.nvidia.certificates import Certificate, load_chain

_DEVICE_ROOT: Final = "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"
_RIM_ROOT: Final = "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"
"""SHA-256 of the certificates, see data/PROVENANCE.md."""


@dataclass(frozen=True, slots=True)
class NvidiaRoots:
    """The roots to trust; make them with `nvidia` or `development`."""

    device: Certificate
    """Root of devices."""
    rim: Certificate | None
    """Root of the signers of reference manifests; None if nobody gave one: then none is authentic."""
    simulated: bool
    """True for development roots: no NVIDIA device stands behind what they vouch for."""
    fingerprint: str = field(init=False)
    """Names this set of roots."""

    def __post_init__(self) -> None:
        parts = (self.device.der, self.rim.der if self.rim else b"", b"simulated" if self.simulated else b"")
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        object.__setattr__(self, "fingerprint", hashlib.sha256(digests).hexdigest())

    def __repr__(self) -> str:
        return f"NvidiaRoots({'development' if self.simulated else 'NVIDIA'}, {self.fingerprint[:16]})"

    @classmethod
    def nvidia(cls) -> NvidiaRoots:
        """Return NVIDIA's own roots."""
        return _pinned()

    @classmethod
    def development(cls, device_pem: bytes, rim_pem: bytes = b"") -> Self:
        """Return development roots.

        Args:
            device_pem: Root of simulated devices, PEM or DER.
            rim_pem: Root of the signers of their reference manifests, PEM or DER; empty without one.

        Raises:
            FormatError: Not one certificate each, not self-signed, or one of NVIDIA's own.
        """
        device = _one(device_pem, "device root")
        rim = _one(rim_pem, "RIM root") if rim_pem else None
        for root in (device, rim):
            if root is not None and root.fingerprint in (_DEVICE_ROOT, _RIM_ROOT):
                raise FormatError("One of NVIDIA's own roots was given as a development root.", field="root")
        return cls(device, rim, simulated=True)


def _one(data: bytes, what: str) -> Certificate:
    chain = load_chain(data)
    if len(chain) != 1:
        raise FormatError(f"The {what} is {len(chain)} certificates, not one.", field=what)
    root = Certificate.from_der(chain[0], what)
    if not root.is_self_signed:
        raise FormatError(f"The {what} is not signed with its own key, so it is no root.", field=what)
    return root


@cache
def _pinned() -> NvidiaRoots:
    loaded = []
    for name, digest in (("device_root.pem", _DEVICE_ROOT), ("rim_root.pem", _RIM_ROOT)):
        pem = resources.files("sealroom.nvidia").joinpath("data", name).read_bytes()
        root = Certificate.of(x509.load_pem_x509_certificate(pem))
        if root.fingerprint != digest:
            raise RuntimeError(f"{name} is not the certificate that is pinned")
        loaded.append(root)
    return NvidiaRoots(loaded[0], loaded[1], simulated=False)
