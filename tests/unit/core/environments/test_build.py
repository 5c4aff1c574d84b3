# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from sealroom.environments import Environment, build, simulated_cpu
from sealroom.environments.build import SIMULATED_MINIMUM_TCB
from sealroom.errors import FormatError
from sealroom.simulated.reports import DEFAULT_TCB

TEMPLATE = b"""
name = "cpu"
version = "2026.1"
title = "CPU"
tee = "simulated"
guest_policy = 0x30000
[[images]]
name = "notebook"
reference = "registry.example/notebook"
digest = "sha256:%s"
[[shapes]]
name = "small"
vcpus = 2
memory_mib = 4096
[initdata]
body = '''
algorithm = "sha384"
version = "0.1.0"
[data]
'''
[minimum_tcb.Milan]
bootloader = 4
tee = 0
snp = 24
microcode = 219
""" % (b"0" * 64)


def measurement(template: bytes) -> str:
    return build(template).shapes[0].measurements[0]


def test_what_can_be_computed_is_filled_in() -> None:
    environment = build(TEMPLATE)
    assert environment.initdata is not None
    assert environment.initdata.host_data
    assert len(environment.shapes[0].measurements) == 1
    assert Environment.from_toml(environment.raw) == environment


def test_building_a_manifest_again_changes_nothing() -> None:
    first = build(TEMPLATE)
    assert build(first.raw).raw == first.raw


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"vcpus = 2", b"vcpus = 4"),
        (b"memory_mib = 4096", b"memory_mib = 8192"),
        (b'"sha256:0', b'"sha256:1'),
        (b"sha384", b"sha256"),
        (b"2026.1", b"2026.2"),
        (b'"small"', b'"tiny"'),
    ],
)
def test_whatever_a_launch_depends_on_changes_the_measurement(old: bytes, new: bytes) -> None:
    assert measurement(TEMPLATE) != measurement(TEMPLATE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"), [(b"memory_mib", b"gpus = 0\nmemory_mib"), (b"[[shapes]]", b"\n[[shapes]]")]
)
def test_how_a_template_is_written_does_not_change_the_measurement(old: bytes, new: bytes) -> None:
    assert measurement(TEMPLATE) == measurement(TEMPLATE.replace(old, new, 1))


def test_given_host_data_is_checked_and_not_replaced() -> None:
    with pytest.raises(FormatError, match="host_data is not the digest"):
        build(TEMPLATE.replace(b"[initdata]", b'[initdata]\nhost_data = "%s"' % (b"0" * 64)))


def test_hardware_measurements_are_not_invented() -> None:
    with pytest.raises(FormatError, match="measurements"):
        build(TEMPLATE.replace(b'"simulated"', b'"snp"'))


@pytest.mark.parametrize(
    "template",
    [
        b"",
        b"\xff",
        b"shapes = 1",
        b'tee = "simulated"\nshapes = [1]',
        b'tee="simulated"\n[[shapes]]\nvcpus=1\n',
    ],
)
def test_template_that_is_none_is_refused(template: bytes) -> None:
    with pytest.raises(FormatError):
        build(template)


def test_embedded_default_says_what_it_is_and_what_it_may_open() -> None:
    environment = simulated_cpu(datasets=["heartbeats", "chest-xray"])
    assert environment.title == "Simulated TEE, CPU"
    assert environment.tee == "simulated"
    assert "nothing protects" in environment.description
    assert environment.datasets == ("heartbeats", "chest-xray")


def test_embedded_default_is_the_same_each_time() -> None:
    assert simulated_cpu().digest == simulated_cpu().digest


def test_simulated_processors_meet_the_minimum_of_the_simulated_environment() -> None:
    for line, tcb in DEFAULT_TCB.items():
        assert tcb.components() == dict(SIMULATED_MINIMUM_TCB[line])
