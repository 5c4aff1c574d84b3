# SPDX-License-Identifier: BSD-3-Clause
"""A broker as a program of its own, and a stand-in for the hub that knows its people."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import httpx
from sealroom import testing
from sealroom.crypt4gh import SecretKey
from sealroom.environments import generate_key, public_pem, sign
from sealroom.errors import Error
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import GrantSpec, IdentityRequest
from sealroom.kbs.client import KbsClient
from sealroom_broker.broker import utc_now
from sealroom_broker.config import load_config
from sealroom_broker.owners import add_token
from sealroom_broker.setup import Plan, initialise
from sealroom_broker.store import Store

from support.brokers import Data

TOKENS = {"hub-token-of-alice": "alice", "hub-token-of-bob": "bob"}
PATIENCE = 60.0


class Hub:
    """Answers `GET /hub/api/user` as JupyterHub does."""

    def __init__(self) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _HubHandler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/hub/api"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _HubHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = TOKENS.get(self.headers.get("Authorization", "").removeprefix("token "))
        known = name is not None and self.path == "/hub/api/user"
        scopes = [f"access:servers!server={name}/", "access:services!service=sealroom-broker"]
        user = {"kind": "user", "name": name, "groups": [], "scopes": scopes, "session_id": None}
        body = json.dumps(user if known else {"status": 403, "message": "Forbidden"}).encode()
        self.send_response(200 if known else 403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@dataclass
class BrokerProcess:
    """A broker's state and, while it runs, its process."""

    folder: Path
    config: Path
    port: int = 0
    token: str = ""
    scheme: str = "http"
    name: str = "broker"
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def prepare(cls, folder: Path, hub: Hub, *, postgresql: str = "") -> BrokerProcess:
        """Make a state, as `sealroom-broker init` does."""
        environments = folder / "environments"
        environments.mkdir()
        key, manifest = generate_key(), testing.environment().raw
        (environments / "simulated-cpu.toml").write_bytes(manifest)
        (environments / "simulated-cpu.toml.sig").write_bytes(sign(manifest, key))
        (environments / "publisher.pub.pem").write_bytes(public_pem(key))
        (folder / "ark.pem").write_bytes(testing.chain().pem)
        plan = Plan(
            mode="development",
            development_root=folder / "ark.pem",
            environments=[environments],
            publishers=[environments / "publisher.pub.pem"],
            hub_api_url=hub.api_url,
            postgresql=postgresql,
        )
        config = initialise(folder / "broker", plan)
        store = Store.of(load_config(config))
        token = add_token(store, "owner", utc_now())
        store.close()
        return cls(folder, config, token=token)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def settings(self, text: str) -> None:
        """Add lines to the configuration: keys of the top, then sections."""
        top, _, sections = f"\n{text}".partition("\n[")
        lines = self.config.read_text()
        self.config.write_text(f"{top}\n{lines}" + (f"\n[{sections}" if sections else ""))

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def second(self) -> BrokerProcess:
        """Return another process of the same broker, not started."""
        return replace(self, port=0, process=None, name=f"{self.name}-2")

    def start(self, *, environ: Mapping[str, str] | None = None, program: Sequence[str] = ()) -> None:
        """Start on a free port, or on the one that it had before.

        Args:
            environ: More environment variables.
            program: What to run in place of the broker's own program.
        """
        with self.log.open("ab") as log:
            seen = log.tell()
            self.process = subprocess.Popen(
                [
                    *(program or command()),
                    *("serve", "--config", str(self.config), "--listen", f"127.0.0.1:{self.port}"),
                ],
                stderr=log,
                stdout=log,
                env={**os.environ, **(environ or {})},
            )
        self.port = self._listening(seen)

    def _listening(self, seen: int) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process is not None
            text = self.log.read_bytes()[seen:].decode()
            if "Application startup complete" in text:
                return int(text.partition(f"listens on {self.scheme}://127.0.0.1:")[2].split()[0])
            assert self.process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError("the broker did not start in time")

    def kill(self) -> None:
        """End it at once, wherever it is."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """End it and return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self.process = None
        return status

    def owner(self) -> OwnerClient:
        return OwnerClient(self.url, self.token)

    def guest(self, token: str = "hub-token-of-alice") -> KbsClient:
        """Return an attested guest with its person."""
        client = KbsClient(self.url, lambda covered: testing.evidence(covered))
        try:
            client.identity(IdentityRequest(provider="jupyterhub", token=token))
        except Error:
            client.close()
            raise
        return client

    def sealed(self) -> Data:
        """Seal and register a dataset and grant it to alice."""
        data = Data.seal(self.folder)
        with self.owner() as owner:
            owner.register_dataset(data.registration())
            owner.add_grant(GrantSpec(dataset="heartbeats", subject="alice", minimum="simulated"))
        return data


def command(*words: str | Path) -> list[str]:
    """Return a command of the broker's program."""
    return [sys.executable, "-m", "sealroom_broker", *map(str, words)]


def run(*words: str | Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command of the broker's program to its end."""
    return subprocess.run(
        command(*words),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **(environ or {})},
    )


def release(client: KbsClient, data: Data, reader: SecretKey) -> tuple[int, str]:
    """Release a dataset and return where its entry is."""
    answer = client.release("heartbeats", data.request(reader))
    return answer.audit_index, answer.audit_leaf


def is_open(port: int) -> bool:
    """Tell whether something answers on a port."""
    try:
        httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=5)
    except httpx.HTTPError:
        return False
    return True


def words_of(text: bytes) -> Sequence[str]:
    """Return the lines of an error message."""
    return text.decode().strip().splitlines()
