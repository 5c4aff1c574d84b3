# SPDX-License-Identifier: BSD-3-Clause
"""The broker's program, killed (SIGKILL) at a named point: `python faulty_broker.py POINT ARGUMENT...`.

A point is one of `POINTS`, or `before:KIND` and `after:KIND` for an entry of the log of this kind, or
`done:MODULE.FUNCTION` for when a function of a module of the broker has returned. The product knows nothing
of these points: this process replaces one of its functions before it runs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sealroom_broker import rotate
from sealroom_broker.__main__ import main
from sealroom_broker.audit import Record
from sealroom_broker.release import Releaser

POINTS: dict[str, tuple[Any, str, bool]] = {
    "before-entry": (Record, "append", False),
    "after-entry": (Record, "append", True),
    "after-commit": (Releaser, "_answer", False),
    "before-answer": (Releaser, "release", True),
    "kek-in-file": (rotate, "rewrap", False),
    "kek-rewrapped": (rotate, "rewrap", True),
}
"""Name -> whose function, its name, and whether it is killed after it rather than before."""


def named(point: str) -> tuple[Any, str, bool, str]:
    """Return whose function a point is in, its name, whether it is after it, and the kind of the entry."""
    if point in POINTS:
        return (*POINTS[point], "release")
    when, _, what = point.partition(":")
    if when in ("before", "after"):
        return Record, "append", when == "after", what
    module, _, function = what.rpartition(".")
    return importlib.import_module(f"sealroom_broker.{module}"), function, True, ""


def killed(function: Callable[..., Any], *, after: bool, kind: str = "release") -> Callable[..., Any]:
    """Return a function that ends the process when what it is for comes to it.

    Args:
        function: The function.
        after: Whether after it, or before it.
        kind: The entry that it is for, if it gets one; empty for every call.
    """

    def call(*arguments: Any, **keywords: Any) -> Any:
        kinds = [getattr(one, "kind", kind) for one in arguments[1:2]]
        doomed = not kind or kinds in ([], [kind])
        if doomed and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    owner, name, late, wanted = named(sys.argv[1])
    setattr(owner, name, killed(getattr(owner, name), after=late, kind=wanted))
    sys.exit(main(sys.argv[2:]))
