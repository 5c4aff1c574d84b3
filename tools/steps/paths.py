# SPDX-License-Identifier: BSD-3-Clause
"""Where things are, and whether something must be done again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from steps.console import say

CLONE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Paths:
    """The directories of a clone and of one installation in it."""

    clone: Path
    home: Path
    """State directory (SEALROOM_HOME)."""

    @classmethod
    def from_environment(cls) -> Paths:
        """Return the paths that the environment asks for."""
        home = os.environ.get("SEALROOM_HOME", "")
        return cls(CLONE, Path(home).expanduser().absolute() if home else CLONE / ".sealroom")

    @property
    def tools(self) -> Path:
        """What this sets up besides the packages: uv, Node, the proxy."""
        return self.clone / ".tools"

    @property
    def logs(self) -> Path:
        """Output of the programs that set things up."""
        return self.tools / "logs"

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.clone / ".venv"

    @property
    def python(self) -> Path:
        """The virtual environment's Python."""
        return self.venv / "bin" / "python"

    @property
    def extension(self) -> Path:
        """The lab extension."""
        return self.clone / "extensions" / "jupyter"

    def stamp(self, name: str) -> Stamp:
        """Return the stamp of a step."""
        return Stamp(self.tools / "stamps" / name)


@dataclass(frozen=True)
class Stamp:
    """Remembers for what input a step was done."""

    path: Path

    def fits(self, key: str, *products: Path) -> bool:
        """Tell whether the step was done for this input, and its products are still there."""
        try:
            return self.path.read_text() == key and all(product.exists() for product in products)
        except OSError:
            return False

    def remove(self) -> None:
        """Forget that the step was done, before it is done again: a half-done one counts as not done."""
        self.path.unlink(missing_ok=True)

    def write(self, key: str) -> None:
        """Remember that the step is done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        new.write_text(key)
        new.replace(self.path)


def digest(files: Iterable[Path], *words: str) -> str:
    """Return a hash over the names and bytes of files, and words."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for word in words:
        total.update(f"{word}\0".encode())
    return total.hexdigest()


def base_python() -> str:
    """Return the Python that virtual environments are made from, also when this runs in one."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


@contextmanager
def alone(paths: Paths) -> Iterator[None]:
    """Let only one process at a time set up this clone."""
    paths.tools.mkdir(exist_ok=True)
    with (paths.tools / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another command is setting up this clone; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
