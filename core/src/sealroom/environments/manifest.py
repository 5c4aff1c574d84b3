# SPDX-License-Identifier: BSD-3-Clause
"""The environment manifest: what it says, and the reference values it gives.

```toml
format = "sealroom-environment/1"
name = "simulated-cpu"
version = "1"
title = "Simulated TEE, CPU"
description = "…"
tee = "simulated"               # or "snp"
runtime_class = ""
datasets = ["heartbeats"]       # ids that it may open, for the spawn page; the grant decides
guest_policy = 0x30000          # POLICY of the report, exactly

[[images]]                      # name, reference, digest = "sha256:…"
[[shapes]]                      # name, vcpus, memory_mib, gpus, measurements = ["<96 hex digits>"]
[initdata]                      # body = the exact text, host_data = "<64 hex digits>"
[minimum_tcb.Genoa]             # bootloader, tee, snp, microcode (Turin: fmc too)
[gpu]                           # see sealroom.environments.gpu; where a shape has gpus
[artifacts]                     # what the measurements were computed from: sealroom.environments.artifacts
```

For guests with an ID block, `id_key_digest` and `author_key_digest` (96 hex digits, `sealroom.snp.idblock`)
name the keys that must have signed it.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from sealroom.appraisal.expectation import ReferenceValues
from sealroom.environments.artifacts import Artifacts
from sealroom.environments.gpu import GpuSection
from sealroom.environments.initdata import HOST_DATA_SIZE, MAX_INITDATA, check_initdata
from sealroom.environments.initdata import initdata_host_data as initdata_host_data
from sealroom.errors import ConfigurationError, FormatError
from sealroom.snp import ProductLine, TcbVersion

FORMAT = "sealroom-environment/1"
MAX_SIZE = 1 << 20
"""A manifest with a table of a thousand measurements has about 100 KiB."""
MEASUREMENT_LABEL = b"sealroom simulated launch measurement 1\0"

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Measurement = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
KeyDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}$")]
HostData = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Level = Annotated[int, Field(ge=0, le=255)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Image(_Model):
    """A container image, named by digest."""

    name: Name
    reference: Line
    digest: Digest


class Shape(_Model):
    """A pod shape: each has launch measurements of its own."""

    name: Name
    vcpus: Annotated[int, Field(ge=1, le=512)]
    memory_mib: Annotated[int, Field(ge=1)]
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    measurements: Annotated[tuple[Measurement, ...], Field(min_length=1)]
    """Accepted launch measurements, hex."""

    @property
    def measurement_bytes(self) -> tuple[bytes, ...]:
        """The accepted launch measurements, 48 bytes each."""
        return tuple(bytes.fromhex(item) for item in self.measurements)


class InitData(_Model):
    """The initdata handed to the guest at launch; its digest is HOST_DATA."""

    body: Annotated[str, Field(max_length=MAX_INITDATA)]
    """The exact text."""
    host_data: HostData

    @model_validator(mode="after")
    def _host_data_is_the_digest(self) -> Self:
        if check_initdata(self.body).hex() != self.host_data:
            raise ValueError("host_data is not the digest of the body")
        return self


class TcbLevels(_Model):
    """Least acceptable security levels of a product line's firmware."""

    fmc: Level | None = None
    bootloader: Level
    tee: Level
    snp: Level
    microcode: Level

    def as_tcb(self) -> TcbVersion:
        """Return them as a TCB version."""
        return TcbVersion(
            fmc=self.fmc, bootloader=self.bootloader, tee=self.tee, snp=self.snp, microcode=self.microcode
        )


class Environment(_Model):
    """A parsed manifest. Make one with `from_toml`, which keeps the bytes that the digest is over."""

    format: Literal["sealroom-environment/1"]
    name: Name
    version: Line
    title: Line
    description: Annotated[str, Field(max_length=4000)] = ""
    tee: Literal["snp", "simulated"]
    runtime_class: str = ""
    datasets: tuple[str, ...] = ()
    guest_policy: Annotated[int, Field(ge=0, lt=1 << 64)]
    images: tuple[Image, ...] = ()
    shapes: Annotated[tuple[Shape, ...], Field(min_length=1)]
    initdata: InitData | None = None
    minimum_tcb: dict[ProductLine, TcbLevels]
    gpu: GpuSection | None = None
    """Which GPUs it may run on; a shape with GPUs and no such section is refused by the appraisal."""
    artifacts: Artifacts | None = None
    """What the measurements of all shapes were computed from, if they were computed."""
    id_key_digest: KeyDigest | None = None
    """The key that must have signed the guest's ID block, if one is demanded."""
    author_key_digest: KeyDigest | None = None
    """The key that must have certified the ID key, if one is demanded."""
    _raw: bytes = PrivateAttr(default=b"")

    @classmethod
    def from_toml(cls, data: bytes) -> Environment:
        """Parse a manifest.

        Raises:
            FormatError: It is not TOML, or not a manifest; the message names the field.
        """
        try:
            if len(data) > MAX_SIZE:
                raise ValueError(f"it is longer than {MAX_SIZE} bytes")
            environment = cls.model_validate(tomllib.loads(data.decode("utf-8")))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            raise FormatError(
                f"The environment manifest is wrong in {field or 'itself'}: {reason}.", field=field
            ) from None
        except (ValueError, RecursionError) as error:
            raise FormatError(f"The environment manifest cannot be read: {error}.") from error
        environment._raw = data  # noqa: SLF001 - own class
        return environment

    @property
    def raw(self) -> bytes:
        """The manifest's exact bytes."""
        return self._raw

    @property
    def digest(self) -> str:
        """`sha256:` and the hex digest of the manifest's exact bytes."""
        if not self._raw:
            raise RuntimeError("an environment has a digest only if it was made by from_toml")
        return "sha256:" + hashlib.sha256(self._raw).hexdigest()

    @property
    def host_data(self) -> bytes:
        """HOST_DATA that a guest of this environment is launched with; zeros without initdata."""
        return bytes.fromhex(self.initdata.host_data) if self.initdata else bytes(HOST_DATA_SIZE)

    def shape(self, name: str | None = None) -> Shape:
        """Return the shape of that name, or the first."""
        for item in self.shapes:
            if name is None or item.name == name:
                return item
        known = ", ".join(item.name for item in self.shapes)
        raise ConfigurationError(
            f"The environment {self.name} has no shape {name}.", advice=f"It has: {known}."
        )

    @property
    def reference_values(self) -> ReferenceValues:
        """What appraisal compares evidence with."""
        return ReferenceValues(
            name=self.name,
            version=self.version,
            title=self.title,
            digest=self.digest,
            tee=self.tee,
            measurements=frozenset(value for shape in self.shapes for value in shape.measurement_bytes),
            host_data=self.host_data,
            guest_policy=self.guest_policy,
            minimum_tcb={line: levels.as_tcb() for line, levels in self.minimum_tcb.items()},
            id_key_digest=_key_digest(self.id_key_digest),
            author_key_digest=_key_digest(self.author_key_digest),
            gpu=self.gpu.references if self.gpu else None,
            gpu_counts=self._gpu_counts(),
        )

    def _gpu_counts(self) -> dict[bytes, frozenset[int]]:
        # GPUs are not measured at launch, so shapes that differ in nothing else share a measurement.
        counts: dict[bytes, frozenset[int]] = {}
        for shape in self.shapes:
            for value in shape.measurement_bytes:
                counts[value] = counts.get(value, frozenset()) | {shape.gpus}
        return counts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, names in (
            ("shapes", [item.name for item in self.shapes]),
            ("images", [item.name for item in self.images]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"two of the {kind} have the same name")
        for line, levels in self.minimum_tcb.items():
            if (line is ProductLine.TURIN) != (levels.fmc is not None):
                raise ValueError(f"minimum_tcb.{line}: fmc belongs to Turin, and only to Turin")
        if self.gpu is not None and not any(shape.gpus for shape in self.shapes):
            raise ValueError("there is a section gpu, and no shape has gpus")
        for name in ("id_key_digest", "author_key_digest"):
            if set(getattr(self, name) or "1") == {"0"}:
                raise ValueError(f"{name} is zero, which in a report means that there is no such key")
        if self.tee == "simulated":
            if self.artifacts is not None:
                raise ValueError("artifacts belong to tee snp: a simulated guest has none")
            self._measurements_are_simulated()
        return self

    def _measurements_are_simulated(self) -> None:
        content = self.model_dump(mode="json", exclude_none=True)
        for shape in self.shapes:
            if shape.measurements != (simulated_measurement(content, shape.name).hex(),):
                raise ValueError(f"the measurement of shape {shape.name} is not that of this environment")


def simulated_measurement(content: Mapping[str, object], shape: str) -> bytes:
    """Return the launch measurement that a simulated guest of this manifest and shape has.

    It stands for everything that a real launch digest depends on, so that another image, another shape or
    another initdata is another measurement. `content` is the manifest as parsed TOML; its measurements are
    left out.
    """
    shapes: Iterable[Mapping[str, object]] = _list(content.get("shapes"))
    images: Iterable[Mapping[str, object]] = _list(content.get("images"))
    initdata = content.get("initdata")
    chosen: Mapping[str, object] = next((item for item in shapes if item.get("name") == shape), {})
    covered = {
        "name": content.get("name"),
        "version": content.get("version"),
        "images": [dict(item) for item in images],
        "shape": {
            "name": shape,
            "vcpus": chosen.get("vcpus"),
            "memory_mib": chosen.get("memory_mib"),
            "gpus": chosen.get("gpus", 0),
        },
        "initdata": initdata.get("body") if isinstance(initdata, Mapping) else None,
    }
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return hashlib.sha384(MEASUREMENT_LABEL + canonical).digest()


def _key_digest(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)


def _list(value: object) -> Iterable[Mapping[str, object]]:
    return value if isinstance(value, list | tuple) else ()
