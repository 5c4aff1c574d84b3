# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom explain` and `sealroom ask`, as in a terminal of a notebook server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom import cli
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from sealroom.errors import AccessDeniedError
from support.sealed import CREATED, DESCRIPTION, Backend, Sealed, write_tree


@dataclass
class Terminal:
    """A terminal of a notebook server, and what it showed."""

    backend: Backend
    capture: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, str, str]:
        code = cli.run(words)
        shown = self.capture.readouterr()
        return code, shown.out, shown.err


@pytest.fixture
def terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        write_tree(tmp_path / "plain", {"ecg.bin": b"beat"}),
        tmp_path / "heartbeats",
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    backend = Backend(Sealed(tmp_path, manifest, dataset_key, signing_key, SecretKey.generate()))
    monkeypatch.setenv("SEALROOM_RUN", str(tmp_path))
    with AgentServer(tmp_path / "agent.sock", backend):
        yield Terminal(backend, capsys)


def test_explain_ends_with_0_where_the_broker_would_release(terminal: Terminal) -> None:
    code, out, _ = terminal.run("explain", "heartbeats", "--purpose", "DUO:0000042")
    assert code == 0
    assert "would release Heartbeats of record 208" in out
    assert "sealroom ask" not in out


def test_explain_ends_with_1_and_says_what_to_do(terminal: Terminal) -> None:
    terminal.backend.purposes.clear()
    code, out, _ = terminal.run("explain", "heartbeats")
    assert code == 1
    assert "would not release" in out
    assert out.index("failed") < out.index("passed")
    assert "Whom to ask: data@heart.example" in out
    assert "sealroom ask heartbeats --reason" in out


def test_explain_as_json(terminal: Terminal) -> None:
    terminal.backend.purposes.clear()
    code, out, _ = terminal.run("explain", "heartbeats", "--json")
    found = json.loads(out)
    assert (code, found["allowed"]) == (1, False)
    assert [rule["outcome"] for rule in found["rules"]] == ["passed", "failed", "not_reached"]


def test_explain_outside_of_a_notebook_server_is_no_pass(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALROOM_RUN")
    code, _, err = terminal.run("explain", "heartbeats")
    assert code == 2
    assert "SEALROOM_RUN is not set" in err


def test_ask_sends_the_words_and_says_where_the_answer_is(terminal: Terminal) -> None:
    code, out, _ = terminal.run("ask", "heartbeats", "--reason", "To train.", "--until", "+7d")
    assert code == 0
    (made,) = terminal.backend.requested
    assert (made.reason, made.purpose.code) == ("To train.", "DUO:0000042")
    assert made.until is not None
    assert "request-1" in out
    assert "Sealroom panel" in out


def test_ask_as_json(terminal: Terminal) -> None:
    code, out, _ = terminal.run("ask", "heartbeats", "--reason", "To train.", "--json")
    assert (code, json.loads(out)["state"]) == (0, "open")


def test_ask_that_the_broker_refuses_ends_with_1_and_its_reasons(terminal: Terminal) -> None:
    terminal.backend.refusal = AccessDeniedError(
        "Not passed on.", reasons=(("request.open", "There is one already."),)
    )
    code, _, err = terminal.run("ask", "heartbeats", "--reason", "To train.")
    assert code == 1
    assert "There is one already." in err


@pytest.mark.parametrize(
    "words",
    [("--reason", ""), ("--reason", "x", "--until", "yesterday"), ()],
    ids=["empty-reason", "no-time", "no-reason"],
)
def test_ask_with_wrong_words_is_wrong_usage(terminal: Terminal, words: tuple[str, ...]) -> None:
    code, _, err = terminal.run("ask", "heartbeats", *words)
    assert code == 64
    assert err
    assert terminal.backend.requested == []
