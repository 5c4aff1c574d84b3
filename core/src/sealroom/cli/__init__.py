# SPDX-License-Identifier: BSD-3-Clause
"""The command `sealroom`: one module a command, loaded when it is asked for.

Exit codes: 0 done; 1 checked and refused; 2 could not be checked or done; 64 wrong command line or settings.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from sealroom.cli.common import EXIT_OK, EXIT_UNCHECKED, EXIT_USAGE, Output, exit_code
from sealroom.errors import Error

COMMANDS: Final = {
    "dataset": "Seal, show, check and register datasets.",
    "grant": "Say who may use which dataset, where, for what, and until when.",
    "project": "Halt all grants of a project at once, and let them go on.",
    "request": "See what people ask for, and answer them.",
    "audit": "Show, check and export the broker's audit log.",
    "verify": "Check evidence that a server gave.",
    "report": "Show what the report of a processor or a GPU says.",
    "collateral": "Fetch, show and carry the certificates and references that evidence is verified with.",
    "explain": "In a notebook's terminal: show what stands between you and a dataset.",
    "ask": "In a notebook's terminal: ask a dataset's owner for access.",
    "env": "Build, sign, show and compare environment manifests.",
    "measure": "Compute the launch measurements to expect of firmware and kernel.",
}
"""Command -> what `sealroom --help` says of it, without loading it."""


class _LazyGroup(click.Group):
    """A group whose commands are modules of this package."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sealroom.cli.{cmd_name}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"sealroom.cli.{cmd_name}.command is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sealroom")
def cli() -> None:
    """Sealed datasets for attested notebook servers.

    Exit codes: 0 done, 1 checked and refused, 2 could not be checked, 64 wrong usage.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; errors are sentences, never tracebacks.

    With `SEALROOM_DEBUG` set, an error that is ours to fix is raised.
    """
    output = Output()
    try:
        result = cli.main(list(arguments), prog_name="sealroom", standalone_mode=False, obj=output)
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_UNCHECKED
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return EXIT_UNCHECKED
    except (BrokenPipeError, SystemExit):
        # The reader of our output went away (click and rich exit then). It has not seen the whole result, so
        # this is no pass. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_UNCHECKED
    except Error as error:
        output.error(error)
        return exit_code(error)
    except Exception as error:
        if os.environ.get("SEALROOM_DEBUG"):
            raise
        click.echo(
            f"Sealroom met a fault of its own ({type(error).__name__}). "
            "Please report it; SEALROOM_DEBUG=1 shows where.",
            err=True,
        )
        return EXIT_UNCHECKED
    return result if isinstance(result, int) else EXIT_OK


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))
