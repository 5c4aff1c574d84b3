# SPDX-License-Identifier: BSD-3-Clause
"""A pseudo-node: namespaces of processes, network and mounts that end with their first process.

It has an own loopback and an own bridge, and no way off the machine; the host's ports, addresses and
`/var/lib/kubelet` stay as they are. Whatever runs in it is gone when its first process is killed, also when
the tests are killed: that process dies with its parent.

What the node's kubelet sees of the machine is larger than the machine (`PROCESSORS`, `MEMORY_GIB`), so that
pods with the shapes of real environments fit; they still share what there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

PATIENCE = 60.0
PROCESSORS = 64
MEMORY_GIB = 512
ADDRESS = "10.250.0.1"
CLONE_NEWNET = 0x40000000
CGROUPS = Path("/sys/fs/cgroup")

_SET_UP = """
set -e
mount --make-rshared /
for folder in /run /var/lib/kubelet /var/lib/cni; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mkdir -p /run/netns /run/lock
# Kubelet wants these of every machine; it finds them here, and leaves the real ones alone.
for name in vm/overcommit_memory kernel/panic kernel/panic_on_oops; do
  mount --bind {folder}/machine/$(basename $name) /proc/sys/$name
done
mount --bind {folder}/machine/node /sys/devices/system/node
mount --bind {folder}/machine/meminfo /proc/meminfo
ip link set lo up
ip link add node0 type bridge
ip address add {address}/24 dev node0
ip link set node0 up
ip route add default via 10.250.0.254 dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
bridge=/proc/sys/net/bridge/bridge-nf-call-iptables
test ! -e $bridge || echo 1 > $bridge
"""

_T = TypeVar("_T")


class PseudoNode:
    """The namespaces, and what runs in them.

    Args:
        folder: Where it keeps its files; every process inside sees it under the same path.
        pause: The program of its first process.
    """

    def __init__(self, folder: Path, pause: Path) -> None:
        self.folder, self._pause = folder, pause
        self.cgroup = folder.name
        """Name of the control groups that its pods are in."""
        self._holder: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._network: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        (self.folder / "logs").mkdir()
        _write_machine(self.folder / "machine")
        for mounted in (Path("/var/lib/kubelet"), Path("/var/lib/cni")):
            mounted.mkdir(parents=True, exist_ok=True)
        # The first process is killed with unshare, and unshare with the tests.
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--ipc", "--fork",
             "--kill-child", "--mount-proc", "--propagation", "private", self._pause],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._first = self._find_first(self._holder)
        self.run("sh", "-c", _SET_UP.format(folder=self.folder, address=ADDRESS))
        for hierarchy in _hierarchies():
            (hierarchy / self.cgroup).mkdir(exist_ok=True)
        self._network = ThreadPoolExecutor(1, initializer=self._enter_network)

    def _find_first(self, holder: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert holder.poll() is None, "the namespaces could not be made"
            for child in _children(holder.pid):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/exe").resolve() == self._pause.resolve():
                        return child
            time.sleep(0.01)
        raise AssertionError("the node did not start in time")

    def close(self) -> None:
        """End everything in it, and remove what the kernel keeps of it."""
        if self._network is not None:
            self._network.shutdown()
            self._network = None
        if self._holder is not None:
            if self._first:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._first, signal.SIGKILL)
            self._holder.kill()
            self._holder.wait(PATIENCE)
            self._holder, self._first = None, 0
        for process in self._running.values():
            # nsenter ends when what it started has been killed with the namespace.
            process.wait(PATIENCE)
        self._running.clear()
        remove_cgroups(self.cgroup)

    # --- processes ---

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs another inside."""
        enter = ["nsenter", "-t", str(self._first), "--net", "--mount", "--pid", "--ipc", "--"]
        return [*enter, *(str(word) for word in words)]

    def run(
        self,
        *words: str | Path,
        input: str | None = None,  # noqa: A002 - the name that subprocess has
        timeout: float = 300.0,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a program inside and return what it prints; its working directory is `/`."""
        done = subprocess.run(
            self.command(*words), input=input, capture_output=True, text=True, check=False, timeout=timeout,
            env=self.environment(env),
        )  # fmt: skip
        assert done.returncode == 0, f"{words[0]}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, name: str, *words: str | Path, env: Mapping[str, str] | None = None) -> None:
        """Start something that keeps running; its output goes to `logs/<name>.log`."""
        assert name not in self._running or self._running[name].poll() is not None, f"{name} runs"
        with self.log_path(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=self.environment(env),
            )  # fmt: skip

    def stop(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End something that was started, by its process id, and wait for its end."""
        process = self._running.pop(name)
        self.send(process.pid, how)
        process.wait(PATIENCE)

    def notify(self, name: str, what: signal.Signals) -> None:
        """Send a signal to something that was started."""
        self.send(self._running[name].pid, what)

    @staticmethod
    def send(nsenter: int, what: signal.Signals) -> None:
        """Send a signal to what a process of nsenter has started."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for child in _children(nsenter):
                os.kill(child, what)
                return
            if not Path(f"/proc/{nsenter}").exists():
                return
            time.sleep(0.01)

    def alive(self, name: str) -> bool:
        """Tell whether something that was started still runs."""
        return name in self._running and self._running[name].poll() is None

    def log_path(self, name: str) -> Path:
        """Return where something's output goes."""
        return self.folder / "logs" / f"{name}.log"

    def log(self, name: str) -> str:
        """Return what something has said."""
        try:
            return self.log_path(name).read_text(errors="replace")
        except OSError:
            return ""

    @staticmethod
    def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of what runs inside: nothing of the tests' own that is not named."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
        return {"PATH": path, "LANG": "C.UTF-8", "HOME": "/root", **(more or {})}

    # --- network ---

    def _enter_network(self) -> None:
        enter_network(f"/proc/{self._first}/ns/net")

    def inside(self, work: Callable[[], _T]) -> _T:
        """Do something in the node's network namespace; sockets made there stay of it."""
        assert self._network is not None
        return self._network.submit(work).result(PATIENCE)

    def connect(self, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        """Return a connection to an address that the node can reach: its own, a pod's, a service's."""
        made = self.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        made.settimeout(timeout)
        try:
            made.connect((host, port))
        except BaseException:
            made.close()
            raise
        return made

    def forward(self, host: str, port: int) -> Gate:
        """Open a port on the host's loopback that leads to an address that the node can reach."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        return Gate(listener, lambda: self.connect(host, port))

    def expose(self, port: int, at: int = 0, *, host: str = "127.0.0.1") -> Gate:
        """Open a port on the node's address that leads to one of the host's."""
        listener = self.inside(lambda: socket.create_server((ADDRESS, at), backlog=128))
        return Gate(listener, lambda: socket.create_connection((host, port), 10.0))


class Gate:
    """A listening socket whose connections are passed on; `address` is where it listens."""

    def __init__(self, listener: socket.socket, connect: Callable[[], socket.socket]) -> None:
        self._listener, self._connect = listener, connect
        self._closed = threading.Event()
        listener.settimeout(0.2)
        self.host, self.port = listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more connections."""
        self._closed.set()
        self._thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        with near:
            try:
                far = self._connect()
            except OSError:
                return
            with far:
                for one in (near, far):
                    one.settimeout(None)
                back = threading.Thread(target=_pump, args=(far, near), daemon=True)
                back.start()
                _pump(near, far)
                back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    # The other direction may go on: a half-closed connection is one.
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def enter_network(path: str) -> None:
    """Put this thread, and no other, into a network namespace.

    Raises:
        OSError: It is none, or this is not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _write_machine(folder: Path) -> None:
    """Write what kubelet is to see of the machine."""
    folder.mkdir()
    for name, value in (("overcommit_memory", 1), ("panic", 10), ("panic_on_oops", 1)):
        (folder / name).write_text(f"{value}\n")
    kib = MEMORY_GIB << 20
    text = Path("/proc/meminfo").read_text()
    for name in ("MemTotal", "MemFree", "MemAvailable"):
        text = re.sub(rf"^{name}:.*$", f"{name}: {kib:>15} kB", text, flags=re.M)
    (folder / "meminfo").write_text(text)
    # The machine's processors again and again, a NUMA node each time: kubelet counts them all, and the
    # control groups that it makes name only those that there are.
    real = os.cpu_count() or 1
    nodes = -(-PROCESSORS // real)
    for number in range(nodes):
        node = folder / "node" / f"node{number}"
        node.mkdir(parents=True)
        share = kib // nodes
        (node / "meminfo").write_text(f"Node {number} MemTotal: {share:>15} kB\n")
        (node / "distance").write_text(" ".join("10" if n == number else "20" for n in range(nodes)) + "\n")
        for processor in range(real):
            topology = node / f"cpu{processor}" / "topology"
            topology.mkdir(parents=True)
            (topology / "core_id").write_text(f"{processor}\n")
            (topology / "physical_package_id").write_text("0\n")
    for name in ("online", "possible", "has_cpu", "has_memory", "has_normal_memory"):
        (folder / "node" / name).write_text(f"0-{nodes - 1}\n")


def _hierarchies() -> Iterator[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        yield CGROUPS
        return
    for folder in sorted(CGROUPS.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists():
            yield folder


def remove_cgroups(name: str) -> None:
    """Remove the control groups of a node that is no more."""
    deadline = time.monotonic() + PATIENCE
    for hierarchy in _hierarchies():
        top = hierarchy / name
        while top.exists() and time.monotonic() < deadline:
            for folder, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
            time.sleep(0.02)


def remove(folder: Path) -> None:
    """Remove a node's folder; what was mounted in it is gone with the node."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_dead(folders: Iterable[Path]) -> None:
    """Remove what is left of nodes whose tests were killed; each folder has the process id of its tests."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            if not Path(f"/proc/{int((folder / 'tests.pid').read_text())}").exists():
                remove_cgroups(folder.name)
                remove(folder)
