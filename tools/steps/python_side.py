# SPDX-License-Identifier: BSD-3-Clause
"""uv from PyPI, and with it the packages that the lock file names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from steps.console import Failure, output, run, say
from steps.paths import Paths, base_python, digest

UV_VERSION = "0.13.9"
HUB_5 = "jupyterhub==5.5.*"
"""The older hub that the spawner's tests also run on: zero-to-jupyterhub still ships it."""

_TEST_TOOLS = (
    "websocket-client>=1.9",
    "pytest>=9",
    "pytest-asyncio>=1.2",
    "pytest-timeout>=2.4",
    "hypothesis>=6.150",
)


def uv(paths: Paths) -> Path:
    """Return uv, installed into the clone if it is not there in the right version."""
    program = paths.tools / "uv" / "bin" / "uv"
    stamp = paths.stamp("uv")
    if stamp.fits(UV_VERSION, program):
        return program
    say(f"Installing uv {UV_VERSION} from PyPI")
    stamp.remove()
    shutil.rmtree(paths.tools / "uv", ignore_errors=True)
    try:
        run(
            [base_python(), "-m", "venv", paths.tools / "uv"],
            log=paths.logs / "venv.log",
            what="make a virtual environment",
        )
    except Failure as error:
        raise Failure(
            f"{base_python()} cannot make virtual environments: install its venv module (Debian and Ubuntu: "
            "`apt install python3-venv`) and run the same command again."
        ) from error
    pip: list[str | Path] = [
        paths.tools / "uv" / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    run([*pip, f"uv=={UV_VERSION}"], log=paths.logs / "uv.log", what="install uv from PyPI")
    stamp.write(UV_VERSION)
    return program


RUNNING = ("notebook",)
"""Dependency groups that an installation needs besides the distributions' own dependencies."""
DEVELOPMENT = ("notebook", "dev")
"""Dependency groups that tests and checks need."""


def sync(paths: Paths, *groups: str) -> None:
    """Install what the lock file names: the distributions, and dependency groups."""
    sources = [paths.clone / "uv.lock", *paths.clone.glob("*/pyproject.toml"), paths.clone / "pyproject.toml"]
    key = digest([*sources, paths.extension / "pyproject.toml"], sys.version, str(paths.clone))
    stamps = {group: paths.stamp(f"python-{group}") for group in groups}
    if all(stamp.fits(key, paths.python) for stamp in stamps.values()):
        return
    program = uv(paths)
    if _has_torch(paths):
        say("Bringing the Python packages up to date")
    else:
        say("Installing the Python packages; the largest is torch: several GB on Linux, cached by uv")
    for stamp in stamps.values():
        stamp.remove()
    # `--inexact` keeps what was installed for another command.
    chosen = ["--no-default-groups", *(word for group in groups for word in ("--group", group))]
    command: list[str | Path] = [program, "sync", "--frozen", "--inexact", "--python", base_python(), *chosen]
    # On the terminal: uv shows its own progress there.
    run(command, cwd=paths.clone, env=_uv_environment(), what="install the Python packages")
    for stamp in stamps.values():
        stamp.write(key)


_SERVER_PACKAGES = (
    *("jupyter_server", "jupyterlab", "jupyterlab_server", "jupyter_server_terminals", "jupyter_client"),
    *("jupyter_core", "jupyter_events", "jupyter_lsp", "jupyter_builder", "jupyterhub", "notebook_shim"),
    *("ipykernel", "IPython", "tornado", "zmq", "nbformat", "nbconvert", "traitlets", "cryptography"),
    *("pydantic", "httpx", "httpcore", "anywidget", "ipywidgets", "jinja2", "jsonschema", "referencing"),
    *("babel", "requests", "urllib3", "sqlalchemy", "aiohttp", "prompt_toolkit", "pygments"),
)
"""What a notebook server loads when it starts."""


def compile_for_servers(paths: Paths) -> None:
    """Compile what notebook servers load: running as other users they cannot keep what they compile."""
    (site,) = (paths.venv / "lib").glob("python*/site-packages")
    packages = [site / name for name in _SERVER_PACKAGES if (site / name).is_dir()]
    stamp, key = paths.stamp("compiled"), digest([], *sorted(path.name for path in site.glob("*.dist-info")))
    if stamp.fits(key, site / "jupyter_server" / "__pycache__"):
        return
    # A package may hold a file for another Python that does not compile: nothing depends on that.
    subprocess.run(
        [paths.python, "-m", "compileall", "-q", "-j", "0", *packages],
        check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    stamp.write(key)


def hub_5_python(paths: Paths) -> Path:
    """Return the Python of an environment with the older hub, the core and the spawner."""
    venv = paths.tools / "hub5"
    python = venv / "bin" / "python"
    sources = [paths.clone / "core" / "pyproject.toml", paths.clone / "spawner" / "pyproject.toml"]
    key = digest(sources, HUB_5, *_TEST_TOOLS, sys.version)
    stamp = paths.stamp("hub5")
    if stamp.fits(key, python):
        return python
    say(f"Installing {HUB_5} into an environment of its own")
    stamp.remove()
    shutil.rmtree(venv, ignore_errors=True)
    log = paths.logs / "hub5.log"
    program, env = uv(paths), _uv_environment()
    run(
        [program, "venv", "--python", base_python(), venv],
        log=log,
        env=env,
        what="make a virtual environment",
    )
    editable = [word for name in ("core", "spawner[kubernetes]") for word in ("-e", str(paths.clone / name))]
    command: list[str | Path] = [
        program,
        "pip",
        "install",
        "--python",
        python,
        *editable,
        HUB_5,
        *_TEST_TOOLS,
    ]
    run(command, log=log, env=env, what="install the older hub")
    stamp.write(key)
    return python


def _uv_environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env.setdefault("UV_HTTP_TIMEOUT", "300")
    env["UV_PYTHON_DOWNLOADS"] = "never"
    return env


def _has_torch(paths: Paths) -> bool:
    return bool(output([paths.python, "-c", "import importlib.util as u; print(u.find_spec('torch') or '')"]))
