# SPDX-License-Identifier: BSD-3-Clause
"""Environments: what a notebook server may run in, as a manifest that its publisher signed.

What this is: the manifest (TOML), its detached Ed25519 signature, and the reference values that appraisal
takes from it. It is both the hub's list of profiles and the broker's reference values. What it is not: an
appraisal.

Invariants:

- The digest and the signature are over the file's exact bytes.
- Everything computed (launch measurement of a simulated guest, HOST_DATA) is checked again when a manifest
  is read. Measurements of real firmware and kernels need those files: `recompute` does it on demand.
- A person's details never enter a manifest.
"""

from sealroom.environments.artifacts import ArtifactFile, Artifacts
from sealroom.environments.build import build, simulated_cpu
from sealroom.environments.diff import Difference, diff
from sealroom.environments.files import load, load_directory
from sealroom.environments.initdata import (
    INITDATA_ANNOTATION,
    initdata_annotation,
    initdata_from_annotation,
    initdata_host_data,
)
from sealroom.environments.manifest import Environment, Image, InitData, Shape, TcbLevels
from sealroom.environments.measure import (
    LaunchArtifacts,
    Measurement,
    VmmType,
    kata_vcpus,
    launch_digest,
    measurement_table,
)
from sealroom.environments.recompute import Recomputed, recompute
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
    "INITDATA_ANNOTATION",
    "ArtifactFile",
    "Artifacts",
    "LaunchArtifacts",
    "Measurement",
    "Recomputed",
    "VmmType",
    "initdata_annotation",
    "initdata_from_annotation",
    "initdata_host_data",
    "kata_vcpus",
    "launch_digest",
    "measurement_table",
    "recompute",
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
