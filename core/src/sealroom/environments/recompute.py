# SPDX-License-Identifier: BSD-3-Clause
"""Compute a manifest's measurements again from the artifacts it records, and compare.

What this is: the answer to "does this table follow from these files?". What this is not: a check of the
manifest's signature, or of what the files do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sealroom.environments.build import shape_measurements
from sealroom.environments.manifest import Environment
from sealroom.environments.measure import prepare
from sealroom.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Something that was computed again."""

    what: str
    """`ovmf`, `kernel`, `initrd`, or `shape <name>`."""
    recorded: tuple[str, ...]
    """What the manifest says, hex: the SHA-256 of a file, the measurements of a shape."""
    computed: tuple[str, ...]
    """What follows from the files, hex."""

    @property
    def same(self) -> bool:
        """Both are the same."""
        return self.recorded == self.computed


def recompute(environment: Environment, directory: Path) -> tuple[Recomputed, ...]:
    """Compute file digests and measurements again.

    Args:
        environment: The manifest.
        directory: Folder with the artifacts under the names that the manifest records.

    Returns:
        One row for each file, then one for each shape; the caller looks at `same`.

    Raises:
        ConfigurationError: The manifest records no artifacts, or names an unknown CPU type.
        StorageError: A file cannot be read.
        FormatError: The firmware is none.
    """
    artifacts = environment.artifacts
    if artifacts is None:
        raise ConfigurationError(
            f"The manifest of {environment.name} records no artifacts, so nothing can be computed again.",
            advice="Build it from a template with [artifacts].",
        )
    launch = prepare(artifacts.launch(directory))
    found = {"ovmf": launch.ovmf_sha256, "kernel": launch.kernel_sha256, "initrd": launch.initrd_sha256}
    rows = [
        Recomputed(kind, (file.sha256,), ((found[kind] or b"").hex(),)) for kind, file in artifacts.files()
    ]
    for shape in environment.shapes:
        computed = tuple(shape_measurements(launch, shape.vcpus, artifacts.cpu_types))
        rows.append(Recomputed(f"shape {shape.name}", shape.measurements, computed))
    return tuple(rows)
