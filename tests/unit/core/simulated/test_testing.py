# SPDX-License-Identifier: BSD-3-Clause
"""The builders that other tests rely on: right by default, wrong in exactly the one thing asked for."""

from __future__ import annotations

import pytest
from sealroom import testing
from sealroom.errors import BindingError, ChainError, ExpiredError, NotYetValidError
from sealroom.snp import ProductLine, Roots, verify_report


def verify(chip: testing.Chip, report: bytes) -> None:
    verify_report(
        report,
        chip.vek,
        roots=Roots.development(chip.root.pem),
        at=testing.NOW,
        intermediates=chip.intermediates,
    )


def test_keys_are_made_once() -> None:
    assert testing.rsa_key("ark") is testing.rsa_key("ark")
    assert testing.chain() is testing.chain()


@pytest.mark.parametrize("suffix", ["1", "2", "3.1", "3.2", "3.3", "3.8", "4"])
def test_vek_can_lack_one_extension(suffix: str) -> None:
    chip = testing.chip(without_extension=suffix)
    with pytest.raises(ChainError):
        verify(chip, chip.report())


def test_vek_can_be_expired() -> None:
    chip = testing.chip(not_after=testing.later(seconds=-1))
    with pytest.raises(ExpiredError):
        verify(chip, chip.report(report_data=b"1" * 64))


def test_vek_can_be_from_the_future() -> None:
    chip = testing.chip(not_before=testing.later(days=1))
    with pytest.raises(NotYetValidError):
        verify(chip, chip.report())


def test_report_can_name_another_chip() -> None:
    chip = testing.chip()
    with pytest.raises(BindingError):
        verify(chip, chip.report(chip_id=b"z" * 64))


def test_vlek_needs_a_chain_with_an_asvk() -> None:
    with pytest.raises(ValueError, match="no ASVK"):
        testing.vek(kind="VLEK", root=testing.chain())


def test_evidence_is_what_a_guest_of_the_environment_sends() -> None:
    environment = testing.environment(version="7")
    gathered = testing.evidence(b"d" * 64, environment)
    assert gathered.tee == "snp"
    assert set(gathered.certificates) == {"VCEK", "ASK", "ARK"}
    verified = testing.verified_evidence(b"d" * 64, environment)
    assert verified.cpu.report.measurement == environment.shape().measurement_bytes[0]


def test_evidence_of_every_line() -> None:
    for line in ProductLine:
        assert testing.verified_evidence(on=testing.chip(line)).cpu.line is line


def test_development_roots_are_simulated() -> None:
    assert testing.development_roots().simulated
