# SPDX-License-Identifier: BSD-3-Clause
"""What Sealroom's builders make, the `sev` crate judges as Sealroom does, as far as it looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from interop import peers
from interop.cases import right, verdicts, wrong

LACKS = "MASK_CHIP_ID is enabled, preventing the identification of the CPU generation."
"""Why it refuses version 2 reports that a VLEK signed: it tells the line by the chip id, which they lack."""
UNSEEN = ("certificate-expired", "of-another-certificate", "signing-key-says-vlek")
"""What it does not look at: time, and what the report says against what the certificate says."""


@pytest.fixture(scope="module", params=["sev-openssl", "sev-pure"])
def program(request: pytest.FixtureRequest) -> Path:
    try:
        return peers.program(request.param)
    except peers.UnavailableError as error:
        pytest.skip(str(error))


def test_reports_of_the_builders_are_accepted(program: Path, tmp_path: Path) -> None:
    cases = right()
    found = verdicts(program, cases, tmp_path)
    assert found == {name: LACKS if name.endswith("vlek-v2") else "accepted" for name in cases}


def test_reports_with_one_thing_wrong_are_refused(program: Path, tmp_path: Path) -> None:
    cases = wrong()
    assert not any(case.accepted_by_sealroom() for case in cases.values())
    found = verdicts(program, cases, tmp_path)
    accepted = [name for name, verdict in found.items() if verdict == "accepted"]
    assert accepted == sorted(name for name in cases if name.endswith(UNSEEN))
