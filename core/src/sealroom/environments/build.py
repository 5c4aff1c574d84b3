# SPDX-License-Identifier: BSD-3-Clause
"""Make a manifest from a template: fill in what can be computed.

HOST_DATA comes from the initdata; the measurements of a simulated guest from the manifest itself; those of a
guest on hardware from the files that `[artifacts]` names, whose digests are recorded.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from sealroom.environments.artifacts import FILES
from sealroom.environments.initdata import check_initdata
from sealroom.environments.manifest import FORMAT, Environment, simulated_measurement
from sealroom.environments.measure import LaunchArtifacts, PreparedLaunch, VmmType, prepare
from sealroom.errors import ConfigurationError, FormatError

SIMULATED_MINIMUM_TCB: Mapping[str, Mapping[str, int]] = {
    "Milan": {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
    "Genoa": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
    "Turin": {"fmc": 1, "bootloader": 1, "tee": 0, "snp": 4, "microcode": 75},
}
DESCRIPTION = (
    "Your notebook server runs as a normal process on this machine. A simulated secure processor makes "
    "reports as AMD SEV-SNP does, so that you can try every step, but nothing protects the data from this "
    "machine's operator. "
    "It opens datasets whose owner accepts a simulated environment."
)
INITDATA = """\
algorithm = "sha256"
version = "0.1.0"

[data]
"sealroom.toml" = '''
environment = "{name}"
'''
"""


def build(template: bytes, *, directory: Path | None = None) -> Environment:
    """Make a manifest from a template.

    A template is a manifest that may leave out format, host_data, the measurements of a simulated guest, and
    those of a guest whose `[artifacts]` it names. What it does give must be what is computed.

    Args:
        template: The template (TOML).
        directory: Where the artifacts' paths start; usually the template's folder.

    Raises:
        FormatError: The template is not TOML, an artifact is not the recorded one, or the result is not a
            manifest.
        StorageError: An artifact cannot be read.
        ConfigurationError: The artifacts do not fit together, or `directory` is needed and not given.
    """
    try:
        content = tomllib.loads(template.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"The environment template cannot be read: {error}.") from error
    return _finish(content, directory)


def simulated_cpu(
    *,
    name: str = "simulated-cpu",
    version: str = "1",
    title: str = "Simulated TEE, CPU",
    description: str = DESCRIPTION,
    datasets: Sequence[str] = (),
    vcpus: int = 2,
    memory_mib: int = 4096,
) -> Environment:
    """Make the environment of the embedded default: a local process with a simulated secure processor."""
    return _finish(
        {
            "name": name,
            "version": version,
            "title": title,
            "description": description,
            "tee": "simulated",
            "datasets": list(datasets),
            "guest_policy": 0x30000,
            "shapes": [{"name": "default", "vcpus": vcpus, "memory_mib": memory_mib, "gpus": 0}],
            "initdata": {"body": INITDATA.format(name=name)},
            "minimum_tcb": {line: dict(levels) for line, levels in SIMULATED_MINIMUM_TCB.items()},
        }
    )


def _finish(content: Mapping[str, Any], directory: Path | None = None) -> Environment:
    filled: MutableMapping[str, Any] = {"format": FORMAT} | copy.deepcopy(dict(content))
    try:
        initdata = filled.get("initdata")
        if isinstance(initdata, dict) and isinstance(initdata.get("body"), str):
            initdata.setdefault("host_data", check_initdata(initdata["body"]).hex())
        if filled.get("tee") == "simulated":
            for shape in filled.get("shapes", ()):
                shape.setdefault("measurements", [simulated_measurement(filled, shape["name"]).hex()])
        elif isinstance(filled.get("artifacts"), dict) and _to_be_measured(filled):
            _measure(filled, directory)
        data = tomli_w.dumps(filled).encode("utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(f"The environment template cannot be completed: {error}.") from error
    return Environment.from_toml(data)


# --- measurements of guests on hardware


def _to_be_measured(filled: Mapping[str, Any]) -> bool:
    """Tell whether a path stands where a digest belongs, or a shape lacks its measurements."""
    paths = any(isinstance(filled["artifacts"].get(kind), str) for kind in FILES)
    return paths or any("measurements" not in shape for shape in filled.get("shapes", ()))


def _measure(filled: MutableMapping[str, Any], directory: Path | None) -> None:
    """Fill in the artifacts' digests and the shapes' measurements, or compare them with what is given."""
    if directory is None:
        raise ConfigurationError("The template names artifacts, and no folder to find them in was given.")
    artifacts: MutableMapping[str, Any] = filled["artifacts"]
    launch = prepare(_launch(artifacts, directory))
    digests = (launch.ovmf_sha256, launch.kernel_sha256, launch.initrd_sha256)
    for kind, digest in zip(FILES, digests, strict=True):
        if digest is not None:
            artifacts[kind] = _recorded(kind, artifacts[kind], digest.hex())
    artifacts.setdefault("vmm_type", VmmType.QEMU.value)
    artifacts.setdefault("guest_features", launch.guest_features)
    for shape in filled["shapes"]:
        computed = shape_measurements(launch, shape["vcpus"], artifacts.get("cpu_types", ()))
        if list(shape.setdefault("measurements", computed)) != computed:
            raise FormatError(
                f"The measurements given for shape {shape['name']} are not those of its artifacts.",
                field="shapes",
                advice="Leave them out of the template: they are computed.",
            )


def shape_measurements(launch: PreparedLaunch, vcpus: int, cpu_types: Sequence[str]) -> list[str]:
    """Return the measurements of one shape in hex, in the order of the CPU types, each once."""
    return list(dict.fromkeys(item.digest.hex() for item in launch.table([vcpus], cpu_types)))


def _launch(artifacts: Mapping[str, Any], directory: Path) -> LaunchArtifacts:
    paths = {kind: directory / _path(artifacts[kind]) for kind in FILES if kind in artifacts}
    if "ovmf" not in paths:
        raise ValueError("its artifacts name no ovmf")
    return LaunchArtifacts(
        ovmf=paths["ovmf"],
        kernel=paths.get("kernel"),
        initrd=paths.get("initrd"),
        append=artifacts.get("append"),
        vmm_type=VmmType(artifacts.get("vmm_type", VmmType.QEMU.value)),
        guest_features=artifacts.get("guest_features", 1),
    )


def _path(value: Any) -> str:
    return value if isinstance(value, str) else str(value["name"])


def _recorded(kind: str, value: Any, digest: str) -> dict[str, str]:
    if isinstance(value, str):
        return {"name": Path(value).name, "sha256": digest}
    if value.get("sha256", digest) != digest:
        raise FormatError(f"{value['name']} is not the {kind} whose digest is recorded.", field="artifacts")
    return {"name": value["name"], "sha256": digest}
