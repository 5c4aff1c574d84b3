# SPDX-License-Identifier: BSD-3-Clause
"""Compare a device's measurements with reference manifests.

The rules are those of NVIDIA's open verifiers (NVIDIA/nvtrust, local_gpu_verifier, verifier/measurements;
NVIDIA/attestation-sdk, measurements; google/go-nvattest-tools):

- there is one manifest of the driver and one of the VBIOS. The same file given twice counts once; two files
  of one version that differ are two opinions, and an error;
- the reference values are the active ones of both together; an index that is active in both is an error;
- index i of a manifest is compared with measurement block i + 1; any of the alternatives may match;
- index 35 is passed over while the video decoder 0 is off;
- blocks without a reference value are passed over; a reference value without a block is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from sealroom.checks import CheckResult, Outcome
from sealroom.nvidia.opaque import Architecture
from sealroom.nvidia.rim import Kind, VerifiedRim
from sealroom.nvidia.verify import VerifiedDevice

NVDEC0_INDEX: Final = 35
REISSUED_INDICES: Final = frozenset({9})
"""Indices for which NVIDIA issued other values under one VBIOS version (NVIDIA/nvtrust 60, 90, 132)."""
_SWITCH_BOARD: Final = ("5612", "0002", "890")
"""Project, project SKU and chip SKU of the LS10 switch in NVIDIA's manifest ids."""
_NAMES: Final[dict[Kind, str]] = {"driver": "driver", "vbios": "VBIOS"}


def rim_ids(device: VerifiedDevice) -> tuple[str, str]:
    """Return the ids at NVIDIA's RIM service of the driver's and the VBIOS's manifest.

    A switch has no driver of its own; the first is empty then.
    """
    report = device.report
    version = report.vbios_version.replace(".", "")
    if device.is_switch:
        # A switch's report names no board: the service has one kind of it (NVIDIA/attestation-sdk, switch).
        board = (report.project, report.project_sku, report.chip_sku)
        return "", "NV_SWITCH_BIOS_" + "_".join((*(board if all(board) else _SWITCH_BOARD), version))
    if device.architecture is Architecture.HOPPER:
        driver = f"NV_GPU_DRIVER_GH100_{report.driver_version}"
    else:
        driver = f"NV_GPU_CC_DRIVER_{report.chip_info or device.chip}_{report.driver_version}"
    parts = (report.project, report.project_sku, report.chip_sku, version)
    return driver, "NV_GPU_VBIOS_" + "_".join(part.upper() for part in parts)


def compare(device: VerifiedDevice, rims: Sequence[VerifiedRim]) -> tuple[CheckResult, ...]:
    """Compare a device with manifests.

    Args:
        device: A verified device.
        rims: Verified manifests; those of other versions than the device's are named and not used.

    Returns:
        A result for each of `nvidia.rim.present`, `nvidia.rim.version`, `nvidia.rim.roots`,
        `nvidia.rim.collision`, `nvidia.measurement.count`, `nvidia.measurement.values` and
        `nvidia.measurement.reissued`. Nothing is raised: what does not fit is a failed result.
    """
    versions: dict[Kind, str] = {"driver": device.report.driver_version, "vbios": device.report.vbios_version}
    if device.is_switch:
        del versions["driver"]
    chosen = {kind: _chosen(device, rims, kind, version) for kind, version in versions.items()}
    results = [_version(rims, versions), _roots(device, rims)]
    ids: dict[Kind, str] = dict(zip(("driver", "vbios"), rim_ids(device), strict=True))
    missing = [
        f"{_NAMES[kind]} {versions[kind] or 'of no version'} (at the RIM service: {ids[kind]})"
        for kind, found in chosen.items()
        if not found
    ]
    if missing:
        results.append(
            CheckResult(
                "nvidia.rim.present",
                Outcome.FAILED if rims else Outcome.NOT_ASKED,
                f"no reference manifest for {' and '.join(missing)}",
            )
        )
    else:
        used = ", ".join(rim.rim_id for found in chosen.values() for rim in found)
        results.append(CheckResult("nvidia.rim.present", Outcome.PASSED, used))
    results += _compare(device, [rim for found in chosen.values() for rim in found], complete=not missing)
    return tuple(results)


def _chosen(
    device: VerifiedDevice, rims: Sequence[VerifiedRim], kind: Kind, version: str
) -> list[VerifiedRim]:
    """Return the manifests to compare with; where several fit, those that name the device's chip."""
    found = [*{rim.sha256: rim for rim in rims if rim.kind == kind and rim.version == version}.values()]
    # Drivers of one version have a manifest for each kind of chip.
    return [rim for rim in found if rim.product == device.chip] or found


def _version(rims: Sequence[VerifiedRim], versions: dict[Kind, str]) -> CheckResult:
    check = "nvidia.rim.version"
    if not rims:
        return CheckResult(check, Outcome.NOT_ASKED, "no reference manifest was given")
    strange = [rim for rim in rims if rim.version != versions.get(rim.kind)]
    if strange:
        rim = strange[0]
        has = versions.get(rim.kind)
        said = (
            f"the device has {_NAMES[rim.kind]} {has}" if has else f"the device names no {_NAMES[rim.kind]}"
        )
        return CheckResult(check, Outcome.FAILED, f"{rim.rim_id} is for another version: {said}")
    return CheckResult(check, Outcome.PASSED, ", ".join(f"{_NAMES[rim.kind]} {rim.version}" for rim in rims))


def _roots(device: VerifiedDevice, rims: Sequence[VerifiedRim]) -> CheckResult:
    check = "nvidia.rim.roots"
    if not rims:
        return CheckResult(check, Outcome.NOT_ASKED, "no reference manifest was given")
    if any(rim.simulated != device.simulated for rim in rims):
        return CheckResult(
            check, Outcome.FAILED, "device and manifest: one is real and the other is simulated"
        )
    return CheckResult(check, Outcome.PASSED, "device and manifests were verified under the same trust")


def _compare(device: VerifiedDevice, rims: Sequence[VerifiedRim], *, complete: bool) -> Iterable[CheckResult]:
    checks = ("nvidia.rim.collision", "nvidia.measurement.count", "nvidia.measurement.values")
    reissued = "nvidia.measurement.reissued"
    if not rims:
        return [
            CheckResult(one, Outcome.NOT_ASKED, "there is no reference manifest")
            for one in (*checks, reissued)
        ]
    golden = {index: rim for rim in rims for index in rim.measurements}
    collision = _collision(rims)
    if collision:
        return [
            CheckResult(checks[0], Outcome.FAILED, collision),
            *(
                CheckResult(one, Outcome.NOT_ASKED, "the manifests contradict each other")
                for one in (*checks[1:], reissued)
            ),
        ]
    results = [CheckResult(checks[0], Outcome.PASSED, "one manifest of each kind, no index active in two")]
    measured = device.report.measurements
    beyond = [index for index in golden if index >= len(measured)]
    if beyond:
        return [
            *results,
            CheckResult(
                checks[1],
                Outcome.FAILED,
                f"index {min(beyond)} of {golden[min(beyond)].rim_id} has no measurement; the report has "
                f"{len(measured)}",
            ),
            *(
                CheckResult(one, Outcome.NOT_ASKED, "a measurement is missing")
                for one in (checks[2], reissued)
            ),
        ]
    results.append(
        CheckResult(
            checks[1], Outcome.PASSED, f"{len(measured)} measurements, {len(golden)} reference values"
        )
    )
    return [*results, *_values(device, golden, complete=complete)]


def _collision(rims: Sequence[VerifiedRim]) -> str:
    """Return how manifests contradict each other; empty if they do not."""
    for number, one in enumerate(rims):
        for other in rims[:number]:
            names = f"{other.rim_id} and {one.rim_id}"
            if one.kind == other.kind:
                return f"{names} are of one version and differ; only one of them can be the current issue"
            both = one.measurements.keys() & other.measurements.keys()
            if both:
                return f"index {min(both)} is active in both {names}"
    return ""


def _values(
    device: VerifiedDevice, golden: dict[int, VerifiedRim], *, complete: bool
) -> Iterable[CheckResult]:
    check, reissued = "nvidia.measurement.values", "nvidia.measurement.reissued"
    passed_over = {NVDEC0_INDEX} & set(golden) if device.report.nvdec0_disabled else set()
    compared = sorted(set(golden) - passed_over)
    measured = device.report.measurements
    wrong = [index for index in compared if measured[index] not in golden[index].measurements[index]]
    others = [index for index in wrong if index not in REISSUED_INDICES]
    again = [index for index in wrong if index in REISSUED_INDICES]
    detail = f"{len(compared) - len(wrong)} of {len(compared)} compared values are equal"
    if passed_over:
        detail += "; index 35 passed over, the video decoder 0 is off"
    if wrong:
        sources = "; ".join(
            f"index {index}: measured {measured[index].hex()[:16]}…, not in {golden[index].rim_id}"
            for index in wrong[:4]
        )
        yield CheckResult(check, Outcome.FAILED, f"{detail}. {sources}{' …' if len(wrong) > 4 else ''}")
    elif complete:
        yield CheckResult(check, Outcome.PASSED, detail)
    else:
        yield CheckResult(check, Outcome.NOT_ASKED, f"{detail}, but a manifest is missing")
    if again and not others:
        index = again[0]
        yield CheckResult(
            reissued,
            Outcome.FAILED,
            f"only index {index} differs from {golden[index].rim_id}, and NVIDIA has issued manifests of one "
            f"version with several values there: fetch it anew and compare again",
        )
    elif wrong:
        yield CheckResult(reissued, Outcome.NOT_ASKED, "other indices differ too")
    else:
        yield CheckResult(reissued, Outcome.PASSED, "no sign of a manifest that was issued again")
