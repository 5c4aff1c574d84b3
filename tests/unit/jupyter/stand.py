# SPDX-License-Identifier: BSD-3-Clause
"""A stand of real parts (simulated processor, broker, notebook server) and a hub that only pretends."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import websocket
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom import environments
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.seal import seal_directory
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import DatasetRegistration, GrantSpec
from support.programs import free_port
from support.sealed import CREATED, DESCRIPTION, PLAIN, write_tree

SERVER_TOKEN = "5e4e7a1b0c9d8f7e6a5b4c3d2e1f0a9b"
BROWSER_TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
USER = "rosalind"


def eventually(check: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Return the first truthy answer of `check`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if answer := check():
                return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


class FakeHub:
    """Answers what a notebook server and a broker ask of a hub, and writes down what it is told."""

    def __init__(self, port: int = 0) -> None:
        self.activity: list[str] = []
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self, status: int, body: object) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("X-JupyterHub-Version", "6.1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                token = self.headers.get("Authorization", "").partition(" ")[2]
                if self.path.startswith("/hub/api/user"):
                    model = hub.model(token)
                    self.answer(200 if model else 403, model or {"message": "unknown"})
                else:
                    self.answer(200, {"version": "6.1.1"})

            def do_POST(self) -> None:
                token = self.headers.get("Authorization", "").partition(" ")[2]
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.endswith("/activity"):
                    hub.activity.append(token)
                else:
                    hub.events.append((self.path, token, body))
                self.answer(200, {})

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def model(token: str) -> dict[str, Any] | None:
        scopes = {
            SERVER_TOKEN: [f"access:servers!server={USER}/", "access:services!service=broker"],
            BROWSER_TOKEN: [f"access:servers!user={USER}"],
        }.get(token)
        if scopes is None:
            return None
        return {"kind": "user", "name": USER, "admin": False, "groups": [], "scopes": scopes}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Stand:
    """Everything that runs, and how to speak to it."""

    home: Path
    hub: FakeHub
    broker_port: int
    server_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    owner: OwnerClient | None = None
    more: dict[str, str] = field(default_factory=dict)
    """More of the notebook server's environment."""

    @property
    def run_dir(self) -> Path:
        return self.home / "run"

    @property
    def environment(self) -> Path:
        return self.home / "environments" / "simulated-cpu.toml"

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.server_port}/user/{USER}/",
            headers={"Authorization": f"token {BROWSER_TOKEN}"},
            trust_env=False,
            timeout=60,
        )

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    def start(self, name: str, argv: list[str], env: dict[str, str], *, fd: int | None = None) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                argv,
                env={"PATH": os.environ["PATH"], "HOME": str(self.home / "user"), **env},
                cwd=self.home / "user",
                stdout=log,
                stderr=log,
                pass_fds=() if fd is None else (fd,),
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(30)

    def start_processor(self) -> None:
        argv = [sys.executable, "-m", "sealroom.simulated", "serve", "--root", str(self.home / "simulated")]
        argv += ["--socket", str(self.run_dir / "sp.sock"), "--environment", str(self.environment)]
        self.start("processor", argv, {})
        eventually((self.run_dir / "sp.sock").is_socket, "the processor's socket")

    def start_broker(self) -> None:
        config = self.home / "broker" / "broker.toml"
        self.start("broker", [sys.executable, "-m", "sealroom_broker", "serve", "--config", str(config)], {})
        url = f"http://127.0.0.1:{self.broker_port}/kbs/v0/sealroom/jwks"
        eventually(lambda: httpx.get(url, trust_env=False).status_code == 200, "the broker")

    def start_server(self) -> None:
        reader, writer = os.pipe()
        os.write(writer, SERVER_TOKEN.encode())
        os.close(writer)
        prefix = f"/user/{USER}/"
        environment = {
            "SEALROOM_TOKEN_FD": str(reader),
            "SEALROOM_RUN": str(self.run_dir),
            "SEALROOM_BROKER_URL": f"http://127.0.0.1:{self.broker_port}",
            "SEALROOM_STATUS_URL": f"{self.hub.url}/services/sealroom",
            "SEALROOM_DATASETS": str(self.home / "datasets"),
            "SEALROOM_ENVIRONMENT": str(self.environment),
            "SEALROOM_ROOT": str(self.home / "simulated" / "ark.pem"),
            "JUPYTERHUB_API_URL": f"{self.hub.url}/hub/api",
            "JUPYTERHUB_ACTIVITY_URL": f"{self.hub.url}/hub/api/users/{USER}/activity",
            "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
            "JUPYTERHUB_BASE_URL": "/",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{USER}",
            "JUPYTERHUB_HOST": "",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!user={USER}"]),
            "JUPYTERHUB_SERVER_NAME": "",
            "JUPYTERHUB_SERVICE_PREFIX": prefix,
            "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{self.server_port}{prefix}",
            "JUPYTERHUB_USER": USER,
            "JUPYTER_PREFER_ENV_PATH": "1",
            **self.more,
        }
        extra = [
            "--allow-root",
            "--Sealroom.poll_interval=0.5",
            "--Sealroom.grace=20",
            "--Sealroom.retry_most=1",
        ]
        argv = [sys.executable, "-m", "sealroom_jupyter.singleuser", *extra]
        self.start("server", argv, environment, fd=reader)
        os.close(reader)
        known = "login" if "SEALROOM_OIDC_ISSUER" in self.more else "person"
        eventually(lambda: (s := self.status())["phase"] == "verified" and s.get(known), "the proof")

    def status(self) -> dict[str, Any]:
        with self.client as client:
            answer = client.get("sealroom/api/status")
        return dict(answer.json()) if answer.status_code == 200 else {"phase": ""}

    def dataset(self) -> dict[str, Any]:
        with self.client as client:
            (found,) = client.get("sealroom/api/datasets").raise_for_status().json()["datasets"]
        return dict(found)

    def execute(self, code: str, seconds: float = 60) -> str:
        """Run code in a kernel of its own and return what it printed; an error's text too."""
        with self.client as client:
            kernel = client.post("api/kernels", json={"name": "python3"}).raise_for_status().json()["id"]
            try:
                return self._execute(kernel, code, seconds)
            finally:
                client.delete(f"api/kernels/{kernel}")

    def _execute(self, kernel: str, code: str, seconds: float) -> str:
        channel = websocket.create_connection(
            f"ws://127.0.0.1:{self.server_port}/user/{USER}/api/kernels/{kernel}/channels",
            header={"Authorization": f"token {BROWSER_TOKEN}"},
            timeout=seconds,
        )
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "username": "", "session": "t", "date": ""}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
        message = {
            "header": {**header, "version": "5.3"},
            "parent_header": {},
            "metadata": {},
            "channel": "shell",
            "content": content,
        }
        said = ""
        try:
            channel.send(json.dumps(message))
            while True:
                answer = json.loads(channel.recv())
                if answer.get("parent_header", {}).get("msg_id") != number:
                    continue
                kind, content = answer["msg_type"], answer["content"]
                if kind == "stream":
                    said += content["text"]
                elif kind == "error":
                    said += f"{content['ename']}: {content['evalue']}"
                elif kind == "status" and content["execution_state"] == "idle":
                    return said
        finally:
            channel.close()

    def grant(self) -> str:
        assert self.owner is not None
        return self.owner.add_grant(
            GrantSpec(dataset="heartbeats", subject=USER, purposes=("DUO:0000042",), minimum="simulated")
        ).id

    def withdraw(self, grant: str) -> None:
        assert self.owner is not None
        self.owner.withdraw_grant(grant)


@contextlib.contextmanager
def standing() -> Iterator[Stand]:
    """Make everything and end it, each process by its own number."""
    with tempfile.TemporaryDirectory(prefix="sr-") as directory:
        stand = Stand(Path(directory), FakeHub(), free_port(), free_port())
        try:
            _prepare(stand)
            yield stand
        finally:
            for name in list(stand.processes):
                stand.kill(name)
            if stand.owner is not None:
                stand.owner.close()
            stand.hub.stop()


def _prepare(stand: Stand) -> None:
    home = stand.home
    for name in ("user", "run", "environments", "datasets"):
        (home / name).mkdir(mode=0o700)
    simulated_root(home)
    publisher = environments.generate_key()
    manifest = environments.simulated_cpu(datasets=["heartbeats"]).raw
    stand.environment.write_bytes(manifest)
    stand.environment.with_name("simulated-cpu.toml.sig").write_bytes(environments.sign(manifest, publisher))
    (home / "publisher.pub.pem").write_bytes(environments.public_pem(publisher))
    broker = [sys.executable, "-m", "sealroom_broker"]
    init = ["init", "--home", str(home / "broker"), "--listen", f"127.0.0.1:{stand.broker_port}"]
    init += ["--development-root", str(home / "simulated" / "ark.pem"), "--hub-service", "broker"]
    init += ["--environments", str(home / "environments"), "--publisher", str(home / "publisher.pub.pem")]
    init += ["--hub-api-url", f"{stand.hub.url}/hub/api"]
    subprocess.run([*broker, *init], check=True, capture_output=True)
    config = ["--config", str(home / "broker" / "broker.toml"), "--name", "owner"]
    subprocess.run([*broker, "token", "add", *config, "--out", str(home / "owner.token")], check=True)
    stand.start_processor()
    stand.start_broker()
    token = (home / "owner.token").read_text().strip()
    stand.owner = OwnerClient(f"http://127.0.0.1:{stand.broker_port}", token)
    _register(stand)


def simulated_root(home: Path) -> None:
    from sealroom.simulated import root

    root.create(home / "simulated")


def _register(stand: Stand) -> None:
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    directory = stand.home / "datasets" / "heartbeats"
    seal_directory(
        write_tree(stand.home / "plain", PLAIN),
        directory,
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    assert stand.owner is not None
    stand.owner.register_dataset(
        DatasetRegistration(
            manifest=base64.b64encode((directory / "dataset.json").read_bytes()).decode(),
            signature=(directory / "dataset.json.sig").read_text().strip(),
            owner_key=base64.b64encode(signing_key.public_key().public_bytes_raw()).decode(),
            secret_key=base64.b64encode(dataset_key.reveal()).decode(),
        )
    )
