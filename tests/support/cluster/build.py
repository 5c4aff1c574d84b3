# SPDX-License-Identifier: BSD-3-Clause
"""The programs of a real Kubernetes, built from its Go modules into the user's cache.

Kubernetes 1.34 is the last minor version whose kubelet runs with version 1 of control groups as it comes. Its
six programs take about twelve minutes of a processor, once a user: they are kept outside the clone, under a
name made of what they are built from, so that other clones find them. Our own small programs (`tools/`) are
kept the same way. `go.sum` locks every module.

Needs Linux, root, Go 1.24 or newer, and from the distribution etcd, containerd, runc, the CNI plugins and
nftables (`make test` installs them with apt).
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.programs import alone, has_go

VERSION = "v1.34.4"
PACKAGE = "k8s.io/kubernetes/cmd"
PROGRAMS = ("kube-apiserver", "kubectl", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")
OWN = ("pause", "runtime", "deviceplugin", "dns")
SOURCES = Path(__file__).resolve().parent / "tools"
OLDEST_GO = (1, 24)
BUILDING = 7200.0

NEEDED = (
    "etcd", "containerd", "ctr", "runc", "nft", "conntrack", "iptables", "ip", "unshare", "nsenter",
    "setpriv",
)  # fmt: skip
CNI = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")


class UnavailableError(Exception):
    """This machine cannot run the cluster; the text says what it lacks."""


@dataclass(frozen=True)
class Programs:
    """Where the programs are."""

    kubernetes: Path
    """Folder with kube-apiserver and the others."""
    own: Path
    """Folder with `pause`, `runtime`, `deviceplugin` and `dns`."""
    cni: Path
    """Folder with the CNI plugins."""


def cache() -> Path:
    """Return the folder that outlives the clone."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return folder / "sealroom-tests" / "cluster"


def why_not() -> str:
    """Say why there can be no cluster here; empty if there can."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return "the cluster's node is made of Linux namespaces, on x86-64 or ARM64"
    if os.geteuid() != 0:
        return "the cluster's node is made of namespaces by root"
    missing = [name for name in NEEDED if shutil.which(name, path=_path()) is None]
    if cni_plugins() is None:
        missing.append("the CNI plugins")
    if missing:
        return f"the cluster needs {', '.join(missing)}, which is not here"
    if not (_folder("kubernetes").is_dir() and _folder("own").is_dir()) and not has_go(OLDEST_GO):
        return f"Kubernetes is built with Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer, which is not here"
    return _no_namespaces()


@functools.lru_cache
def _no_namespaces() -> str:
    command = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--mount-proc", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return f"this machine gives no namespaces ({done.stderr.strip()})" if done.returncode else ""


def _path() -> str:
    # Debian has some of these in folders that a person's path does not name.
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def cni_plugins() -> Path | None:
    """Return the folder with the CNI plugins."""
    for folder in CNI:
        if all((folder / name).is_file() for name in CNI_PLUGINS):
            return folder
    return None


def programs() -> Programs:
    """Return the programs; build those that are not there.

    Raises:
        UnavailableError: The machine cannot run them, or the modules cannot be downloaded.
        RuntimeError: They do not build.
    """
    reason = why_not()
    plugins = cni_plugins()
    if reason or plugins is None:
        raise UnavailableError(reason)
    cache().mkdir(parents=True, exist_ok=True)
    with alone(cache()):
        for kind in ("kubernetes", "own"):
            if not _folder(kind).is_dir():
                _build(kind)
    return Programs(_folder("kubernetes"), _folder("own"), plugins)


def _folder(kind: str) -> Path:
    return cache() / f"{kind}-{_key(kind)}"


@functools.lru_cache
def _key(kind: str) -> str:
    """Return what names the programs: the version and a digest of all that they are built from."""
    key = hashlib.sha256(repr((VERSION, PROGRAMS, OWN, platform.machine(), _flags())).encode())
    sources = [SOURCES / "go.mod", SOURCES / "go.sum"]
    if kind == "own":
        sources += sorted(SOURCES.glob("*/*.go"))
    for path in sources:
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{VERSION}-{key.hexdigest()[:12]}"


def _flags() -> list[str]:
    major, minor, _ = VERSION.removeprefix("v").split(".")
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items()]
    return ["-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={' '.join(['-s', '-w', *stamps])}"]


def _build(kind: str) -> None:
    fresh = cache() / f"{kind}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    if kind == "own":
        packages = {name: f"./{name}" for name in OWN}
    else:
        packages = {name: f"{PACKAGE}/{name}" for name in PROGRAMS}
    for name, package in packages.items():
        _go("build", *_flags(), "-o", str(fresh / name), package)
    fresh.rename(_folder(kind))


def _go(*words: str) -> None:
    # A newer toolchain is not downloaded for this. Others may be using this machine meanwhile.
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0"}
    done = subprocess.run(
        ["nice", "go", *words], cwd=SOURCES, capture_output=True, text=True, check=False, env=env,
        timeout=BUILDING,
    )  # fmt: skip
    if not done.returncode:
        return
    said = done.stderr.strip()
    if re.search(r"dial tcp|no such host|i/o timeout|proxyconnect|\b(403|404|410) ", said):
        last = (said.splitlines() or ["no reason given"])[-1]
        raise UnavailableError(f"Kubernetes' modules cannot be downloaded ({last.strip()})")
    raise RuntimeError(f"{words[-1]} does not build: {said[-3000:]}")


if __name__ == "__main__":
    # `make test` calls this before the tests, which have no time to build.
    from support.cluster import images

    try:
        images.notebook(programs())
    except UnavailableError as error:
        print(f"Not tested on a real Kubernetes: {error}")
