# SPDX-License-Identifier: BSD-3-Clause
"""Manifests whose measurements are computed from firmware and kernel, and computed again."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from sealroom import testing
from sealroom.environments import Environment, LaunchArtifacts, build, diff, launch_digest, recompute
from sealroom.errors import ConfigurationError, FormatError, StorageError
from support import firmware as fw

Change = Callable[[dict[str, Any]], object]
COMMAND_LINE = "console=ttyS0 root=/dev/dm-0"


def template(change: Change = lambda _: None) -> bytes:
    content: dict[str, Any] = {
        "name": "snp-cpu",
        "version": "1",
        "title": "SEV-SNP",
        "tee": "snp",
        "guest_policy": 0x30000,
        "artifacts": {
            "ovmf": "boot/OVMF.fd",
            "kernel": "boot/vmlinuz",
            "append": COMMAND_LINE,
            "cpu_types": ["EPYC-v4", "EPYC-Milan"],
        },
        "shapes": [
            {"name": "small", "vcpus": 2, "memory_mib": 4096},
            {"name": "large", "vcpus": 8, "memory_mib": 65536},
        ],
        "minimum_tcb": {"Genoa": {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84}},
    }
    change(content)
    return tomli_w.dumps(content).encode()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "boot").mkdir()
    fw.write_firmware(tmp_path / "boot")
    (tmp_path / "boot/vmlinuz").write_bytes(b"kernel")
    return tmp_path


def changed(environment: Environment, change: Change) -> bytes:
    content = tomllib.loads(environment.raw.decode())
    change(content)
    return tomli_w.dumps(content).encode()


# --- build


def test_each_shape_has_a_measurement_for_each_cpu_type(here: Path) -> None:
    environment = build(template(), directory=here)
    artifacts = LaunchArtifacts(here / "boot/OVMF.fd", here / "boot/vmlinuz", None, COMMAND_LINE)
    for shape in environment.shapes:
        assert shape.measurement_bytes == tuple(
            launch_digest(artifacts, shape.vcpus, cpu) for cpu in ("EPYC-v4", "EPYC-Milan")
        )
    assert len(environment.reference_values.measurements) == 4


def test_cpu_types_with_the_same_signature_share_a_measurement(here: Path) -> None:
    change: Change = lambda t: t["artifacts"].update(cpu_types=["EPYC", "EPYC-v4"])  # noqa: E731
    assert len(build(template(change), directory=here).shapes[0].measurements) == 1


def test_names_and_digests_of_the_files_are_recorded_and_their_folder_is_not(here: Path) -> None:
    environment = build(template(), directory=here)
    assert environment.artifacts is not None
    kinds = {kind: (file.name, file.sha256) for kind, file in environment.artifacts.files()}
    assert kinds == {
        "ovmf": ("OVMF.fd", hashlib.sha256(fw.firmware()).hexdigest()),
        "kernel": ("vmlinuz", hashlib.sha256(b"kernel").hexdigest()),
    }
    assert environment.artifacts.append == COMMAND_LINE
    assert environment.artifacts.guest_features == 1
    assert str(here).encode() not in environment.raw
    assert b"boot/" not in environment.raw


def test_building_the_manifest_again_needs_no_files_and_changes_nothing(here: Path) -> None:
    first = build(template(), directory=here)
    assert build(first.raw).raw == first.raw


def test_shape_that_is_added_to_a_manifest_is_measured_from_the_recorded_files(here: Path) -> None:
    first = build(template(), directory=here)
    raw = changed(first, lambda m: m["shapes"].append({"name": "huge", "vcpus": 64, "memory_mib": 1}))
    more = build(raw, directory=here / "boot")
    assert more.shapes[:2] == first.shapes
    assert len(more.shape("huge").measurements) == 2
    with pytest.raises(ConfigurationError, match="no folder"):
        build(raw)


def test_file_that_is_not_the_recorded_one_is_refused(here: Path) -> None:
    first = build(template(), directory=here)
    raw = changed(first, lambda m: m["shapes"][0].pop("measurements"))
    (here / "boot/vmlinuz").write_bytes(b"another kernel")
    with pytest.raises(FormatError, match="vmlinuz is not the kernel whose digest is recorded"):
        build(raw, directory=here / "boot")


def test_given_measurements_are_compared_and_not_replaced(here: Path) -> None:
    change: Change = lambda t: t["shapes"][1].update(measurements=["ab" * 48])  # noqa: E731
    with pytest.raises(FormatError, match="given for shape large are not those"):
        build(template(change), directory=here)


@pytest.mark.parametrize("vmm_type", ["ec2", "gce"])
def test_hypervisors_that_do_not_measure_the_cpu_type_give_one_measurement(here: Path, vmm_type: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["artifacts"]["vmm_type"] = vmm_type
        del content["artifacts"]["cpu_types"]

    environment = build(template(change), directory=here)
    assert [len(shape.measurements) for shape in environment.shapes] == [1, 1]
    assert all(row.same for row in recompute(environment, here / "boot"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["artifacts"].pop("ovmf"), "name no ovmf"),
        (lambda t: t["artifacts"].pop("kernel"), "only together with a kernel"),
        (lambda t: t["artifacts"].pop("cpu_types"), "CPU type"),
        (lambda t: t["artifacts"].update(cpu_types=["Skylake"]), "no CPU type Skylake"),
        (lambda t: t["artifacts"].update(vmm_type="xen"), "xen"),
        (lambda t: t["artifacts"].update(guest_features=2), "bit 0"),
        (lambda t: t["artifacts"].update(guest_features="1"), "."),
        (lambda t: t["artifacts"].update(kernel=7), "."),
        (lambda t: t["artifacts"].update(kernel={}), "."),
        (lambda t: t["artifacts"].update(surprise=1), "surprise"),
        (lambda t: t["artifacts"].update(append=["a"]), "."),
        (lambda t: t["artifacts"].update(append="a\nb"), "one line"),
        (lambda t: t["artifacts"].update(initrd="boot/OVMF.fd/none"), "."),
        (lambda t: t["shapes"][0].update(vcpus=0), "vCPUs"),
        (lambda t: t["shapes"][0].update(vcpus="two"), "."),
        (lambda t: t["shapes"][0].pop("vcpus"), "."),
        (lambda t: t.update(shapes=[1]), "."),
        (lambda t: t.update(tee="simulated"), "."),
    ],
)
def test_template_with_one_thing_wrong_is_refused(here: Path, change: Change, reason: str) -> None:
    with pytest.raises((FormatError, ConfigurationError, StorageError), match=reason):
        build(template(change), directory=here)


def test_missing_artifact_is_named(here: Path) -> None:
    (here / "boot/vmlinuz").unlink()
    with pytest.raises(StorageError, match="vmlinuz cannot be read"):
        build(template(), directory=here)


# --- the manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["artifacts"]["kernel"].update(name="../vmlinuz"), "artifacts.kernel.name"),
        (lambda m: m["artifacts"]["kernel"].update(name=".."), "no file name"),
        (lambda m: m["artifacts"]["kernel"].update(name=""), "artifacts.kernel.name"),
        (lambda m: m["artifacts"]["kernel"].update(sha256="00"), "artifacts.kernel.sha256"),
        (lambda m: m["artifacts"]["kernel"].update(name="OVMF.fd"), "two different files"),
        (lambda m: m["artifacts"].update(cpu_types=[]), "cpu_types belong"),
        (lambda m: m["artifacts"].update(vmm_type="gce"), "cpu_types belong"),
        (lambda m: m["artifacts"].update(cpu_types=["a b"]), "artifacts.cpu_types"),
        (lambda m: m["artifacts"].pop("kernel"), "only together with a kernel"),
        (lambda m: m["artifacts"].update(append="x" * 4097), "artifacts.append"),
        (lambda m: m["artifacts"].update(guest_features=0), "artifacts.guest_features"),
    ],
)
def test_manifest_with_one_thing_wrong_is_refused(here: Path, change: Change, reason: str) -> None:
    environment = build(template(), directory=here)
    with pytest.raises(FormatError, match=reason):
        Environment.from_toml(changed(environment, change))


def test_simulated_environment_has_no_artifacts(here: Path) -> None:
    artifacts = tomllib.loads(build(template(), directory=here).raw.decode())["artifacts"]
    with pytest.raises(FormatError, match="artifacts belong to tee snp"):
        Environment.from_toml(changed(testing.environment(), lambda m: m.update(artifacts=artifacts)))


# --- computed again


def test_table_follows_from_the_files(here: Path) -> None:
    rows = recompute(build(template(), directory=here), here / "boot")
    assert [row.what for row in rows] == ["ovmf", "kernel", "shape small", "shape large"]
    assert all(row.same for row in rows)


def test_changed_file_shows_in_its_digest_and_in_every_shape(here: Path) -> None:
    environment = build(template(), directory=here)
    (here / "boot/vmlinuz").write_bytes(b"kernel.")
    rows = {row.what: row for row in recompute(environment, here / "boot")}
    assert [what for what, row in rows.items() if not row.same] == ["kernel", "shape small", "shape large"]
    assert rows["kernel"].computed == (hashlib.sha256(b"kernel.").hexdigest(),)
    assert rows["shape small"].recorded == environment.shape("small").measurements


def test_measurement_that_does_not_follow_shows(here: Path) -> None:
    raw = changed(
        build(template(), directory=here), lambda m: m["shapes"][1]["measurements"].append("ab" * 48)
    )
    rows = recompute(Environment.from_toml(raw), here / "boot")
    assert [row.what for row in rows if not row.same] == ["shape large"]


def test_manifest_without_artifacts_cannot_be_computed_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="records no artifacts"):
        recompute(testing.environment(), tmp_path)


def test_absent_file_is_not_a_pass(here: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        recompute(build(template(), directory=here), here)


# --- differences


def test_differences_of_measurements_are_those_that_came_and_went(here: Path) -> None:
    old = build(template(), directory=here)
    new = build(
        template(lambda t: t["artifacts"].update(cpu_types=["EPYC-v4", "EPYC-Genoa"])), directory=here
    )
    found = {item.field: item for item in diff(old, new)}
    small = found["shapes[small].measurements"]
    assert (small.old, small.new) == (old.shape().measurements[1], new.shape().measurements[1])
    assert found["artifacts.cpu_types"].new == "EPYC-v4, EPYC-Genoa"


def test_measurement_that_was_only_added_has_no_old_side(here: Path) -> None:
    old = build(template(lambda t: t["artifacts"].update(cpu_types=["EPYC-v4"])), directory=here)
    found = {item.field: item for item in diff(old, build(template(), directory=here))}
    assert found["shapes[small].measurements"].old is None
    back = {item.field: item for item in diff(build(template(), directory=here), old)}
    assert back["shapes[small].measurements"].new is None


def test_measurements_in_another_order_are_a_difference(here: Path) -> None:
    old = build(template(), directory=here)
    raw = changed(old, lambda m: m["shapes"][0]["measurements"].reverse())
    assert [item.field for item in diff(old, Environment.from_toml(raw))] == ["shapes[small].measurements"]


def test_another_kernel_names_its_digest(here: Path) -> None:
    old = build(template(), directory=here)
    (here / "boot/vmlinuz").write_bytes(b"kernel.")
    new = build(template(lambda t: t["artifacts"].update(guest_features=0x21)), directory=here)
    found = {item.field: item for item in diff(old, new)}
    assert found["artifacts.kernel.sha256"].new == hashlib.sha256(b"kernel.").hexdigest()
    assert found["artifacts.guest_features"].new == "0x21"


# --- the keys of the ID block


@pytest.mark.parametrize("name", ["id_key_digest", "author_key_digest"])
def test_key_of_the_id_block_becomes_a_reference_value(name: str) -> None:
    assert getattr(testing.environment().reference_values, name) is None
    raw = changed(testing.environment(), lambda m: m.update({name: "ab" * 48}))
    assert getattr(Environment.from_toml(raw).reference_values, name) == b"\xab" * 48


@pytest.mark.parametrize("name", ["id_key_digest", "author_key_digest"])
@pytest.mark.parametrize("value", ["", "ab", "AB" * 48, "ab" * 49, "0" * 96])
def test_key_digest_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(FormatError, match=name):
        Environment.from_toml(changed(testing.environment(), lambda m: m.update({name: value})))
