# SPDX-License-Identifier: BSD-3-Clause
"""Builds the verifiers that Sealroom is compared with: go-sev-guest and the `sev` crate.

What this is: the programs in `go/` and `rust/`, built once into `.tools/peers` from locked versions, for the
tests beside this file and for the benchmarks. It needs nothing but the standard library. Where a toolchain is
missing, or its packages cannot be downloaded, it says so: that is a reason to skip. A build that fails
otherwise is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLACE = HERE.parents[1] / ".tools" / "peers"
"""Where the programs are built."""
OLDEST_CARGO = (1, 85)
"""What the `sev` crate asks for."""


class UnavailableError(Exception):
    """This machine cannot build a peer; the text says what it lacks."""


class BuildError(Exception):
    """A peer does not build, although everything for it is there."""


@dataclass(frozen=True)
class Peer:
    """One program to compare with."""

    name: str
    title: str
    folder: str
    features: str = ""


PEERS = (
    Peer("go-sev-guest", "go-sev-guest 0.15.0", "go"),
    Peer("sev-openssl", "sev 8.0.0 (OpenSSL)", "rust", "openssl"),
    Peer("sev-pure", "sev 8.0.0 (pure Rust)", "rust", "pure"),
)


def program(name: str) -> Path:
    """Return the built program of a peer, building it if its sources or its compiler changed.

    Raises:
        UnavailableError: There is no compiler, or the packages cannot be downloaded.
        BuildError: The build fails.
    """
    peer = next(one for one in PEERS if one.name == name)
    compiler = _compiler(peer)
    sources = sorted(path for path in (HERE / peer.folder).rglob("*") if path.is_file())
    version = _printed([compiler, "--version" if peer.folder == "rust" else "version"])
    key = hashlib.sha256(f"{peer} {version}".encode())
    for path in sources:
        key.update(path.relative_to(HERE).as_posix().encode() + b"\0" + path.read_bytes())
    built = PLACE / peer.name / "program"
    stamp = built.with_name("stamp")
    with _alone():
        if not (built.is_file() and stamp.is_file() and stamp.read_text() == key.hexdigest()):
            stamp.unlink(missing_ok=True)
            built.parent.mkdir(parents=True, exist_ok=True)
            (_build_go if peer.folder == "go" else _build_rust)(compiler, peer, built)
            stamp.write_text(key.hexdigest())
    return built


def _compiler(peer: Peer) -> str:
    tool = "go" if peer.folder == "go" else "cargo"
    found = shutil.which(tool)
    if found is None:
        raise UnavailableError(f"{peer.title}: this machine has no `{tool}`")
    if tool == "cargo":
        version = tuple(int(part) for part in re.findall(r"\d+", _printed([found, "--version"]))[:2])
        if version < OLDEST_CARGO:
            raise UnavailableError(f"{peer.title}: `cargo` is older than 1.85")
        if shutil.which("cc") is None:
            raise UnavailableError(f"{peer.title}: this machine has no C compiler to link with")
    if peer.features == "openssl" and not _openssl_headers():
        raise UnavailableError(f"{peer.title}: OpenSSL's headers are not installed")
    return found


def _openssl_headers() -> bool:
    return (
        shutil.which("pkg-config") is not None
        and subprocess.run(["pkg-config", "--exists", "openssl"], check=False).returncode == 0
    )


def _build_go(go: str, peer: Peer, built: Path) -> None:
    # A newer toolchain is not downloaded for this.
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"}
    _fetch([go, "mod", "download"], peer, env)
    _run([go, "build", "-trimpath", "-buildvcs=false", "-o", str(built), "."], peer, env)


def _build_rust(cargo: str, peer: Peer, built: Path) -> None:
    target = built.with_name("target")
    _fetch([cargo, "fetch", "--locked"], peer, dict(os.environ))
    options = ["--release", "--locked", "--offline", "--features", peer.features, "--target-dir", str(target)]
    _run([cargo, "build", *options], peer, dict(os.environ))
    shutil.copy2(target / "release" / "sev-peer", built)
    shutil.rmtree(target)


def _fetch(command: list[str], peer: Peer, env: dict[str, str]) -> None:
    done = _call(command, peer, env)
    if done.returncode == 0:
        return
    if "checksum" in done.stderr or "SECURITY" in done.stderr:
        raise BuildError(f"{peer.title}: {done.stderr}")
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise UnavailableError(f"{peer.title}: its packages cannot be downloaded ({last.strip()})")


def _run(command: list[str], peer: Peer, env: dict[str, str]) -> None:
    done = _call(command, peer, env)
    if done.returncode != 0:
        raise BuildError(f"{peer.title} does not build:\n{done.stderr}")


def _call(command: list[str], peer: Peer, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=HERE / peer.folder, env=env, capture_output=True, text=True, check=False
    )


def _printed(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build every peer that this machine can build, and say which it cannot."""
    failed = False
    for peer in PEERS:
        try:
            program(peer.name)
        except UnavailableError as error:
            print(f"Not compared with {error}")
        except BuildError as error:
            failed = True
            print(error, file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
