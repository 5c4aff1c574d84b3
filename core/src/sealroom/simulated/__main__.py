# SPDX-License-Identifier: BSD-3-Clause
"""`python -m sealroom.simulated serve …`: one simulated secure processor on a Unix socket.

It runs until SIGTERM, SIGINT or, with `--die-with-parent`, until its parent ends. The socket is there when
it is ready. Exit status: 0 stopped, 2 could not start, 64 wrong usage.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from sealroom.environments import Environment
from sealroom.errors import ConfigurationError, Error, StorageError
from sealroom.simulated.processor import Processor
from sealroom.simulated.root import load
from sealroom.simulated.server import Server

EXIT_FAILED, EXIT_USAGE = 2, 64
PR_SET_PDEATHSIG = 1
CLOCK_SKEW = timedelta(minutes=1)
"""How far back the VCEK is dated, for verifiers whose clock is behind."""

log = logging.getLogger("sealroom.simulated")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.INFO)
    try:
        server = _make_server(options)
    except Error as error:
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
    return parser


if __name__ == "__main__":
    sys.exit(main())
