# SPDX-License-Identifier: BSD-3-Clause
"""The first start, and how later ones know that there is nothing left of it to do."""

from __future__ import annotations

from pathlib import Path

from steps.console import run
from steps.paths import Paths, Stamp, digest

PRODUCTS = (
    "login.txt",
    "accounts.json",
    "simulated/root.json",
    "environments/simulated-cpu.toml.sig",
    "broker/broker.toml",
    "broker/broker.sqlite",
    "owner/owner.toml",
    "datasets/heartbeats/dataset.json",
    "datasets/chest-xray/dataset.json",
)
"""What is there when it is complete; where data is missing it never is, and each start looks for it again."""


class FirstStart:
    """Runs `first_start.py` in the installed environment, if it has anything to do.

    Args:
        paths: The clone and the installation.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._stamp = Stamp(paths.home / "first-start")
        tools = paths.clone / "tools"
        # The settings too: the owner's have the broker's address.
        files = [tools / "first_start.py", tools / "prepare_data.py", paths.home / "settings.toml"]
        self._key = digest(files)
        self._done = self._stamp.fits(self._key, *self._products)

    @property
    def _products(self) -> list[Path]:
        return [self._paths.home / name for name in PRODUCTS]

    def prepare(self) -> None:
        """Make what the hub needs to start."""
        if not self._done:
            self._stamp.remove()
            self._run("prepare")

    def register(self) -> None:
        """Do what the data owner does when the broker runs."""
        if not self._done:
            self._run("register")
            self._stamp.write(self._key)

    def _run(self, half: str) -> None:
        script = self._paths.clone / "tools" / "first_start.py"
        run([self._paths.python, script, half, self._paths.home], what=f"{half} the installation")
