# SPDX-License-Identifier: BSD-3-Clause
"""Starts JupyterHub's single-user server without its token in the environment.

`python -m sealroom_jupyter.singleuser` does what `jupyterhub-singleuser` does, with these differences:

- The token at the hub comes through the inherited file descriptor whose number is in `SEALROOM_TOKEN_FD`, or
  from the file that `SEALROOM_TOKEN_FILE` names, which is deleted. The environment that the system shows of
  this process (`/proc/<pid>/environ`, `ps e`) never holds it.
- While the server loads, the token is where JupyterHub's own code looks for it, `os.environ`. Sealroom's
  extension takes it out before the first kernel starts (`sealroom_jupyter.hub`), so that kernels and
  terminals do not inherit it.
- On Linux other processes of the same user, its kernels among them, cannot read this process's memory.
  Neither it nor its kernels leave a core file.
- Sealroom's server extension is enabled, whatever configuration files say.
- JupyterLab does not ask the internet for news and new versions: who works here is nobody's business.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from sealroom_jupyter.memory import no_core_files

TOKEN = "JUPYTERHUB_API_TOKEN"  # noqa: S105 - the variable's name
TOKEN_FD = "SEALROOM_TOKEN_FD"  # noqa: S105 - the variable's name
TOKEN_FILE = "SEALROOM_TOKEN_FILE"  # noqa: S105 - the variable's name
MAX_TOKEN = 4096
PR_SET_DUMPABLE = 4

CONFIG_PATH = "JUPYTER_CONFIG_PATH"
OWN_CONFIG = Path(__file__).parent / "config"
"""JupyterLab's page asks about news although the server fetches none: the part that asks is off there."""

ARGUMENTS = (
    "--ServerApp.jpserver_extensions=sealroom_jupyter=True",
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
)
"""What the server is started with, unless an argument sets the same."""


def token_to_environment() -> None:
    """Move the token from where the spawner left it to `os.environ`.

    Raises:
        RuntimeError: The spawner named a place, and there is no token in it.
    """
    number, path = os.environ.pop(TOKEN_FD, ""), os.environ.pop(TOKEN_FILE, "")
    if not number and not path:
        return
    try:
        data = _from_descriptor(int(number)) if number else _from_file(Path(path))
        token = data.decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise RuntimeError(f"The server's token at the hub cannot be read: {error}") from None
    if not token:
        raise RuntimeError("The server's token at the hub is empty: the spawner left none.")
    os.environ[TOKEN] = token


def hide_memory() -> None:
    """Keep other processes of the same user out of this one's memory, where the system can.

    The keys of open datasets are in it. `prctl(PR_SET_DUMPABLE, 0)`, prctl(2): `/proc/<pid>/mem` and
    `environ` and ptrace are root's alone, and there is no core file. It ends with `execve`, so kernels are
    as ever; what they inherit is the limit of core files.
    """
    no_core_files()
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main(argv: list[str] | None = None) -> None:
    """Run the server until it is stopped."""
    hide_memory()
    token_to_environment()
    os.environ[CONFIG_PATH] = os.pathsep.join(filter(None, [str(OWN_CONFIG), os.environ.get(CONFIG_PATH)]))
    # Imported when the token is there: the hub's classes read it as they are made.
    from jupyter_core.application import NoStart
    from jupyterhub.singleuser.extension import JupyterHubSingleUser

    from sealroom_jupyter.hub import take_token

    arguments = list(sys.argv[1:] if argv is None else argv)
    given = {argument.partition("=")[0] for argument in arguments}
    # A setting that is given twice is an error to the server, and its whole extension would not load.
    own = [argument for argument in ARGUMENTS if argument.partition("=")[0] not in given]
    serverapp = JupyterHubSingleUser.initialize_server(argv=[*own, *arguments])
    # Sealroom's extension has taken the token already. If it failed to load, the token goes all the same.
    take_token(serverapp)
    try:
        serverapp.start()
    except NoStart:
        return


def _from_descriptor(number: int) -> bytes:
    # A pipe: read to its end, which is where the spawner closed it.
    with os.fdopen(number, "rb") as pipe:
        return pipe.read(MAX_TOKEN)


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_TOKEN)
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
