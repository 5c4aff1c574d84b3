# SPDX-License-Identifier: BSD-3-Clause
"""The embedded stack, started as a user starts it, in a state directory of its own.

`make up` does the same; the fixture ends it by its own process ids (`tools/bootstrap.py down`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket

from support.programs import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
VENV_BIN = Path(sys.executable).parent


@dataclass
class Execution:
    """What a kernel said to a piece of code."""

    stdout: str = ""
    error: str = ""
    result: str = ""


@dataclass
class Session:
    """A person logged in to the hub, by an API token of their own."""

    stack: Stack
    user: str
    client: httpx.Client

    def start_server(self, timeout: float = 120) -> list[str]:
        """Start the person's server, wait until it is ready, and return what the progress page says."""
        if self.client.get(f"/hub/api/users/{self.user}").raise_for_status().json()["servers"]:
            # Another test's: what is looked at here is a start.
            self.stop_server()
        with ThreadPoolExecutor(1) as other:
            # The hub answers late; the stages are to be seen meanwhile.
            request = other.submit(
                self.client.post,
                f"/hub/api/users/{self.user}/server",
                json={"user_options": {"environment": "simulated-cpu"}},
            )
            said = self._progress(request, timeout)
            assert request.result().status_code in (201, 202), request.result().text
        return said

    def _progress(self, request: Future[httpx.Response], timeout: float) -> list[str]:
        said: list[str] = []
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            with self.client.stream(
                "GET", f"/hub/api/users/{self.user}/server/progress", timeout=timeout
            ) as progress:
                for line in progress.iter_lines():
                    event = json.loads(line[5:]) if line.startswith("data:") else {}
                    said += [str(event["message"])] if "message" in event else []
                    assert not event.get("failed"), event
                    if event.get("ready"):
                        return said
            # Asked before the hub had begun, or the request was refused.
            if request.done():
                assert request.result().is_success, request.result().text
            time.sleep(0.1)
        raise AssertionError(f"the server was not ready in time: {said}")

    def stop_server(self) -> None:
        """Stop the person's default server."""
        answer = self.client.delete(f"/hub/api/users/{self.user}/server", timeout=60)
        assert answer.status_code in (202, 204), answer.text
        while self.client.get(f"/hub/api/users/{self.user}").raise_for_status().json()["servers"]:
            time.sleep(0.2)

    def api(self, path: str, *, body: dict[str, Any] | None = None) -> httpx.Response:
        """Call the server extension: GET without a body, else POST."""
        url = f"/user/{self.user}/sealroom/api/{path}"
        return self.client.get(url) if body is None else self.client.post(url, json=body)

    def execute(self, code: str, timeout: float = 300) -> Execution:
        """Run code in a fresh kernel of the person's server."""
        base = f"/user/{self.user}/api/kernels"
        kernel = self.client.post(base, json={"name": "python3"}).raise_for_status().json()["id"]
        try:
            return self._execute(kernel, code, timeout)
        finally:
            self.client.delete(f"{base}/{kernel}")

    def _execute(self, kernel: str, code: str, timeout: float) -> Execution:
        url = f"{self.stack.url.replace('http', 'ws', 1)}/user/{self.user}/api/kernels/{kernel}/channels"
        channel = websocket.create_connection(
            url, header={"Authorization": self.client.headers["Authorization"]}, timeout=timeout
        )
        message_id = uuid.uuid4().hex
        request = {
            "header": {
                "msg_id": message_id,
                "msg_type": "execute_request",
                "username": "",
                "session": "test",
                "date": "",
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "channel": "shell",
            "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
        }
        done = Execution()
        try:
            channel.send(json.dumps(request))
            while True:
                message = json.loads(channel.recv())
                if message.get("parent_header", {}).get("msg_id") != message_id:
                    continue
                kind, content = message["msg_type"], message["content"]
                if kind == "stream" and content["name"] == "stdout":
                    done.stdout += content["text"]
                elif kind == "error":
                    done.error = f"{content['ename']}: {content['evalue']}"
                elif kind == "execute_result":
                    done.result = content["data"].get("text/plain", "")
                elif kind == "status" and content["execution_state"] == "idle":
                    return done
        finally:
            channel.close()


@dataclass
class Stack:
    """A running hub with its broker, on a free port."""

    home: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    clients: list[httpx.Client] = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        """Address of the hub."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the first start wrote."""
        return tomllib.loads((self.home / "settings.toml").read_text())

    def password(self, user: str) -> str:
        """Return a person's password, as the person reads it from the file."""
        for line in (self.home / "login.txt").read_text().splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == user:
                return words[1]
        raise AssertionError(f"no password of {user}")

    def bootstrap(self, command: str, *, timeout: float = 900) -> str:
        """Run what `make` runs, and return what it printed."""
        done = subprocess.run(
            [sys.executable, "tools/bootstrap.py", command],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def cli(self, *arguments: str, status: int = 0) -> str:
        """Run the data owner's command line and return what it printed."""
        done = subprocess.run(
            [str(VENV_BIN / "sealroom"), *arguments],
            env={
                **self.environment,
                "SEALROOM_OWNER": str(self.home / "owner" / "owner.toml"),
                "COLUMNS": "160",
            },
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode} {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def login(self, user: str) -> Session:
        """Log in with the password and make an API token, as a person can on the hub's token page."""
        with httpx.Client(base_url=self.url, follow_redirects=True, timeout=60) as browser:
            browser.get("/hub/login").raise_for_status()
            answer = browser.post(
                "/hub/login",
                data={
                    "username": user,
                    "password": self.password(user),
                    "_xsrf": browser.cookies["_xsrf"],
                },
            )
            assert answer.status_code == 200, answer.text[:500]
            assert "/hub/login" not in str(answer.url), "the hub did not accept the password"
            xsrf = next(c.value for c in browser.cookies.jar if c.name == "_xsrf" and c.path == "/hub/")
            token = browser.post(
                f"/hub/api/users/{user}/tokens", json={"note": "test"}, headers={"X-XSRFToken": str(xsrf)}
            )
            assert token.status_code == 201, token.text[:500]
        client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"token {token.json()['token']}"}, timeout=60
        )
        self.clients.append(client)
        return Session(self, user, client)


def start(home: Path) -> Stack:
    """Start a stack with its state in `home`."""
    port = free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SEALROOM_", "JUPYTERHUB_"))},
        "SEALROOM_HOME": str(home),
        "SEALROOM_PORT": str(port),
    }
    if "SEALROOM_DATA" in os.environ:
        environment["SEALROOM_DATA"] = os.environ["SEALROOM_DATA"]
    stack = Stack(home, port, environment)
    stack.bootstrap("up")
    return stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack that the tests of one session share."""
    home = tmp_path_factory.mktemp("stack") / "state"
    running = start(home)
    try:
        yield running
    finally:
        for client in running.clients:
            client.close()
        running.bootstrap("down")
