# SPDX-License-Identifier: BSD-3-Clause
"""Container images without a registry, made of what is on this machine.

An image of ours is a few layers: this Python with its standard library and the shared libraries that it
needs; the packages of this virtual environment that a notebook server, or the hub, depends on; and our own
packages as they are in the clone. A layer is a tar file in the user's cache under the name of what it is made
of, so a change of ours makes a layer of a few megabytes and nothing else. The same content gives the same
digest.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.cluster.build import Programs, cache

REPOSITORY = Path(__file__).resolve().parents[3]
REGISTRY = "registry.test"
PREFIX = "/opt/sealroom"
BASE = "/opt/python"
USER = 1000
TOOLS = ("bin/sh", "usr/bin/env", "bin/sleep", "bin/cat", "bin/id")
"""Programs of this machine that go into images, where they go."""
RECIPE = "1"
"""Changed when layers of the same content are to be made differently."""
OURS = {
    "sealroom": "core/src/sealroom",
    "sealroom_spawner": "spawner/src/sealroom_spawner",
    "sealroom_jupyter": "extensions/jupyter/sealroom_jupyter",
    "sealroom_broker": "broker/src/sealroom_broker",
}
NOTEBOOK = ("jupyterhub", "jupyterlab", "ipykernel", "sealroom", "sealroom-jupyter")
HUB = ("sealroom-spawner", "sealroom-broker", "jupyterhub-kubespawner", "jupyterhub-idle-culler")
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|tests?|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-[^/]*)(/|$)"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Image:
    """An image as a file that containerd imports."""

    name: str
    """Without tag and digest."""
    digest: str
    archive: Path

    @property
    def tagged(self) -> str:
        """Its name with a tag."""
        return f"{self.name}:test"

    @property
    def reference(self) -> str:
        """Its name with its digest: what an environment pins."""
        return f"{self.name}@{self.digest}"


@dataclass
class Config:
    """How a container of the image runs."""

    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    user: str = ""
    directory: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Return it as OCI's image specification has it."""
        members: dict[str, object] = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "User": self.user,
            "WorkingDir": self.directory,
            "Env": [f"{name}={value}" for name, value in sorted(self.environment.items())],
        }
        return {name: value for name, value in members.items() if value}


def pause(programs: Programs) -> Image:
    """Return the image of a pod's first process."""
    return _one_program("pause", programs.own / "pause")


def dns(programs: Programs) -> Image:
    """Return the image of the cluster's DNS."""
    return _one_program("dns", programs.own / "dns")


def notebook(programs: Programs) -> Image:
    """Return the image of a notebook server, with our packages and without a user's GPU libraries."""
    layers = [_python(), _packages(NOTEBOOK), _own("notebook", ("sealroom", "sealroom_jupyter"))]
    return _write("sealroom/notebook", layers, _of_python("jupyterhub-singleuser"))


def hub(programs: Programs) -> Image:
    """Return an image with the hub, its proxy and the broker, for pods of the operator's and the owner's."""
    layers = [
        _python(),
        _packages(NOTEBOOK),
        _packages(HUB, without=NOTEBOOK),
        *_proxy(),
        _own("hub", tuple(OURS)),
    ]
    return _write("sealroom/hub", layers, _of_python("jupyterhub"))


def _of_python(command: str) -> Config:
    path = f"{PREFIX}/bin:/usr/local/bin:/usr/bin:/bin"
    environment = {"PATH": path, "LANG": "C.UTF-8", "HOME": "/home/jovyan", "SHELL": "/bin/sh"}
    return Config(command=(command,), user=str(USER), directory="/home/jovyan", environment=environment)


# --- layers


def _one_program(name: str, program: Path) -> Image:
    def fill(root: Path) -> None:
        shutil.copyfile(program, root / name)
        (root / name).chmod(0o755)

    layer = _layer(name, hashlib.sha256(program.read_bytes()).hexdigest(), fill)
    return _write(name, [layer], Config(entrypoint=(f"/{name}",), user="65534"))


def _python() -> Path:
    """Make the layer with this Python, the libraries that it and the packages need, and a shell."""
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    standard = Path(os.__file__).parent
    packages = _files(_closure((*NOTEBOOK, *HUB)))
    modules = [*_walk(standard), *(path for path in packages if path.suffix == ".so" or ".so." in path.name)]
    needed_by = _distributions((*NOTEBOOK, *HUB))
    key = repr((sys.version, str(executable), platform.libc_ver(), TOOLS, needed_by))

    def fill(root: Path) -> None:
        binary = root / BASE.lstrip("/") / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        _copy(executable, binary)
        library = root / BASE.lstrip("/") / "lib" / standard.name
        for path in _walk(standard):
            _copy(path, library / path.relative_to(standard))
        tools = {place: Path(found) for place in TOOLS if (found := shutil.which(Path(place).name))}
        for place, tool in tools.items():
            _copy(tool, root / place)
        linked = [path for path in modules if ".so" in path.name]
        libraries = set(_libraries([executable, *tools.values(), *linked]))
        for path in libraries:
            _copy(path, root / str(path).lstrip("/"))
        _system_files(root, {str(path.parent) for path in libraries})
        _compile(root, library)

    return _layer("python", key, fill)


def _system_files(root: Path, libraries: Iterable[str]) -> None:
    etc = root / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\njovyan:x:{USER}:{USER}::/home/jovyan:/bin/sh\n"
        "nobody:x:65534:65534::/nonexistent:/bin/sh\n"
    )
    (etc / "group").write_text(f"root:x:0:\njovyan:x:{USER}:\nnogroup:x:65534:\n")
    (etc / "ld.so.conf").write_text("".join(f"{folder}\n" for folder in sorted(libraries)))
    subprocess.run(
        [shutil.which("ldconfig") or "/sbin/ldconfig", "-r", root], check=True, capture_output=True
    )
    for name in ("tmp", "home/jovyan", "srv"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o1777)
    environment = root / PREFIX.lstrip("/")
    (environment / "bin").mkdir(parents=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (environment / "pyvenv.cfg").write_text(f"home = {BASE}/bin\ninclude-system-site-packages = false\n")
    for name in ("python", "python3"):
        (environment / "bin" / name).symlink_to(f"{BASE}/bin/python{version}")


def _packages(names: Sequence[str], *, without: Sequence[str] = ()) -> Path:
    """Make the layer with the installed packages that these need, but for our own."""
    chosen = _closure(names)
    for name in _closure(without):
        chosen.pop(name, None)
    key = repr((sys.version, _distributions(names), _distributions(without)))

    def fill(root: Path) -> None:
        target = root / PREFIX.lstrip("/")
        prefix = Path(sys.prefix)
        for path in _files(chosen):
            relative = path.relative_to(prefix)
            _copy(path, target / relative)
            if relative.parent == Path("bin"):
                _rewrite_shebang(target / relative)
        _compile(root, target / "lib")

    return _layer(f"packages-{names[0]}", key, fill)


def _own(name: str, packages: Sequence[str]) -> Path:
    """Make the layer with our packages as they are in the clone."""
    sources = {package: REPOSITORY / OURS[package] for package in packages}
    extra = {
        f"share/jupyter/labextensions/{labextension.name}": labextension
        for labextension in _labextensions(sources.get("sealroom_jupyter"))
    }
    config = REPOSITORY / "extensions/jupyter/jupyter-config"
    key = hashlib.sha256()
    for folder in (*sources.values(), *extra.values(), config):
        for path in _walk(folder):
            key.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())

    def fill(root: Path) -> None:
        target = root / PREFIX.lstrip("/")
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site = target / "lib" / version / "site-packages"
        for package, folder in sources.items():
            for path in _walk(folder):
                _copy(path, site / package / path.relative_to(folder))
            for path in _metadata(package):
                _copy(path, site / path.parent.name / path.name)
        for place, folder in extra.items():
            for path in _walk(folder):
                _copy(path, target / place / path.relative_to(folder))
        for folder in config.iterdir():
            kind = {"server-config": "jupyter_server_config.d"}.get(folder.name, folder.name)
            for path in _walk(folder):
                _copy(path, target / "etc/jupyter" / kind / path.name)
        for script in (Path(sys.prefix) / "bin").glob("sealroom*"):
            _copy(script, target / "bin" / script.name)
            _rewrite_shebang(target / "bin" / script.name)
        _compile(root, target / "lib")

    return _layer(f"own-{name}", key.hexdigest(), fill)


def _labextensions(package: Path | None) -> Iterator[Path]:
    built = package / "labextension" if package else None
    if built is not None and (built / "package.json").is_file():
        name = json.loads((built / "package.json").read_text())["name"]
        link = Path(sys.prefix) / "share/jupyter/labextensions" / name
        yield link if link.is_dir() else built


def _proxy() -> Iterator[Path]:
    """Make the layer with the hub's proxy and Node, where both are here."""
    modules, node = REPOSITORY / ".tools/proxy/node_modules", shutil.which("node")
    if not modules.is_dir() or node is None:
        return
    program = Path(node).resolve()

    def fill(root: Path) -> None:
        _copy(program, root / "usr/bin/node")
        for library in _libraries([program]):
            _copy(library, root / str(library).lstrip("/"))
        target = root / "opt/proxy/node_modules"
        for path in _walk(modules, everything=True):
            _copy(path, target / path.relative_to(modules))
        (root / "usr/local/bin").mkdir(parents=True)
        script = "/opt/proxy/node_modules/configurable-http-proxy/bin/configurable-http-proxy"
        (root / "usr/local/bin/configurable-http-proxy").symlink_to(script)

    about = program.stat()
    lock = modules / ".package-lock.json"
    yield _layer(
        "proxy", repr((str(program), about.st_size, lock.read_text() if lock.is_file() else "")), fill
    )


def _layer(name: str, key: str, fill: Callable[[Path], None]) -> Path:
    """Return the tar file of a layer; make it if it is not there."""
    folder = cache() / "layers"
    folder.mkdir(parents=True, exist_ok=True)
    short = hashlib.sha256(f"{RECIPE}\0{platform.machine()}\0{key}".encode()).hexdigest()[:16]
    made = folder / f"{name}-{short}.tar"
    with _alone(folder):
        if made.is_file():
            os.utime(made)
            return made
        with tempfile.TemporaryDirectory(prefix="layer-", dir=folder) as scratch:
            root, fresh = Path(scratch) / "root", Path(scratch) / "layer.tar"
            root.mkdir(mode=0o755)
            fill(root)
            subprocess.run(
                ["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner",
                 "--mode=a+rX", "-C", root, "-cf", fresh, *_names(root)],
                check=True,
            )  # fmt: skip
            fresh.rename(made)
        _forget_old(folder, name)
        return made


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def _forget_old(folder: Path, name: str, keep: int = 3) -> None:
    """Remove all but the newest layers of a name; digests kept beside them go too."""
    found = [
        path
        for path in folder.glob(f"{name}-*.tar")
        if re.fullmatch(rf"{name}-[0-9a-f]{{16}}\.tar", path.name)
    ]
    for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-keep]:
        path.unlink()
        path.with_suffix(".sha256").unlink(missing_ok=True)


# --- what goes into them


def _closure(names: Sequence[str]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed distributions that these need, by normalised name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = list(names)
    while waiting:
        match = _NAME.match(waiting.pop())
        name = re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""
        if not name or name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [item for item in found[name].requires or () if "extra ==" not in item]
    return found


def _distributions(names: Sequence[str]) -> list[tuple[str, str]]:
    return sorted((name, found.version) for name, found in _closure(names).items())


def _files(chosen: dict[str, importlib.metadata.Distribution]) -> list[Path]:
    found = []
    prefix = Path(sys.prefix)
    for name, distribution in chosen.items():
        if name.replace("-", "_") in OURS:
            continue
        for file in distribution.files or ():
            path = Path(os.path.normpath(str(file.locate())))
            wanted = path.is_relative_to(prefix) and not _LEFT_OUT.search(str(path.relative_to(prefix)))
            if wanted and path.suffix != ".map" and path.is_file():
                found.append(path)
    return found


def _metadata(package: str) -> Iterator[Path]:
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return
    for file in found.files or ():
        if file.parent.name.endswith(".dist-info") and file.name in ("METADATA", "entry_points.txt", "WHEEL"):
            yield Path(str(file.locate()))


def _walk(folder: Path, *, everything: bool = False) -> Iterator[Path]:
    if not folder.is_dir():
        return
    for top, folders, files in os.walk(folder):
        relative = Path(top).relative_to(folder)
        folders[:] = sorted(
            name
            for name in folders
            if everything or not (_LEFT_OUT.search(str(relative / name)) or name.endswith("-packages"))
        )
        yield from (
            Path(top) / name for name in sorted(files) if everything or not name.endswith((".pyc", ".map"))
        )


def _libraries(programs: Sequence[Path]) -> Iterator[Path]:
    """Give the shared libraries of the system that programs and modules are linked with."""
    inside = (Path(sys.prefix).resolve(), Path(os.__file__).resolve().parent)
    for start in range(0, len(programs), 100):
        words = ["ldd", *(str(path) for path in programs[start : start + 100])]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        for match in re.finditer(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.M):
            path = Path(os.path.normpath(match[1]))
            if not any(path.resolve().is_relative_to(folder) for folder in inside):
                yield path


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _rewrite_shebang(script: Path) -> None:
    content = script.read_bytes()
    if content.startswith(b"#!") and b"python" in content.split(b"\n", 1)[0]:
        script.write_bytes(b"#!" + f"{PREFIX}/bin/python".encode() + b"\n" + content.split(b"\n", 1)[1])


def _compile(root: Path, folder: Path) -> None:
    # Without times in it, so that the same source gives the same layer and stays valid whatever its time.
    compileall.compile_dir(
        str(folder), quiet=2, stripdir=str(root), workers=2, maxlevels=40,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip


# --- the image


def _write(name: str, layers: Sequence[Path], config: Config) -> Image:
    """Write an OCI archive with uncompressed layers."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    digests = [_digest(path) for path in layers]
    content = {
        "architecture": machine,
        "os": "linux",
        "config": config.as_json(),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }
    kind = "application/vnd.oci.image"
    config_digest, config_bytes = _blob(content)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", config_digest, len(config_bytes)),
        "layers": [
            _descriptor(f"{kind}.layer.v1.tar", digest, path.stat().st_size)
            for digest, path in zip(digests, layers, strict=True)
        ],
    }
    digest, manifest_bytes = _blob(manifest)
    full = f"{REGISTRY}/{name}"
    entry = _descriptor(f"{kind}.manifest.v1+json", digest, len(manifest_bytes))
    entry["annotations"] = {"io.containerd.image.name": f"{full}:test"}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name.replace('/', '-')}-{digest[:16]}.tar"
    with _alone(folder):
        if not archive.is_file():
            fresh = archive.with_suffix(".new")
            with tarfile.open(fresh, "w") as tar:
                _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                _add(tar, "index.json", index)
                for blob_digest, blob in ((config_digest, config_bytes), (digest, manifest_bytes)):
                    _add(tar, f"blobs/sha256/{blob_digest}", blob)
                for layer_digest, path in zip(digests, layers, strict=True):
                    about = tarfile.TarInfo(f"blobs/sha256/{layer_digest}")
                    about.size = path.stat().st_size
                    with path.open("rb") as file:
                        tar.addfile(about, file)
            fresh.rename(archive)
        for old in folder.glob(f"{name.replace('/', '-')}-*.tar"):
            if old != archive:
                old.unlink()
    return Image(full, f"sha256:{digest}", archive)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def _blob(content: object) -> tuple[str, bytes]:
    data = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest(), data


def _digest(path: Path) -> str:
    kept = path.with_suffix(".sha256")
    if kept.is_file():
        return kept.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept.write_text(digest)
    return digest


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
