# SPDX-License-Identifier: BSD-3-Clause
"""Environments: what a notebook server may run in, as a manifest that its publisher signed.

What this is: the manifest (TOML), its detached Ed25519 signature, and the reference values that appraisal
takes from it. It is both the hub's list of profiles and the broker's reference values. What it is not: an
appraisal.

Invariants:

- The digest and the signature are over the file's exact bytes.
- Everything computed (launch measurement of a simulated guest, HOST_DATA) is checked again when a manifest
  is read.
- A person's details never enter a manifest.
"""

from sealroom.environments.build import build, simulated_cpu
from sealroom.environments.diff import Difference, diff
from sealroom.environments.files import load, load_directory
from sealroom.environments.manifest import Environment, Image, InitData, Shape, TcbLevels
from sealroom.environments.signing import (
    generate_key,
    key_id,
    load_private_key,
    load_public_key,
    private_pem,
    public_pem,
    sign,
    verify,
)

__all__ = [
    "Difference",
    "Environment",
    "Image",
    "InitData",
    "Shape",
    "TcbLevels",
    "build",
    "diff",
    "generate_key",
    "key_id",
    "load",
    "load_directory",
    "load_private_key",
    "load_public_key",
    "private_pem",
    "public_pem",
    "sign",
    "simulated_cpu",
    "verify",
]
