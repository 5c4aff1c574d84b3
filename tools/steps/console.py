# SPDX-License-Identifier: BSD-3-Clause
"""Say what is being done and how long it has taken, run programs, and fail with one sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

START = time.monotonic()
_lock = threading.Lock()

# What package clients print when there is no way to their registry.
_NO_NETWORK = (
    "temporary failure in name resolution",
    "name or service not known",
    "failed to establish a new connection",
    "max retries exceeded",
    "network is unreachable",
    "error sending request",
    "dns error",
    "tcp connect error",
    "connection refused",
    # What pip says of a package that is there, when it has given up.
    "from versions: none",
    "enotfound",
    "eai_again",
    "econnrefused",
    "etimedout",
    "enetunreach",
    # What npm says when all it tried came to nothing.
    "network connectivity",
)
# As words: "ModuleNotFoundError" holds "enotfound", and no missing network.
_OFFLINE = re.compile("|".join(rf"(?<!\w){re.escape(sign)}(?!\w)" for sign in _NO_NETWORK))
_NO_SPACE = ("no space left on device", "enospc", "disk quota exceeded")


class Failure(Exception):  # noqa: N818 - what the person sees is not a traceback
    """Something stands in the way; the message is one sentence that says what to do."""


def say(text: str) -> None:
    """Print a line with the time since the start."""
    with _lock:
        print(f"[{time.monotonic() - START:6.1f} s] {text}", flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    what: str,
) -> None:
    """Run a program to its end.

    Args:
        argv: The program and its arguments.
        log: Where its output goes; the terminal if None.
        cwd: Where it runs.
        env: Its environment; this one's if None.
        what: What it does, for the sentence when it fails: "install the Python packages".

    Raises:
        Failure: It failed. The sentence names the likely reason, and the log if there is one.
    """
    words = [str(word) for word in argv]
    try:
        if log is None:
            done = subprocess.run(words, cwd=cwd, env=env, check=False, stdin=subprocess.DEVNULL)
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as stream:
                done = subprocess.run(
                    words,
                    cwd=cwd,
                    env=env,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                )
    except OSError as error:
        raise Failure(f"Could not {what}: {words[0]}: {error.strerror}.") from error
    if done.returncode != 0:
        raise Failure(_sentence(what, log, done.returncode))


def output(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """Return what a program prints; empty if it fails or is not there."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def tail(log: Path, lines: int = 12) -> str:
    """Return a log's last lines."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def interactive() -> bool:
    """Tell whether a person watches."""
    return sys.stdout.isatty() and "CI" not in os.environ


def _sentence(what: str, log: Path | None, status: int) -> str:
    text = "" if log is None else tail(log, 400).lower()
    if any(sign in text for sign in _NO_SPACE):
        return f"Could not {what}: the disk is full; make room and run the same command again."
    if _OFFLINE.search(text):
        return (
            f"Could not {what}: the package registry cannot be reached; connect to the internet "
            "(or set your proxy) and run the same command again, what is already there is kept."
        )
    if log is None:
        return (
            f"Could not {what} (status {status}): the lines above say why; then run the same command again."
        )
    return f"Could not {what} (status {status}); the end of {log}:\n{tail(log)}"
