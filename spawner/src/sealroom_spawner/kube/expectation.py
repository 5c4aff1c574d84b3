# SPDX-License-Identifier: BSD-3-Clause
"""What a pod has to be: everything that `rules` compares with, as one value that the hub can remember."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sealroom.errors import FormatError

NOTEBOOK = "notebook"
"""How KubeSpawner calls the container of the notebook server."""

MOUNT_PATHS = ("/home", "/tmp", "/run/sealroom", "/mnt", "/data", "/srv", "/etc/jupyterhub/ssl")  # noqa: S108
"""Where volumes may go: nowhere that programs are loaded from."""
ANNOTATION_PREFIXES = ("hub.jupyter.org/", "cluster-autoscaler.kubernetes.io/", "prometheus.io/")
"""Annotations that change nothing of how a pod runs."""
LABEL_PREFIXES = ("topology.kubernetes.io/",)
"""Labels that Kubernetes itself adds and no network policy of Sealroom selects by."""


class Finding(NamedTuple):
    """A rule that does not hold somewhere."""

    rule: str
    path: str
    value: object


@dataclass(frozen=True, slots=True)
class PodExpectation:
    """What a pod has to be, and what is listed as allowed."""

    environment: str
    """Name of the environment, for sentences."""
    runtime_class: str
    image: str
    """The notebook image as `repository@sha256:…`."""
    cpu_millis: int
    """CPU limit in thousandths."""
    memory_bytes: int
    namespaces: frozenset[str] = frozenset()
    """Namespaces that the pod may be in; empty: any."""
    gpus: int = 0
    gpu_resource: str = "nvidia.com/pgpu"
    args: tuple[str, ...] = ()
    """The container's arguments; empty: those of the image."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Annotations that the runtime reads, exactly: initdata, timeout, how the image is pulled."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels by which network policies select, exactly."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables that must have exactly these values."""
    claims: frozenset[str] = frozenset()
    """Persistent volume claims that may be mounted."""
    secrets: frozenset[str] = frozenset()
    """Secrets that may be mounted or read."""
    config_maps: frozenset[str] = frozenset()
    """ConfigMaps that may be mounted or read."""
    service_accounts: frozenset[str] = frozenset()
    """Service accounts besides `default`; their tokens are never mounted."""
    containers: Mapping[str, str] = field(default_factory=dict)
    """Further containers that may be in the pod: name and image by digest."""
    annotation_prefixes: tuple[str, ...] = ANNOTATION_PREFIXES
    label_prefixes: tuple[str, ...] = LABEL_PREFIXES
    mount_paths: tuple[str, ...] = MOUNT_PATHS
    accepted: frozenset[str] = frozenset()
    """Rules that the operator gave up, by id; only those that can be given up count."""
    stored: bool = False
    """Whether the pod comes back from the API server, which fills in defaults and its node."""

    def as_stored(self) -> PodExpectation:
        """Return what holds of the pod that the API server keeps.

        Network plug-ins write annotations of their own, so any is allowed that no runtime reads.
        """
        return dataclasses.replace(self, stored=True, annotation_prefixes=("",))

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, for the hub's state."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: object) -> PodExpectation:
        """Read what `to_json` wrote.

        Raises:
            FormatError: It is something else.
        """
        names = {item.name for item in dataclasses.fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            raise FormatError("The hub's state holds no expectation of a pod.")
        kinds = {item.name: _KINDS.get(str(item.type), (str, str)) for item in dataclasses.fields(cls)}
        content: dict[str, Any] = {}
        for name, (kind, make) in kinds.items():
            if not isinstance(value[name], kind):
                raise FormatError(f"The hub's expectation of a pod is wrong in {name}.", field=name)
            content[name] = make(value[name])
        return cls(**content)


_KINDS: dict[str, tuple[Any, Any]] = {
    "int": (int, int),
    "bool": (bool, bool),
    "tuple[str, ...]": (list, tuple),
    "frozenset[str]": (list, frozenset),
    "Mapping[str, str]": (dict, dict),
}


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
