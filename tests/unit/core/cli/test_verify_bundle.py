# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify` on saved evidence of a server with GPUs: the processor's report covers the devices'."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from sealroom import testing
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from sealroom.kbs.devices import encode_devices
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.snp.bundle import EvidenceBundle, device_nonce_for, report_data_for
from support import gpus
from unit.core.cli.verifying import NONCE, Bench, bench, failures, outcomes

__all__ = ["bench"]

FIRST, SECOND = testing.gpu(), testing.gpu(seed=b"2" * 32)
CHIPS = (FIRST, SECOND)
ENVIRONMENT = gpus.environment(2)
POLICY = b'format = "sealroom-policy/1"\nname = "test"\nversion = "1"\n'


def devices_text(chips: Sequence[SimulatedGpu] = CHIPS, *, nonce: bytes | None = None, **changes: Any) -> str:
    """Return the evidence of GPUs as a bundle carries it; `changes` are those of each report."""
    asked = device_nonce_for(NONCE) if nonce is None else nonce
    return encode_devices([testing.device_evidence(asked, on=chip, **changes) for chip in chips])


def bundle(covered: str, sent: str | None = None, *, nonce: bytes = NONCE, **fields: Any) -> bytes:
    """Return a bundle whose report covers some evidence of devices.

    Args:
        covered: What the report covers.
        sent: What the bundle holds, if it is something else.
        nonce: The person's nonce.
        fields: Fields of the processor's report.
    """
    gathered = testing.evidence(report_data_for(nonce, covered), ENVIRONMENT, **fields)
    made = EvidenceBundle(
        nonce, gathered.report, gathered.certificates, covered if sent is None else sent, provider="simulated"
    )
    return made.to_json()


def saved(bench: Bench, data: bytes) -> list[str]:
    """Save a bundle and return the arguments with the roots."""
    return [bench.save("server.evidence.json", data), *bench.roots(cpu=True)]


def collateral(bench: Bench, chips: Sequence[SimulatedGpu] = CHIPS) -> list[str]:
    """Return manifests and answers for every device."""
    answers = [one for chip in chips for one in chip.ocsp(at=testing.NOW)]
    answers += FIRST.rim_ocsp(at=testing.NOW)
    return [*bench.rims(*FIRST.rims), *bench.options("--ocsp", answers)]


def test_a_server_with_two_gpus(bench: Bench) -> None:
    given = [*saved(bench, bundle(devices_text())), *collateral(bench), "--nonce", NONCE.hex()]

    status, printed = bench.text(*given)

    assert status == EXIT_OK
    assert (
        "ACCEPTED: a simulated Genoa processor signed this report, which covers 2 simulated Hopper GPUs with "
        "the firmware of the reference manifests" in printed
    )
    assert "REPORT_DATA answers the given nonce and covers the evidence of devices" in printed
    assert "SIMULATED: the root is a development root." in printed
    assert "Checks of gpu1" in printed


def test_the_result_as_json(bench: Bench) -> None:
    given = [*saved(bench, bundle(devices_text())), *collateral(bench)]

    status, result = bench.json(*given, "--nonce", NONCE.hex())

    assert status == EXIT_OK
    assert (result["kind"], result["line"], result["simulated"]) == ("evidence bundle", "Genoa", True)
    assert outcomes(result)["snp.expected.nonce"] == "passed"
    assert [one["device"] for one in result["devices"]] == ["gpu0", "gpu1"]
    for device in result["devices"]:
        found = outcomes(device)
        assert found["nvidia.report.nonce"] == found["nvidia.measurement.values"] == "passed"
        assert found["nvidia.chain.ocsp"] == "passed"
    assert len(result["manifests"]) == 2


def test_without_an_own_nonce_the_devices_answer_the_files(bench: Bench) -> None:
    status, result = bench.json(*saved(bench, bundle(devices_text())))

    assert status == EXIT_OK
    assert outcomes(result)["snp.expected.nonce"] == "not_asked"
    assert outcomes(result["devices"][0])["nvidia.report.nonce"] == "passed"


def test_both_kinds_of_root_in_one_file(bench: Bench) -> None:
    root = testing.gpu_root()
    every = bench.save("roots.pem", testing.chip().root.pem + root.device_pem + root.rim_pem)
    evidence = bench.save("server.evidence.json", bundle(devices_text()))

    assert bench.text(evidence, "--root", every)[0] == EXIT_OK


# --- devices that the report does not cover ---


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (devices_text((SECOND, FIRST)), "together with the evidence of devices"),
        (devices_text((FIRST,)), "together with the evidence of devices"),
        (devices_text((FIRST, SECOND, testing.gpu(seed=b"3" * 32))), "together with the evidence of devices"),
        ("", "REPORT_DATA does not answer the given nonce"),
    ],
    ids=["swapped", "one dropped", "one added", "all dropped"],
)
def test_other_devices_than_the_report_covers(sent: str, said: str, bench: Bench) -> None:
    given = saved(bench, bundle(devices_text(), sent))

    status, result = bench.json(*given, "--nonce", NONCE.hex())

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("freshness", "snp.expected.nonce")
    assert said in result["error"]["message"]
    assert result["devices"] == [], "devices that nobody vouches for are not judged"


def test_devices_added_to_a_server_without(bench: Bench) -> None:
    status, result = bench.json(*saved(bench, bundle("", devices_text())))

    assert status == EXIT_REFUSED
    assert failures(result) == ["snp.expected.nonce"]


# --- devices that are covered and wrong ---


@pytest.mark.parametrize("asked", [NONCE, bytes(32)], ids=["the person's own", "another"])
def test_a_gpu_that_answers_another_nonce(asked: bytes, bench: Bench) -> None:
    status, result = bench.json(*saved(bench, bundle(devices_text(nonce=asked))))

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.report.nonce"
    assert [failures(one) for one in result["devices"]] == [["nvidia.report.nonce"]] * 2


def test_one_gpu_of_two_that_another_root_vouches_for(bench: Bench) -> None:
    stranger = testing.gpu(root=testing.gpu_root("another"))

    status, result = bench.json(*saved(bench, bundle(devices_text((FIRST, stranger)))))

    assert status == EXIT_REFUSED
    assert [one["error"] is None for one in result["devices"]] == [True, False]
    assert failures(result["devices"][1]) == ["nvidia.chain.root"]


def test_simulated_gpus_without_their_root(bench: Bench) -> None:
    evidence = bench.save("server.evidence.json", bundle(devices_text()))

    status, printed = bench.text(evidence, "--root", bench.save("ark.pem", testing.chip().root.pem))

    assert status == EXIT_REFUSED
    assert "nvidia.chain.root" in printed


def test_a_measurement_that_differs(bench: Bench) -> None:
    changed = devices_text(measurements={3: b"x" * 48})

    status, result = bench.json(*saved(bench, bundle(changed)), *collateral(bench))

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.measurement.values"


@pytest.mark.parametrize("given", ["driver", "vbios"])
def test_one_manifest_alone_could_not_be_checked(given: str, bench: Bench) -> None:
    rim = FIRST.driver_rim if given == "driver" else FIRST.vbios_rim

    status, printed = bench.text(*saved(bench, bundle(devices_text())), *bench.rims(rim))

    assert status == EXIT_UNCHECKED
    assert "COULD NOT BE CHECKED: The device is genuine. No reference manifest for" in printed


def test_covered_evidence_of_devices_that_is_none(bench: Bench) -> None:
    status, result = bench.json(*saved(bench, bundle('{"amd": {}}')))

    assert status == EXIT_REFUSED
    assert result["error"]["field"] == "additional_evidence"


# --- expectations and appraisal ---


def test_another_nonce_than_the_one_given(bench: Bench) -> None:
    status, result = bench.json(*saved(bench, bundle(devices_text())), "--nonce", "00" * 32)

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "freshness"


def test_the_environment_that_runs_there(bench: Bench) -> None:
    given = [*saved(bench, bundle(devices_text())), *collateral(bench), "--nonce", NONCE.hex()]
    environment = ["--environment", bench.save("environment.toml", ENVIRONMENT.raw)]

    status, result = bench.json(*given, *environment)

    assert status == EXIT_OK
    assert result["appraisal"]["tier"] == "simulated"
    assert [one["device"] for one in result["appraisal"]["devices"]] == ["cpu0", "gpu0", "gpu1"]


@pytest.mark.parametrize("chips", [(FIRST,), (*CHIPS, testing.gpu(seed=b"3" * 32))], ids=["fewer", "more"])
def test_another_number_of_gpus_than_the_environment_names(
    chips: tuple[SimulatedGpu, ...], bench: Bench
) -> None:
    given = [*saved(bench, bundle(devices_text(chips))), *collateral(bench, chips)]
    environment = ["--environment", bench.save("environment.toml", ENVIRONMENT.raw)]

    status, result = bench.json(*given, *environment)

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "appraisal.gpu.count"


def test_the_policy_decides_about_answers_that_are_missing(bench: Bench) -> None:
    given = [*saved(bench, bundle(devices_text())), *bench.rims(*FIRST.rims)]
    soft = bench.save("soft.toml", POLICY + b'gpu_ocsp = "soft"\n')

    strict = bench.json(*given, "--policy", bench.save("strict.toml", POLICY))
    relaxed = bench.json(*given, "--policy", soft)

    assert (strict[0], relaxed[0]) == (EXIT_REFUSED, EXIT_OK)
    assert strict[1]["error"]["check"] == "appraisal.gpu.revocation"


def test_an_unknown_member_of_the_bundle(bench: Bench) -> None:
    changed = json.loads(bundle(devices_text())) | {"devices": []}

    status, printed = bench.text(*saved(bench, json.dumps(changed).encode()))

    assert status == EXIT_REFUSED
    assert "REFUSED: Members of the bundle are unknown or missing: devices. [field bundle]" in printed


def test_a_manifest_that_is_none_beside_the_bundle(bench: Bench) -> None:
    given = saved(bench, bundle(devices_text()))

    assert bench.text(*given, "--rim", bench.save("bad", b"no XML"))[0] == EXIT_USAGE
