# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.environments import Environment, build, generate_key, public_pem, sign
from sealroom.errors import ConfigurationError
from sealroom_broker.config import Environments, Mode
from sealroom_broker.environments import ApprovedEnvironments

KEY = generate_key()


def put(folder: Path, environment: Environment, key: object = KEY) -> Path:
    path = folder / f"{environment.name}-{environment.version}.toml"
    path.write_bytes(environment.raw)
    path.with_name(path.name + ".sig").write_bytes(sign(environment.raw, key))  # type: ignore[arg-type]
    return path


def approved(folder: Path, mode: Mode = "development") -> ApprovedEnvironments:
    (folder / "publisher.pem").write_bytes(public_pem(KEY))
    return ApprovedEnvironments(
        Environments(directories=(folder,), publishers=(folder / "publisher.pem",)), mode
    )


def test_signed_manifest_is_approved(tmp_path: Path) -> None:
    environment = testing.environment()
    put(tmp_path, environment)
    assert approved(tmp_path).digests() == {environment.digest}


def test_new_manifest_needs_no_restart(tmp_path: Path) -> None:
    known = approved(tmp_path)
    assert known.digests() == frozenset()
    first = testing.environment()
    put(tmp_path, first)
    assert known.digests() == {first.digest}
    second = testing.environment(version="2")
    put(tmp_path, second)
    assert known.digests() == {first.digest, second.digest}
    (tmp_path / "simulated-cpu-1.toml").unlink()
    assert known.digests() == {second.digest}


def test_manifest_without_a_signature(tmp_path: Path) -> None:
    path = put(tmp_path, testing.environment())
    path.with_name(path.name + ".sig").unlink()
    assert approved(tmp_path).digests() == frozenset()


def test_manifest_changed_after_it_was_signed(tmp_path: Path) -> None:
    path = put(tmp_path, testing.environment())
    path.write_bytes(path.read_bytes() + b"\n")
    assert approved(tmp_path).digests() == frozenset()


def test_manifest_of_another_publisher(tmp_path: Path) -> None:
    put(tmp_path, testing.environment(), generate_key())
    assert approved(tmp_path).digests() == frozenset()


def test_one_bad_manifest_does_not_spoil_the_others(tmp_path: Path) -> None:
    environment = testing.environment()
    put(tmp_path, environment)
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    os.mkfifo(tmp_path / "other.txt")
    assert approved(tmp_path).digests() == {environment.digest}


def test_production_approves_nothing_simulated(tmp_path: Path) -> None:
    put(tmp_path, testing.environment())
    assert approved(tmp_path, "production").digests() == frozenset()


def test_no_publisher_approves_nothing(tmp_path: Path) -> None:
    put(tmp_path, testing.environment())
    settings = Environments(directories=(tmp_path,))
    assert ApprovedEnvironments(settings, "development").digests() == frozenset()


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    settings = Environments(directories=(tmp_path / "none",))
    assert ApprovedEnvironments(settings, "production").digests() == frozenset()


@pytest.mark.parametrize("content", [None, b"", b"no key"])
def test_publisher_key_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "p.pem").write_bytes(content)
    with pytest.raises(ConfigurationError, match="publisher key"):
        ApprovedEnvironments(Environments(publishers=(tmp_path / "p.pem",)), "production")


def test_measurement_chooses_whom_to_compare_with(tmp_path: Path) -> None:
    first, second = testing.environment(), testing.environment(version="2")
    put(tmp_path, first)
    put(tmp_path, second)
    known = approved(tmp_path)
    for environment in (first, second):
        (measurement,) = environment.shape().measurement_bytes
        found = known.matching(measurement, environment.host_data, simulated=True)
        assert found is not None
        assert found.digest == environment.digest
    unknown = known.matching(bytes(48), first.host_data, simulated=True)
    assert unknown is not None
    assert known.matching(bytes(48), first.host_data, simulated=False) is None


def test_real_and_simulated_environments_are_kept_apart(tmp_path: Path) -> None:
    text = testing.environment().raw.decode()
    real = build(
        text.replace('tee = "simulated"', 'tee = "snp"')
        .replace('name = "simulated-cpu"', 'name = "real"')
        .encode()
    )
    put(tmp_path, real)
    known = approved(tmp_path, "production")
    assert known.digests() == {real.digest}
    (measurement,) = real.shape().measurement_bytes
    assert known.matching(measurement, real.host_data, simulated=False) is not None
    assert known.matching(measurement, real.host_data, simulated=True) is None
