# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from typing import Any

import pytest
import tomli_w
from sealroom import testing
from sealroom.environments import Environment, build
from sealroom.errors import FormatError

SECTION: dict[str, Any] = {
    "architectures": ["HOPPER"],
    "modes": ["SPT"],
    "drivers": ["580.95.05"],
    "vbios": ["96.00.9F.00.01"],
    "rims": ["sha256:" + "ab" * 32, "NV_GPU_DRIVER_GH100_580.95.05"],
}


def made(section: dict[str, Any] | None = SECTION, *gpus: int, **changes: Any) -> Environment:
    """An environment with the section and with one shape for each number of GPUs (one GPU without any)."""
    content: dict[str, Any] = testing.environment().model_dump(mode="json", exclude_none=True)
    shapes = [
        {"name": f"shape{number}", "vcpus": 2, "memory_mib": 4096, "gpus": count}
        for number, count in enumerate(gpus or (1,))
    ]
    content |= {"shapes": shapes} | changes
    if section is not None:
        content["gpu"] = section
    return build(tomli_w.dumps(content).encode())


def test_section_gives_reference_values() -> None:
    references = made().reference_values.gpu
    assert references is not None
    assert references.architectures == {"HOPPER"}
    assert references.modes == {"SPT"}
    assert references.drivers == {"580.95.05"}
    assert references.vbios == frozenset({"96.00.9F.00.01"})
    assert references.switch_vbios == frozenset()
    assert references.rims == frozenset(SECTION["rims"])


def test_without_modes_every_confidential_mode_is_meant() -> None:
    references = made({key: value for key, value in SECTION.items() if key != "modes"}).reference_values.gpu
    assert references is not None
    assert references.modes == {"SPT", "MPT", "PPCIE"}


def test_any_firmware_version_has_to_be_written_out() -> None:
    references = made(SECTION | {"vbios": ["any"], "switch_vbios": ["any"]}).reference_values.gpu
    assert references is not None
    assert references.vbios is None
    assert references.switch_vbios is None
    with pytest.raises(FormatError, match=r"gpu\.vbios"):
        made({key: value for key, value in SECTION.items() if key != "vbios"})


def test_number_of_gpus_follows_from_the_measurement() -> None:
    environment = made(SECTION, 0, 2)
    counts = environment.reference_values.gpu_counts
    assert [counts[shape.measurement_bytes[0]] for shape in environment.shapes] == [{0}, {2}]


def test_shapes_with_one_measurement_share_their_numbers() -> None:
    # On real hardware GPUs are not part of what is measured at launch.
    measurement = "ab" * 48
    shapes = [
        {"name": f"s{gpus}", "vcpus": 2, "memory_mib": 64, "gpus": gpus, "measurements": [measurement]}
        for gpus in (0, 1)
    ]
    environment = made(SECTION, tee="snp", shapes=shapes)
    assert environment.reference_values.gpu_counts == {bytes.fromhex(measurement): {0, 1}}


def test_environment_without_the_section_names_no_gpu() -> None:
    assert made(None).reference_values.gpu is None
    assert testing.environment().reference_values.gpu is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"architectures": []}, "gpu.architectures"),
        ({"architectures": ["AMPERE"]}, "gpu.architectures.0"),
        ({"modes": []}, "gpu.modes"),
        ({"modes": ["OFF"]}, "gpu.modes.0"),
        ({"drivers": []}, "gpu.drivers"),
        ({"drivers": ["any"]}, "gpu.drivers.0"),
        ({"vbios": ["96.00.9f.00.01"]}, "gpu.vbios.0"),
        ({"vbios": ["any", "96.00.9F.00.01"]}, "gpu"),
        ({"rims": ["md5:00"]}, "gpu.rims.0"),
        ({"rims": ["../secret"]}, "gpu.rims.0"),
        ({"debug": True}, "gpu.debug"),
    ],
)
def test_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(FormatError) as caught:
        made(SECTION | change)
    assert caught.value.field == field


def test_section_without_a_shape_that_has_gpus_is_refused() -> None:
    with pytest.raises(FormatError, match="no shape has gpus"):
        made(SECTION, 0)
