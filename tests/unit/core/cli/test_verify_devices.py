# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify` on simulated GPUs and switches by themselves: manifests, revocation, appraisal, lists."""

from __future__ import annotations

import base64
import re
import shlex
from datetime import timedelta
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.cli import run
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from sealroom.collateral.nvidia import RimFetcher
from sealroom.collateral.store import Store
from sealroom.nvidia import REPORT_CHECKS, NvidiaRoots
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_certificates import Life
from sealroom.testing.services import running_rim_service
from support import gpus
from unit.core.cli.verifying import NOW, Bench, bench, failures, outcomes, sdk_list

__all__ = ["bench"]

GPU = testing.gpu()
OTHER = testing.gpu(driver_version="590.12", vbios_version="96.00.A5.00.01", seed=b"o" * 32)
BLACKWELL = testing.gpu("BLACKWELL")
SWITCH = testing.gpu("LS10")
ENDED = Life(testing.gpu_root().at, testing.gpu_root().at + timedelta(days=1))
HEAD = b'format = "sealroom-policy/1"\nname = "test"\nversion = "1"\n'
COMPARED = ("nvidia.rim.version", "nvidia.rim.present", "nvidia.measurement.values")


# --- roots ---


@pytest.mark.parametrize("chip", [GPU, BLACKWELL, SWITCH], ids=["hopper", "blackwell", "switch"])
def test_a_device_with_its_manifests_under_a_development_root(chip: SimulatedGpu, bench: Bench) -> None:
    given = [*bench.device(chip), *bench.roots(), *bench.rims(*chip.rims)]

    status, printed = bench.text(*given)

    assert status == EXIT_OK
    name = "NVSwitch" if chip is SWITCH else f"{chip.architecture.title()} GPU"
    assert "SIMULATED: the root is a development root. No NVIDIA device stands behind" in printed
    assert f"ACCEPTED: a simulated {name} with the firmware of the reference manifests signed" in printed
    assert "an NVIDIA" not in printed
    for check in REPORT_CHECKS:
        assert check in printed


def test_both_roots_in_one_file(bench: Bench) -> None:
    both = bench.save("roots.pem", testing.gpu_root().device_pem + testing.gpu_root().rim_pem)

    status, result = bench.json(*bench.device(), "--root", both, *bench.rims(*GPU.rims))

    assert status == EXIT_OK
    assert (result["kind"], result["simulated"]) == ("NVIDIA report", True)


def test_simulated_evidence_without_its_root_is_refused(bench: Bench) -> None:
    status, printed = bench.text(*bench.device())

    assert status == EXIT_REFUSED
    assert "nvidia.chain.root" in printed
    assert "name its development roots with --root" in printed
    assert "SIMULATED" not in printed


def test_a_root_of_manifests_alone_is_no_root(bench: Bench) -> None:
    root = bench.save("rim.pem", testing.gpu_root().rim_pem)

    status, printed = bench.text(*bench.device(), "--root", root)

    assert status == EXIT_USAGE
    assert "without one of devices" in printed


def test_manifests_count_for_nothing_without_their_root(bench: Bench) -> None:
    root = bench.save("device.pem", testing.gpu_root().device_pem)

    status, result = bench.json(*bench.device(), "--root", root, *bench.rims(*GPU.rims))

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.rim.root"


# --- manifests ---


def test_a_measurement_that_differs(bench: Bench) -> None:
    given = [*bench.device(measurements={3: b"x" * 48}), *bench.roots(), *bench.rims(*GPU.rims)]

    status, result = bench.json(*given)

    assert status == EXIT_REFUSED
    assert failures(result["devices"][0]) == ["nvidia.measurement.values"]
    assert "index 3: measured 7878787878787878…, not in VBIOS manifest" in result["error"]["message"]


def test_a_manifest_that_was_issued_again(bench: Bench) -> None:
    rims = bench.rims(GPU.driver_rim, GPU.rim("vbios", reissued=True))

    status, printed = bench.text(*bench.device(), *bench.roots(), *rims)

    assert status == EXIT_REFUSED
    assert "REFUSED: The device is genuine. Only index 9 differs" in printed


def test_a_manifest_whose_signer_has_ended(bench: Bench) -> None:
    rims = bench.rims(GPU.driver_rim, GPU.rim("vbios", signer_life=ENDED))

    status, result = bench.json(*bench.device(), *bench.roots(), *rims)

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("expired", "nvidia.rim.validity")
    assert result["devices"][0]["error"] == result["error"]
    assert [failures(one) for one in result["manifests"]] == [[], ["nvidia.rim.validity"]]


def test_one_manifest_of_two_could_not_be_checked(bench: Bench) -> None:
    status, result = bench.json(*bench.device(), *bench.roots(), *bench.rims(GPU.vbios_rim))

    assert (status, result["verdict"]) == (EXIT_UNCHECKED, "unchecked")
    assert result["error"]["check"] == "nvidia.rim.present"


def test_a_differing_measurement_weighs_more_than_a_missing_manifest(bench: Bench) -> None:
    given = [*bench.device(measurements={3: b"x" * 48}), *bench.roots(), *bench.rims(GPU.vbios_rim)]

    status, result = bench.json(*given)

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.measurement.values"


def test_a_manifest_of_another_version(bench: Bench) -> None:
    rims = bench.rims(GPU.rim("driver", version="999.1"), GPU.vbios_rim)

    status, result = bench.json(*bench.device(), *bench.roots(), *rims)

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.rim.version"


def test_an_altered_manifest_is_named_by_its_file(bench: Bench) -> None:
    altered = GPU.vbios_rim.replace(b'colloquialVersion="96', b'colloquialVersion="97')
    assert altered != GPU.vbios_rim

    status, result = bench.json(*bench.device(), *bench.roots(), *bench.rims(GPU.driver_rim, altered))

    assert status == EXIT_REFUSED
    assert result["error"]["check"] == "nvidia.rim.signature"
    assert result["manifests"][1]["manifest"] == f"manifest {bench.directory / 'rim-1'}"


def test_without_manifests_it_says_that_nothing_was_compared(bench: Bench) -> None:
    status, printed = bench.text(*bench.device(), *bench.roots())

    assert status == EXIT_OK
    assert "not compared with reference manifests for gpu0: --rim FILE or --collateral DIRECTORY" in printed
    assert "with the firmware" not in printed


def test_a_manifest_by_itself(bench: Bench) -> None:
    rim, roots = bench.save("rim.xml", GPU.driver_rim), bench.roots()
    ended = bench.save("ended.xml", GPU.rim("driver", signer_life=ENDED))

    good = bench.text(rim, *roots)
    old = bench.text(ended, *roots)
    strange = bench.text(rim)
    answered = bench.json(
        rim,
        *roots,
        *bench.options("--ocsp", GPU.rim_ocsp(at=testing.NOW)),
        "--ocsp-policy",
        "required",
    )

    assert [status for status, _ in (good, old, strange)] == [EXIT_OK, EXIT_REFUSED, EXIT_REFUSED]
    assert "ACCEPTED: a simulated maker signed this driver manifest 580.95.05" in good[1]
    assert "SIMULATED: the root is a development root. NVIDIA has not published these values." in good[1]
    assert answered[0] == EXIT_OK
    assert (answered[1]["kind"], answered[1]["devices"]) == ("reference manifest", [])
    assert outcomes(answered[1])["nvidia.rim.ocsp"] == "passed"
    assert bench.text(rim, *roots, "--nonce", "00" * 32)[0] == EXIT_USAGE


# --- revocation ---


def test_good_answers(bench: Bench) -> None:
    answers = [*GPU.ocsp(at=testing.NOW), *GPU.rim_ocsp(at=testing.NOW)]
    given = [*bench.device(), *bench.roots(), *bench.rims(*GPU.rims), *bench.options("--ocsp", answers)]

    for policy in ([], ["--ocsp-policy", "soft"], ["--ocsp-policy", "required"]):
        status, result = bench.json(*given, *policy)
        assert status == EXIT_OK
        assert outcomes(result["devices"][0])["nvidia.chain.ocsp"] == "passed"
        assert [outcomes(one)["nvidia.rim.ocsp"] for one in result["manifests"]] == ["passed", "passed"]


def test_an_answer_in_base64(bench: Bench) -> None:
    answers = [base64.encodebytes(one) for one in GPU.ocsp(at=testing.NOW)]
    given = [*bench.device(), *bench.roots(), *bench.options("--ocsp", answers)]

    assert bench.text(*given, "--ocsp-policy", "required")[0] == EXIT_OK


@pytest.mark.parametrize(
    ("policy", "status"), [("off", EXIT_OK), ("soft", EXIT_OK), ("required", EXIT_UNCHECKED)]
)
@pytest.mark.parametrize("age", [None, 3], ids=["none", "stale"])
def test_answers_that_are_missing_or_stale(policy: str, status: int, age: int | None, bench: Bench) -> None:
    answers = [] if age is None else GPU.ocsp(at=testing.NOW - timedelta(days=age))
    given = [*bench.device(), *bench.roots(), *bench.options("--ocsp", answers), "--ocsp-policy", policy]

    found, result = bench.json(*given)

    assert found == status
    assert outcomes(result["devices"][0])["nvidia.chain.ocsp"] == (
        "failed" if policy == "required" else "not_asked"
    )


@pytest.mark.parametrize(
    ("policy", "status"), [("off", EXIT_OK), ("soft", EXIT_REFUSED), ("required", EXIT_REFUSED)]
)
def test_a_revoked_boot_rom(policy: str, status: int, bench: Bench) -> None:
    answers = GPU.ocsp(at=testing.NOW, statuses={1: "revoked"})
    given = [*bench.device(), *bench.roots(), *bench.options("--ocsp", answers)]

    found, result = bench.json(*given, "--ocsp-policy", policy)

    assert found == status
    assert result["error"] is None if policy == "off" else result["error"]["code"] == "revoked"


@pytest.mark.parametrize(
    ("policy", "status"), [("off", EXIT_OK), ("soft", EXIT_REFUSED), ("required", EXIT_REFUSED)]
)
def test_a_revoked_signer_of_manifests(policy: str, status: int, bench: Bench) -> None:
    answers = [*GPU.ocsp(at=testing.NOW), *GPU.rim_ocsp(at=testing.NOW, statuses={0: "revoked"})]
    given = [*bench.device(), *bench.roots(), *bench.rims(*GPU.rims), *bench.options("--ocsp", answers)]

    found, result = bench.json(*given, "--ocsp-policy", policy)

    assert found == status
    assert result["error"] is None if policy == "off" else result["error"]["check"] == "nvidia.rim.ocsp"


def test_required_answers_about_a_manifests_signer_that_are_missing(bench: Bench) -> None:
    answers = bench.options("--ocsp", GPU.ocsp(at=testing.NOW))
    given = [*bench.device(), *bench.roots(), *bench.rims(*GPU.rims), *answers]

    status, result = bench.json(*given, "--ocsp-policy", "required")

    assert status == EXIT_UNCHECKED
    assert (result["error"]["code"], result["error"]["check"]) == (
        "revocation_unavailable",
        "nvidia.rim.ocsp",
    )


# --- a store ---


def test_manifests_from_a_store(bench: Bench) -> None:
    root = testing.gpu_root()
    roots = NvidiaRoots.development(root.device_pem, root.rim_pem)
    place = bench.directory / "store"
    given = [*bench.device(), *bench.roots(), "--collateral", str(place)]

    place.mkdir()
    nothing = bench.json(*given)
    with running_rim_service({GPU.driver_rim_id: GPU.driver_rim, GPU.vbios_rim_id: GPU.vbios_rim}) as service:
        fetcher = RimFetcher(Store(place), service.url)
        fetcher.rim(GPU.driver_rim_id, roots=roots)
        half = bench.json(*given)
        fetcher.rim(GPU.vbios_rim_id, roots=roots)
        both = bench.json(*given)
        fetcher.close()

    assert [nothing[0], half[0], both[0]] == [EXIT_UNCHECKED, EXIT_UNCHECKED, EXIT_OK]
    assert nothing[1]["error"]["check"] == half[1]["error"]["check"] == "nvidia.rim.present"
    assert len(both[1]["manifests"]) == 2
    assert outcomes(both[1]["devices"][0])["nvidia.measurement.values"] == "passed"


# --- several devices ---


def test_devices_of_different_versions_each_with_their_manifests(bench: Bench) -> None:
    chips = (GPU, OTHER, BLACKWELL, SWITCH)
    rims = bench.rims(*(xml for chip in chips for xml in chip.rims))

    status, result = bench.json(bench.devices(*chips), *bench.roots(), *rims)

    assert status == EXIT_OK
    assert result["kind"] == "evidence of NVIDIA devices"
    named = [(one["device"], one["architecture"]) for one in result["devices"]]
    assert named == [("gpu0", "HOPPER"), ("gpu1", "HOPPER"), ("gpu2", "BLACKWELL"), ("switch0", "LS10")]
    assert len(result["manifests"]) == 7
    for device in result["devices"]:
        assert [outcomes(device)[check] for check in COMPARED] == ["passed"] * 3


def test_several_devices_are_counted_by_kind(bench: Bench) -> None:
    _, printed = bench.text(bench.devices(GPU, OTHER, SWITCH), *bench.roots())

    assert "ACCEPTED: 2 simulated Hopper GPUs, a simulated NVSwitch signed this evidence" in printed


def test_a_list_as_nvidias_tools_save_it(bench: Bench) -> None:
    evidence = bench.save("sdk.json", sdk_list(GPU, OTHER))

    status, result = bench.json(evidence, *bench.roots(), "--nonce", bytes(range(32)).hex())

    assert status == EXIT_OK
    assert [one["device"] for one in result["devices"]] == ["gpu0", "gpu1"]


def test_one_device_of_two_without_a_manifest_could_not_be_checked(bench: Bench) -> None:
    status, result = bench.json(bench.devices(GPU, OTHER), *bench.roots(), *bench.rims(*GPU.rims))

    assert status == EXIT_UNCHECKED
    first, second = result["devices"]
    assert first["error"] is None
    assert second["error"]["check"] == "nvidia.rim.present"


def test_a_manifest_that_is_for_none_of_the_devices(bench: Bench) -> None:
    rims = bench.rims(*GPU.rims, *OTHER.rims, BLACKWELL.vbios_rim)

    status, result = bench.json(bench.devices(GPU, OTHER), *bench.roots(), *rims)

    assert status == EXIT_REFUSED
    assert "is for none of these devices" in result["error"]["message"]
    assert failures(result["manifests"][4]) == ["nvidia.rim.version"]


def test_a_refused_device_weighs_more_than_one_without_its_chain(bench: Bench) -> None:
    evidence = bench.devices(GPU, testing.gpu(root=testing.gpu_root("another")))

    status, result = bench.json(evidence, *bench.roots(), *bench.rims(GPU.driver_rim))

    assert status == EXIT_REFUSED
    assert result["devices"][0]["error"]["check"] == "nvidia.rim.present"
    assert result["error"]["check"] == "nvidia.chain.root"


def test_an_architecture_that_the_certificates_deny(bench: Bench) -> None:
    text = bench.devices(GPU)
    changed = (bench.directory / "devices.json").read_bytes().replace(b'"HOPPER"', b'"BLACKWELL"')
    (bench.directory / "devices.json").write_bytes(changed)

    status, result = bench.json(text, *bench.roots())

    assert status == EXIT_REFUSED
    assert failures(result["devices"][0]) == ["nvidia.chain.device"]


@pytest.mark.parametrize(
    "document", [b"[]", b"[1]", b'{"nvidia": {}}', b'{"nvidia": {"device_evidence_list": [{}]}}']
)
def test_a_list_that_is_none(document: bytes, bench: Bench) -> None:
    status, printed = bench.text(bench.save("devices.json", document))

    assert status == EXIT_REFUSED
    assert "[field device_evidence_list" in printed


# --- appraisal ---


def all_files(bench: Bench) -> list[str]:
    answers = [*GPU.ocsp(at=testing.NOW), *GPU.rim_ocsp(at=testing.NOW)]
    return [*bench.roots(), *bench.rims(*GPU.rims), *bench.options("--ocsp", answers)]


def test_a_device_alone_is_appraised_against_an_environment(bench: Bench) -> None:
    environment = ["--environment", bench.save("environment.toml", gpus.environment().raw)]

    status, result = bench.json(*bench.device(), *all_files(bench), *environment)

    (device,) = result["appraisal"]["devices"]
    assert (status, device["device"], result["appraisal"]["tier"]) == (EXIT_OK, "gpu0", "simulated")
    assert "appraisal.gpu.measurements" in {claim["check"] for claim in device["claims"]}


def test_a_driver_that_the_environment_does_not_name(bench: Bench) -> None:
    other = gpus.environment(drivers=["999.1"])
    environment = ["--environment", bench.save("environment.toml", other.raw)]

    status, result = bench.json(*bench.device(), *all_files(bench), *environment)

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "appraisal"


SOFT = b'gpu_ocsp = "soft"\n'
ENDED_VBIOS = GPU.rim("vbios", signer_life=ENDED)
RELAXED = {
    "gpu_ocsp": (SOFT, GPU.rims),
    "allow_missing_rim": (SOFT + b"allow_missing_rim = true\n", [GPU.driver_rim]),
    "allow_expired_rim": (SOFT + b"allow_expired_rim = true\n", [GPU.driver_rim, ENDED_VBIOS]),
}


@pytest.mark.parametrize("name", RELAXED)
def test_the_policy_decides(name: str, bench: Bench) -> None:
    lines, rims = RELAXED[name]
    given = [*bench.device(), *bench.roots(), *bench.rims(*rims)]

    strict = bench.json(*given, "--policy", bench.save("strict.toml", HEAD))
    relaxed = bench.json(*given, "--policy", bench.save("relaxed.toml", HEAD + lines))

    assert strict[0] in (EXIT_REFUSED, EXIT_UNCHECKED)
    assert relaxed[0] == EXIT_OK
    assert relaxed[1]["appraisal"]["tier"] == "simulated"


# --- wrong usage ---


@pytest.mark.parametrize("option", ["--rim", "--ocsp", "--chain", "--root"])
def test_a_file_beside_the_evidence_that_cannot_be_used(option: str, bench: Bench) -> None:
    evidence = [*bench.device()[: 1 if option == "--chain" else None], *bench.roots()]
    bad = bench.save("bad", b"This is something else.")

    status, printed = bench.text(*evidence, option, bad)

    assert status == EXIT_USAGE
    assert f"{bad} cannot be used: " in printed


@pytest.mark.parametrize("option", ["--rim", "--ocsp", "--chain", "--root"])
def test_a_file_beside_the_evidence_that_is_not_there(option: str, bench: Bench) -> None:
    evidence = [*bench.device()[: 1 if option == "--chain" else None], *bench.roots()]

    assert bench.text(*evidence, option, "/nowhere/file")[0] == EXIT_UNCHECKED


def test_two_roots_of_devices(bench: Bench) -> None:
    roots = testing.gpu_root().device_pem + testing.gpu_root("another").device_pem

    assert bench.text(*bench.device(), "--root", bench.save("two.pem", roots))[0] == EXIT_USAGE


def test_the_result_has_one_form(bench: Bench) -> None:
    _, result = bench.json(*bench.device(), *bench.roots(), *bench.rims(*GPU.rims))

    assert set(result) == {
        "verdict",
        "kind",
        "simulated",
        "at",
        "line",
        "checks",
        "devices",
        "manifests",
        "appraisal",
        "error",
    }
    (device,) = result["devices"]
    assert set(device) == {"device", "architecture", "checks", "error"}
    assert {key for one in result["manifests"] for key in one} == {"manifest", "checks", "error"}
    assert len(outcomes(device)) == len(device["checks"]), "each check of a device stands once"
    assert result["at"] == NOW


# --- on a terminal ---


@pytest.mark.parametrize(("columns", "header"), [(100, "Check"), (140, "Id")])
def test_the_tables_fit_a_terminal_and_no_id_is_broken(
    columns: int, header: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    status, printed = bench.text(*bench.device(), *bench.roots(), *bench.rims(*GPU.rims))

    assert status == EXIT_OK
    tables = re.sub(r"\x1b\[[0-9;]*m", "", printed.split("SIMULATED:")[0])
    assert max(map(len, tables.splitlines())) <= columns
    assert f" {header} " in tables
    for check in (*REPORT_CHECKS, *COMPARED, "nvidia.measurement.reissued"):
        assert check in tables


# --- the how-to ---


def test_the_how_to_does_what_it_says(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[4] / "docs" / "howto" / "verify-yourself.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    command = next(one for one in re.findall(r"\$ (sealroom .*?)\n```", page, re.S) if "gpus.json" in one)
    monkeypatch.chdir(bench.directory)

    exec(compile(program, "verify-yourself.md", "exec"), {})
    status = run(shlex.split(command.replace("\\\n", " "))[1:])

    assert status == EXIT_OK
    printed = capsys.readouterr().out.splitlines()[-3:]
    (promised,) = re.findall(r"```text\n(.*?)```", page, re.S)
    for line, said in zip(printed, promised.splitlines(), strict=True):
        assert line.startswith(said.removesuffix("…"))
