# SPDX-License-Identifier: BSD-3-Clause
"""An OpenID Connect provider over HTTP on this machine: a login page with a button for each person."""

from __future__ import annotations

import html
import http.server
import json
import secrets
import threading
import time
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from support.oidc import Signer

PEOPLE = {"olivia": ("data-owners",), "andrew": ("auditors",)}


class OidcServer:
    """The provider. Its people are an owner, olivia, and an auditor, andrew."""

    def __init__(self) -> None:
        self.signer = Signer()
        self._codes: dict[str, tuple[str, str, str]] = {}
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.get(self)

            def do_POST(self) -> None:
                provider.post(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer discovery, the keys and the login page."""
        parts = urlsplit(handler.path)
        query = {name: value[0] for name, value in parse_qs(parts.query).items()}
        if parts.path == "/.well-known/openid-configuration":
            names = {"authorization_endpoint": "auth", "token_endpoint": "token", "jwks_uri": "keys"}
            urls = {name: f"{self.issuer}/{path}" for name, path in names.items()}
            _json(handler, {"issuer": self.issuer, **urls})
        elif parts.path == "/keys":
            _json(handler, {"keys": [self.signer.jwk()]})
        elif parts.path == "/auth":
            _page(handler, "".join(self._link(query, name) for name in PEOPLE))
        else:
            handler.send_error(404)

    def _link(self, query: dict[str, str], name: str) -> str:
        code = secrets.token_urlsafe(16)
        self._codes[code] = (query["client_id"], query["nonce"], name)
        answer = urlencode({"code": code, "state": query["state"], "iss": self.issuer})
        return f'<p><a href="{html.escape(query["redirect_uri"])}?{html.escape(answer)}">{name}</a></p>'

    def post(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Give the token that a code stands for."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        client, nonce, name = self._codes.pop(parse_qs(body)["code"][0])
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": f"{name}-1",
            "aud": client,
            "azp": client,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "typ": "ID",
            "preferred_username": name,
            "groups": list(PEOPLE[name]),
        }
        _json(handler, {"id_token": self.signer.sign(claims), "token_type": "Bearer"})


def _json(handler: http.server.BaseHTTPRequestHandler, value: object) -> None:
    _send(handler, "application/json", json.dumps(value))


def _page(handler: http.server.BaseHTTPRequestHandler, body: str) -> None:
    _send(handler, "text/html", f'<!doctype html><title>Log in</title><link rel="icon" href="data:,">{body}')


def _send(handler: http.server.BaseHTTPRequestHandler, kind: str, text: str) -> None:
    data = text.encode()
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
