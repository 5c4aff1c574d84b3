# SPDX-License-Identifier: BSD-3-Clause
"""What evidence is compared with: the reference values of one environment.

`ReferenceValues` is plain data; `sealroom.environments.Environment` gives one. `NO_EXPECTATION` stands for
"I do not know what should run there": it must be passed by name, and what it cannot judge is reported as
not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from sealroom.snp import ProductLine, TcbVersion


@dataclass(frozen=True, slots=True)
class GpuReferences:
    """Which GPUs and NVSwitches an environment may run on."""

    architectures: frozenset[str]
    """`HOPPER`, `BLACKWELL`."""
    modes: frozenset[str]
    """`SPT`, `MPT`, `PPCIE`."""
    drivers: frozenset[str]
    """Accepted driver versions, exactly."""
    vbios: frozenset[str] | None
    """Accepted VBIOS versions; None if every version is accepted whose reference values match."""
    switch_vbios: frozenset[str] | None = frozenset()
    """The same for NVSwitches; empty if the environment has none."""
    rims: frozenset[str] = frozenset()
    """Reference manifests that count, as `sha256:<hex>` of the file or NVIDIA's id; empty: all."""


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """Reference values of an environment."""

    name: str
    version: str
    title: str
    digest: str
    """`sha256:<hex>` of the signed manifest."""
    tee: Literal["snp", "simulated"]
    measurements: frozenset[bytes]
    """Accepted launch measurements, 48 bytes each."""
    host_data: bytes
    """HOST_DATA, 32 bytes."""
    guest_policy: int
    """POLICY, exactly."""
    minimum_tcb: Mapping[ProductLine, TcbVersion] = field(default_factory=dict)
    """Least TCB of each product line that the environment may run on; another line is refused."""
    id_key_digest: bytes | None = None
    """ID_KEY_DIGEST, 48 bytes; None asks for none."""
    author_key_digest: bytes | None = None
    """AUTHOR_KEY_DIGEST, 48 bytes; None asks for none."""
    gpu: GpuReferences | None = None
    """Which GPUs it may run on; None if it names none."""
    gpu_counts: Mapping[bytes, frozenset[int]] = field(default_factory=dict)
    """Launch measurement -> how many GPUs the shapes with that measurement have."""


class SupportsReferenceValues(Protocol):
    """Anything that gives reference values, first of all an environment."""

    @property
    def reference_values(self) -> ReferenceValues:
        """The values to compare with."""


class NoExpectation:
    """The explicit absence of an environment; use the one instance `NO_EXPECTATION`."""

    def __repr__(self) -> str:
        return "NO_EXPECTATION"


NO_EXPECTATION: Final = NoExpectation()
"""Judge authenticity and policy alone; at best a `warning`, for nobody said what should run there."""
