# SPDX-License-Identifier: BSD-3-Clause
"""Stand-ins with real keys: an OpenID Connect provider, and an issuer of GA4GH visas."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Self

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from sealroom import testing

ISSUER = "https://login.example/realms/lab"
VISA_ISSUER = "https://visas.example"
VISA_KEYS = "https://visas.example/keys"
DATASET = "https://data.example/heartbeats"
DAC = "https://dac.example"
Answer = Callable[[httpx.Request], httpx.Response]


def new_key(algorithm: str) -> Any:
    """Return a new private key for an algorithm."""
    if algorithm in ("RS256", "PS256"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())


class Signer:
    """A signing key with its id."""

    def __init__(self, kid: str = "key-1", algorithm: str = "ES256", key: Any = None) -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key = key or new_key(algorithm)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Sign claims; a header of None is left out."""
        headers = {"kid": self.kid} | header
        left_out = {name for name, value in headers.items() if value is None}
        kept = {name: value for name, value in headers.items() if name not in left_out}
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers=kept)

    def jwk(self, **changes: Any) -> dict[str, Any]:
        """Return the public half."""
        known = jwt.get_algorithm_by_name(self.algorithm)
        public: dict[str, Any] = json.loads(known.to_jwk(self.key.public_key()))
        public.pop("key_ops", None)
        return public | {"kid": self.kid, "use": "sig", "alg": self.algorithm} | changes


class Provider:
    """Answers as an OpenID Connect provider does, and remembers what it was asked.

    `answers` replaces the answer of a path.
    """

    def __init__(self, issuer: str = ISSUER, *signers: Signer) -> None:
        self.issuer = issuer
        self.signers = list(signers) or [Signer()]
        self.asked: list[httpx.Request] = []
        self.answers: dict[str, Answer] = {}
        self.userinfo: dict[str, Any] = {"sub": "user-1"}

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        known = {
            "/realms/lab/.well-known/openid-configuration": lambda _: httpx.Response(200, json=self.document),
            "/realms/lab/keys": lambda _: httpx.Response(200, json={"keys": self.keys}),
            "/realms/lab/userinfo": lambda _: httpx.Response(200, json=self.userinfo),
        } | self.answers
        return known.get(request.url.path, lambda _: httpx.Response(404, json={}))(request)

    @property
    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{ISSUER}/keys",
            "userinfo_endpoint": f"{ISSUER}/userinfo",
            "authorization_endpoint": f"{ISSUER}/auth",
            "token_endpoint": f"{ISSUER}/token",
            "device_authorization_endpoint": f"{ISSUER}/device",
        }

    @property
    def keys(self) -> list[dict[str, Any]]:
        return [one.jwk() for one in self.signers]

    def count(self, path: str) -> int:
        """Return how often a path was asked for."""
        return sum(one.url.path == f"/realms/lab/{path}" for one in self.asked)

    def claims(self, now: datetime = testing.NOW, **changes: Any) -> dict[str, Any]:
        """Return the claims of an ID token; a change to None leaves one out."""
        claims = {
            "iss": self.issuer,
            "sub": "user-1",
            "aud": "sealroom-broker",
            "azp": "sealroom-broker",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(minutes=5)).timestamp()),
            "typ": "ID",
            "preferred_username": "alice",
            "groups": ["cardiology"],
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, now: datetime = testing.NOW, **changes: Any) -> str:
        """Return an ID token."""
        return self.signers[0].sign(self.claims(now, **changes))


class VisaIssuer:
    """Signs visas, and publishes its keys over HTTP while it is open."""

    def __init__(self, issuer: str = VISA_ISSUER, keys: str = VISA_KEYS) -> None:
        self.issuer = issuer
        self.keys = keys
        self.signer = Signer("visa-key", "RS256")
        self.reachable = True
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        body = json.dumps({"keys": [self.signer.jwk()]}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/keys" else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.keys = f"{self.issuer}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def transport(self) -> httpx.MockTransport:
        """Answer for the keys without a server."""

        def handle(_: httpx.Request) -> httpx.Response:
            if not self.reachable:
                raise httpx.ConnectError("gone")
            return httpx.Response(200, json={"keys": [self.signer.jwk()]})

        return httpx.MockTransport(handle)

    def claims(self, now: datetime = testing.NOW, **visa: Any) -> dict[str, Any]:
        """Return the claims of a visa; a change to None leaves a member of the visa out."""
        members = {
            "type": "ControlledAccessGrants",
            "asserted": int((now - timedelta(days=1)).timestamp()),
            "value": DATASET,
            "source": DAC,
            "by": "dac",
        } | visa
        return {
            "iss": self.issuer,
            "sub": "visa-user-1",
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(hours=1)).timestamp()),
            "jti": "visa-1",
            "ga4gh_visa_v1": {name: value for name, value in members.items() if value is not None},
        }

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """Sign a visa."""
        return self.signer.sign(claims, **({"typ": "vnd.ga4gh.visa+jwt", "jku": self.keys} | header))

    def visa(self, now: datetime = testing.NOW, **visa: Any) -> str:
        """Return a visa."""
        return self.sign(self.claims(now, **visa))
