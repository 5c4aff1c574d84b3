# SPDX-License-Identifier: BSD-3-Clause
"""The broker against its own OpenAPI document: what the document allows, what it forbids, and who may call.

Schemathesis makes the requests, the same in every run. Whatever it finds is printed with a request that
shows it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sealroom.crypt4gh import SecretKey
from sealroom.kbs.calls import AccessRequestSpec, GrantSpec
from sealroom.kbs.client import KbsClient
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.owners import add_token
from sealroom_broker.store import Store
from support.broker_process import BrokerProcess, Hub, release

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READER = SecretKey.generate()
DOCUMENT = "/kbs/v0/sealroom/openapi.json"
LIMITS = """
[limits]
rate = 1000000
burst = 1000000

[metrics]
token = "metrics.token"
"""
CONFIGURATION = """
seed = 1
max-failures = 20
request-timeout = 30

[generation]
deterministic = true
database = "none"
max-examples = {examples}

{auth}
[phases.stateful]
max-steps = 4

[checks.not_a_server_error]
# 503 is an answer of its own here ("could not", never "yes"), and none is expected in these runs.
expected-statuses = ["2xx", "3xx", "4xx"]

[[operations]]
# What is sent here must fit together, or carry a signature, as no schema can say.
include-operation-id = [{demanding}]
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "401", "403", "404", "409", "429"]

[[operations]]
# A grant or a request that was withdrawn stays, so that people are told; withdrawing it again is no mistake.
include-operation-id = ["delete_grant", "take_back_request"]
checks.use_after_free.enabled = false
checks.ensure_resource_availability.enabled = false
"""
DEMANDING = (
    "register_dataset",
    "create_grant",
    "patch_grant",
    "delete_key",
    "put_resource",
    "store_resource",
    "ask_for_access",
    "grant_request",
    "refuse_request",
    "release",
)


@dataclass
class Stand:
    """A broker with something of everything, and who may call it."""

    broker: BrokerProcess
    guest: KbsClient
    auditor: str
    document: Path

    def run(self, *words: str, auth: str = "", examples: int = 4) -> None:
        """Let schemathesis make its requests and fail with what it finds.

        Args:
            words: Its options.
            auth: A line of its configuration that says which credentials there are.
            examples: Requests of an operation that it makes up.
        """
        configuration = self.document.with_name("schemathesis.toml")
        demanding = ", ".join(f'"{one}"' for one in DEMANDING)
        login = f"[auth.openapi]\n{auth}\n" if auth else ""
        configuration.write_text(CONFIGURATION.format(examples=examples, demanding=demanding, auth=login))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration), "run"]
        command += [str(self.document), "--url", self.broker.url, "--no-color", *words]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            cwd=self.document.parent,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
        log = self.broker.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:5000]

    def known(self) -> list[object]:
        """Return what an owner may change, and the size of the log."""
        with self.broker.owner() as owner:
            size = owner.audit_file("checkpoint").splitlines()[1]
            return [owner.datasets(), owner.grants(), owner.projects(), owner.requests(), size]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    folder = tmp_path_factory.mktemp("schemathesis")
    with Hub() as hub:
        broker = BrokerProcess.prepare(folder, hub)
        broker.settings(LIMITS)
        token = broker.config.parent / "metrics.token"
        token.write_text("a-token-for-prometheus\n")
        token.chmod(0o600)
        store = Store.of(load_config(broker.config))
        auditor = add_token(store, "auditor", utc_now(), scope="auditor")
        store.close()
        broker.start()
        try:
            with broker.guest() as guest:
                yield Stand(broker, guest, auditor, prepared(broker, guest))
        finally:
            broker.kill()


def prepared(broker: BrokerProcess, guest: KbsClient) -> Path:
    """Put something of everything into a broker; return its document, with examples that name it."""
    data = broker.sealed()
    release(guest, data, READER)
    guest.request_access(AccessRequestSpec(dataset="heartbeats", purpose="DUO:0000007", reason="Arrhythmia."))
    with broker.owner() as owner:
        project = GrantSpec(
            dataset="heartbeats", subject="bob", minimum="simulated", project="arrhythmia-2026"
        )
        grant = owner.add_grant(project).id
        (asked,) = owner.requests()
    there = {
        "grant": grant,
        "request": asked.id,
        "session": asked.session,
        "digest": asked.server.environment,
    }
    document = httpx.get(broker.url + DOCUMENT).json()
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in there:
                    parameter["example"] = there[parameter["name"]]
    path = broker.folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path


def test_strangers(stand: Stand) -> None:
    before = stand.known()
    public = ("--include-tag", "Public", "--include-tag", "Watching")
    stand.run(
        "--phases", "examples,coverage", *public, auth='metrics = { bearer = "a-token-for-prometheus" }'
    )
    stand.run("--phases", "examples,fuzzing", "--mode", "positive", examples=2)
    assert stand.known() == before


def test_auditor_changes_nothing(stand: Stand) -> None:
    before = stand.known()
    words = ("--phases", "examples,fuzzing", "--mode", "positive", "--include-tag-regex", "^Owner")
    stand.run(*words, auth=f'owner = {{ bearer = "{stand.auditor}" }}', examples=2)
    assert stand.known() == before


def test_attested_session(stand: Stand) -> None:
    cookie = f'session = {{ api_key = "{stand.guest._cookie}" }}'
    stand.run("--include-tag", "Handshake", "--include-tag", "Session", auth=cookie)
    assert stand.guest.session().person is not None


def test_owner(stand: Stand) -> None:
    stand.run("--include-tag-regex", "^Owner", auth=f'owner = {{ bearer = "{stand.broker.token}" }}')
    assert httpx.get(f"{stand.broker.url}/readyz").status_code == 200
