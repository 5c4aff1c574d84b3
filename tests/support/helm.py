# SPDX-License-Identifier: BSD-3-Clause
"""Helm and kube-score for tests, built from their Go modules, and Kubernetes' own description of its objects.

Each is built once a user, into the user's cache under its version, so that other clones find it: Helm takes
about three minutes of a processor, kube-score about one. Go's checksum database vouches for what is
downloaded.

Needs Go 1.26 or newer; `SEALROOM_HELM` and `SEALROOM_KUBE_SCORE` name programs that are here already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from support.programs import alone, has_go

KUBERNETES = "v1.34.4"
CHART = Path(__file__).resolve().parents[2] / "helm" / "sealroom"
OLDEST_GO = (1, 26)
BUILDING = 3000.0


class UnavailableError(Exception):
    """This machine cannot build a program; the text says what it lacks."""


@dataclass(frozen=True)
class Program:
    """Something that Go installs."""

    name: str
    version: str
    package: str
    variable: str
    """The environment variable that names one that is here already."""
    flags: str = ""
    """Of the linker."""

    def path(self) -> Path:
        """Return the program; build it if it is not there.

        Raises:
            UnavailableError: There is no Go, or the modules cannot be downloaded.
            RuntimeError: It does not build.
        """
        if os.environ.get(self.variable):
            return Path(os.environ[self.variable])
        place = cache() / f"{self.name}-{self.version}"
        built = place / self.name
        if built.is_file():
            return built
        _need_go(self.name)
        place.mkdir(parents=True, exist_ok=True)
        with alone(place):
            if not built.is_file():
                self._build(place, built)
        return built

    def _build(self, place: Path, built: Path) -> None:
        fresh = place / "new"
        env = {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOBIN": str(fresh)}
        done = _go("install", f"-ldflags=-s -w {self.flags}", f"{self.package}@{self.version}", **env)
        _judge(self.name, done)
        (fresh / self.name).rename(built)
        fresh.rmdir()


# A Helm that was built without these takes the cluster for Kubernetes 1.20 when it has none to ask.
_FLAGS = " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
    for package in ("chartutil", "lint/rules")
    for part, number in zip(("Major", "Minor"), KUBERNETES.lstrip("v").split(".")[:2], strict=True)
)
HELM = Program("helm", "v3.22.0", "helm.sh/helm/v3/cmd/helm", "SEALROOM_HELM", _FLAGS)
KUBE_SCORE = Program(
    "kube-score", "v1.20.0", "github.com/zegl/kube-score/cmd/kube-score", "SEALROOM_KUBE_SCORE"
)


def cache() -> Path:
    """Return the user's cache folder, which outlives the clone."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # A path that is not absolute is to be ignored (XDG Base Directory Specification 0.8).
    base = Path(named) if named.startswith("/") else Path.home() / ".cache"
    return base / "sealroom"


def openapi() -> dict[str, Any]:
    """Return Kubernetes' OpenAPI document (version 2), from its Go module.

    Raises:
        UnavailableError: There is no Go, or the module cannot be downloaded.
    """
    kept = cache() / f"kubernetes-openapi-{KUBERNETES}.json"
    if not kept.is_file():
        _need_go("Kubernetes' OpenAPI document")
        done = _go("mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}")
        _judge("Kubernetes' module", done)
        found = Path(json.loads(done.stdout)["Dir"]) / "api" / "openapi-spec" / "swagger.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copyfile(found, fresh)
        fresh.replace(kept)
    document: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return document


def helm(*words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run Helm, without the user's configuration and without a cluster."""
    place = cache() / "helm-home"
    env = {"PATH": os.environ.get("PATH", ""), "HOME": str(place), "HELM_NO_PLUGINS": "1"}
    command = [str(HELM.path()), *map(str, words)]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=120, env=env
    )


def template(*files: Path, values: Mapping[str, Any] | None = None, release: str = "demo") -> str:
    """Return what the chart makes of values, as YAML.

    Args:
        files: Files with values; the later ones win.
        values: Values on top.
        release: The release's name; the namespace is `sealroom`.

    Raises:
        AssertionError: Helm refuses.
    """
    done = try_template(*files, values=values, release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_template(
    *files: Path, values: Mapping[str, Any] | None = None, release: str = "demo"
) -> subprocess.CompletedProcess[str]:
    """Do the same, and return also what Helm says against it."""
    given: list[str | Path] = [word for file in files for word in ("--values", file)]
    given += ["--values", "-"] if values is not None else []
    text = "" if values is None else json.dumps(values)
    return helm("template", release, CHART, "--namespace", "sealroom", *given, text=text)


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of rendered YAML."""
    return [item for item in yaml.safe_load_all(text) if item]


def _need_go(what: str) -> None:
    if not has_go(OLDEST_GO):
        raise UnavailableError(
            f"{what} is built with Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer, which is not here"
        )


def _go(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    # A newer toolchain is not downloaded for this. Others may be using this machine meanwhile.
    env = {**os.environ, "GOTOOLCHAIN": "local", **more}
    command: Sequence[str] = ["nice", "go", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, cwd="/", timeout=BUILDING
    )


def _judge(what: str, done: subprocess.CompletedProcess[str]) -> None:
    if not done.returncode:
        return
    said = done.stderr + done.stdout
    last = (said.strip().splitlines() or ["no reason given"])[-1].strip()
    if re.search("checksum|SECURITY", said):
        raise RuntimeError(f"{what} is not what it was: {said[-3000:]}")
    if re.search("dial|lookup|timeout|proxy|403|404|410", said):
        raise UnavailableError(f"{what} cannot be downloaded ({last})")
    raise RuntimeError(f"{what} does not build: {said[-3000:]}")


if __name__ == "__main__":
    # `make test` calls this before the tests, which have no time to build.
    for program in (HELM, KUBE_SCORE):
        try:
            program.path()
        except UnavailableError as error:
            print(f"The chart is not tested with {program.name}: {error}", file=sys.stdout)
    try:
        openapi()
    except UnavailableError as error:
        print(f"The chart's objects are not compared with Kubernetes' schema: {error}")
