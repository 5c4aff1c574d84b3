# SPDX-License-Identifier: BSD-3-Clause
"""Measurements against reference manifests: what is compared, what is passed over, what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.checks import CheckResult, Outcome
from sealroom.nvidia import CHECKS, NvidiaRoots, VerifiedDevice, VerifiedRim, compare, rim_ids, verify_rim
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_reports import sign_gpu_report
from support.nvidia import NONCE, detail, development, outcome, rims, verify

PRESENT, VERSION, COLLISION = "nvidia.rim.present", "nvidia.rim.version", "nvidia.rim.collision"
COUNT, VALUES, REISSUED = (
    "nvidia.measurement.count",
    "nvidia.measurement.values",
    "nvidia.measurement.reissued",
)
ALL = (VERSION, "nvidia.rim.roots", PRESENT, COLLISION, COUNT, VALUES, REISSUED)
OTHER = b"\xee" * 48
GPU = testing.gpu()


def rim(gpu: SimulatedGpu, kind: Any, **changes: Any) -> VerifiedRim:
    return verify_rim(gpu.rim(kind, **changes), roots=development(), at=testing.NOW)


def measured(values: Mapping[int, bytes], gpu: SimulatedGpu = GPU) -> VerifiedDevice:
    """Return a device that measures something else at some indices."""
    return verify(gpu, report=gpu.report(NONCE, measurements=values))


def compared(device: VerifiedDevice, manifests: Sequence[VerifiedRim]) -> tuple[CheckResult, ...]:
    results = compare(device, manifests)
    assert [result.id for result in results] == list(ALL)
    assert all(result.id in CHECKS and result.detail for result in results)
    return results


# --- what is equal


@pytest.mark.parametrize(("architecture", "count"), [("HOPPER", 32), ("BLACKWELL", 32), ("LS10", 20)])
def test_device_that_measures_what_was_published(architecture: Any, count: int) -> None:
    gpu = testing.gpu(architecture)
    results = compared(verify(gpu), rims(gpu))
    assert {result.outcome for result in results} == {Outcome.PASSED}
    assert detail(results, VALUES).startswith(f"{count} of {count} compared values are equal")


def test_any_alternative_may_match() -> None:
    driver = rim(GPU, "driver")
    (index,) = (index for index, values in driver.measurements.items() if index == 23)
    for value in driver.measurements[index]:
        device = verify(GPU, report=GPU.report(NONCE, measurements={index: value}))
        assert outcome(compared(device, rims()), VALUES) is Outcome.PASSED


@pytest.mark.parametrize("index", [13, 20, 41, 63])
def test_block_without_a_reference_value_is_passed_over(index: int) -> None:
    results = compared(measured({index: OTHER}), rims())
    assert outcome(results, VALUES) is Outcome.PASSED


def test_same_manifest_twice_is_no_contradiction() -> None:
    assert {result.outcome for result in compared(verify(), rims() * 2)} == {Outcome.PASSED}


# --- what differs


@pytest.mark.parametrize("index", [0, 7, 12, 21, 34, 36, 40])
def test_value_that_differs_is_named_with_its_source(index: int) -> None:
    results = compared(measured({index: OTHER}), rims())

    assert outcome(results, VALUES) is Outcome.FAILED
    said = detail(results, VALUES)
    assert said.startswith("31 of 32 compared values are equal")
    source = (
        "VBIOS manifest 96.00.9F.00.01" if index in GPU.model.vbios_indices else "driver manifest 580.95.05"
    )
    assert f"index {index}: measured eeeeeeeeeeeeeeee…, not in {source}" in said
    assert outcome(results, REISSUED) is Outcome.NOT_ASKED


def test_many_values_that_differ_are_named_up_to_four() -> None:
    device = measured(dict.fromkeys(range(5), OTHER))
    said = detail(compared(device, rims()), VALUES)
    assert said.count("index ") == 5  # four, and the one that was passed over
    assert said.endswith("…")


def test_value_of_the_next_index_does_not_count() -> None:
    """Index i of a manifest is block i + 1; a shift by one compares with something else."""
    device = measured({4: GPU.measurements[3]})
    assert outcome(compared(device, rims()), VALUES) is Outcome.FAILED


# --- index 9


def test_manifest_that_was_issued_again_is_its_own_reason() -> None:
    manifests = [rim(GPU, "driver"), rim(GPU, "vbios", reissued=True)]
    results = compared(verify(), manifests)

    assert outcome(results, REISSUED) is Outcome.FAILED
    said = detail(results, REISSUED)
    assert "only index 9 differs from VBIOS manifest 96.00.9F.00.01" in said
    assert "fetch it anew" in said
    assert outcome(results, VALUES) is Outcome.FAILED
    assert "sealroom collateral refresh" in CHECKS[REISSUED].operator


def test_index_9_and_another_is_no_manifest_that_was_issued_again() -> None:
    results = compared(measured({9: OTHER, 10: OTHER}), rims())
    assert outcome(results, VALUES) is Outcome.FAILED
    assert outcome(results, REISSUED) is Outcome.NOT_ASKED


# --- index 35


def test_index_35_is_passed_over_while_the_decoder_is_off() -> None:
    results = compared(measured({35: OTHER}), rims())
    assert outcome(results, VALUES) is Outcome.PASSED
    assert "index 35 passed over" in detail(results, VALUES)


def test_index_35_is_compared_while_the_decoder_is_on() -> None:
    gpu = testing.gpu(nvdec0=True)
    assert detail(compared(verify(gpu), rims(gpu)), VALUES) == "33 of 33 compared values are equal"
    assert outcome(compared(measured({35: OTHER}, gpu), rims(gpu)), VALUES) is Outcome.FAILED


@pytest.mark.parametrize("status", [None, b"", b"\xaa", b"\x55\x55", b"\0"])
def test_index_35_is_compared_unless_the_decoder_is_said_to_be_off(status: bytes | None) -> None:
    device = verify(GPU, report=GPU.report(NONCE, measurements={35: OTHER}, opaque={11: status}))
    assert outcome(compared(device, rims()), VALUES) is Outcome.FAILED


# --- manifests that are missing, of another version, or too many


def test_no_manifest_is_not_asked_and_names_both_ids() -> None:
    results = compared(verify(), [])
    assert {result.outcome for result in results} == {Outcome.NOT_ASKED}
    for one in rim_ids(verify()):
        assert one in detail(results, PRESENT)


@pytest.mark.parametrize(("kind", "other"), [("driver", 1), ("vbios", 0)])
def test_one_manifest_that_is_missing_is_named(kind: str, other: int) -> None:
    given_one = [rims()[1 - other]]
    results = compared(verify(), given_one)

    missing = rim_ids(verify())[other]
    assert outcome(results, PRESENT) is Outcome.FAILED
    assert missing in detail(results, PRESENT)
    assert rim_ids(verify())[1 - other] not in detail(results, PRESENT)
    assert outcome(results, VALUES) is Outcome.NOT_ASKED
    assert "a manifest is missing" in detail(results, VALUES)
    assert kind == given_one[0].kind


def test_value_that_differs_is_a_failure_even_where_a_manifest_is_missing() -> None:
    results = compared(measured({0: OTHER}), rims()[1:])
    assert outcome(results, VALUES) is Outcome.FAILED


@pytest.mark.parametrize(("kind", "version"), [("driver", "580.95.06"), ("vbios", "96.00.9F.00.02")])
def test_manifest_of_another_version(kind: Any, version: str) -> None:
    good = {"driver": rims()[0], "vbios": rims()[1]}
    results = compared(verify(), [*(good | {kind: rim(GPU, kind, version=version)}).values()])

    assert outcome(results, VERSION) is Outcome.FAILED
    assert version in detail(results, VERSION)
    assert outcome(results, PRESENT) is Outcome.FAILED


def test_manifest_of_another_version_beside_the_right_ones_is_named() -> None:
    results = compared(verify(), [*rims(), rim(GPU, "driver", version="580.95.06")])
    assert outcome(results, VERSION) is Outcome.FAILED
    assert outcome(results, VALUES) is Outcome.PASSED


def test_device_that_names_no_vbios_has_no_manifest_for_it() -> None:
    device = verify(GPU, report=GPU.report(NONCE, opaque={6: None}))
    results = compared(device, rims())
    assert outcome(results, PRESENT) is Outcome.FAILED
    assert "VBIOS of no version" in detail(results, PRESENT)


def test_index_that_is_active_in_both() -> None:
    clash = rim(GPU, "driver", values={3: (OTHER,)})
    results = compared(verify(), [clash, rims()[1]])

    assert outcome(results, COLLISION) is Outcome.FAILED
    assert "index 3" in detail(results, COLLISION)
    assert outcome(results, VALUES) is Outcome.NOT_ASKED


def test_two_manifests_of_one_version_that_differ() -> None:
    results = compared(verify(), [*rims(), rim(GPU, "vbios", reissued=True)])
    assert outcome(results, COLLISION) is Outcome.FAILED
    assert outcome(results, VALUES) is Outcome.NOT_ASKED


def test_two_manifests_of_one_version_without_a_common_index() -> None:
    """Each says of itself that it is the manifest of this VBIOS; together they are not one."""
    gone = dict.fromkeys(GPU.model.vbios_indices, ())
    others = rim(GPU, "vbios", values={**gone, 50: (GPU.measurements[50],)})
    results = compared(verify(), [*rims(), others])
    assert outcome(results, COLLISION) is Outcome.FAILED


def test_two_manifests_of_one_version_with_other_indices_are_two_opinions_all_the_same() -> None:
    none: dict[int, tuple[bytes, ...]] = dict.fromkeys(GPU.model.vbios_indices, ())
    disjoint = rim(GPU, "vbios", values={**none, 50: (OTHER,)})
    assert not disjoint.measurements.keys() & rims()[1].measurements.keys()

    results = compared(verify(), [*rims(), disjoint])

    assert outcome(results, COLLISION) is Outcome.FAILED
    assert "of one version and differ" in detail(results, COLLISION)
    assert outcome(results, VALUES) is Outcome.NOT_ASKED


def test_manifest_with_another_byte_after_it_is_another_file() -> None:
    again = verify_rim(GPU.driver_rim + b"\n", roots=development(), at=testing.NOW)
    assert outcome(compared(verify(), [*rims(), again]), COLLISION) is Outcome.FAILED


@pytest.mark.parametrize(("mine", "theirs"), [("HOPPER", "BLACKWELL"), ("BLACKWELL", "HOPPER")])
def test_manifests_of_another_device(mine: Any, theirs: Any) -> None:
    """Both have one driver's version; neither the values nor the VBIOS's version fit."""
    results = compared(verify(testing.gpu(mine)), rims(testing.gpu(theirs)))
    failed = {result.id for result in results if result.outcome is Outcome.FAILED}
    assert {VERSION, PRESENT, VALUES} <= failed


def test_manifests_of_a_gpu_for_a_switch() -> None:
    results = compared(verify(testing.gpu("LS10")), rims())
    assert outcome(results, VERSION) is Outcome.FAILED
    assert outcome(results, PRESENT) is Outcome.FAILED
    assert "the device names no driver" in detail(results, VERSION)


def test_manifest_of_the_same_driver_for_another_chip_is_not_taken() -> None:
    blackwell = testing.gpu("BLACKWELL")
    results = compared(verify(), [rim(blackwell, "driver"), *rims()])
    assert outcome(results, COLLISION) is Outcome.PASSED
    assert outcome(results, VALUES) is Outcome.PASSED


def test_manifest_of_another_chip_alone_does_not_match() -> None:
    blackwell = testing.gpu("BLACKWELL")
    results = compared(verify(), [rim(blackwell, "driver"), rims()[1]])
    assert outcome(results, VALUES) is Outcome.FAILED


def test_more_reference_values_than_measurements() -> None:
    fields = replace(GPU.fields(NONCE), measurements=GPU.measurements[:30])
    device = verify(report=sign_gpu_report(fields.signed_part(), GPU.chain[0].key))
    results = compared(device, rims())

    assert outcome(results, COUNT) is Outcome.FAILED
    assert "index 30" in detail(results, COUNT)
    assert outcome(results, VALUES) is Outcome.NOT_ASKED


def test_real_manifest_and_simulated_device(vectors: Any) -> None:
    real = verify_rim(
        (vectors / "nvidia" / "rim_vbios_96009F0001.xml").read_bytes(),
        roots=NvidiaRoots.nvidia(),
        at=testing.NOW.replace(year=2025),
    )
    results = compared(verify(), [rims()[0], real])
    assert outcome(results, "nvidia.rim.roots") is Outcome.FAILED


# --- ids at the service


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (GPU, ("NV_GPU_DRIVER_GH100_580.95.05", "NV_GPU_VBIOS_1010_0200_882_96009F0001")),
        (
            testing.gpu("BLACKWELL"),
            ("NV_GPU_CC_DRIVER_GB100_580.95.05", "NV_GPU_VBIOS_G525_0220_886_970088000F"),
        ),
        (
            testing.gpu("BLACKWELL", driver_version="575.32"),
            ("NV_GPU_CC_DRIVER_GB100_575.32", "NV_GPU_VBIOS_G525_0220_886_970088000F"),
        ),
        (testing.gpu("LS10"), ("", "NV_SWITCH_BIOS_5612_0002_890_96106D0001")),
    ],
)
def test_ids_of_manifests(gpu: SimulatedGpu, expected: tuple[str, str]) -> None:
    assert rim_ids(verify(gpu)) == expected == (gpu.driver_rim_id, gpu.vbios_rim_id)


def test_driver_id_of_hopper_does_not_depend_on_the_chip_that_the_report_names() -> None:
    device = verify(GPU, report=GPU.report(NONCE, opaque={35: b"GH100\0"}))
    assert rim_ids(device)[0] == "NV_GPU_DRIVER_GH100_580.95.05"


def test_driver_id_of_blackwell_follows_the_chip_that_the_report_names() -> None:
    gpu = testing.gpu("BLACKWELL")
    device = verify(gpu, report=gpu.report(NONCE, opaque={35: b"GB20X\0"}))
    assert rim_ids(device)[0] == "NV_GPU_CC_DRIVER_GB20X_580.95.05"


# --- properties


@given(st.integers(min_value=0, max_value=63), st.binary(min_size=48, max_size=48))
def test_one_other_value_passes_only_where_nothing_is_published(index: int, value: bytes) -> None:
    results = compared(verify(GPU, report=GPU.report(NONCE, measurements={index: value})), rims())
    published = {*GPU.model.driver_indices, *GPU.model.vbios_indices} - {35}
    good = index not in published or any(value in one.measurements.get(index, ()) for one in rims())
    assert (outcome(results, VALUES) is Outcome.PASSED) is good
