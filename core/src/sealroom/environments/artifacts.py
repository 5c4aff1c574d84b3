# SPDX-License-Identifier: BSD-3-Clause
"""What a manifest says about the files that its measurements were computed from.

What this is: names and digests, so that anyone who has the files can compute the table again. What this is
not: a reference value; appraisal compares the measurements.

```toml
[artifacts]
append = "console=ttyS0"        # the kernel's command line, exactly
cpu_types = ["EPYC-v4"]         # with QEMU; each shape has one measurement for each
vmm_type = "QEMU"               # or ec2, gce
guest_features = 1
[artifacts.ovmf]                # also kernel and initrd
name = "OVMF.fd"
sha256 = "<64 hex digits>"
```

A template gives the path of a file instead of the table with its digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sealroom.environments.measure import LaunchArtifacts, VmmType

FILES: Final = ("ovmf", "kernel", "initrd")
"""The artifacts that are files, in the order in which they are shown."""

FileName = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^/\\\x00-\x1f\x7f]+$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
CommandLine = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
CpuType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]{0,40}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class ArtifactFile(_Model):
    """A file by its name and digest; where it lies is no part of it."""

    name: FileName
    sha256: Sha256

    @model_validator(mode="after")
    def _name_is_a_file(self) -> Self:
        if self.name in {".", ".."}:
            raise ValueError("the name is no file name")
        return self


class Artifacts(_Model):
    """Everything that the launch measurements of the shapes were computed from, but for their vCPUs."""

    ovmf: ArtifactFile
    kernel: ArtifactFile | None = None
    initrd: ArtifactFile | None = None
    append: CommandLine | None = None
    cpu_types: tuple[CpuType, ...] = ()
    vmm_type: VmmType = VmmType.QEMU
    guest_features: Annotated[int, Field(ge=1, lt=1 << 63)] = 1

    def files(self) -> Iterator[tuple[str, ArtifactFile]]:
        """Yield (`ovmf`, `kernel` or `initrd`, its file) for those that there are."""
        for kind in FILES:
            file: ArtifactFile | None = getattr(self, kind)
            if file is not None:
                yield kind, file

    def launch(self, directory: Path) -> LaunchArtifacts:
        """Return them as files in a folder."""
        paths = {kind: directory / file.name for kind, file in self.files()}
        return LaunchArtifacts(
            ovmf=paths["ovmf"],
            kernel=paths.get("kernel"),
            initrd=paths.get("initrd"),
            append=self.append,
            vmm_type=self.vmm_type,
            guest_features=self.guest_features,
        )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.vmm_type is VmmType.QEMU) != bool(self.cpu_types):
            raise ValueError("cpu_types belong to vmm_type QEMU, which measures them")
        if self.kernel is None and (self.initrd is not None or self.append):
            raise ValueError("initrd and append are measured only together with a kernel")
        digests: dict[str, str] = {}
        for _, file in self.files():
            if digests.setdefault(file.name, file.sha256) != file.sha256:
                raise ValueError(f"two different files have the name {file.name}")
        return self
