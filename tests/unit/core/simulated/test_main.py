# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.environments import build
from sealroom.errors import SignatureError
from sealroom.guest import DeviceEvidence, SimulatedProvider
from sealroom.guest.devices import SimulatedDeviceProvider
from sealroom.nvidia import NvidiaRoots, compare, load_chain, verify_device, verify_rim
from sealroom.simulated import create, gpu_root, root
from sealroom.simulated.__main__ import flip_measurement, main
from sealroom.snp import Roots, verify_report

PATIENCE = 60.0
NONCE = bytes(range(32))


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


def test_serves_gpus_beside_the_processor_until_sigterm(home: Path) -> None:
    process = subprocess.Popen(command(home, "--gpus", "2"), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(home / "sp.sock")
        devices = SimulatedDeviceProvider(home / "gpu.sock").evidence(NONCE)
        SimulatedProvider(home / "sp.sock").evidence(b"n" * 64)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert not (home / "gpu.sock").exists()
    assert len({device.uuid for device in devices}) == 2
    roots = NvidiaRoots.development(
        *((home / "root" / name).read_bytes() for name in ("gpu-device-root.pem", "gpu-rim-root.pem"))
    )
    manifests = [
        verify_rim((home / "root" / name).read_bytes(), roots=roots, at=datetime.now(UTC))
        for name in ("NV_GPU_DRIVER_GH100_580.95.05.xml", "NV_GPU_VBIOS_1010_0200_882_96009F0001.xml")
    ]
    for device in devices:
        verified = verify_device(
            device.report, load_chain(device.chain_pem), roots=roots, at=datetime.now(UTC), nonce=NONCE
        )
        assert verified.report.feature == "MPT"
        assert all(result.outcome is Outcome.PASSED for result in compare(verified, manifests))


def gpus(home: Path, *more: str, socket: str = "sp.sock") -> list[DeviceEvidence]:
    """Serve GPUs once and return what they say."""
    given = command(home, "--gpus", "1", "--gpu-root", str(home / "gpus"), *more)
    given[given.index("--socket") + 1] = str(home / socket)
    process = subprocess.Popen(given, stderr=subprocess.DEVNULL)
    try:
        wait_for(home / socket)
        return SimulatedDeviceProvider((home / socket).with_name("gpu.sock")).evidence(NONCE)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


def test_a_servers_gpu_survives_a_restart_and_is_no_other_servers(home: Path) -> None:
    (home / "other").mkdir()
    first, again, other = gpus(home), gpus(home), gpus(home, socket="other/sp.sock")
    assert first[0].uuid == again[0].uuid
    assert first[0].chain_pem == again[0].chain_pem
    assert other[0].uuid != first[0].uuid
    assert not list((home / "root").glob("gpu-*")), "its root is where it was said to be"


def test_a_blackwell_gpu(home: Path) -> None:
    (device,) = gpus(home, "--gpu-architecture", "BLACKWELL")
    assert device.arch == "BLACKWELL"
    assert (home / "gpus" / "NV_GPU_CC_DRIVER_GB100_580.95.05.xml").is_file()


def test_altered_reports_are_those_of_gpus_too(home: Path) -> None:
    (device,) = gpus(home, "--alter-reports")
    roots = NvidiaRoots.development((home / "gpus" / "gpu-device-root.pem").read_bytes(), b"")
    with pytest.raises(SignatureError):
        verify_device(device.report, load_chain(device.chain_pem), roots=roots, at=datetime.now(UTC))


def test_without_the_option_there_are_no_gpus(home: Path) -> None:
    process = subprocess.Popen(command(home), stderr=subprocess.DEVNULL)
    try:
        wait_for(home / "sp.sock")
        assert sorted(path.name for path in home.iterdir()) == ["env.toml", "root", "sp.sock"]
        assert not list((home / "root").glob("gpu-*"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


def test_a_damaged_gpu_root_is_one_sentence_and_leaves_no_socket(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu_root.create(home / "gpus", at=testing.EPOCH)
    (home / "gpus" / "gpu-root.seed").write_bytes(bytes(32))
    assert main(arguments(home, "--gpus", "1", "--gpu-root", str(home / "gpus"))) == 2
    assert "is damaged" in capsys.readouterr().err
    assert not list(home.glob("*.sock"))


def test_a_processor_that_cannot_start_leaves_no_gpus(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(home, "--gpus", "1", "--shape", "huge")) == 2
    assert "has no shape huge" in capsys.readouterr().err
    assert not (home / "gpu.sock").exists()


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


@pytest.mark.parametrize(
    "given", [[], ["serve"], ["serve", "--uid", "x"], ["serve", "--gpus", "9"], ["other"]]
)
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
