# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom measure`: the launch measurements that guests of some firmware and kernel will have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sealroom.cli.common import json_option, output
from sealroom.errors import ConfigurationError

if TYPE_CHECKING:
    from sealroom.environments.measure import LaunchArtifacts, Measurement, PreparedLaunch

FILE: Final = click.Path(dir_okay=False, path_type=Path)
_MOST: Final = 512
"""Most vCPUs of a guest; a longer list is a slip of the pen."""


def _vcpus(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Read numbers and ranges such as `1-4,8`."""
    counts: set[int] = set()
    for part in value.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdecimal() for end in ends):
            raise click.BadParameter(f"{part.strip()!r} is neither a number nor a range like 1-4.")
        low, high = (int(end[:9]) for end in ends)
        if not 1 <= low <= high <= _MOST:
            raise click.BadParameter(f"{part.strip()!r} is not within 1 to {_MOST}.")
        counts.update(range(low, high + 1))
    return tuple(sorted(counts))


def _hex(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Read a hexadecimal number, with or without 0x."""
    try:
        return int(value, 16)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no hexadecimal number.") from None


@click.command()
@click.option("--ovmf", type=FILE, required=True, help="The firmware: the AmdSev build of OVMF.")
@click.option("--kernel", type=FILE, help="The kernel, if the hypervisor loads it.")
@click.option("--initrd", type=FILE, help="The initial RAM disk.")
@click.option("--append", metavar="TEXT", help="The kernel's command line, exactly.")
@click.option(
    "--vcpus",
    metavar="LIST",
    default="1",
    callback=_vcpus,
    show_default=True,
    help="Numbers of vCPUs, such as 1-4,8.",
)
@click.option(
    "--cpu-type",
    "cpu_types",
    metavar="TYPE",
    multiple=True,
    help="CPU model of QEMU, or its CPUID signature (0x800f12); may stand several times. "
    "Default: EPYC-v4, with which Kata launches.",
)
@click.option(
    "--guest-features",
    metavar="HEX",
    default="0x1",
    callback=_hex,
    help="SEV_FEATURES of the vCPUs. Default: 0x1; 0x21 with debug swap.",
)
@click.option(
    "--vmm-type",
    type=click.Choice(["QEMU", "ec2", "gce"]),
    default="QEMU",
    show_default=True,
    help="The hypervisor; it sets the vCPUs' first registers.",
)
@click.option(
    "--ovmf-hash", metavar="HEX", help="Digest after the firmware's pages, if known; it is then not computed."
)
@click.option("--toml", "as_toml", is_flag=True, help="Write the [[shapes]] of an environment manifest.")
@json_option
def command(
    ovmf: Path,
    kernel: Path | None,
    initrd: Path | None,
    append: str | None,
    vcpus: tuple[int, ...],
    cpu_types: tuple[str, ...],
    guest_features: int,
    vmm_type: str,
    ovmf_hash: str | None,
    as_toml: bool,
) -> None:
    """Print the launch measurement of every number of vCPUs with every CPU type.

    A report's MEASUREMENT must be one of these. Each firmware, kernel, initial RAM disk, command line, number
    and type of vCPUs has a measurement of its own.
    """
    from sealroom.environments.measure import KATA_CPU_TYPE, LaunchArtifacts, VmmType, prepare

    if as_toml and output().json:
        raise click.UsageError("Give --json or --toml, and not both.")
    if cpu_types and vmm_type != "QEMU":
        output().note(f"{vmm_type} does not measure the CPU type: --cpu-type changes nothing.")
    artifacts = LaunchArtifacts(
        ovmf, kernel, initrd, append, VmmType(vmm_type), guest_features, _digest(ovmf_hash)
    )
    launch = prepare(artifacts)
    rows = launch.table(vcpus, cpu_types or (KATA_CPU_TYPE,))
    if output().json:
        output().result(_json(artifacts, launch, rows))
    elif as_toml:
        click.echo(_toml(rows), nl=False)
    else:
        title = f"Launch measurements with {ovmf.name}" + (f" and {kernel.name}" if kernel else "")
        cells = [(str(row.vcpus), row.cpu_type or "any", row.digest.hex()) for row in rows]
        output().table(title, ("vCPUs", "CPU type", "MEASUREMENT"), cells)


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise ConfigurationError("--ovmf-hash is not hexadecimal.") from error


def _json(artifacts: LaunchArtifacts, launch: PreparedLaunch, rows: Sequence[Measurement]) -> object:
    files = [
        (name, path, digest)
        for name, path, digest in (
            ("ovmf", artifacts.ovmf, launch.ovmf_sha256),
            ("kernel", artifacts.kernel, launch.kernel_sha256),
            ("initrd", artifacts.initrd, launch.initrd_sha256),
        )
        if path is not None and digest is not None
    ]
    return {
        "artifacts": {name: {"name": path.name, "sha256": digest.hex()} for name, path, digest in files},
        "append": artifacts.append,
        "vmm_type": artifacts.vmm_type.value,
        "guest_features": artifacts.guest_features,
        "ovmf_hash": launch.ovmf_hash.hex(),
        "measurements": [
            {"vcpus": row.vcpus, "cpu_type": row.cpu_type or None, "measurement": row.digest.hex()}
            for row in rows
        ],
    }


def _toml(rows: Sequence[Measurement]) -> str:
    """Return one shape for each number of vCPUs; measurements that several CPU types share stand once."""
    shapes: dict[int, dict[str, list[str]]] = {}
    for row in rows:
        shapes.setdefault(row.vcpus, {}).setdefault(row.digest.hex(), []).append(row.cpu_type or "any CPU")
    lines: list[str] = []
    for vcpus, digests in shapes.items():
        lines += ["[[shapes]]", f'name = "vcpus-{vcpus}"', f"vcpus = {vcpus}"]
        lines += ["memory_mib = 4096  # not measured: the pod's", "gpus = 0", "measurements = ["]
        lines += [f'    "{digest}",  # {", ".join(names)}' for digest, names in digests.items()]
        lines += ["]", ""]
    return "\n".join(lines)
