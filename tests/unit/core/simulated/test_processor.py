# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from sealroom import testing
from sealroom.guest.messages import (
    STATUS_INVALID_KEY_SELECTION,
    STATUS_INVALID_PARAMETERS,
    STATUS_SUCCESS,
    ReportRequest,
)
from sealroom.simulated import Processor
from sealroom.snp import ProductLine, Roots, verify_report
from sealroom.snp.table import parse_certificate_table


def processor(line: ProductLine = ProductLine.GENOA, **changes: object) -> Processor:
    return Processor(
        testing.chain(line),
        at=testing.EPOCH,
        measurement=b"m" * 48,
        host_data=b"h" * 32,
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("line", list(ProductLine))
def test_answer_verifies_with_the_certificates_of_its_table(line: ProductLine) -> None:
    made = processor(line)
    certificates = parse_certificate_table(made.certificate_table)
    response = made.answer(ReportRequest(b"d" * 64))
    verified = verify_report(
        response.report,
        certificates["VCEK"],
        roots=Roots.development(testing.chain(line).pem),
        at=testing.NOW,
        intermediates=[certificates["ASK"], certificates["ARK"]],
    )
    assert response.status == STATUS_SUCCESS
    assert verified.report.report_data == b"d" * 64
    assert verified.report.measurement == b"m" * 48
    assert verified.report.host_data == b"h" * 32


def test_two_processors_have_keys_and_chips_of_their_own() -> None:
    one, other = processor(), processor()
    assert one.certificates["VCEK"] != other.certificates["VCEK"]
    assert one.report(bytes(64))[0x1A0:0x1E0] != other.report(bytes(64))[0x1A0:0x1E0]


def test_turins_chip_id_has_eight_bytes() -> None:
    assert not any(processor(ProductLine.TURIN).report(bytes(64))[0x1A8:0x1E0])


@pytest.mark.parametrize("vmpl", [1, 3])
def test_less_privileged_report_is_given(vmpl: int) -> None:
    assert processor().answer(ReportRequest(bytes(64), vmpl=vmpl)).report[0x30] == vmpl


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_level_that_does_not_exist_is_refused(vmpl: int) -> None:
    response = processor().answer(ReportRequest(bytes(64), vmpl=vmpl))
    assert response.status == STATUS_INVALID_PARAMETERS
    assert response.report == b""


def test_more_privileged_report_is_refused() -> None:
    assert processor(vmpl=2).answer(ReportRequest(bytes(64), vmpl=1)).status == STATUS_INVALID_PARAMETERS


@pytest.mark.parametrize("key_sel", [2, 3])
def test_vlek_is_refused_because_there_is_none(key_sel: int) -> None:
    assert (
        processor().answer(ReportRequest(bytes(64), key_sel=key_sel)).status == STATUS_INVALID_KEY_SELECTION
    )


def test_report_id_stays_and_other_fields_can_be_set() -> None:
    made = processor(guest_svn=7)
    first, second = made.report(bytes(64)), made.report(b"\1" * 64)
    assert first[0x140:0x160] == second[0x140:0x160] != bytes(32)
    assert first[4] == 7


def test_does_not_print_its_key() -> None:
    assert repr(processor()) == "Processor(simulated Genoa)"
