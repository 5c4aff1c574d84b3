# SPDX-License-Identifier: BSD-3-Clause
"""Asking, answering and auditing with the real program, as the pages say."""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import VerifierKey
from sealroom.audit.proof import verify_inclusion_of
from sealroom.audit.verify import verify_log
from sealroom.crypt4gh import SecretKey
from sealroom.errors import AccessDeniedError
from sealroom.kbs.calls import AccessRequestSpec
from support.broker_process import BrokerProcess, Hub
from support.brokers import DESCRIPTION, GENERAL, Data
from support.postgres import Postgres
from support.stack import VENV_BIN

pytestmark = pytest.mark.integration

DOCS = Path(__file__).resolve().parents[2] / "docs" / "howto"
READER = SecretKey.generate()
TO_GRANT, TO_REFUSE = "1c0b5f9e8a7d2436", "5e0d6a1b2c3f4978"
"""The ids that the page on requests names."""


@pytest.fixture(params=["sqlite", "postgresql"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, hub: Hub) -> Iterator[BrokerProcess]:
    """A broker's process, with each database."""
    server: Postgres | None = None
    url = ""
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres")
        assert server is not None
        url = server.create()
    made = BrokerProcess.prepare(tmp_path, hub, postgresql=url)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        if server is not None:
            server.give_back(url)


def home_of(broker: BrokerProcess) -> Path:
    """Make a folder as `make up` leaves it for the owner."""
    home = broker.folder / "clone"
    owner = home / ".sealroom" / "owner"
    owner.mkdir(parents=True)
    (owner / "owner.toml").write_text(f'broker = "{broker.url}"\n')
    (owner / "token").write_text(f"{broker.token}\n")
    (owner / "token").chmod(0o600)
    shutil.copy(broker.folder / "broker" / "audit.pub", owner / "audit.pub")
    (home / ".sealroom" / "simulated").mkdir()
    (home / ".sealroom" / "simulated" / "ark.pem").write_bytes(testing.chain().pem)
    return home


def typed(page: str) -> list[str]:
    """Return the lines that a page tells its reader to type."""
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / page).read_text(), re.S)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def sealroom(home: Path, line: str) -> str:
    """Run a command line and return what it says."""
    program, *words = shlex.split(line)
    assert program == "sealroom"
    done = subprocess.run(
        [str(VENV_BIN / program), *words],
        cwd=home,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_pages_commands_answer_requests_and_check_the_log(broker: BrokerProcess) -> None:
    home = home_of(broker)
    data = Data.seal(broker.folder, dataclasses.replace(DESCRIPTION, id="my-cohort"))
    with broker.owner() as owner, broker.guest() as alice, broker.guest("hub-token-of-bob") as bob:
        owner.register_dataset(data.registration())
        assert [rule.code for rule in alice.explain("my-cohort").rules if rule.outcome == "failed"] == [
            "grant.none"
        ]
        spec = AccessRequestSpec(dataset="my-cohort", purpose=GENERAL, reason="A study of arrhythmia.")
        asked = {TO_GRANT: alice.request_access(spec).id, TO_REFUSE: bob.request_access(spec).id}

        def real(line: str) -> str:
            for written, request in asked.items():
                line = line.replace(written, request)
            return line

        said = [sealroom(home, real(line)) for line in typed("requests.md")]
        assert len(said) == 6
        listed, shown, granted, grants, refused, after = said
        assert "A study of arrhythmia." in listed
        assert "grant.none" in shown
        assert "simulated (simulated)" in shown
        assert granted.startswith("Granted my-cohort to alice until ")
        assert "active" in grants
        assert "Refused my-cohort to bob" in refused
        assert {"granted", "refused"} <= set(after.split())

        index = alice.release("my-cohort", data.request(READER)).audit_index
        with pytest.raises(AccessDeniedError):
            bob.release("my-cohort", data.request(READER))
        assert [one.answer for one in bob.own_requests()] == [
            "Ask again with the ethics vote of your institution."
        ]
        key = VerifierKey.parse((broker.folder / "broker" / "audit.pub").read_text())
        (mine,) = alice.own_releases()
        assert (mine.index, mine.key) == (index, str(key))
        verify_inclusion_of(
            base64.b64decode(mine.entry),
            mine.index,
            [base64.b64decode(node) for node in mine.proof],
            mine.checkpoint.encode(),
            key,
        )

    said = [sealroom(home, line) for line in typed("audit.md")]
    assert len(said) == 8
    assert "release" in said[0]
    assert said[5].endswith("The log is complete and unchanged.\n")
    assert "stands in the log" in said[7]
    report = verify_log(DirectoryReader(home / "my-audit"), key)
    kinds = {"start": 1, "registration": 1, "request": 2, "grant": 1, "answer": 2, "release": 1, "refusal": 1}
    assert (report.ok, dict(report.kinds)) == (True, kinds)
    assert list((home / "my-audit" / "environments").glob("*.toml"))
    assert (home / "my.checkpoint").read_bytes() == (home / "my-audit" / "checkpoint").read_bytes()
