# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/reference/checks.md from the catalogues of checks in the code.

python tools/checks_reference.py            write the page
python tools/checks_reference.py --check    fail if the page is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from sealroom import appraisal, nvidia, snp
from sealroom.checks import Check
from sealroom.snp._catalogue import GROUPS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "checks.md"
APPRAISAL_GROUPS = {
    "root": "Which processor",
    "environment": "The environment that should run",
    "policy": "The appraisal policy",
    "gpu": "GPUs and NVSwitches",
}
HEAD = """\
<!-- Written by tools/checks_reference.py from the code. Do not edit. -->

# Checks

Every check has an id of its own. The same id stands in errors, in attestation results, in the panel's
details, in the audit log and in the table of `sealroom verify`.

*Verification* asks whether evidence is authentic and stops at the first check that fails. *Appraisal* asks
whether authentic evidence is acceptable and makes every check. A check for which nothing was given is
"not asked", never "passed".
"""
VERIFICATION = """
## Verification of a processor's report: is it authentic?

Documents: AMD 56860 is the SEV Secure Nested Paging Firmware ABI Specification, AMD 57230 the Versioned Chip
Endorsement Key (VCEK) Certificate and KDS Interface Specification, AMD 56421 the SEV-ES Guest-Hypervisor
Communication Block Standardization.
"""
DEVICES = """
## Verification of GPUs and switches: are they authentic, and what runs on them?

A report is authentic without reference manifests. Where some are given, the measurements are compared with
them. Documents: DMTF DSP0274 is the Security Protocol and Data Model (SPDM) Specification.
"""
APPRAISAL = """
## Appraisal: is it acceptable?
"""


def render() -> str:
    """Return the page."""
    parts = [HEAD, VERIFICATION]
    for group, heading in GROUPS.items():
        parts.append(f"\n### {heading.title}\n")
        parts += [_entry(check) for check in _of(snp.CHECKS.values(), group)]
    parts.append(DEVICES)
    for group, title in nvidia.GROUPS.items():
        parts.append(f"\n### {title}\n")
        parts += [_entry(check) for check in _of(nvidia.CHECKS.values(), group)]
    parts.append(APPRAISAL)
    for group, title in APPRAISAL_GROUPS.items():
        parts.append(f"\n### {title}\n")
        parts += [_entry(check) for check in _of(appraisal.CHECKS.values(), group)]
    return "".join(parts)


def _of(checks: Iterable[Check], group: str) -> list[Check]:
    return [check for check in checks if check.group == group]


def _entry(check: Check) -> str:
    return (
        f"\n(check-{check.id.replace('.', '-')})=\n"
        f"#### `{check.id}`: {check.title}\n\n"
        f"{check.meaning}\n\n"
        f"- Source: {check.source}.\n"
        f"- If it fails, to a researcher: {check.researcher}\n"
        f"- If it fails, to an operator: {check.operator}\n"
    )


def _covered(page: str) -> None:
    """Refuse a page that leaves a check out, because its group has no heading."""
    every = (*snp.CHECKS, *nvidia.CHECKS, *appraisal.CHECKS)
    missing = [check for check in every if f"#### `{check}`" not in page]
    if missing:
        sys.exit(f"No heading for the group of {', '.join(missing)}.")


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write docs/reference/checks.md from the code.")
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    arguments = parser.parse_args()
    page = render()
    _covered(page)
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            print("docs/reference/checks.md is stale: run python tools/checks_reference.py", file=sys.stderr)
            return 1
        return 0
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
