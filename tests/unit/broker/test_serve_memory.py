# SPDX-License-Identifier: BSD-3-Clause
"""The heaps of a broker's threads are bounded, also by their number."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT = """
import ctypes, sys, threading
from sealroom_broker.serve import bound_memory

if sys.argv[1] == "bounded":
    bound_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(16)

def work():
    together.wait()
    libc.malloc(1000)  # ctypes lets the other threads go on meanwhile
    together.wait()

threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


def _heaps(which: str) -> int:
    done = subprocess.run([sys.executable, "-c", _COUNT, which], capture_output=True, check=True, timeout=60)
    return done.stdout.count(b"<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has no heap for each thread")
def test_threads_share_two_heaps() -> None:
    assert _heaps("bounded") <= 2
    assert _heaps("as it was") > 2
