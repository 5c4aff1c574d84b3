# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import hashlib
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.environments import Environment, build
from sealroom.environments.manifest import initdata_host_data
from sealroom.errors import ConfigurationError, Error, FormatError
from sealroom.snp import ProductLine, TcbVersion

Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> bytes:
    """A manifest with one change, made after everything was computed."""
    content = tomllib.loads(testing.environment().raw.decode())
    change(content)
    return tomli_w.dumps(content).encode()


def test_digest_is_over_the_exact_bytes() -> None:
    raw = testing.environment().raw
    assert Environment.from_toml(raw).digest == "sha256:" + hashlib.sha256(raw).hexdigest()
    assert Environment.from_toml(raw + b"\n").digest != Environment.from_toml(raw).digest


def test_environment_that_was_not_read_has_no_digest() -> None:
    content = testing.environment().model_dump()
    with pytest.raises(RuntimeError, match="from_toml"):
        _ = Environment.model_validate(content).digest


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda e: e.update(format="sealroom-environment/2"), "format"),
        (lambda e: e.update(name="Has Spaces"), "name"),
        (lambda e: e.update(name="../etc"), "name"),
        (lambda e: e.update(title=""), "title"),
        (lambda e: e.update(title="two\nlines"), "title"),
        (lambda e: e.update(tee="tdx"), "tee"),
        (lambda e: e.update(surprise=1), "surprise"),
        (lambda e: e.update(guest_policy=-1), "guest_policy"),
        (lambda e: e.update(guest_policy="0x30000"), "guest_policy"),
        (lambda e: e.update(shapes=[]), "shapes"),
        (lambda e: e["shapes"][0].update(vcpus=0), "shapes.0.vcpus"),
        (lambda e: e["shapes"][0].update(measurements=[]), "shapes.0.measurements"),
        (lambda e: e["shapes"][0].update(measurements=["00"]), "shapes.0.measurements.0"),
        (lambda e: e["initdata"].update(host_data="00"), "initdata.host_data"),
        (lambda e: e["minimum_tcb"].update(Rome=e["minimum_tcb"]["Genoa"]), "minimum_tcb.Rome"),
        (lambda e: e["minimum_tcb"]["Genoa"].update(snp=256), "minimum_tcb.Genoa.snp"),
        (lambda e: e["minimum_tcb"]["Genoa"].pop("snp"), "minimum_tcb.Genoa.snp"),
        (lambda e: e.pop("minimum_tcb"), "minimum_tcb"),
        (
            lambda e: e.update(images=[{"name": "n", "reference": "r", "digest": "sha512:00"}]),
            "images.0.digest",
        ),
    ],
)
def test_wrong_field_is_named(change: Change, field: str) -> None:
    with pytest.raises(FormatError) as caught:
        Environment.from_toml(changed(change))
    assert caught.value.field.startswith(field)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: e["initdata"].update(host_data="0" * 64), "host_data is not the digest"),
        (lambda e: e["initdata"].update(body=e["initdata"]["body"] + " "), "host_data is not the digest"),
        (lambda e: e["initdata"].update(body="x = 1\n"), "names no known algorithm"),
        (lambda e: e["initdata"].update(body='algorithm = "md5"\n'), "names no known algorithm"),
        (lambda e: e["shapes"].append(dict(e["shapes"][0])), "shapes have the same name"),
        (lambda e: e["minimum_tcb"]["Genoa"].update(fmc=1), "only to Turin"),
        (lambda e: e["minimum_tcb"]["Turin"].pop("fmc"), "fmc belongs to Turin"),
        (lambda e: e["shapes"][0].update(measurements=["0" * 96]), "is not that of this environment"),
        (lambda e: e["shapes"][0].update(vcpus=3), "is not that of this environment"),
        (lambda e: e.update(version="2"), "is not that of this environment"),
    ],
)
def test_value_that_does_not_follow_from_the_others_is_refused(change: Change, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        Environment.from_toml(changed(change))


@pytest.mark.parametrize("data", [b"\xff", b"a = ", b"", b"x" * (2 << 20), b"a=" + b"[" * 100_000])
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Environment.from_toml(data)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_our_error(data: bytes) -> None:
    for content in (data, testing.environment().raw + data):
        with contextlib.suppress(Error):
            Environment.from_toml(content)


def test_reference_values_are_those_of_all_shapes() -> None:
    template = testing.environment().raw + b'\n[[shapes]]\nname = "large"\nvcpus = 8\nmemory_mib = 65536\n'
    environment = build(template)
    values = environment.reference_values
    assert len(values.measurements) == 2
    assert values.measurements == {shape.measurement_bytes[0] for shape in environment.shapes}
    assert values.host_data == environment.host_data
    assert values.minimum_tcb[ProductLine.GENOA] == TcbVersion(bootloader=10, tee=0, snp=23, microcode=84)
    assert values.minimum_tcb[ProductLine.TURIN].fmc == 1


def test_shape_is_found_by_name_and_the_first_is_the_default() -> None:
    environment = testing.environment()
    assert environment.shape() is environment.shape("default")
    with pytest.raises(ConfigurationError, match="has no shape huge"):
        environment.shape("huge")


def test_without_initdata_host_data_is_zero() -> None:
    content = tomllib.loads(testing.environment().raw.decode())
    del content["initdata"], content["shapes"][0]["measurements"]
    assert build(tomli_w.dumps(content).encode()).host_data == bytes(32)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_host_data_is_the_digest_cut_to_its_field(algorithm: str) -> None:
    body = f'algorithm = "{algorithm}"\nversion = "0.1.0"\n'
    assert initdata_host_data(body) == hashlib.new(algorithm, body.encode()).digest()[:32]


def test_environment_for_hardware_names_measurements_of_its_own() -> None:
    raw = changed(lambda e: (e.update(tee="snp"), e["shapes"][0].update(measurements=["ab" * 48])))
    assert Environment.from_toml(raw).reference_values.measurements == {b"\xab" * 48}
