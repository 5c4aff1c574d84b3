# SPDX-License-Identifier: BSD-3-Clause
"""How the rules about volumes and their mounts are checked; `rules` has the table."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from sealroom_spawner.kube.checks import Json, items
from sealroom_spawner.kube.expectation import Finding, PodExpectation


def volumes(pod: Json, expected: PodExpectation) -> Iterator[Finding]:
    """Check the pod's volumes, and where its containers mount them."""
    for volume in items(pod["spec"].get("volumes")):
        yield from _volume(f"spec.volumes[{volume.get('name')}]", volume, expected)
    for kind in ("containers", "initContainers"):
        for container in items(pod["spec"].get(kind)):
            path = f"spec.{kind}[{container.get('name')}]"
            for mount in items(container.get("volumeMounts")):
                yield from _mount(f"{path}.volumeMounts[{mount.get('name')}]", mount, expected)


def _volume(path: str, volume: Json, expected: PodExpectation) -> Iterator[Finding]:
    sources = {key: item for key, item in volume.items() if key != "name" and item is not None}
    if len(sources) != 1:
        # Kubernetes takes a volume without a source for an emptyDir on the node's disk.
        yield Finding("volumes.type", path, sorted(sources))
        return
    ((kind, source),) = sources.items()
    where = f"{path}.{kind}"
    if kind == "hostPath":
        yield Finding("host.paths", where, source)
    elif not isinstance(source, Mapping):
        yield Finding("volumes.type", where, source)
    elif kind == "emptyDir":
        if source.get("medium") != "Memory":
            yield Finding("volumes.disk", f"{where}.medium", source.get("medium"))
        if set(source) - {"medium", "sizeLimit"}:
            yield Finding("volumes.type", where, source)
    elif kind == "persistentVolumeClaim":
        if source.get("claimName") not in list(expected.claims):
            yield Finding("volumes.claim", f"{where}.claimName", source.get("claimName"))
    elif kind in ("secret", "configMap", "downwardAPI"):
        yield from _source(where, kind, source, expected)
    elif kind == "projected":
        yield from _projected(where, source, expected)
    else:
        yield Finding("volumes.type", where, source)


def _projected(path: str, projected: Json, expected: PodExpectation) -> Iterator[Finding]:
    sources = projected.get("sources")
    if not isinstance(sources, list) or not all(isinstance(item, Mapping) for item in sources):
        yield Finding("volumes.type", f"{path}.sources", sources)
        return
    for number, item in enumerate(sources):
        for kind, source in item.items():
            if source is not None:
                yield from _source(f"{path}.sources[{number}].{kind}", kind, source, expected)


def _source(path: str, kind: str, source: Any, expected: PodExpectation) -> Iterator[Finding]:
    if not isinstance(source, Mapping):
        yield Finding("volumes.type", path, source)
    elif kind == "secret":
        # A volume calls it secretName, a projection name.
        names = [source[key] for key in ("secretName", "name") if source.get(key) is not None]
        if len(names) != 1 or names[0] not in list(expected.secrets):
            yield Finding("volumes.source", path, names)
    elif kind == "configMap":
        if source.get("name") not in list(expected.config_maps):
            yield Finding("volumes.source", path, source.get("name"))
    elif kind != "downwardAPI":
        yield Finding("volumes.source", path, source)


def _mount(path: str, mount: Json, expected: PodExpectation) -> Iterator[Finding]:
    place = mount.get("mountPath")
    if not isinstance(place, str) or not _below(place, expected.mount_paths):
        yield Finding("mounts.path", f"{path}.mountPath", place)
    if mount.get("mountPropagation") not in (None, "", "None"):
        yield Finding("mounts.options", f"{path}.mountPropagation", mount["mountPropagation"])
    if mount.get("subPathExpr"):
        yield Finding("mounts.options", f"{path}.subPathExpr", mount["subPathExpr"])


def _below(place: str, allowed: tuple[str, ...]) -> bool:
    """Tell whether a path is one of the allowed, or inside one of them."""
    if not place.startswith("/") or "\0" in place:
        return False
    clean = posixpath.normpath("/" + place.lstrip("/"))
    return any(clean == path or clean.startswith(f"{path.rstrip('/')}/") for path in allowed)
