# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.appraisal import RELAXATIONS, Policy
from sealroom.errors import Error, FormatError
from sealroom.snp import ProductLine, TcbVersion

HEAD = b'format = "sealroom-policy/1"\nname = "own"\nversion = "2"\n'


def test_strict_policy_relaxes_nothing() -> None:
    policy = Policy.strict()
    assert policy.relaxations == ()
    assert policy.allowed_vmpl == (0,)
    assert (policy.name, policy.version) == ("strict", "1")


def test_what_a_policy_does_not_say_is_strict() -> None:
    said = Policy.from_toml(HEAD).model_dump(exclude={"name", "version"})
    assert said == Policy.strict().model_dump(exclude={"name", "version"})


def test_digest_is_over_the_exact_bytes() -> None:
    assert Policy.from_toml(HEAD).digest == "sha256:" + hashlib.sha256(HEAD).hexdigest()
    assert Policy.from_toml(HEAD + b"\n").digest != Policy.from_toml(HEAD).digest


def test_policy_that_was_not_read_has_no_digest() -> None:
    with pytest.raises(RuntimeError):
        _ = Policy.model_validate(Policy.strict().model_dump()).digest


@pytest.mark.parametrize("name", [name for name in RELAXATIONS if name.startswith("allow_")])
def test_each_relaxation_is_listed(name: str) -> None:
    assert Policy.from_toml(HEAD + f"{name} = true\n".encode()).relaxations == (name,)
    assert Policy.from_toml(HEAD + f"{name} = false\n".encode()).relaxations == ()


@pytest.mark.parametrize(("levels", "listed"), [("[0]", False), ("[0, 1]", True), ("[1]", True)])
def test_other_privilege_levels_are_a_relaxation(levels: str, listed: bool) -> None:
    relaxations = Policy.from_toml(HEAD + f"allowed_vmpl = {levels}\n".encode()).relaxations
    assert relaxations == (("allowed_vmpl",) if listed else ())


@pytest.mark.parametrize(("value", "listed"), [("required", False), ("soft", True), ("off", True)])
def test_gpus_without_an_answer_on_revocation_are_a_relaxation(value: str, listed: bool) -> None:
    relaxations = Policy.from_toml(HEAD + f'gpu_ocsp = "{value}"\n'.encode()).relaxations
    assert relaxations == (("gpu_ocsp",) if listed else ())


def test_strict_policy_demands_reference_values_and_revocation_of_gpus() -> None:
    policy = Policy.strict()
    assert policy.gpu_ocsp == "required"
    assert not policy.allow_missing_rim
    assert not policy.allow_expired_rim
    assert set(policy.gpu_modes) == {"SPT", "MPT", "PPCIE"}


def test_minimum_of_a_line_is_read() -> None:
    levels = b"[minimum_tcb.Turin]\nfmc = 1\nbootloader = 2\ntee = 3\nsnp = 4\nmicrocode = 5\n"
    policy = Policy.from_toml(HEAD + levels)
    expected = TcbVersion(fmc=1, bootloader=2, tee=3, snp=4, microcode=5)
    assert policy.minimum(ProductLine.TURIN) == expected
    assert policy.minimum(ProductLine.MILAN) is None


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "format"),
        (HEAD.replace(b"policy/1", b"policy/2"), "format"),
        (HEAD + b"allow_everything = true", "allow_everything"),
        (HEAD + b'allow_debug_policy = "perhaps"', "allow_debug_policy"),
        (HEAD + b"allowed_vmpl = []", "allowed_vmpl"),
        (HEAD + b"allowed_vmpl = [4]", "allowed_vmpl"),
        (HEAD + b"product_lines = []", "product_lines"),
        (HEAD + b'product_lines = ["Rome"]', "product_lines"),
        (HEAD + b"signers = []", "signers"),
        (HEAD + b"minimum_report_version = 1", "minimum_report_version"),
        (HEAD + b'gpu_ocsp = "sometimes"', "gpu_ocsp"),
        (HEAD + b"gpu_modes = []", "gpu_modes"),
        (HEAD + b'gpu_architectures = ["AMPERE"]', "gpu_architectures"),
        (HEAD + b'minimum_gpu_driver = "new"', "minimum_gpu_driver"),
        (HEAD + b"[minimum_tcb.Genoa]\nbootloader = 1", "minimum_tcb.Genoa"),
    ],
)
def test_wrong_field_is_named(content: bytes, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        Policy.from_toml(content)
    assert caught.value.field.startswith(field)


def test_fmc_belongs_to_turin_only() -> None:
    levels = b"[minimum_tcb.%s]\nbootloader = 2\ntee = 3\nsnp = 4\nmicrocode = 5\n%s"
    for content in (levels % (b"Genoa", b"fmc = 1\n"), levels % (b"Turin", b"")):
        with pytest.raises(FormatError, match="fmc belongs to Turin"):
            Policy.from_toml(HEAD + content)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_error(data: bytes) -> None:
    for content in (data, HEAD + data):
        with contextlib.suppress(Error):
            Policy.from_toml(content)


def test_endless_policy_is_refused() -> None:
    with pytest.raises(FormatError, match="longer than"):
        Policy.from_toml(b"#" * (1 << 17))
