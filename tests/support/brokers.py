# SPDX-License-Identifier: BSD-3-Clause
"""A broker in this process with a clock that stands still, and guests with simulated processors."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom import testing
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.manifest import Manifest, decode_signature
from sealroom.datasets.seal import Description, seal_directory
from sealroom.environments import Environment, generate_key, public_pem, sign
from sealroom.guest import GuestEvidence
from sealroom.kbs.admin import OwnerClient
from sealroom.kbs.calls import DatasetRegistration, GrantSpec, IdentityRequest, Person, ReleaseRequest
from sealroom.kbs.client import KbsClient
from sealroom_broker.app import create_app
from sealroom_broker.broker import Broker, open_broker
from sealroom_broker.config import load_config
from sealroom_broker.identity import Login, Presented
from sealroom_broker.owners import add_token
from sealroom_broker.problem import refused, unavailable
from sealroom_broker.setup import Plan, initialise
from starlette.types import ASGIApp

URL = "http://broker.test"
GENERAL = "DUO:0000042"
DESCRIPTION = Description(
    id="heartbeats",
    title="Heartbeats",
    owner="Heart Centre",
    contact="data@heart.example",
    terms=(GENERAL,),
)
FILES = {"ecg.bin": b"\x01" * 70_000, "labels.csv": b"sample,beat\n"}

PEOPLE = {
    "token-of-alice": Person(subject="alice", name="alice", groups=("cardiology",), issuer="hub"),
    "token-of-bob": Person(subject="bob", name="bob", groups=(), issuer="hub"),
}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = testing.NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


class People:
    """An identity provider that knows `PEOPLE`."""

    def __init__(self) -> None:
        self.reachable = True

    issuers = ("hub",)
    visa_issuers: tuple[str, ...] = ()

    def check(self, request: IdentityRequest, presented: Presented) -> Login:
        if not self.reachable:
            raise unavailable("person.unchecked", "The hub cannot be reached.")
        if request.token not in PEOPLE:
            raise refused("person.token", "The hub does not know this login.")
        return Login(PEOPLE[request.token])

    def close(self) -> None:
        pass


class InProcess(httpx.BaseTransport):
    """Hands requests to an ASGI application in an event loop of another thread."""

    def __init__(self, app: ASGIApp, portal: BlockingPortal) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._portal = portal

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._exchange, request)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        sent = httpx.Request(
            request.method, request.url, headers=request.headers, stream=_Stream(request.stream)
        )
        response = await self._inner.handle_async_request(sent)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._stream:
            yield chunk


@dataclass
class Data:
    """A sealed dataset with its owner's keys."""

    folder: Path
    manifest: Manifest
    dataset_key: SecretKey
    signing_key: Ed25519PrivateKey

    @classmethod
    def seal(
        cls,
        folder: Path,
        description: Description = DESCRIPTION,
        files: Mapping[str, bytes] = FILES,
        *,
        signing_key: Ed25519PrivateKey | None = None,
    ) -> Data:
        plain = folder / f"plain-{description.id}"
        for name, content in files.items():
            (plain / name).parent.mkdir(parents=True, exist_ok=True)
            (plain / name).write_bytes(content)
        key, signing_key = SecretKey.generate(), signing_key or Ed25519PrivateKey.generate()
        target = folder / description.id
        manifest = seal_directory(
            plain,
            target,
            description=description,
            dataset_key=key.public,
            signing_key=signing_key,
            created=testing.NOW,
        )
        return cls(target, manifest, key, signing_key)

    def registration(self, **changes: str) -> DatasetRegistration:
        fields = {
            "manifest": b64((self.folder / "dataset.json").read_bytes()),
            "signature": b64(decode_signature((self.folder / "dataset.json.sig").read_bytes())),
            "owner_key": b64(self.signing_key.public_key().public_bytes_raw()),
            "secret_key": b64(self.dataset_key.reveal()),
        }
        return DatasetRegistration.model_validate(fields | changes)

    def headers(self) -> dict[str, bytes]:
        return {
            entry.name: (self.folder / f"{entry.name}.c4gh").read_bytes()[: entry.header_size]
            for entry in self.manifest.files
        }

    def request(
        self, reader: SecretKey, purpose: str = GENERAL, headers: Mapping[str, bytes] | None = None
    ) -> ReleaseRequest:
        sent = self.headers() if headers is None else headers
        return ReleaseRequest(
            purpose=purpose,
            reader_key=reader.public.to_base64(),
            headers={name: b64(header) for name, header in sent.items()},
        )


@dataclass
class World:
    """A development broker with an approved environment, a token for its owner, and clients."""

    folder: Path
    portal: BlockingPortal
    clock: Clock = field(default_factory=Clock)
    people: People = field(default_factory=People)
    environment: Environment = field(default_factory=testing.environment)
    publisher: Ed25519PrivateKey = field(default_factory=generate_key)
    postgresql: str = ""
    """Address of its database; a SQLite file without it."""
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        environments = self.folder / "environments"
        environments.mkdir()
        self.publish(self.environment)
        (environments / "publisher.pub.pem").write_bytes(public_pem(self.publisher))
        (self.folder / "ark.pem").write_bytes(testing.chain().pem)
        plan = Plan(
            mode="development",
            development_root=self.folder / "ark.pem",
            environments=[environments],
            publishers=[environments / "publisher.pub.pem"],
            postgresql=self.postgresql,
        )
        self.config_path = initialise(self.folder / "broker", plan)
        self.broker = self.start()
        self.owner_token = add_token(self.broker.store, "owner", self.clock())
        self.owner = OwnerClient(URL, self.owner_token, http=self.http())

    def start(self) -> Broker:
        """Open the broker's state, as a start does."""
        self.broker = open_broker(load_config(self.config_path), clock=self.clock, identity=self.people)
        self.app = create_app(self.broker)
        return self.broker

    def restart(self) -> None:
        """End the broker and start it again; clients go on with the new one."""
        self.broker.close()
        self.start()

    def http(self) -> httpx.Client:
        """Return a client of whatever broker runs now."""

        async def current(scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

        return self._open.enter_context(httpx.Client(transport=InProcess(current, self.portal), base_url=URL))

    def guest(
        self,
        person: str = "token-of-alice",
        *,
        provider: Callable[[bytes], GuestEvidence] | None = None,
        **client: Any,
    ) -> KbsClient:
        """Return a guest whose person is known to the broker; nobody's with `person=""`."""
        kbs = KbsClient(URL, provider or self.evidence, http=self.http(), **client)
        if person:
            kbs.identity(IdentityRequest(provider="jupyterhub", token=person))
        return kbs

    def evidence(self, report_data: bytes, **changes: Any) -> GuestEvidence:
        """Return what a guest of the approved environment gathers."""
        return testing.evidence(report_data, self.environment, **changes)

    def publish(self, environment: Environment, key: Ed25519PrivateKey | None = None) -> Environment:
        """Put a signed environment where the broker looks."""
        path = self.folder / "environments" / f"{environment.name}-{environment.version}.toml"
        path.write_bytes(environment.raw)
        path.with_name(path.name + ".sig").write_bytes(sign(environment.raw, key or self.publisher))
        return environment

    def seal(self, description: Description = DESCRIPTION, files: Mapping[str, bytes] = FILES) -> Data:
        """Seal a dataset and register it."""
        data = Data.seal(self.folder, description, files)
        self.owner.register_dataset(data.registration())
        return data

    def grant(self, **fields: Any) -> str:
        """Grant, to alice if nobody else is named, and return the grant's id."""
        if "group" not in fields:
            fields.setdefault("subject", "alice")
        spec = GrantSpec.model_validate({"dataset": "heartbeats", "minimum": "simulated"} | fields)
        return self.owner.add_grant(spec).id

    def close(self) -> None:
        self._open.close()
        self.broker.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextlib.contextmanager
def world(folder: Path, **settings: Any) -> Iterator[World]:
    """Open a world in a folder and close it at the end."""
    with start_blocking_portal() as portal:
        made = World(folder, portal, **settings)
        try:
            yield made
        finally:
            made.close()
