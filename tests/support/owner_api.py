# SPDX-License-Identifier: BSD-3-Clause
"""The broker's owner calls over real HTTP on a free port, for tests of the command line."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sealroom.audit.log import DirectoryReader
from sealroom.errors import Error
from sealroom.kbs.messages import ERROR_BASE

TOKEN = "owner-token-secret"
PREFIX = "/kbs/v0/sealroom/admin/"


@dataclass
class OwnerApi:
    """What the server holds and was asked."""

    log: Path
    grants: dict[str, dict[str, Any]] = field(default_factory=dict)
    projects: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    explanation: dict[str, Any] | None = None
    environments: dict[str, bytes] = field(default_factory=dict)
    fail: tuple[int, str, str] | None = None
    """Status, error name and sentence to answer every call with."""
    fail_after: tuple[str, tuple[int, str, str]] | None = None
    """The same, from the first call on whose path begins with a text."""
    url: str = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        """Return status and body of the answer to a call."""
        self.asked.append((method, path, body))
        if self.fail is not None:
            status, name, detail = self.fail
            return status, _json({"type": ERROR_BASE + name, "detail": detail})
        if self.fail_after is not None and path.removeprefix(PREFIX).startswith(self.fail_after[0]):
            self.fail = self.fail_after[1]
            return self.answer(method, path, body)
        parts = urlsplit(path.removeprefix(PREFIX))
        if parts.path.startswith(("requests", "explain")):
            return self._request(method, parts.path.split("/")[1:], parse_qs(parts.query), body)
        if parts.path.startswith("environments/"):
            manifest = self.environments.get(unquote(parts.path.removeprefix("environments/")))
            return (200, manifest) if manifest is not None else _not_found("no such environment")
        if parts.path.startswith("audit/"):
            return self._audit(unquote(parts.path.removeprefix("audit/")))
        if (method, parts.path) == ("POST", "grants"):
            grant = {**body, "id": f"g{len(self.grants)}", "created": "2026-11-01T00:00:00Z"}
            self.grants[grant["id"]] = grant
            return 201, _json(grant)
        if (method, parts.path) == ("GET", "grants"):
            (dataset,) = parse_qs(parts.query).get("dataset", [""])
            found = [grant for grant in self.grants.values() if dataset in ("", grant["dataset"])]
            return 200, _json({"grants": found})
        if parts.path.startswith(("projects", "datasets")):
            return self._named(method, [unquote(part) for part in parts.path.split("/")], body)
        grant_id = unquote(parts.path.removeprefix("grants/"))
        if method == "PATCH" and grant_id in self.grants:
            self.grants[grant_id].update(body, version=2)
            return 200, _json(self.grants[grant_id])
        if method == "DELETE" and grant_id in self.grants:
            self.grants[grant_id]["withdrawn"] = "2026-11-02T00:00:00Z"
            return 200, _json(self.grants[grant_id])
        return 404, _json({"type": ERROR_BASE + "NotFound", "detail": "There is no such grant."})

    def _named(self, method: str, path: list[str], body: Any) -> tuple[int, bytes]:
        held = self.projects if path[0] == "projects" else self.datasets
        if method == "GET":
            return 200, _json({path[0]: list(held.values())})
        if path[1] not in held:
            return 404, _json({"type": ERROR_BASE + "NotFound", "detail": "There is no such thing."})
        if path[0] == "projects":
            state = "halted" if path[2] == "halt" else "running"
            held[path[1]].update(state=state, since="2026-11-02T00:00:00Z", reason=body["reason"])
        else:
            held[path[1]]["destroyed"] = "2026-11-02T00:00:00Z"
        return 200, _json(held[path[1]])

    def _request(
        self, method: str, path: list[str], query: dict[str, list[str]], body: Any
    ) -> tuple[int, bytes]:
        if not path and "session" in query:
            return (200, _json(self.explanation)) if self.explanation else _not_found("no such server")
        if not path:
            wanted = {name: values[0] for name, values in query.items()}
            found = [
                one
                for one in self.requests.values()
                if all(one[name] == value for name, value in wanted.items())
            ]
            return 200, _json({"requests": found})
        one = self.requests.get(path[0])
        if one is None:
            return _not_found("There is no such request.")
        if method == "POST":
            state = "granted" if path[1] == "grant" else "refused"
            one.update(state=state, answer=body["answer"], answered="2026-11-02T00:00:00Z", grant="g1")
        return 200, _json(one)

    def _audit(self, path: str) -> tuple[int, bytes]:
        try:
            return 200, DirectoryReader(self.log).get(path)
        except Error as error:
            return 404, _json({"type": ERROR_BASE + "NotFound", "detail": error.message})


def _not_found(detail: str) -> tuple[int, bytes]:
    return 404, _json({"type": ERROR_BASE + "NotFound", "detail": detail})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


@contextlib.contextmanager
def serve(log: Path) -> Iterator[OwnerApi]:
    """Serve the owner's calls until the block ends."""
    api = OwnerApi(log)

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, content = api.answer(self.command, self.path, body)
            else:
                status, content = 401, _json({"type": ERROR_BASE + "Unauthorized", "detail": "Wrong token."})
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def settings(directory: Path, url: str, audit_key: str) -> Path:
    """Write an owner's settings and return the file."""
    directory.mkdir(parents=True, exist_ok=True)
    token = directory / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    (directory / "audit.pub").write_text(f"{audit_key}\n")
    file = directory / "owner.toml"
    file.write_text(f'broker = "{url}"\n')
    return file
