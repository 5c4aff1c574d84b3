# SPDX-License-Identifier: BSD-3-Clause
"""From an environment's manifest and a shape to the pod that has to come of it.

What this is: which runtime class, image, size, annotations and security context an environment means, as
`PodExpectation` (what `rules` demands) and as `PodParts` (what the spawner is set to). What it is not: the
pod; KubeSpawner makes it, with everything else that its configuration says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sealroom.environments import INITDATA_ANNOTATION, Environment, Shape, initdata_annotation
from sealroom.errors import ConfigurationError, FormatError

TIMEOUT_ANNOTATION: Final = "io.katacontainers.config.runtime.create_container_timeout"
"""How long Kata waits for a container, in seconds: the guest pulls the image in that time."""
PULL_ANNOTATION: Final = "io.containerd.cri.runtime-handler"
"""Tells containerd whose snapshotter takes the image, so that the guest pulls it and not the machine."""
CPU_CLASS: Final = "kata-qemu-snp"
GPU_CLASS: Final = "kata-qemu-nvidia-gpu-snp"
RUNTIME_CLASSES: Final = (CPU_CLASS, GPU_CLASS)
NOTEBOOK_IMAGE: Final = "notebook"

RUN_DIRECTORY: Final = "/run/sealroom"
TMP: Final = "/tmp"  # noqa: S108 - the pod's own, in memory
HOME: Final = "/home/jovyan"

CONTAINER_CONTEXT: Final[Mapping[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What the restricted Pod Security profile demands, and a read-only root."""
POD_CONTEXT: Final[Mapping[str, Any]] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True, slots=True)
class Plan:
    """An environment and a shape that a person chose."""

    environment: Environment
    shape: Shape
    manifest: Path
    gpu_resource: str = "nvidia.com/pgpu"
    default_vcpus: float = 0.0
    """vCPUs that Kata adds to the pod's limit (`default_vcpus` of its configuration)."""
    create_timeout: int = 600
    """Seconds for `TIMEOUT_ANNOTATION`."""

    @property
    def runtime_class(self) -> str:
        """The runtime class of the pod."""
        return runtime_class(self.environment, self.shape)

    @property
    def image(self) -> str:
        """The notebook image as `repository@sha256:…`."""
        return notebook_image(self.environment)

    @property
    def cpu_millis(self) -> int:
        """The CPU limit in thousandths, from which Kata makes the shape's vCPUs."""
        millis = self.shape.vcpus * 1000 - round(self.default_vcpus * 1000)
        if millis <= 0:
            raise ConfigurationError(
                f"The shape {self.shape.name} has no more vCPUs than Kata's default_vcpus.",
                advice="Set kata_default_vcpus to what the runtime's configuration says.",
            )
        return millis

    @property
    def memory_bytes(self) -> int:
        """The memory limit in bytes."""
        return self.shape.memory_mib << 20

    @property
    def annotations(self) -> dict[str, str]:
        """The annotations that the runtime reads."""
        found = {PULL_ANNOTATION: self.runtime_class, TIMEOUT_ANNOTATION: str(self.create_timeout)}
        if self.environment.initdata is not None:
            found[INITDATA_ANNOTATION] = initdata_annotation(self.environment.initdata.body)
        return found

    @property
    def devices(self) -> dict[str, int]:
        """The GPUs as extended resources; empty without."""
        return {self.gpu_resource: self.shape.gpus} if self.shape.gpus else {}

    @property
    def demands_affirming(self) -> bool:
        """Whether the environment is of real hardware, so that nothing less will do."""
        return self.environment.tee == "snp"


def runtime_class(environment: Environment, shape: Shape) -> str:
    """Return the runtime class of an environment; that for its shape where the manifest names none."""
    return environment.runtime_class or (GPU_CLASS if shape.gpus else CPU_CLASS)


def notebook_image(environment: Environment) -> str:
    """Return the notebook image as `repository@sha256:…`: the image of that name, or the only one.

    A tag in the reference is left out: what runs is named by the digest alone.

    Raises:
        FormatError: The manifest names no such image.
    """
    images = environment.images
    named = [image for image in images if image.name == NOTEBOOK_IMAGE] or (
        images if len(images) == 1 else []
    )
    if not named:
        raise FormatError(
            f"The environment {environment.name} has no image of the notebook server.", field="images"
        )
    reference = named[0].reference.partition("@")[0]
    head, slash, last = reference.rpartition("/")
    return f"{head}{slash}{last.partition(':')[0]}@{named[0].digest}"


def check(environment: Environment, runtime_classes: tuple[str, ...]) -> None:
    """Refuse an environment that cannot be a pod here.

    Raises:
        FormatError: It names no image of the notebook server, or a runtime class that is not allowed.
    """
    notebook_image(environment)
    for shape in environment.shapes:
        found = runtime_class(environment, shape)
        if found not in runtime_classes:
            raise FormatError(
                f"The environment {environment.name} asks for the runtime class {found}, "
                f"which is none of {', '.join(runtime_classes)}.",
                field="runtime_class",
            )


def scratch_volumes(memory_mib: int) -> dict[str, dict[str, Any]]:
    """Return the volumes in the guest's memory that a read-only root needs, by name.

    Args:
        memory_mib: The guest's memory; each may fill half of it.
    """
    medium = {"medium": "Memory", "sizeLimit": f"{max(memory_mib // 2, 1)}Mi"}
    return {
        name: {"name": name, "emptyDir": dict(medium)}
        for name in ("sealroom-tmp", "sealroom-run", "sealroom-home")
    }


def scratch_mounts(home: str) -> dict[str, dict[str, Any]]:
    """Return where they are mounted, by name."""
    places = {"sealroom-tmp": TMP, "sealroom-run": RUN_DIRECTORY, "sealroom-home": home}
    return {name: {"name": name, "mountPath": place} for name, place in places.items()}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return one mapping over another, tables merged; nothing is changed in place."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result
