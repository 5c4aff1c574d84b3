# SPDX-License-Identifier: BSD-3-Clause
"""Start one notebook server apart from the others: the last steps before it runs, in its own process.

`python -m sealroom_spawner.launch FD` reads an `Order` (JSON) from the inherited file descriptor FD, which
is a socket to the hub, does as it says and becomes the server. If the hub dies before it has given the
order, the socket closes and nothing starts, so no server runs that the hub has not written down.

Plan, in this order because each step needs the rights that the next one gives up:

1. A mount namespace of its own: the file descriptors of everything to be shown are opened, directories are
   covered by empty ones, and what was opened is shown in them, read-only unless it is the server's own.
2. A `/proc` of its own that hides the processes of other users.
3. No groups, the server's user, no new privileges, no core files, files readable by nobody else.
4. Everything that the server needs is tried once as that user. What cannot be reached is said, not found out
   later.
5. The person's welcome files are copied, as that user (a link planted in a home leads nowhere it may not).
6. The hub's token goes into a pipe whose number the server is told: never into the environment, which `ps`
   shows.

Standard library only: it runs before anything of the server is trusted.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
# Flags of mount(2) as the kernel's linux/mount.h numbers them.
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND = 1, 2, 4, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True, slots=True)
class Order:
    """What the hub wants started."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    token: str = field(default="", repr=False)
    """The server's token at the hub; given to it through a pipe."""
    uid: int | None = None
    """System user to become; None to stay."""
    user: str = ""
    """The person's name, for programs that look the system user up."""
    hide: list[str] = field(default_factory=list)
    """Directories to cover; empty for no namespace."""
    show: list[tuple[str, bool]] = field(default_factory=list)
    """Paths to show inside covered directories, and whether the server may write there."""
    need: list[str] = field(default_factory=list)
    """Paths that the server must be able to read."""
    seed: list[tuple[str, str]] = field(default_factory=list)
    """Files to copy into the home if they are not there: source and target."""
    pid_file: str = ""
    """Where to write the process id, for people."""

    def to_json(self) -> bytes:
        """Return what `from_json` reads."""
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Order:
        """Read an order.

        Raises:
            ValueError: It is not one; an empty one means that the hub went away.
        """
        if not data:
            raise ValueError("the hub went away before it gave the order")
        fields: dict[str, Any] = json.loads(data)
        for pairs in ("show", "seed"):
            fields[pairs] = [(first, second) for first, second in fields[pairs]]
        return cls(**fields)


class LaunchError(Exception):
    """A server cannot be started the way it was ordered; the message is for the person who waits for it."""


def launch(order: Order) -> None:
    """Do as ordered and become the server; does not return.

    Raises:
        LaunchError: A step failed.
    """
    if order.hide:
        _own_files(order)
    if order.uid is not None:
        _become(order.uid)
    os.umask(0o077)
    # Not 0: the system would still pipe a core to a program, where it has one for that (core(5)).
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if sys.platform.startswith("linux"):
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _try_paths(order)
    _seed(order)
    if order.pid_file:
        Path(order.pid_file).write_text(f"{os.getpid()}\n")
    env = dict(order.env)
    if order.token:
        env["SEALROOM_TOKEN_FD"] = str(_token_pipe(order.token))
    os.chdir(order.cwd)
    os.execve(order.argv[0], order.argv, env)  # noqa: S606 - becoming the server is the point


def _own_files(order: Order) -> None:
    # (1) Everything is opened before anything is covered: afterwards there is no way to it but these
    # descriptors.
    _unshare()
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    opened = [(path, writable, os.open(path, os.O_PATH)) for path, writable in order.show]
    for directory in order.hide:
        mode = "1777" if directory in ("/tmp", "/var/tmp", "/dev/shm") else "755"  # noqa: S108
        _mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")
    for path, writable, descriptor in opened:
        _show(Path(path), descriptor, writable=writable)
        os.close(descriptor)
    if order.uid is not None and order.user:
        _introduce(order.uid, order.user, order.env.get("HOME", "/"), order.env.get("SHELL", "/bin/sh"))
    # (2) The namespace of processes stays the machine's, what is seen of it does not.
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV, "hidepid=2")


def _introduce(uid: int, user: str, home: str, shell: str) -> None:
    """Give the server's user an entry in the user database that it sees: git and others ask for one."""
    database = Path("/etc/passwd")
    if not database.exists() or any(character in f"{user}{home}{shell}" for character in ":\n"):
        return
    entries = [line for line in database.read_text().splitlines() if not line.startswith(f"{user}:")]
    # In the tmpfs over /tmp; the name goes at once, the mount keeps the file.
    own = Path("/tmp/.passwd")  # noqa: S108
    own.write_text("\n".join([*entries, f"{user}:x:{uid}:{uid}:{user}:{home}:{shell}", ""]))
    own.chmod(0o644)
    _mount(str(own), str(database), None, MS_BIND)
    own.unlink()


def _show(path: Path, descriptor: int, *, writable: bool) -> None:
    source = f"/proc/self/fd/{descriptor}"
    if Path(source).is_dir():
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    else:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.touch(mode=0o644)
    _mount(source, str(path), None, MS_BIND | MS_REC)
    flags = MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV
    _mount(None, str(path), None, flags if writable else flags | MS_RDONLY)


def _become(uid: int) -> None:
    # (3) The group has the user's own number: no group is shared with anybody.
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise LaunchError(
            f"This machine does not let the server become user {uid}: {error.strerror}."
        ) from error


def _try_paths(order: Order) -> None:
    for path in order.need:
        if not os.access(path, os.R_OK):
            raise LaunchError(
                f"The server's system user cannot read {path}. "
                "Move it where everybody may read it, or start Sealroom as an ordinary user."
            )
    if not os.access(order.cwd, os.R_OK | os.W_OK | os.X_OK):
        raise LaunchError(f"The server's system user cannot write to its home {order.cwd}.")


def _seed(order: Order) -> None:
    for source, target in order.seed:
        place = Path(target)
        if place.exists() or place.is_symlink():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)


def _token_pipe(token: str) -> int:
    reader, writer = os.pipe()
    os.write(writer, token.encode())
    os.close(writer)
    os.set_inheritable(reader, True)
    return reader


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare() -> None:
    if _libc().unshare(CLONE_NEWNS) != 0:
        raise LaunchError(f"This machine gives no private view of files: {os.strerror(ctypes.get_errno())}.")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    if _libc().mount(*arguments, ctypes.c_ulong(flags), options.encode() or None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LaunchError(f"The private view of files could not be made at {target}: {reason}.")


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, value, 0, 0, 0) != 0:
        raise LaunchError(f"This machine refuses prctl {option}: {os.strerror(ctypes.get_errno())}.")


def _probe() -> None:
    _unshare()
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV)  # noqa: S108
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV, "hidepid=2")


def main(arguments: list[str]) -> int:
    """Run as a program: `--probe`, or the number of the socket that brings the order."""
    if arguments == ["--probe"]:
        try:
            _probe()
        except LaunchError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        return 0
    with socket.socket(fileno=int(arguments[0])) as hub:
        hub.set_inheritable(False)
        with hub.makefile("rb") as stream:
            data = stream.read()
        try:
            # The socket closes when the server has taken over: that is how the hub knows.
            launch(Order.from_json(data))
        except (LaunchError, ValueError, OSError) as error:
            message = (
                str(error) if isinstance(error, LaunchError) else f"The server could not be started: {error}."
            )
            hub.sendall(message.encode())
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
