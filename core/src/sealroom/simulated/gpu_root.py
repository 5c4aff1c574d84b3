# SPDX-License-Identifier: BSD-3-Clause
"""The development root of simulated GPUs: certificates of devices and of reference values.

Every key is derived from one seed of 32 bytes, so a root is remade from its seed and time, byte for byte. A
root on disk is a directory:

| file | content |
|---|---|
| `gpu-root.seed` | the seed, mode 0600 |
| `gpu-root.json` | time, SHA-256 of the certificates; written last |
| `gpu-device-root.pem`, `gpu-rim-root.pem` | what a relying party takes |
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from sealroom.errors import ConfigurationError, StorageError
from sealroom.simulated import gpu_certificates as make
from sealroom.simulated.gpu_certificates import EcAuthority, Key, Life

FORMAT: Final = "sealroom-simulated-gpu-root/1"
SEED_SIZE: Final = 32
SEED_FILE, INDEX = "gpu-root.seed", "gpu-root.json"
DEVICE_FILE, RIM_FILE = "gpu-device-root.pem", "gpu-rim-root.pem"
CHIPS: Final = ("GH100", "GB100", "LS_10")
"""Chips by their names in certificates."""
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
_RIM_CA_LIFE, _RIM_L3_LIFE, _RESPONDER_LIFE = (timedelta(days=days) for days in (3653, 1277, 1095))
SIGNER_LIFE: Final = timedelta(days=730)
"""Life of a signer of reference values, as real ones have it."""


@dataclass(frozen=True, slots=True)
class GpuRoot:
    """Everything above a GPU and above a signer of reference values."""

    at: datetime
    """Time at which the root was made; its certificates are valid from then on."""
    device: EcAuthority
    """Root of devices."""
    identities: Mapping[str, EcAuthority]
    """Identity by chip, under the root; LS_10 has the one of GH100."""
    provisioners: Mapping[str, EcAuthority]
    """Provisioner by chip, under its identity; it issues the boot ROMs."""
    rim: EcAuthority
    """Root of reference values."""
    rim_authorities: Mapping[str, EcAuthority]
    """Authority of reference values by chip, under the root."""
    rim_issuers: Mapping[str, EcAuthority]
    """Issuer of signers by chip, under its authority."""
    seed: bytes = field(repr=False)

    @classmethod
    def make(cls, *, at: datetime, seed: bytes | None = None) -> GpuRoot:
        """Make a root.

        Args:
            at: Start of the life of its certificates.
            seed: 32 bytes that all keys are derived from; random without it.
        """
        seed = secrets.token_bytes(SEED_SIZE) if seed is None else seed
        forever = Life(at)
        device_name = make.root_name("NVIDIA Device Identity CA")
        device = make.root(device_name, derive_key(seed, "device"), forever)
        identities = {
            chip: make.intermediate(
                make.name_of(f"NVIDIA {chip} Identity"),
                derive_key(seed, chip),
                device,
                forever,
                crl="crl/l1-root.crl",
            )
            for chip in CHIPS[:2]
        }
        identities["LS_10"] = identities["GH100"]
        provisioners = {
            chip: make.intermediate(
                make.name_of(f"NVIDIA {chip} Provisioner ICA 1", country=True),
                derive_key(seed, f"{chip} provisioner"),
                identities[chip],
                forever,
                crl=f"crl/l2-{chip.lower()}.crl",
            )
            for chip in CHIPS
        }
        return cls(at, device, identities, provisioners, *_reference_values(seed, at), seed)

    @property
    def device_pem(self) -> bytes:
        """The root of devices, as a relying party takes it."""
        return self.device.pem

    @property
    def rim_pem(self) -> bytes:
        """The root of reference values, as a relying party takes it."""
        return self.rim.pem

    def responder(self, issuer: EcAuthority, *, usage: bool = True) -> EcAuthority:
        """Return the OCSP responder of an issuer."""
        name = f"responder {make.key_digest(issuer.key).hex()} {usage}"
        life = Life(self.at, self.at + _RESPONDER_LIFE * 10)
        return make.responder(
            "NVIDIA OCSP Responder L1-A 01", derive_key(self.seed, name), issuer, life, usage=usage
        )

    def signer(self, chip: str, life: Life) -> EcAuthority:
        """Return a signer of a chip's reference values."""
        key = derive_key(self.seed, f"{chip} signer")
        return make.signer(make.signer_name("HCC RIM L4 Signer"), key, self.rim_issuers[chip], life)


def _reference_values(
    seed: bytes, at: datetime
) -> tuple[EcAuthority, dict[str, EcAuthority], dict[str, EcAuthority]]:
    life = Life(at, at + timedelta(days=30 * 365))
    name = make.root_name("NVIDIA CoRIM signing Root CA", reference_values=True)
    root = make.root(name, derive_key(seed, "rim"), life, reference_values=True)
    authorities = {
        chip: make.intermediate(
            make.name_of(f"NVIDIA Reference Value {chip} CA", country=True),
            derive_key(seed, f"{chip} rim authority"),
            root,
            Life(at, at + _RIM_CA_LIFE),
            crl="crl-corim/l1-corim",
        )
        for chip in CHIPS
    }
    issuers = {
        chip: make.intermediate(
            make.name_of(f"NVIDIA Reference Value L3 {chip} 001", country=True),
            derive_key(seed, f"{chip} rim issuer"),
            authorities[chip],
            # Ten years where real ones have three and a half: a development root is not renewed.
            Life(at, at + _RIM_CA_LIFE),
            path_length=0,
        )
        for chip in CHIPS
    }
    return root, authorities, issuers


def derive_key(seed: bytes, name: str) -> Key:
    """Return the P-384 key of that name: HMAC-SHA-512 of the name under the seed, modulo the order."""
    scalar = int.from_bytes(hmac.new(seed, name.encode(), hashlib.sha512).digest(), "big")
    return ec.derive_private_key(scalar % (_P384_ORDER - 1) + 1, ec.SECP384R1())


def create(directory: Path, *, at: datetime | None = None) -> GpuRoot:
    """Return the root in `directory`, making it first if there is none.

    Args:
        directory: Where the root lives; made with mode 0700 if it is not there.
        at: Time of a new root; the present by default.

    Raises:
        StorageError: The directory cannot be written.
        ConfigurationError: There is a root, and it is damaged.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (directory / INDEX).exists():
            _write(directory, GpuRoot.make(at=at or datetime.now(UTC)))
    except OSError as error:
        raise StorageError(f"The GPUs' root cannot be written in {directory}: {error.strerror}.") from error
    return load(directory)


def load(directory: Path) -> GpuRoot:
    """Read the root in `directory`.

    Raises:
        StorageError: A file is missing or cannot be read.
        ConfigurationError: A file is not what `gpu-root.json` says.
    """
    advice = (
        f"Remove the files gpu-* in {directory} and start again; what was proven under them is void then."
    )
    try:
        raw, seed = (directory / INDEX).read_bytes(), (directory / SEED_FILE).read_bytes()
    except OSError as error:
        raise StorageError(
            f"The GPUs' root in {directory} cannot be read: {error.strerror}.", advice=advice
        ) from error
    try:
        index = json.loads(raw)
        if index["format"] != FORMAT or len(seed) != SEED_SIZE:
            raise ValueError(FORMAT)
        root = GpuRoot.make(at=datetime.fromisoformat(index["created"]), seed=seed)
        if index["certificates"] != _digests(root):
            raise ValueError("certificates")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"The GPUs' root in {directory} is damaged.", advice=advice) from error
    return root


def _digests(root: GpuRoot) -> dict[str, str]:
    contents = {DEVICE_FILE: root.device_pem, RIM_FILE: root.rim_pem}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _write(directory: Path, root: GpuRoot) -> None:
    index = {
        "format": FORMAT,
        "simulated": True,
        "created": root.at.astimezone(UTC).isoformat(),
        "certificates": _digests(root),
    }
    _write_file(directory / SEED_FILE, root.seed, 0o600)
    _write_file(directory / DEVICE_FILE, root.device_pem, 0o644)
    _write_file(directory / RIM_FILE, root.rim_pem, 0o644)
    _write_file(directory / INDEX, json.dumps(index, indent=2).encode() + b"\n", 0o644)


def _write_file(path: Path, data: bytes, mode: int) -> None:
    # Whole or not at all: written aside, flushed to disk, then renamed.
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
