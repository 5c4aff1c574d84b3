# SPDX-License-Identifier: BSD-3-Clause
"""The section `[gpu]` of an environment manifest: which GPUs an environment may run on.

```toml
[gpu]
architectures = ["HOPPER"]
modes = ["SPT"]                       # also "MPT", "PPCIE"; all three without it
drivers = ["580.95.05"]               # exactly; the driver is part of the guest's image
vbios = ["96.00.9F.00.01"]            # or ["any"]: every version whose reference values match
switch_vbios = []                     # NVSwitches of protected PCIe mode; none are accepted without it
rims = ["sha256:…"]                   # reference manifests by digest of their file, or by NVIDIA's id
```

How many GPUs there have to be is said by the shape (`shapes.gpus`).
"""

from __future__ import annotations

from typing import Annotated, Final, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from sealroom.appraisal.expectation import GpuReferences
from sealroom.appraisal.policy import GpuArchitecture, GpuMode

ANY: Final = "any"

Driver = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){1,3}$")]
Vbios = Annotated[str, StringConstraints(pattern=r"^(any|[0-9A-F]{2}(\.[0-9A-F]{2}){4})$")]
Rim = Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64}|NV_[A-Za-z0-9_.-]{1,120})$")]


class GpuSection(BaseModel):
    """Which GPUs an environment may run on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architectures: Annotated[tuple[GpuArchitecture, ...], Field(min_length=1)]
    modes: Annotated[tuple[GpuMode, ...], Field(min_length=1)] = get_args(GpuMode)
    drivers: Annotated[tuple[Driver, ...], Field(min_length=1)]
    """Accepted driver versions, exactly."""
    vbios: Annotated[tuple[Vbios, ...], Field(min_length=1)]
    """Accepted VBIOS versions as `96.00.9F.00.01`, or `any` alone."""
    switch_vbios: tuple[Vbios, ...] = ()
    """Accepted firmware versions of NVSwitches, or `any` alone."""
    rims: tuple[Rim, ...] = ()
    """Reference manifests that count; without any, every one that NVIDIA signed."""

    @property
    def references(self) -> GpuReferences:
        """What appraisal compares devices with."""
        return GpuReferences(
            architectures=frozenset(self.architectures),
            modes=frozenset(self.modes),
            drivers=frozenset(self.drivers),
            vbios=_versions(self.vbios),
            switch_vbios=_versions(self.switch_vbios),
            rims=frozenset(self.rims),
        )

    @model_validator(mode="after")
    def _any_stands_alone(self) -> Self:
        for name in ("vbios", "switch_vbios"):
            versions = getattr(self, name)
            if ANY in versions and len(versions) > 1:
                raise ValueError(f'{name}: "any" stands alone')
        return self


def _versions(versions: tuple[str, ...]) -> frozenset[str] | None:
    return None if ANY in versions else frozenset(versions)
