# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.environments import build
from sealroom.guest import SimulatedProvider
from sealroom.simulated import create, root
from sealroom.simulated.__main__ import flip_measurement, main
from sealroom.snp import Roots, verify_report

PATIENCE = 60.0


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path_factory.mktemp("home")
    keys = iter(("ark", "ask"))
    monkeypatch.setattr(root, "new_rsa_key", lambda: testing.rsa_key(next(keys)))
    create(directory / "root", at=testing.EPOCH)
    (directory / "env.toml").write_bytes(testing.environment().raw)
    return directory


def arguments(home: Path, *more: str) -> list[str]:
    names = {"--root": "root", "--socket": "sp.sock", "--environment": "env.toml"}
    return ["serve", *(part for option, name in names.items() for part in (option, str(home / name))), *more]


def command(home: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "sealroom.simulated", *arguments(home, *more)]


def wait_for(path: Path, *, there: bool = True) -> None:
    deadline = time.monotonic() + PATIENCE
    while path.exists() != there:
        assert time.monotonic() < deadline, f"{path} is {'not ' if there else 'still '}there"
        time.sleep(0.02)


def test_serves_until_sigterm_and_leaves_nothing(home: Path) -> None:
    process = subprocess.Popen(command(home), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(home / "sp.sock")
        evidence = SimulatedProvider(home / "sp.sock").evidence(b"n" * 64)
        verified = verify_report(
            evidence.report,
            evidence.certificates["VCEK"],
            roots=Roots.development((home / "root/ark.pem").read_bytes()),
            at=testing.later(days=365),
            intermediates=[evidence.certificates["ASK"]],
        )
        environment = testing.environment()
        assert verified.report.measurement == environment.shape().measurement_bytes[0]
        assert verified.report.host_data == environment.host_data
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "SIMULATED" in errors
    assert not (home / "sp.sock").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's end is signalled on Linux")
def test_ends_with_its_parent(home: Path) -> None:
    script = (
        f"import subprocess, sys; subprocess.Popen({command(home, '--die-with-parent')!r}); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_for(home / "sp.sock")
    parent.kill()
    parent.communicate()
    wait_for(home / "sp.sock", there=False)


def test_missing_root_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = arguments(home)
    given[2] = str(home / "none")
    assert main(given) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("sealroom.simulated: ")
    assert "cannot be read" in errors
    assert "Traceback" not in errors


def test_missing_environment_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "env.toml").unlink()
    assert main(arguments(home)) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_environment_for_real_hardware_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = testing.environment().raw.replace(b'tee = "simulated"', b'tee = "snp"')
    (home / "env.toml").write_bytes(build(template).raw)
    assert main(arguments(home)) == 2
    assert "is for real hardware" in capsys.readouterr().err


def test_unknown_shape_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(home, "--shape", "huge")) == 2
    assert "has no shape huge" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["serve"], ["serve", "--uid", "x"], ["other"]])
def test_wrong_usage_is_64(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 64
    assert "usage" in capsys.readouterr().err


def test_demonstration_flips_one_bit_of_the_measurement() -> None:
    report = testing.chip().report()
    changed = flip_measurement(report)
    assert [i for i in range(len(report)) if report[i] != changed[i]] == [0x90]


def test_key_is_nowhere_in_the_environment_or_arguments(home: Path) -> None:
    process = subprocess.Popen(command(home), stderr=subprocess.PIPE)
    try:
        wait_for(home / "sp.sock")
        if Path("/proc/self/environ").exists():
            for name in ("cmdline", "environ"):
                assert b"PRIVATE KEY" not in Path(f"/proc/{process.pid}/{name}").read_bytes()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
