# SPDX-License-Identifier: BSD-3-Clause
"""`python -m sealroom.simulated serve …`: one simulated secure processor on a Unix socket.

With `--gpus N` simulated GPUs answer beside it on `gpu.sock`. Their root is made where there is none, with
the reference manifests that a relying party compares them with; a server's GPUs stay the same when it starts
again.

It runs until SIGTERM, SIGINT or, with `--die-with-parent`, until its parent ends. The socket is there when
it is ready. Exit status: 0 stopped, 2 could not start, 64 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import hmac
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sealroom.environments import Environment
from sealroom.errors import ConfigurationError, Error, StorageError
from sealroom.guest.devices import SOCKET_NAME as GPU_SOCKET_NAME
from sealroom.simulated.processor import Processor
from sealroom.simulated.root import load
from sealroom.simulated.server import Server

if TYPE_CHECKING:
    from sealroom.simulated.gpu import SimulatedGpu
    from sealroom.simulated.gpu_root import GpuRoot
    from sealroom.simulated.gpu_server import GpuServer

EXIT_FAILED, EXIT_USAGE = 2, 64
MAX_GPUS = 8
"""What the largest machines have."""
PR_SET_PDEATHSIG = 1
CLOCK_SKEW = timedelta(minutes=1)
"""How far back the VCEK is dated, for verifiers whose clock is behind."""

log = logging.getLogger("sealroom.simulated")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO)
    gpus: GpuServer | None = None
    try:
        gpus = _make_gpu_server(options)
        # Last: who waits for this socket finds the GPUs', too.
        server = _make_server(options)
    except Error as error:
        if gpus is not None:
            gpus.close()
        print(f"sealroom.simulated: {error.diagnostics()}", file=sys.stderr)
        return EXIT_FAILED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    alive: Callable[[], bool] = lambda: True  # noqa: E731 - the default of the two
    if options.die_with_parent:
        # After the socket is made: a change of the effective user would clear the setting.
        _end_with_parent()
        alive = lambda: os.getppid() == parent  # noqa: E731
    log.info("SIMULATED secure processor ready on %s", options.socket)
    with _beside(gpus):
        server.serve(alive=alive)
    return 0


def _make_server(options: argparse.Namespace) -> Server:
    try:
        environment = Environment.from_toml(options.environment.read_bytes())
    except OSError as error:
        raise StorageError(f"{options.environment} cannot be read: {error.strerror}.") from error
    if environment.tee != "simulated":
        raise ConfigurationError(
            f"The environment {environment.name} is for real hardware ({environment.tee}).",
            advice="A simulated processor serves simulated environments only.",
        )
    shape = environment.shape(options.shape)
    processor = Processor(
        load(options.root),
        at=datetime.now(UTC) - CLOCK_SKEW,
        measurement=shape.measurement_bytes[0],
        host_data=environment.host_data,
        policy=environment.guest_policy,
        version=options.report_version,
    )
    alter = flip_measurement if options.alter_reports else None
    return Server(processor, options.socket, uid=options.uid, gid=options.gid, alter=alter)


def _make_gpu_server(options: argparse.Namespace) -> GpuServer | None:
    if not options.gpus:
        return None
    # Only here: GPUs need lxml and signxml.
    from sealroom.simulated.gpu import SimulatedGpu
    from sealroom.simulated.gpu_server import GpuServer

    directory = options.gpu_root or options.root
    root = _gpu_root(directory)
    gpus = [
        SimulatedGpu(
            root,
            options.gpu_architecture,
            feature="SPT" if options.gpus == 1 else "MPT",
            seed=_gpu_seed(root, options, number),
        )
        for number in range(options.gpus)
    ]
    _write_manifests(gpus[0], directory)
    alter = flip_measurement if options.alter_reports else None
    path = options.socket.with_name(GPU_SOCKET_NAME)
    return GpuServer(gpus, path, uid=options.uid, gid=options.gid, alter=alter)


def _gpu_root(directory: Path) -> GpuRoot:
    """Return the GPUs' root; of two servers that start at once one makes it and the other waits."""
    from sealroom.simulated import gpu_root

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{directory} cannot be used: {error.strerror}.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return gpu_root.create(directory)
    finally:
        os.close(descriptor)


def _gpu_seed(root: GpuRoot, options: argparse.Namespace, number: int) -> bytes:
    """Return what a GPU's keys are derived from: the same for the same socket, another for each other."""
    place = f"{options.socket.absolute().parent}\0{options.gpu_architecture}\0{number}"
    return hmac.new(root.seed, b"gpu\0" + place.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


def _write_manifests(gpu: SimulatedGpu, directory: Path) -> None:
    """Write the GPUs' reference manifests beside their root, under the ids that NVIDIA's service has."""
    for rim_id, kind in ((gpu.driver_rim_id, "driver"), (gpu.vbios_rim_id, "vbios")):
        path = directory / f"{rim_id}.xml"
        if path.exists():
            continue
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_bytes(gpu.driver_rim if kind == "driver" else gpu.vbios_rim)
            part.replace(path)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _beside(gpus: GpuServer | None) -> Iterator[None]:
    """Serve GPUs while the context lasts."""
    if gpus is None:
        yield
        return
    thread = threading.Thread(target=gpus.serve, name="simulated-gpus", daemon=True)
    thread.start()
    try:
        yield
    finally:
        gpus.stop()
        thread.join()


def flip_measurement(report: bytes) -> bytes:
    """Change one bit of the signed measurement, to show what a verifier says to it."""
    changed = bytearray(report)
    changed[0x90] ^= 1
    return bytes(changed)


def _end_with_parent() -> None:
    # Linux tells a child of its parent's end; elsewhere the loop in `serve` notices within a second.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sealroom.simulated", description=__doc__)
    commands = parser.add_subparsers(required=True, parser_class=_Parser)
    serve = commands.add_parser("serve", help="serve one simulated processor")
    serve.add_argument("--root", type=Path, required=True, help="directory of the development root")
    serve.add_argument("--socket", type=Path, required=True, help="Unix socket to make")
    serve.add_argument(
        "--environment", type=Path, required=True, help="environment manifest that the guest runs"
    )
    serve.add_argument("--shape", default=None, help="pod shape of the environment (default: its first)")
    serve.add_argument("--uid", type=int, default=None, help="owner of the socket")
    serve.add_argument("--gid", type=int, default=None, help="group of the socket")
    serve.add_argument("--die-with-parent", action="store_true", help="end when the parent process ends")
    serve.add_argument("--report-version", type=int, choices=(2, 3, 4, 5), default=5)
    serve.add_argument(
        "--alter-reports",
        action="store_true",
        help="change one bit of every report (demonstration of a refusal)",
    )
    serve.add_argument(
        "--gpus",
        type=int,
        choices=range(MAX_GPUS + 1),
        default=0,
        help="simulated GPUs on gpu.sock beside it",
    )
    serve.add_argument(
        "--gpu-architecture", choices=("HOPPER", "BLACKWELL"), default="HOPPER", help="what they are"
    )
    serve.add_argument(
        "--gpu-root",
        type=Path,
        default=None,
        help="directory of their root and reference manifests (default: that of --root)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
