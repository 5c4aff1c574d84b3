# SPDX-License-Identifier: BSD-3-Clause
"""The broker's program, killed (SIGKILL) at a named point: `python faulty_broker.py POINT ARGUMENT...`.

The product knows nothing of these points: this process replaces one of its functions before it runs.
"""

from __future__ import annotations

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


def killed(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Return a function that ends the process when a release, or a rotation, comes to it."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        kinds = [getattr(one, "kind", "release") for one in arguments[1:2]]
        doomed = kinds in ([], ["release"])
        if doomed and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    owner, name, late = POINTS[sys.argv[1]]
    setattr(owner, name, killed(getattr(owner, name), after=late))
    sys.exit(main(sys.argv[2:]))
