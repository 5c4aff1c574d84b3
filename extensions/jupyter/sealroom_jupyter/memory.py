# SPDX-License-Identifier: BSD-3-Clause
"""Keeps what is in memory from being written to disk: core files and swap.

What this can do: no process of this server, kernels included, leaves a core file. What it cannot do: keep the
system from swapping. Locking the memory of a process is bounded for good reason (`RLIMIT_MEMLOCK`), and a
kernel's data frames are in kernels; so swap has to be off, or encrypted, and it is said where it is on.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path

SWAPS = Path("/proc/swaps")

# core(5): a limit of 0 still lets the system pipe a core to a program; 1 does not (fs/coredump.c: "cprm.limit
# of 1" is taken for a crash inside such a program), and is too small for a file.
CORE_LIMIT = 1


def no_core_files() -> None:
    """Let neither this process nor its kernels leave a core file, which would hold plaintext and keys."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard not in (resource.RLIM_INFINITY, 0):
        hard = min(hard, CORE_LIMIT)
    limit = CORE_LIMIT if hard != 0 else 0
    if (soft, hard) != (limit, limit):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def swap_on_disk(swaps: Path = SWAPS) -> tuple[str, ...]:
    """Return the swap areas of this machine that are not in memory; none where the system does not tell."""
    try:
        lines: Iterable[str] = swaps.read_text().splitlines()[1:]
    except OSError:
        return ()
    names = (line.split()[0] for line in lines if line.strip())
    # zram is compressed memory. Encrypted swap cannot be told from other by its name.
    return tuple(name for name in names if not name.startswith("/dev/zram"))
