# SPDX-License-Identifier: BSD-3-Clause
"""A real S3 server for tests, versitygw over a directory, and a proxy before it that fails as it is told.

versitygw (Apache 2.0) is built once into the clone's `.tools/versitygw`; Go's checksum database vouches for
what is downloaded. A test's server starts over an empty directory, listens on a free port of this machine,
and is ended by its process id.

Needs Go 1.25 or newer; `SEALROOM_VERSITYGW` names a program that is here already.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from sealroom.datasets import s3_source
from sealroom.datasets.s3_source import S3Options

from support.programs import alone, free_port, has_go

VERSION = "v1.8.0"
MODULE = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
PLACE = Path(__file__).resolve().parents[2] / ".tools" / "versitygw"
OLDEST_GO = (1, 25)
PATIENCE = 60.0
BUILDING = 3000.0
BUCKET = "datasets"


class UnavailableError(Exception):
    """This machine cannot build versitygw; the text says what it lacks."""


def program() -> Path:
    """Return the server's program; build it if it is not there.

    Raises:
        UnavailableError: There is no Go, or the modules cannot be downloaded.
        RuntimeError: It does not build.
    """
    named = os.environ.get("SEALROOM_VERSITYGW", "")
    if named:
        return Path(named)
    built = PLACE / f"versitygw-{VERSION}"
    if built.is_file():
        return built
    if not has_go(OLDEST_GO):
        raise UnavailableError(
            f"versitygw is built with Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer, which is not here"
        )
    PLACE.mkdir(parents=True, exist_ok=True)
    with alone(PLACE):
        if not built.is_file():
            _build(built)
        return built


def _build(built: Path) -> None:
    # A newer toolchain is not downloaded for this. Others may be using this machine meanwhile.
    fresh = PLACE / "new"
    flags = {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOBIN": str(fresh)}
    done = subprocess.run(
        ["nice", "go", "install", MODULE], capture_output=True, text=True, check=False,
        env={**os.environ, **flags}, timeout=BUILDING,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        if re.search("dial|lookup|timeout|proxy|403|404|410", done.stderr):
            raise UnavailableError(f"versitygw's modules cannot be downloaded ({last.strip()})")
        raise RuntimeError(f"versitygw does not build: {done.stderr[-3000:]}")
    (fresh / "versitygw").rename(built)
    fresh.rmdir()


@dataclass
class S3Server:
    """A versitygw that runs; the bucket's objects are the files of `bucket`."""

    folder: Path
    port: int = 0
    access_key: str = field(default_factory=lambda: f"KEY{secrets.token_hex(8).upper()}")
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.bucket.mkdir(parents=True)
        (self.folder / "meta").mkdir()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def bucket(self) -> Path:
        """The directory behind the bucket."""
        return self.folder / "buckets" / BUCKET

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def options(self, endpoint: str = "", **more: Any) -> S3Options:
        """Return how to reach it, or something before it."""
        fields: dict[str, Any] = {
            "endpoint": endpoint or self.endpoint,
            "region": "us-east-1",
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "allow_http": True,
        }
        return S3Options(**{**fields, **more})

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.port = self.port or free_port()
        log = self.folder / "versitygw.log"
        env = {"PATH": os.environ.get("PATH", ""), "ROOT_ACCESS_KEY": self.access_key}
        env["ROOT_SECRET_KEY"] = self.secret_key
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [program(), "--port", f"127.0.0.1:{self.port}", "--quiet", "--keep-alive",
                 "posix", "--sidecar", self.folder / "meta", self.bucket.parent],
                stdout=file, stderr=file, env=env,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        raise AssertionError("versitygw did not start in time")

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None


Fault = Callable[["_Answer"], None]
"""Spoils one answer."""


class FaultyProxy:
    """Stands before a server and spoils answers, one fault for each, in order.

    `faults` (of GET) and `write_faults` (of all that changes something) are emptied from their beginnings;
    without any, answers pass. What is written arrives at the server unless the fault is an error or a reset.
    """

    def __init__(self, server: S3Server) -> None:
        self.faults: list[Fault] = []
        self.write_faults: list[Fault] = []
        self.written: list[str] = []
        """Method and path of every request that changes something."""
        self.asked: list[tuple[str, str]] = []
        """Range and condition (`If-Match`) of every request."""
        proxy = self

        class Handler(_Handler):
            upstream = ("127.0.0.1", server.port)
            owner = proxy

        self._http = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class _Answer:
    """What a fault may change."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    declared: int | None = None
    """The length in the header; the body's own by default."""
    pause: float = 0.0
    reset: bool = False


def status(code: int, text: str = "") -> Fault:
    """Answer with an error instead."""

    def fault(answer: _Answer) -> None:
        answer.status, answer.headers = code, [("Content-Type", "application/xml")]
        answer.body = f"<Error><Code>{text or 'InternalError'}</Code></Error>".encode()

    return fault


def broken_off(after: int) -> Fault:
    """Close the connection after some bytes of the body, though more are announced."""

    def fault(answer: _Answer) -> None:
        answer.declared, answer.body = len(answer.body), answer.body[:after]

    return fault


def short(by: int) -> Fault:
    """Send fewer bytes than the range has, and announce just those."""

    def fault(answer: _Answer) -> None:
        answer.body = answer.body[:-by]

    return fault


def slow(seconds: float) -> Fault:
    """Wait before the answer."""

    def fault(answer: _Answer) -> None:
        answer.pause = seconds

    return fault


def reset(answer: _Answer) -> None:
    """Reset the connection instead of an answer."""
    answer.reset = True


def flipped(at: int) -> Fault:
    """Change one bit of the body."""

    def fault(answer: _Answer) -> None:
        body = bytearray(answer.body)
        body[at] ^= 1
        answer.body = bytes(body)

    return fault


def lost(answer: _Answer) -> None:
    """Let the server do it, and answer with an error nevertheless."""
    if answer.status:
        answer.status = 500


def without(*names: str) -> Fault:
    """Leave out headers."""

    def fault(answer: _Answer) -> None:
        answer.headers = [(n, v) for n, v in answer.headers if n.lower() not in names]

    return fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that gave up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: tuple[str, int]
    owner: FaultyProxy

    def do_GET(self) -> None:
        self._pass_on()

    def do_HEAD(self) -> None:
        self._pass_on()

    def do_PUT(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        writes = self.command in ("PUT", "POST", "DELETE")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))) if writes else None
        fault = None
        if writes:
            self.owner.written.append(f"{self.command} {self.path}")
            fault = self.owner.write_faults.pop(0) if self.owner.write_faults else None
        if fault is not None:
            refused = _Answer(0, [], b"")
            fault(refused)
            if refused.status or refused.reset:
                self._send(refused, None)
                return
        self.owner.asked.append((self.headers.get("Range", ""), self.headers.get("If-Match", "")))
        connection = http.client.HTTPConnection(*self.upstream, timeout=PATIENCE)
        # The signature covers Host: it must arrive as it was sent.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        found = connection.getresponse()
        dropped = ("content-length", "connection", "transfer-encoding")
        headers = [(n, v) for n, v in found.getheaders() if n.lower() not in dropped]
        answer = _Answer(found.status, headers, found.read())
        length = int(found.getheader("Content-Length", "0"))
        connection.close()
        if self.command == "GET" and self.owner.faults:
            self.owner.faults.pop(0)(answer)
        if fault is not None:
            fault(answer)
        self._send(answer, length if self.command == "HEAD" else None)

    def _send(self, answer: _Answer, length: int | None) -> None:
        if answer.pause:
            time.sleep(answer.pause)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        declared = len(answer.body) if answer.declared is None else answer.declared
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(declared if length is None else length))
        self.end_headers()
        if length is None:
            self.wfile.write(answer.body)
        self.close_connection = declared != len(answer.body)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for the whole run; skips, with the reason, where there can be none."""
    try:
        program()
    except UnavailableError as error:
        pytest.skip(str(error))
    with S3Server(tmp_path_factory.mktemp("s3") / "server") as made:
        yield made


@pytest.fixture
def s3(s3_server: S3Server) -> Iterator[S3Server]:
    """The server, and `s3://` means it."""
    before = s3_source.current_options()
    s3_source.configure(s3_server.options())
    yield s3_server
    s3_source.configure(before)


if __name__ == "__main__":
    # `make test` calls this before the tests, which have no time to build.
    try:
        program()
    except UnavailableError as error:
        print(f"Not tested with a real S3 server: {error}")
