# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom measure`, and what `sealroom env` does with firmware, kernels and ID blocks."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sealroom import testing
from sealroom.cli import run
from sealroom.environments import LaunchArtifacts, initdata_from_annotation, launch_digest
from sealroom.snp.idblock import key_digest, load_key, verify_id_block
from support import firmware as fw
from support.vectors import ABSENT, VECTORS

FOLDER = VECTORS / "snp/measurement"
HEAD = """
name = "snp-cpu"
version = "1"
title = "SEV-SNP, CPU"
tee = "snp"
guest_policy = 0x30000
"""
ARTIFACTS = """
[artifacts]
ovmf = "OVMF.fd"
kernel = "vmlinuz"
append = "console=ttyS0"
cpu_types = ["EPYC-v4"]
[[shapes]]
name = "small"
vcpus = 2
memory_mib = 4096
"""
INITDATA = """
[initdata]
body = '''
algorithm = "sha256"
version = "0.1.0"
[data]
'''
"""
TAIL = """
[minimum_tcb.Genoa]
bootloader = 10
tee = 0
snp = 23
microcode = 84
"""
TEMPLATE = HEAD + ARTIFACTS + INITDATA + TAIL


def recorded() -> list[Any]:
    path = FOLDER / "snp_cases.json"
    if not path.is_file():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    return [pytest.param(case, id=case["test"].rpartition(".")[2]) for case in json.loads(path.read_text())]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fw.write_firmware(tmp_path)
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    (tmp_path / "template.toml").write_text(TEMPLATE)
    return tmp_path


def built(here: Path, template: str = TEMPLATE, name: str = "snp.toml") -> Path:
    (here / "template.toml").write_text(template)
    assert run(["env", "build", "template.toml", "-o", name]) == 0
    return here / name


# --- measure


@pytest.mark.parametrize("case", recorded())
def test_recorded_case(case: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    line = ["measure", "--json", "--ovmf", str(FOLDER / case["ovmf_file"]), "--vcpus", str(case["vcpus"])]
    line += ["--guest-features", hex(case["guest_features"]), "--vmm-type", case.get("vmm_type", "QEMU")]
    for option in ("kernel", "initrd", "append"):
        if case[option] is not None:
            line += [f"--{option}", case[option]]
    if case["vcpu_sig"] is not None:
        line += ["--cpu-type", hex(case["vcpu_sig"])]
    if "snp_ovmf_hash_str" in case:
        line += ["--ovmf-hash", case["snp_ovmf_hash_str"]]
    assert run(line) == 0
    measured = json.loads(capsys.readouterr().out)["measurements"]
    assert [row["measurement"] for row in measured] == [case["digest"]]


def test_table_has_a_line_for_each_shape_and_cpu_type(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["measure", "--ovmf", "OVMF.fd", "--vcpus", "1-2,4", "--cpu-type", "EPYC-v4"]
    assert run([*line, "--cpu-type", "EPYC-Milan"]) == 0
    shown = capsys.readouterr().out
    for vcpus in (1, 2, 4):
        for cpu in ("EPYC-v4", "EPYC-Milan"):
            assert launch_digest(LaunchArtifacts(here / "OVMF.fd"), vcpus, cpu).hex() in shown


def test_default_cpu_type_is_katas(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["measure", "--ovmf", "OVMF.fd", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["measurements"]
    assert (row["vcpus"], row["cpu_type"]) == (1, "EPYC-v4")


def test_json_names_the_files_by_digest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["measure", "--ovmf", "OVMF.fd", "--kernel", "vmlinuz", "--append", "quiet", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["artifacts"]) == {"ovmf", "kernel"}
    assert shown["artifacts"]["kernel"]["name"] == "vmlinuz"
    assert shown["append"] == "quiet"


def test_toml_is_shapes_of_a_manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["measure", "--ovmf", "OVMF.fd", "--vcpus", "1,8", "--toml"]
    assert run([*line, "--cpu-type", "EPYC", "--cpu-type", "EPYC-v4", "--cpu-type", "EPYC-Genoa"]) == 0
    snippet = capsys.readouterr().out
    shapes = tomllib.loads(snippet)["shapes"]
    assert [shape["vcpus"] for shape in shapes] == [1, 8]
    assert [len(shape["measurements"]) for shape in shapes] == [2, 2]
    path = built(here, HEAD + snippet + TAIL)
    assert tomllib.loads(path.read_text())["shapes"] == shapes


def test_hypervisor_that_does_not_measure_the_cpu_type_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["measure", "--ovmf", "OVMF.fd", "--vmm-type", "ec2", "--cpu-type", "EPYC"]) == 0
    assert "does not measure the CPU type" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "status", "sentence"),
    [
        (["--vcpus", "0"], 64, "not within 1 to 512"),
        (["--vcpus", "513"], 64, "not within 1 to 512"),
        (["--vcpus", "4-1"], 64, "not within 1 to 512"),
        (["--vcpus", "1-"], 64, "neither a number nor a range"),
        (["--vcpus", ""], 64, "neither a number nor a range"),
        (["--vcpus", "1,,2"], 64, "neither a number nor a range"),
        (["--vcpus", "9" * 5000], 64, "not within 1 to 512"),
        (["--cpu-type", "Skylake"], 64, "no CPU type Skylake"),
        (["--guest-features", "0x20"], 64, "bit 0"),
        (["--guest-features", "yes"], 64, "no hexadecimal number"),
        (["--vmm-type", "xen"], 64, "xen"),
        (["--ovmf-hash", "zz"], 64, "not hexadecimal"),
        (["--ovmf-hash", "00"], 64, "48 bytes, not 1"),
        (["--initrd", "vmlinuz"], 64, "only together with a kernel"),
        (["--append", "quiet"], 64, "only together with a kernel"),
        (["--kernel", "absent"], 2, "absent cannot be read"),
        (["--ovmf", "absent"], 2, "absent cannot be read"),
        (["--ovmf", "vmlinuz"], 1, "whole pages"),
        (["--json", "--toml"], 64, "not both"),
    ],
    ids=lambda value: value[1][:8] if isinstance(value, list) else None,
)
def test_wrong_use_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], status: int, sentence: str
) -> None:
    assert run(["measure", "--ovmf", "OVMF.fd", *options]) == status
    captured = capsys.readouterr()
    said = captured.err + captured.out if "--json" in options else captured.err
    assert sentence in " ".join(said.split())
    assert "Traceback" not in captured.err


# --- env with artifacts


def test_manifest_is_built_shown_and_checked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    artifacts = LaunchArtifacts(here / "OVMF.fd", here / "vmlinuz", None, "console=ttyS0")
    capsys.readouterr()
    assert run(["env", "show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert launch_digest(artifacts, 2, "EPYC-v4").hex() in shown
    for line in (
        "ovmf         OVMF.fd sha256:",
        "kernel       vmlinuz sha256:",
        "command line console=ttyS0",
    ):
        assert line in shown
    assert "launched by  QEMU, EPYC-v4, features 0x1" in shown
    assert run(["env", "check", str(path), "--artifacts", "."]) == 0
    assert "All measurements follow from these files." in capsys.readouterr().out


def test_changed_kernel_is_refused_and_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    (here / "vmlinuz").write_bytes(b"kernel.")
    capsys.readouterr()
    assert run(["env", "check", str(path), "--artifacts", "."]) == 1
    shown = capsys.readouterr().out
    assert "ovmf: as recorded" in shown
    assert "kernel: NOT as recorded\n  - " in shown
    assert "shape small: NOT as recorded" in shown
    assert "follow from these files" not in shown


def test_check_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    capsys.readouterr()
    assert run(["env", "check", str(path), "--artifacts", ".", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["same"] is True
    assert shown["signature_checked"] is False
    assert [row["what"] for row in shown["checked"]] == ["ovmf", "kernel", "shape small"]


def test_check_with_a_publishers_key_needs_the_signature(here: Path) -> None:
    path = built(here)
    assert run(["env", "keygen", "-o", "publisher.pem"]) == 0
    line = ["env", "check", str(path), "--artifacts", ".", "--key", "publisher.pub.pem"]
    assert run(line) == 2
    assert run(["env", "sign", str(path), "--key", "publisher.pem"]) == 0
    assert run(line) == 0


def test_absent_artifact_could_not_be_checked(here: Path) -> None:
    path = built(here)
    (here / "vmlinuz").unlink()
    assert run(["env", "check", str(path), "--artifacts", "."]) == 2


def test_manifest_without_artifacts_cannot_be_checked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "cpu.toml").write_bytes(testing.environment().raw)
    assert run(["env", "check", "cpu.toml", "--artifacts", "."]) == 64
    assert "records no artifacts" in capsys.readouterr().err


def test_difference_has_a_line_for_each_measurement(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = built(here)
    more = TEMPLATE.replace('["EPYC-v4"]', '["EPYC-v4", "EPYC-Milan", "EPYC-Genoa"]')
    new = built(here, more, "new.toml")
    capsys.readouterr()
    assert run(["env", "diff", str(old), str(new)]) == 1
    after = capsys.readouterr().out.partition("shapes[small].measurements\n")[2].splitlines()
    assert [len(line) for line in after[:2]] == [4 + 96, 4 + 96]
    assert all(line.startswith("  + ") for line in after[:2])


# --- ID block and initdata


def key(path: Path) -> ec.EllipticCurvePrivateKey:
    made = ec.generate_private_key(ec.SECP384R1())
    path.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def test_digest_of_a_key_is_what_a_manifest_takes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = key(here / "id.pem")
    assert run(["env", "key-digest", "id.pem"]) == 0
    digest = capsys.readouterr().out.strip()
    assert digest == key_digest(made.public_key()).hex()
    path = built(here, f'id_key_digest = "{digest}"\n{TEMPLATE}')
    assert run(["env", "show", str(path)]) == 0
    assert f"ID key       {digest}" in capsys.readouterr().out


def test_id_block_is_for_the_shapes_measurement(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    key(here / "id.pem")
    author = key(here / "author.pem")
    capsys.readouterr()
    line = ["env", "id-block", str(path), "--id-key", "id.pem", "--author-key", "author.pem", "--svn", "3"]
    assert run([*line, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    verified = verify_id_block(base64.b64decode(made["id-block"]), base64.b64decode(made["id-auth"]))
    manifest = tomllib.loads(path.read_text())
    assert verified.block.launch_digest.hex() == manifest["shapes"][0]["measurements"][0]
    assert (verified.block.policy, verified.block.guest_svn) == (0x30000, 3)
    assert made["id_key_digest"] == key_digest(load_key((here / "id.pem").read_bytes())).hex()
    assert made["author_key_digest"] == key_digest(author.public_key()).hex()
    assert made["author-key-enabled"] == "on"


def test_id_block_without_an_author_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    key(here / "id.pem")
    capsys.readouterr()
    assert run(["env", "id-block", str(path), "--id-key", "id.pem"]) == 0
    shown = capsys.readouterr().out
    assert "author-key-enabled=off" in shown
    assert "author_key_digest" not in shown
    assert (here / "id.pem").read_text().splitlines()[1] not in shown


def test_id_block_is_for_one_measurement(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here, TEMPLATE.replace('["EPYC-v4"]', '["EPYC-v4", "EPYC-Milan"]'))
    key(here / "id.pem")
    line = ["env", "id-block", str(path), "--id-key", "id.pem"]
    assert run(line) == 64
    assert "shape small has 2" in capsys.readouterr().err
    assert run([*line, "--measurement", "ab" * 48]) == 64
    second = tomllib.loads(path.read_text())["shapes"][0]["measurements"][1]
    assert run([*line, "--measurement", second]) == 0


def test_annotation_carries_the_exact_initdata(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(here)
    capsys.readouterr()
    assert run(["env", "annotation", str(path)]) == 0
    name, _, value = capsys.readouterr().out.strip().partition(": ")
    assert name == "io.katacontainers.config.hypervisor.cc_init_data"
    assert initdata_from_annotation(value) == tomllib.loads(path.read_text())["initdata"]["body"]


def test_environment_without_initdata_has_no_annotation(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["env", "annotation", str(built(here, HEAD + ARTIFACTS + TAIL))]) == 64
    assert "has no initdata" in capsys.readouterr().err
