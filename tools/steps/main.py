# SPDX-License-Identifier: BSD-3-Clause
"""The commands behind the Makefile's targets."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from steps import checks, hub, settings
from steps.console import Failure, say
from steps.first import FirstStart
from steps.paths import Paths
from steps.setup import everything


def up(paths: Paths) -> None:
    """Set everything up, start it, and say where it is."""
    process = hub.running(paths)
    known = settings.read(paths.home / "settings.toml")
    if process is not None and known is not None and hub.answers(known.login_page):
        say("Sealroom is already running")
        _welcome(paths, known)
        return
    if process is not None:
        say("The hub runs but does not answer; starting it anew")
        hub.stop(paths)
    paths.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (paths.home / "hub").is_dir():
        hub.recover(paths)
    settings.choose(paths)  # before the long steps: a port in use is said at once
    command = everything(paths, development=False)
    addresses = settings.choose(paths)
    settings.write(paths, addresses, command)
    first = FirstStart(paths)
    first.prepare()
    hub.start(paths, addresses)
    first.register()
    _welcome(paths, addresses)


def down(paths: Paths) -> None:
    """End everything."""
    say("Everything is ended" if hub.stop(paths) else "Nothing was running")


def clean(paths: Paths) -> None:
    """Undo everything: end it, and remove what was set up and made, the people's notebooks too."""
    hub.stop(paths)
    if (paths.home / "settings.toml").exists():
        _remove(paths.home)
    built = [
        paths.extension / name for name in ("node_modules", "lib", "build", "sealroom_jupyter/labextension")
    ]
    for path in (paths.tools, paths.venv, *built):
        _remove(path)


def status(paths: Paths) -> None:
    """Say what runs."""
    known = settings.read(paths.home / "settings.toml")
    if hub.running(paths) is None or known is None:
        say("Sealroom is not running; `make up` starts it")
        return
    state = "answers" if hub.answers(known.login_page) else "does not answer"
    say(f"The hub runs at {known.url} and {state}; its state is in {paths.home}")
    for record in hub.servers(paths):
        apart = "the hub's own system user" if record.uid is None else f"system user {record.uid}"
        say(f"Server {record.user}/{record.server} runs as {apart}")


def set_up(paths: Paths) -> None:
    """Set everything up for development, and start nothing."""
    checks.prepare(paths)


def _welcome(paths: Paths, addresses: settings.Addresses) -> None:
    say("Ready")
    print(f"""
  Open      {addresses.url}
  Log in    as `researcher`; the password is in {paths.home / "login.txt"}
            (`visitor` has no grants and sees refusals, `operator` sees every server's state)
  Decide    about the data as `owner`, at {addresses.owner_pages}
  End       make down
""")
    code = paths.home / "hub" / "workshop.code"
    if (paths.home / "workshop.toml").exists() and code.exists():
        say(f"Invite to the workshop with {addresses.url}hub/join?code={code.read_text().strip()}")
    if addresses.bind != settings.LOOPBACK:
        say(f"The hub listens on {addresses.bind}, without encryption: passwords can be read on the way")


def _remove(path: Path) -> None:
    if os.path.lexists(path):
        say(f"Removing {path}")
        shutil.rmtree(path)


COMMANDS: dict[str, Callable[[Paths], None]] = {
    "up": up,
    "down": down,
    "clean": clean,
    "status": status,
    "setup": set_up,
    "test": checks.test,
    "test-hub5": checks.test_hub_5,
    "test-cluster": checks.test_cluster,
    "lint": checks.lint,
    "reformat": checks.reformat,
    "bench": checks.bench,
    "docs": checks.docs,
    "demo-refusals": checks.demo_refusals,
}


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: Its name, and what the command passes on.
    """
    if len(arguments) < 1 or arguments[0] not in COMMANDS:
        sys.stderr.write(f"Say what to do: {', '.join(COMMANDS)}\n")
        return 64
    try:
        COMMANDS[arguments[0]](Paths.from_environment())
    except Failure as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; run the same command again to go on from here.\n")
        return 130
    return 0
