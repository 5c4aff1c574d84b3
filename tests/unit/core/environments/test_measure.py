# SPDX-License-Identifier: BSD-3-Clause
"""Launch measurements: recorded ones, those of the package beneath, and firmware that is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom.environments import measure
from sealroom.environments.measure import (
    CPU_SIGNATURES,
    LaunchArtifacts,
    VmmType,
    cpu_signature,
    kata_vcpus,
    launch_digest,
    measurement_table,
    prepare,
)
from sealroom.errors import ConfigurationError, Error, FormatError, StorageError
from sevsnpmeasure import guest
from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vmm_types import VMMType
from support import firmware as fw
from support.vectors import ABSENT, VECTORS

FOLDER = VECTORS / "snp/measurement"
CPU = "EPYC-v4"


def recorded() -> list[Any]:
    path = FOLDER / "snp_cases.json"
    if not path.is_file():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    return [pytest.param(case, id=case["test"].rpartition(".")[2]) for case in json.loads(path.read_text())]


@pytest.fixture
def artifacts(tmp_path: Path) -> LaunchArtifacts:
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(b"kernel" * 1000)
    initrd.write_bytes(b"initrd" * 1000)
    return LaunchArtifacts(fw.write_firmware(tmp_path), kernel, initrd, "console=ttyS0 quiet")


def of_package(artifacts: LaunchArtifacts, vcpus: int, cpu: str) -> bytes:
    """The digest as the package makes it in one go."""
    kernel, initrd = artifacts.kernel, artifacts.initrd
    digest: bytes = guest.calc_launch_digest(
        SevMode.SEV_SNP,
        vcpus,
        CPU_SIGNATURES[cpu],
        str(artifacts.ovmf),
        str(kernel) if kernel else None,
        str(initrd) if initrd else None,
        artifacts.append,
        artifacts.guest_features,
        vmm_type=VMMType[artifacts.vmm_type.value],
    )
    return digest


def with_file(artifacts: LaunchArtifacts, name: str, path: Path) -> LaunchArtifacts:
    changes: dict[str, Any] = {name: path}
    return dataclasses.replace(artifacts, **changes)


# --- right ones


@pytest.mark.parametrize("case", recorded())
def test_recorded_case(case: dict[str, Any]) -> None:
    known = case.get("snp_ovmf_hash_str")
    artifacts = LaunchArtifacts(
        ovmf=FOLDER / case["ovmf_file"],
        kernel=Path(case["kernel"]) if case["kernel"] else None,
        initrd=Path(case["initrd"]) if case["initrd"] else None,
        append=case["append"],
        vmm_type=VmmType(case.get("vmm_type", "QEMU")),
        guest_features=case["guest_features"],
        ovmf_hash=bytes.fromhex(known) if known else None,
    )
    assert launch_digest(artifacts, case["vcpus"], case["vcpu_sig"]).hex() == case["digest"]


def test_recorded_firmware_without_a_place_for_hashes_measures_no_kernel(vectors: Path) -> None:
    ovmf = vectors / "snp/measurement/ovmf_OvmfX64_suffix.bin"
    with pytest.raises(ConfigurationError, match="no SNP_KERNEL_HASHES section"):
        prepare(LaunchArtifacts(ovmf, Path("/dev/null"), Path("/dev/null"), ""))
    assert len(launch_digest(LaunchArtifacts(ovmf), 1, CPU)) == 48


@pytest.mark.parametrize("vmm_type", list(VmmType))
@pytest.mark.parametrize("vcpus", [1, 2, 5])
@pytest.mark.parametrize("without", [(), ("initrd",), ("append",), ("kernel", "initrd", "append")])
def test_digest_is_the_packages(
    artifacts: LaunchArtifacts, vmm_type: VmmType, vcpus: int, without: tuple[str, ...]
) -> None:
    changes: dict[str, Any] = dict.fromkeys(without)
    artifacts = dataclasses.replace(artifacts, vmm_type=vmm_type, guest_features=0x21, **changes)
    assert launch_digest(artifacts, vcpus, "EPYC-Genoa") == of_package(artifacts, vcpus, "EPYC-Genoa")


def test_table_is_every_digest_by_itself(artifacts: LaunchArtifacts) -> None:
    cpus = ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa"]
    table = measurement_table(artifacts, [7, 1, 3, 3], cpus)
    assert [(row.vcpus, row.cpu_type) for row in table] == [(n, cpu) for n in (1, 3, 7) for cpu in cpus]
    for row in table:
        assert row.digest == of_package(artifacts, row.vcpus, row.cpu_type)
    assert len({row.digest for row in table}) == len(table)


def test_table_reads_and_hashes_the_files_once(
    artifacts: LaunchArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    opened = Path.open

    def watched(path: Path, *arguments: Any, **named: Any) -> Any:
        read.append(path.name)
        return opened(path, *arguments, **named)

    pages: list[int] = []
    update = GCTX.update_normal_pages

    def counted(context: GCTX, at: int, data: bytes) -> None:
        pages.append(at)
        update(context, at, data)

    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.setattr(GCTX, "update_normal_pages", counted)
    measurement_table(artifacts, range(1, 65), ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa"])
    assert sorted(read) == ["initrd", "vmlinuz"]
    assert pages == [(1 << 32) - 4096, 0x810000], "the firmware, then the page of hashes"


def test_progress_is_told_after_each_digest(artifacts: LaunchArtifacts) -> None:
    told: list[tuple[int, int]] = []
    measurement_table(artifacts, [1, 2], [CPU, "EPYC-Milan"], lambda done, all_: told.append((done, all_)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_stored_firmware_digest_needs_only_the_end_of_the_image(
    artifacts: LaunchArtifacts, tmp_path: Path
) -> None:
    whole = fw.write_firmware(tmp_path, b"\x11" * 8192 + artifacts.ovmf.read_bytes(), "whole.fd")
    full = dataclasses.replace(artifacts, ovmf=whole)
    stored = dataclasses.replace(artifacts, ovmf_hash=prepare(full).ovmf_hash)
    assert launch_digest(stored, 2, CPU) == launch_digest(full, 2, CPU) != launch_digest(artifacts, 2, CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"append": "console=ttyS0"},
        {"append": None},
        {"initrd": None},
        {"guest_features": 0x21},
        {"vmm_type": VmmType.EC2},
        {"vmm_type": VmmType.GCE},
    ],
    ids=str,
)
def test_whatever_is_launched_changes_the_digest(artifacts: LaunchArtifacts, change: dict[str, Any]) -> None:
    changed = dataclasses.replace(artifacts, **change)
    assert launch_digest(changed, 2, CPU) != launch_digest(artifacts, 2, CPU)


def test_hypervisors_other_than_qemu_do_not_measure_the_cpu_type(artifacts: LaunchArtifacts) -> None:
    artifacts = dataclasses.replace(artifacts, vmm_type=VmmType.EC2)
    assert launch_digest(artifacts, 2) == launch_digest(artifacts, 2, CPU)
    assert [row.cpu_type for row in measurement_table(artifacts, [1])] == [""]


def test_cpu_type_may_be_its_signature(artifacts: LaunchArtifacts) -> None:
    assert launch_digest(artifacts, 1, 0x800F12) == launch_digest(artifacts, 1, CPU)
    assert cpu_signature("0x800f12") == cpu_signature(CPU) == 0x800F12
    assert cpu_signature("EPYC-Turin") == 0xB00F00


# --- what is asked for


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kernel": None}, "only together with a kernel"),
        ({"kernel": None, "initrd": None}, "only together with a kernel"),
        ({"append": "two\nlines"}, "one line"),
        ({"append": "nul\0"}, "one line"),
        ({"append": "x" * 4097}, "at most 4096 bytes"),
        ({"guest_features": 0}, "with bit 0"),
        ({"guest_features": 0x20}, "with bit 0"),
        ({"guest_features": 1 << 64 | 1}, "with bit 0"),
        ({"ovmf_hash": b"short"}, "48 bytes, not 5"),
    ],
    ids=str,
)
def test_artifacts_that_do_not_fit_together_are_refused(
    artifacts: LaunchArtifacts, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        prepare(dataclasses.replace(artifacts, **change))


@pytest.mark.parametrize("vcpus", [[], [0], [-1], [513], [1, 1000]], ids=str)
def test_numbers_of_vcpus_that_no_guest_has_are_refused(artifacts: LaunchArtifacts, vcpus: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="vCPUs"):
        measurement_table(artifacts, vcpus, [CPU])


@pytest.mark.parametrize("cpu", ["EPYC-v99", "", "0x", 0, -1, 1 << 32, "0x100000000"])
def test_cpu_types_that_there_are_not_are_refused(artifacts: LaunchArtifacts, cpu: str | int) -> None:
    with pytest.raises(ConfigurationError, match="CPU"):
        launch_digest(artifacts, 1, cpu)


def test_unknown_cpu_type_names_the_known_ones(artifacts: LaunchArtifacts) -> None:
    with pytest.raises(ConfigurationError) as caught:
        launch_digest(artifacts, 1, "Skylake")
    assert "EPYC-Genoa" in caught.value.diagnostics()


def test_qemu_needs_a_cpu_type(artifacts: LaunchArtifacts) -> None:
    with pytest.raises(ConfigurationError, match="none is named"):
        launch_digest(artifacts, 1)


# --- files


@pytest.mark.parametrize("name", ["ovmf", "kernel", "initrd"])
def test_missing_file_is_named(artifacts: LaunchArtifacts, name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent cannot be read: No such file"):
        prepare(with_file(artifacts, name, tmp_path / "absent"))


@pytest.mark.parametrize("name", ["ovmf", "kernel", "initrd"])
def test_folder_is_no_file(artifacts: LaunchArtifacts, name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        prepare(with_file(artifacts, name, tmp_path))


def test_endless_kernel_is_refused(artifacts: LaunchArtifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MAX_PAYLOAD", 1 << 21)
    with pytest.raises(StorageError, match="is longer than 2097152 bytes"):
        prepare(dataclasses.replace(artifacts, kernel=Path("/dev/zero")))


def test_firmware_longer_than_qemu_maps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.fd"
    with path.open("wb") as file:
        file.truncate((16 << 20) + 4096)
    with pytest.raises(FormatError, match="at most 16777216"):
        prepare(LaunchArtifacts(path))


# --- firmware that is wrong in one thing


def one(at: int, size: int, kind: int) -> bytes:
    return fw.firmware([(at, size, kind)])


WRONG = {
    "empty": (b"", "has 0 bytes"),
    "no whole pages": (fw.firmware()[1:], "whole pages"),
    "no table": (bytes(4096), "no table of GUIDs"),
    "shorter than a table": (b"\0" * 40, "whole pages"),
    "table longer than the file": (fw.firmware(table_length=0xFFFF), "."),
    "table shorter than its entries": (fw.firmware(table_length=60), "."),
    "table shorter than its footer": (fw.firmware(table_length=3), "."),
    "bytes before the first entry": (fw.firmware(extra=b"\1\2\3"), "."),
    "entry twice": (fw.firmware(extra=fw.entry(fw.RESET_BLOCK, b"\0\0\0\1")), "wrong entry"),
    "entry shorter than its head": (fw.firmware(extra=fw.entry(fw.FOOTER, b"", 17)), "."),
    "no entry point": (fw.firmware(entries={fw.RESET_BLOCK: None}), "no SEV_ES_RESET_BLOCK"),
    "entry point of two bytes": (fw.firmware(entries={fw.RESET_BLOCK: b"\1\2"}), "no SEV_ES_RESET_BLOCK"),
    "no metadata": (fw.firmware(entries={fw.METADATA: None}), "no SEV metadata"),
    "empty metadata entry": (fw.firmware(entries={fw.METADATA: b""}), "."),
    "metadata beyond the start": (fw.firmware(entries={fw.METADATA: b"\xff\xff\xff\xff"}), "."),
    "metadata beyond the end": (fw.firmware(entries={fw.METADATA: b"\4\0\0\0"}), "."),
    "metadata with another signature": (fw.firmware(signature=b"ASEW"), "signature"),
    "metadata of another version": (fw.firmware(version=2), "version"),
    "more sections than there are": (fw.firmware(items=6), "."),
    "billions of sections": (fw.firmware(items=0xFFFFFFFF), "."),
    "unknown section": (one(0x800000, 0x1000, 9), "."),
    "section without size": (one(0x800000, 0, fw.SEC_MEM), "0x0 bytes"),
    "section of half a page": (one(0x800000, 0x800, fw.SEC_MEM), "0x800 bytes"),
    "section between pages": (one(0x800010, 0x1000, fw.SEC_MEM), "at 0x800010"),
    "section of gigabytes": (one(0, 0xFFFFF000, fw.SEC_MEM), "0xfffff000 bytes"),
    "section beyond 4 GiB": (one(0xFFFFF000, 0x2000, fw.SEC_MEM), "at 0xfffff000"),
    "secrets of two pages": (one(0x80D000, 0x2000, fw.SECRETS), "SNP_SECRETS"),
    "CPUID of two pages": (one(0x80D000, 0x2000, fw.CPUID), "CPUID"),
    "hashes of two pages": (one(0x80D000, 0x2000, fw.KERNEL_HASHES), "SNP_KERNEL_HASHES"),
}


@pytest.mark.parametrize("name", WRONG)
def test_firmware_with_one_thing_wrong_is_refused(name: str, tmp_path: Path) -> None:
    image, reason = WRONG[name]
    with pytest.raises(FormatError, match=reason) as caught:
        launch_digest(LaunchArtifacts(fw.write_firmware(tmp_path, image)), 1, CPU)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "table",
    [None, b"", b"\0\0\0\0\0\0\0\0", b"\xc0\x0f\x81\0\0\4\0\0"],
    ids=["none", "empty", "at zero", "runs off its page"],
)
def test_firmware_without_a_place_for_the_hashes_measures_no_kernel(
    artifacts: LaunchArtifacts, tmp_path: Path, table: bytes | None
) -> None:
    path = fw.write_firmware(tmp_path, fw.firmware(entries={fw.HASH_TABLE: table}), "other.fd")
    with pytest.raises(FormatError):
        prepare(dataclasses.replace(artifacts, ovmf=path))
    assert launch_digest(LaunchArtifacts(path), 1, CPU)


def test_firmware_without_an_entry_point_for_others_has_one_vcpu(tmp_path: Path) -> None:
    image = fw.firmware(entries={fw.RESET_BLOCK: bytes(4)})
    artifacts = LaunchArtifacts(fw.write_firmware(tmp_path, image))
    assert launch_digest(artifacts, 1, CPU) == of_package(artifacts, 1, CPU)
    with pytest.raises(FormatError, match="second vCPU"):
        launch_digest(artifacts, 2, CPU)


def test_every_flipped_byte_of_the_tables_is_another_digest_or_refused(
    artifacts: LaunchArtifacts, tmp_path: Path
) -> None:
    image, right = fw.firmware(), launch_digest(artifacts, 2, CPU)
    places = [*range(fw.AT, fw.AT + 16 + 12 * len(fw.SECTIONS)), *range(len(image) - 120, len(image))]
    for place in places:
        changed = image[:place] + bytes([image[place] ^ 0xFF]) + image[place + 1 :]
        path = fw.write_firmware(tmp_path, changed, "flipped.fd")
        try:
            assert launch_digest(dataclasses.replace(artifacts, ovmf=path), 2, CPU) != right, place
        except Error:
            continue


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(start=st.integers(0, 4095), data=st.binary(max_size=200))
def test_no_firmware_raises_anything_but_our_error(
    artifacts: LaunchArtifacts, tmp_path: Path, start: int, data: bytes
) -> None:
    image = bytearray(fw.firmware())
    image[start : start + len(data)] = data
    path = fw.write_firmware(tmp_path, bytes(image[:4096]), "fuzzed.fd")
    with contextlib.suppress(Error):
        assert len(launch_digest(dataclasses.replace(artifacts, ovmf=path), 2, CPU)) == 48


# --- Kata


@pytest.mark.parametrize(
    ("millicores", "default", "vcpus"),
    [(500, 1, 2), (0, 1, 1), (1000, 1, 2), (1001, 1, 3), (250, 0.5, 1), (600, 0.5, 2), (64_000, 2, 66)],
)
def test_kata_adds_the_limit_and_rounds_up(millicores: int, default: float, vcpus: int) -> None:
    assert kata_vcpus(millicores, default) == vcpus


@pytest.mark.parametrize(("millicores", "default"), [(-1, 1), (0, 0), (0, -1), (600_000, 1)])
def test_sizes_that_no_pod_has_are_refused(millicores: int, default: float) -> None:
    with pytest.raises(ConfigurationError):
        kata_vcpus(millicores, default)
