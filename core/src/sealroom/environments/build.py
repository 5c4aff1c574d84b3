# SPDX-License-Identifier: BSD-3-Clause
"""Make a manifest from a template: fill in what can be computed."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import tomli_w

from sealroom.environments.manifest import (
    FORMAT,
    Environment,
    initdata_host_data,
    simulated_measurement,
)
from sealroom.errors import FormatError

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


def build(template: bytes) -> Environment:
    """Make a manifest from a template.

    A template is a manifest that may leave out format, host_data and simulated measurements.

    Raises:
        FormatError: The template is not TOML, or the result is not a manifest.
    """
    try:
        content = tomllib.loads(template.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"The environment template cannot be read: {error}.") from error
    return _finish(content)


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


def _finish(content: Mapping[str, Any]) -> Environment:
    filled: MutableMapping[str, Any] = {"format": FORMAT} | copy.deepcopy(dict(content))
    try:
        initdata = filled.get("initdata")
        if isinstance(initdata, dict) and isinstance(initdata.get("body"), str):
            initdata.setdefault("host_data", initdata_host_data(initdata["body"]).hex())
        if filled.get("tee") == "simulated":
            for shape in filled.get("shapes", ()):
                shape.setdefault("measurements", [simulated_measurement(filled, shape["name"]).hex()])
        data = tomli_w.dumps(filled).encode("utf-8")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError(f"The environment template cannot be completed: {error}.") from error
    return Environment.from_toml(data)
