# SPDX-License-Identifier: BSD-3-Clause
"""Appraisal policies: what is acceptable, as data.

A policy is a TOML file with a name and a version; its digest stands in every result. What a file does not
say is strict. Each relaxation has to be written out and is listed in the results made under it.

```toml
format = "sealroom-policy/1"
name = "hospital"
version = "3"
allow_provisional_firmware = true   # relaxations: false unless said
require_alias_check = true          # demands beyond the strict default
gpu_ocsp = "soft"                   # a relaxation: GPUs whose revocation nobody could be asked about
[minimum_tcb.Genoa]
bootloader = 10
tee = 0
snp = 23
microcode = 84
```
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from sealroom.errors import FormatError
from sealroom.snp import ProductLine, TcbVersion

MAX_SIZE = 1 << 16
RELAXATIONS: Mapping[str, str] = {
    "allow_debug_policy": "Debugging is allowed: the operator may read the server's memory.",
    "allow_migration": "A migration agent is allowed.",
    "allow_cxl": "CXL devices and memory are allowed.",
    "allow_provisional_firmware": "Firmware that can still be taken back is allowed.",
    "allow_masked_chip_id": "Reports that hide their chip are allowed.",
    "allow_host_requested_report": "Reports that the host asked for are allowed.",
    "allowed_vmpl": "Reports from privilege levels other than 0 are allowed.",
    "gpu_ocsp": "GPUs are allowed though nobody could be asked whether their certificates were revoked.",
    "allow_expired_rim": "Reference values of GPU firmware whose signer's certificate has ended are allowed.",
    "allow_missing_rim": "GPUs are allowed whose firmware was compared with no reference values.",
}
"""Field of a policy -> what it gives up, in one sentence."""
GRAVE = frozenset(
    {
        "allow_debug_policy",
        "allow_migration",
        "allow_host_requested_report",
        "allow_expired_rim",
        "allow_missing_rim",
    }
)
"""Relaxations after whose use a result is a warning, not affirming."""

GpuArchitecture = Literal["HOPPER", "BLACKWELL"]
GpuMode = Literal["SPT", "MPT", "PPCIE"]
"""Single-GPU pass-through, multi-GPU pass-through, protected PCIe."""
GpuOcsp = Literal["required", "soft", "off"]

_Level = Annotated[int, Field(ge=0, le=255)]
_STRICT: Mapping[str, object] = {"allowed_vmpl": {0}, "gpu_ocsp": "required"}
"""What the relaxations that are no switches are where nothing is relaxed."""


class _MinimumTcb(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    bootloader: _Level
    tee: _Level
    snp: _Level
    microcode: _Level
    fmc: _Level | None = None


class Policy(BaseModel):
    """An appraisal policy. Make one with `strict` or `from_toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["sealroom-policy/1"]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    version: Annotated[str, Field(min_length=1, max_length=100)]

    allow_debug_policy: bool = False
    allow_migration: bool = False
    allow_cxl: bool = False
    allow_provisional_firmware: bool = False
    allow_masked_chip_id: bool = False
    allow_host_requested_report: bool = False
    allowed_vmpl: Annotated[tuple[Annotated[int, Field(ge=0, le=3)], ...], Field(min_length=1)] = (0,)

    product_lines: Annotated[tuple[ProductLine, ...], Field(min_length=1)] = tuple(ProductLine)
    signers: Annotated[tuple[Literal["VCEK", "VLEK"], ...], Field(min_length=1)] = ("VCEK", "VLEK")
    minimum_report_version: Annotated[int, Field(ge=2, le=5)] = 2
    minimum_guest_svn: Annotated[int, Field(ge=0)] = 0
    require_rapl_disabled: bool = False
    require_alias_check: bool = False
    require_ciphertext_hiding: bool = False
    require_smt_disabled: bool = False
    minimum_tcb: dict[ProductLine, _MinimumTcb] = Field(default_factory=dict)
    """Applies besides the environment's minimum."""

    gpu_ocsp: GpuOcsp = "required"
    """`required`: good OCSP answers for every certificate, or the device is contraindicated. `soft`: answers
    that are there count, and a missing one does not. `off`: answers are not looked at."""
    allow_expired_rim: bool = False
    allow_missing_rim: bool = False
    gpu_architectures: Annotated[tuple[GpuArchitecture, ...], Field(min_length=1)] = get_args(GpuArchitecture)
    gpu_modes: Annotated[tuple[GpuMode, ...], Field(min_length=1)] = get_args(GpuMode)
    minimum_gpu_driver: Annotated[str, Field(pattern=r"^$|^[0-9]{1,6}(\.[0-9]{1,6}){0,3}$")] = ""
    """Oldest driver, for example `580.95.05`; applies besides the environment's list. Empty: no minimum."""

    _raw: bytes = PrivateAttr(default=b"")

    @classmethod
    def from_toml(cls, data: bytes) -> Policy:
        """Parse a policy.

        Raises:
            FormatError: It is not TOML, or not a policy; the message names the field.
        """
        try:
            if len(data) > MAX_SIZE:
                raise ValueError(f"it is longer than {MAX_SIZE} bytes")
            policy = cls.model_validate(tomllib.loads(data.decode("utf-8")))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise FormatError(
                f"The appraisal policy is wrong in {field or 'itself'}: {reason}.", field=field
            ) from None
        except (ValueError, RecursionError) as error:
            raise FormatError(f"The appraisal policy cannot be read: {error}.") from error
        policy._raw = data  # noqa: SLF001 - own class
        return policy

    @classmethod
    def strict(cls) -> Policy:
        """Return the strict policy: no relaxation; minimum TCBs come from the environment."""
        return cls.from_toml(STRICT)

    @property
    def raw(self) -> bytes:
        """The policy's exact bytes."""
        return self._raw

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest of the policy's exact bytes."""
        if not self._raw:
            raise RuntimeError("a policy has a digest only if it was made by strict or from_toml")
        return "sha256:" + hashlib.sha256(self._raw).hexdigest()

    @property
    def relaxations(self) -> tuple[str, ...]:
        """Names of the relaxations that this policy makes; keys of `RELAXATIONS`."""
        return tuple(name for name in RELAXATIONS if self._relaxes(name))

    def minimum(self, line: ProductLine) -> TcbVersion | None:
        """Return the policy's own minimum for a product line, if it has one."""
        levels = self.minimum_tcb.get(line)
        return TcbVersion(**levels.model_dump()) if levels else None

    def _relaxes(self, name: str) -> bool:
        value = getattr(self, name)
        if name not in _STRICT:
            return bool(value)
        return (set(value) if isinstance(value, tuple) else value) != _STRICT[name]

    @model_validator(mode="after")
    def _fmc_is_turins(self) -> Self:
        for line, levels in self.minimum_tcb.items():
            if (line is ProductLine.TURIN) != (levels.fmc is not None):
                raise ValueError(f"minimum_tcb.{line}: fmc belongs to Turin, and only to Turin")
        return self


STRICT = b"""\
format = "sealroom-policy/1"
name = "strict"
version = "1"
"""
