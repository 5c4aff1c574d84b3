# SPDX-License-Identifier: BSD-3-Clause
"""Tests and checks: what CI runs, and what each of them needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from steps import hub, node_side, python_side
from steps.console import Failure, run, say
from steps.paths import Paths, alone
from steps.setup import everything

_TYPED = ("core/src", "broker/src", "spawner/src", "extensions/jupyter/sealroom_jupyter", "tools", "tests")
_CLUSTER_PACKAGES = (
    "containerd", "runc", "containernetworking-plugins", "etcd-server", "nftables", "conntrack", "iptables",
    "iproute2",
)  # fmt: skip
_APT = ("apt-get", "-o", "DPkg::Lock::Timeout=900", "-q", "-y")


def prepare(paths: Paths) -> None:
    """Set everything up that tests and checks need."""
    everything(paths, development=True)
    # Tests of the front end and its type check need its packages, also where it is already built.
    with alone(paths):
        node_side.install_extension_packages(paths, node_side.find_node(paths))


def test(paths: Paths) -> None:
    """Run every test: the front end's, the spawner's on the older hub, and all others."""
    prepare(paths)
    _browser(paths)
    _postgresql(paths)
    _softhsm(paths)
    if not _extra() or any("kek" in word or "integration" in word for word in _extra()):
        _vault(paths)
    if not _extra() or any("s3" in word or "datasets" in word for word in _extra()):
        _s3_server(paths)
    if not _extra() or any("cluster" in word or "chart" in word for word in _extra()):
        say("Building Helm for the tests; the first time takes some minutes")
        _build(paths, "support.helm", log="helm.log", what="build Helm")
    if any("cluster" in word for word in _extra()):
        _cluster(paths)
    if not _extra():  # A chosen test that needs them builds them.
        _peers(paths)
    node = node_side.find_node(paths)
    failed = []
    say("Testing the front end")
    if not _passes([*node.npm_command, "test"], cwd=paths.extension, env=node.environment):
        failed.append("the front end")
    if not _hub_5_passes(paths):
        failed.append("the spawner on the older hub")
    if _extra():
        say("Testing what was chosen")
        if not _passes(_pytest(paths, *_extra()), cwd=paths.clone, env=_environment(paths)):
            failed.append("the tests above")
    else:
        failed += _all_tests(paths)
    if failed:
        raise Failure(f"Failed: {', '.join(failed)}.")


def _all_tests(paths: Paths) -> list[str]:
    """Run all tests of Python and return what failed.

    Unit tests keep one processor busy, those with servers mostly wait: the two run at once, each with its own
    output. What runs on a real Kubernetes is `make test-cluster`.
    """
    say("Testing what starts servers, and the units beside it")
    log, env = paths.logs / "unit-tests.log", _environment(paths)
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            [str(word) for word in _pytest(paths, "tests/unit")],
            cwd=paths.clone, env=env, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        ) as units,
    ):  # fmt: skip
        try:
            others = ("tests", "--ignore=tests/unit", "--ignore=tests/cluster")
            results = {"the tests with servers": _passes(_pytest(paths, *others), cwd=paths.clone, env=env)}
            results["the unit tests"] = units.wait() == 0
        except BaseException:
            units.terminate()
            raise
    say("The units")
    print(log.read_text(errors="replace"), flush=True)
    return [name for name, passed in results.items() if not passed]


def _pytest(paths: Paths, *words: str) -> list[str | Path]:
    return [paths.python, "-m", "pytest", "-q", *words]


def test_cluster(paths: Paths) -> None:
    """Run the tests on a real Kubernetes, which is built the first time."""
    prepare(paths)
    _build(paths, "support.helm", log="helm.log", what="build Helm")
    _cluster(paths)
    say("Testing on a real Kubernetes")
    if not _passes(_pytest(paths, "tests/cluster"), cwd=paths.clone, env=_environment(paths)):
        raise Failure("The tests on a real Kubernetes fail.")


def test_hub_5(paths: Paths) -> None:
    """Run the spawner's unit tests on the older hub."""
    if not _hub_5_passes(paths):
        raise Failure("The spawner's tests fail on the older hub.")


def lint(paths: Paths) -> None:
    """Check everything that needs no test: style, types, directions, spelling, generated files, documents."""
    prepare(paths)
    bin_dir, node = paths.venv / "bin", node_side.find_node(paths)
    checks: list[tuple[str, list[str | Path], Path]] = [
        ("ruff check", [bin_dir / "ruff", "check", "."], paths.clone),
        ("ruff format", [bin_dir / "ruff", "format", "--check", "."], paths.clone),
        ("mypy", [bin_dir / "mypy", *_TYPED], paths.clone),
        ("import-linter", [bin_dir / "lint-imports"], paths.clone),
        ("codespell", [bin_dir / "codespell", *_spelled(paths)], paths.clone),
        ("front end", [*node.npm_command, "run", "lint:check"], paths.extension),
    ]
    checks += [
        (script.stem, [paths.python, script, "--check"], paths.clone)
        for script in sorted((paths.clone / "tools").glob("*_reference.py"))
    ]
    failed = []
    for name, command, cwd in checks:
        say(name)
        if not _passes(command, cwd=cwd, env={**node.environment, **_environment(paths)}):
            failed.append(name)
    if failed:
        raise Failure(f"Failed: {', '.join(failed)}.")


def docs(paths: Paths) -> None:
    """Build the documentation; warnings are errors."""
    with alone(paths):
        python_side.sync(paths, *python_side.DEVELOPMENT, "docs")
    say("Building the documentation")
    build: list[str | Path] = [paths.venv / "bin" / "sphinx-build", "-W", "--keep-going", "-q", "-b", "html"]
    run([*build, paths.clone / "docs", paths.clone / "site"], what="build the documentation")
    say(f"The documentation is in {paths.clone / 'site' / 'index.html'}")


def bench(paths: Paths) -> None:
    """Measure, and print a table with the peer of each row measured in the same run."""
    prepare(paths)
    _peers(paths)
    if not _extra() or "sealed" in _extra():
        _s3_server(paths)
    if not _passes(
        [paths.python, paths.clone / "tests" / "benchmarks" / "run.py", *_extra()],
        cwd=paths.clone,
        env=_environment(paths),
    ):
        raise Failure("A measurement failed; the lines above say which.")


def demo_refusals(paths: Paths) -> None:
    """Show three refusals against the running installation, which is started if it is not running."""
    from steps.main import up

    if hub.running(paths) is None:
        up(paths)
    if not _passes(
        [paths.python, paths.clone / "tools" / "demo_refusals.py", paths.home],
        cwd=paths.clone,
        env=_environment(paths),
    ):
        raise Failure("A refusal that should have been shown was not.")


def reformat(paths: Paths) -> None:
    """Format the sources, and fix what can be fixed without a thought."""
    prepare(paths)
    node = node_side.find_node(paths)
    run([paths.venv / "bin" / "ruff", "check", "--fix", "."], cwd=paths.clone, what="fix what ruff can fix")
    run([paths.venv / "bin" / "ruff", "format", "."], cwd=paths.clone, what="format the Python sources")
    run(
        [*node.npm_command, "run", "lint"],
        cwd=paths.extension,
        env=node.environment,
        what="format the front end's sources",
    )


def _hub_5_passes(paths: Paths) -> bool:
    with alone(paths):
        python = python_side.hub_5_python(paths)
    say("Testing the spawner on the older hub")
    command: list[str | Path] = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/spawner"]
    return _passes(command, cwd=paths.clone, env=_environment(paths))


def _peers(paths: Paths) -> None:
    """Build the verifiers that ours is compared with, as far as this machine has Go and Rust."""
    say("Building the verifiers to compare with")
    script = paths.clone / "tests" / "interop" / "peers.py"
    run([paths.python, script], log=paths.logs / "peers.log", what="build the verifiers to compare with")


def _browser(paths: Paths) -> None:
    """Get a browser for the tests: Debian's as root with apt, else the one that Playwright brings."""
    if shutil.which("chromium") or Path("/usr/bin/chromium").exists():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("Installing Chromium with apt")
        _install(paths, "Chromium", "chromium", "fonts-dejavu-core")
        return
    say("Installing Playwright's Chromium")
    run(
        [paths.venv / "bin" / "playwright", "install", "chromium"],
        log=paths.logs / "playwright.log",
        what="install Playwright's browser",
    )


def _postgresql(paths: Paths) -> None:
    """Get a PostgreSQL server for the tests, as root with apt; without it those tests skip and say why."""
    if shutil.which("postgres") or any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("Installing PostgreSQL with apt")
        # Tests start servers of their own: the package's must not run. It is not started in runlevel 1.
        _install(paths, "PostgreSQL", "postgresql", RUNLEVEL="1")


def _softhsm(paths: Paths) -> None:
    """Get a PKCS#11 token for the tests, as root with apt; without it those tests skip and say why."""
    if shutil.which("softhsm2-util"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("Installing SoftHSM with apt")
        _install(paths, "SoftHSM", "softhsm2")


def _vault(paths: Paths) -> None:
    """Build a Vault for the tests, as far as this machine has Go; without it those tests skip and say why."""
    say("Building Vault for the tests; the first time takes a few minutes")
    _build(paths, "support.vault", log="vault.log", what="build Vault")


def _s3_server(paths: Paths) -> None:
    """Build an S3 server for the tests, if this machine has Go; without it those tests skip and say why."""
    say("Building versitygw for the tests; the first time takes some minutes")
    _build(paths, "support.s3", log="s3.log", what="build versitygw")


def _cluster(paths: Paths) -> None:
    """Build a Kubernetes for the tests, as far as this machine can run one.

    Without it those tests skip and say why.
    """
    needed = ("containerd", "runc", "etcd", "nft", "conntrack", "iptables", "ip")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = any(shutil.which(name, path=path) is None for name in needed)
    plugins = any((Path(place) / "bridge").exists() for place in ("/usr/lib/cni", "/opt/cni/bin"))
    if (missing or not plugins) and os.geteuid() == 0 and shutil.which("apt-get"):
        say("Installing containerd and etcd with apt")
        # Tests start their own: the packages' must not run. They are not started in runlevel 1.
        _install(paths, "containerd and etcd", *_CLUSTER_PACKAGES, RUNLEVEL="1")
    say("Building Kubernetes for the tests; the first time takes a quarter of an hour")
    _build(paths, "support.cluster.build", log="cluster.log", what="build Kubernetes")


def _build(paths: Paths, module: str, *, log: str, what: str) -> None:
    # As a module, so that it finds what it imports of the others.
    command: list[str | Path] = [paths.python, "-m", module]
    run(command, cwd=paths.clone / "tests", log=paths.logs / log, what=what)


def _install(paths: Paths, what: str, *packages: str, **more: str) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", **more}
    log = paths.logs / "apt.log"
    run([*_APT, "update"], env=env, log=log, what="read the package lists with apt")
    command = [*_APT, "install", "--no-install-recommends", *packages]
    run(command, env=env, log=log, what=f"install {what} with apt")


def _passes(command: Sequence[str | Path], *, cwd: Path, env: dict[str, str]) -> bool:
    sys.stdout.flush()
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, check=False)
    return done.returncode == 0


def _environment(paths: Paths) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    # Where mypy finds what tools and tests import of each other.
    env["MYPYPATH"] = os.pathsep.join(str(paths.clone / name) for name in ("tools", "tests"))
    env["PATH"] = os.pathsep.join([str(paths.venv / "bin"), env.get("PATH", "")])
    data = paths.clone.parent / "shared" / "data"
    if "SEALROOM_DATA" not in env and data.is_dir():
        env["SEALROOM_DATA"] = str(data)
    return env


def _extra() -> list[str]:
    """Return what a person adds: `make test ARGS="tests/unit -k snp"`, `make bench ARGS=broker`."""
    return os.environ.get("ARGS", "").split()


def _spelled(paths: Paths) -> list[str]:
    names = (
        "core",
        "broker",
        "spawner",
        "extensions",
        "hub_config",
        "tests",
        "tools",
        "docs",
        "notebooks",
        "helm",
        "images",
    )
    return [name for name in names if (paths.clone / name).exists()] + [
        path.name for path in paths.clone.glob("*.md")
    ]
