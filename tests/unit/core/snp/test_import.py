# SPDX-License-Identifier: BSD-3-Clause
"""What importing a verifier loads: nothing that speaks HTTP, and no XML before there is XML to read."""

from __future__ import annotations

import subprocess
import sys

import pytest

HTTP = {"aiohttp", "http.client", "httpx", "requests", "ssl", "urllib.request", "urllib3"}
XML = {"lxml", "signxml", "xml.dom", "xml.sax"}
OTHERS = {"asyncio", "numpy", "pydantic", "sqlite3"}


def loaded(module: str) -> set[str]:
    """Return the modules that a new interpreter holds after an import."""
    program = f"import sys; import {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["sealroom.snp", "sealroom.nvidia"])
def test_verifier_loads_no_http_and_no_xml(module: str) -> None:
    found = loaded(module)
    assert module in found
    assert found.isdisjoint(HTTP | XML)


def test_snp_verifier_loads_nothing_of_sealroom_above_it() -> None:
    found = loaded("sealroom.snp")
    assert found.isdisjoint(OTHERS)
    allowed = ("sealroom.snp", "sealroom.checks", "sealroom.errors", "sealroom.remember")
    assert {name for name in found if name.startswith("sealroom.") and not name.startswith(allowed)} == set()
