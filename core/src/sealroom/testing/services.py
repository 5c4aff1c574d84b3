# SPDX-License-Identifier: BSD-3-Clause
"""Stand-ins of AMD's and NVIDIA's services: real HTTP servers on 127.0.0.1, with the makers' addresses.

```python
with running_kds(chain) as kds:                     # AMD's key distribution service for one product line
    KdsFetcher(store, kds.url).vcek(...)
    kds.requests                                    # what was asked, in order
    kds.fail(Fault(status=500))                     # the next request fails
with running_rim_service({gpu.driver_rim_id: gpu.driver_rim}) as rims: ...
with running_ocsp([gpu], at=now) as ocsp: ...
```

They answer as the services do: certificates in DER, chains in PEM (Turin's with CRLF), `Cache-Control:
no-cache` and ETags, 429 to a client that comes too often. An injected fault is for one request; faults are
used up in order.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as pyca_ocsp

from sealroom.simulated import Root, gpu_ocsp
from sealroom.simulated.certificates import pss
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_certificates import EcAuthority
from sealroom.simulated.gpu_ocsp import Status
from sealroom.simulated.gpu_root import GpuRoot
from sealroom.snp import ProductLine, TcbVersion
from sealroom.testing.builders import ISSUED, Chip, chip

CRL_LIFE: Final = timedelta(days=46)
"""From issue to nextUpdate of AMD's lists."""
_VCEK: Final = re.compile(r"/vcek/v1/(Milan|Genoa|Turin)/([0-9a-f]+)")
_LINE_FILE: Final = re.compile(r"/(vcek|vlek)/v1/(Milan|Genoa|Turin)/(cert_chain|crl)")
_SPLS: Final = ("blSPL", "teeSPL", "snpSPL", "ucodeSPL")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request."""

    status: int | None = None
    """Answer with this status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of that answer."""
    body: bytes | None = None
    """Answer with this body, with status 200 unless `status` says otherwise."""
    cut: bool = False
    """Promise the whole body and end the connection in the middle of it."""
    drop: bool = False
    """End the connection without an answer."""
    alter: Callable[[bytes], bytes] | None = None
    """Change the body of the right answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that arrived."""

    method: str
    path: str
    """Path and query."""
    headers: Mapping[str, str]
    """Headers, names in lower case."""
    body: bytes = b""


class StandIn:
    """A server in threads; `answer` of a subclass says what it answers.

    Args:
        latency: Seconds before each answer.
    """

    def __init__(self, *, latency: float = 0.0) -> None:
        self.latency = latency
        self.requests: list[Asked] = []
        """What was asked, in order."""
        self.arrived = threading.Event()
        """Set when the first request has arrived."""
        self.hold: threading.Event | None = None
        """While this is set to an event that is not, answers wait for it."""
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Its address."""
        if self._server is None:
            raise RuntimeError("it does not run")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def paths(self) -> list[str]:
        """Paths with query that were asked for, in order."""
        return [one.path for one in self.requests]

    def fail(self, *faults: Fault) -> None:
        """Let the next requests fail, one fault each."""
        self._faults.extend(faults)

    def answer(self, asked: Asked) -> Reply:
        """Return the right answer."""
        raise NotImplementedError

    def reply(self, asked: Asked) -> tuple[Reply, Fault | None]:
        """Record a request and return the answer with the fault that it is to have."""
        with self._lock:
            self.requests.append(asked)
            fault = self._faults.popleft() if self._faults else None
        self.arrived.set()
        if self.hold is not None:
            self.hold.wait(30)
        if self.latency:
            time.sleep(self.latency)
        if fault is None:
            return self.answer(asked), None
        if fault.alter is not None:
            right = self.answer(asked)
            return Reply(right.status, fault.alter(right.body), right.headers), fault
        if fault.status is not None or fault.body is not None:
            return Reply(fault.status or 200, fault.body or b"", fault.headers), fault
        return self.answer(asked), fault

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Serve while the context lasts."""
        stand_in = self

        class Handler(_Handler):
            server_of = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            if self.hold is not None:
                self.hold.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    server_of: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _serve(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply, fault = self.server_of.reply(Asked(self.command, self.path, headers, body))
        if fault is not None and fault.drop:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if fault is not None and fault.cut:
            self.wfile.write(reply.body[: len(reply.body) // 2])
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


def _cached(body: bytes, asked: Asked, kind: str) -> Reply:
    """Answer as the services do that let clients ask whether something has changed."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"Cache-Control": "no-cache", "ETag": etag, "Content-Type": kind}
    if asked.headers.get("if-none-match") == etag:
        return Reply(304, b"", headers)
    return Reply(200, body, headers)


# --- AMD ---


class Kds(StandIn):
    """AMD's key distribution service for one product line.

    Args:
        root: Endorses the chips.
        chips: Public key by CHIP_ID (8 bytes for Turin, 64 for others); the one of `testing.chip` by default.
        issued: Start of the life of certificates that it gives.
        crl_at: Issue time of its revocation list; `issued` without it.
        revoked: Serial numbers on that list.
        per_client: Seconds in which a client gets one answer and then 429; 0 never says so.
        latency: Seconds before each answer.
    """

    def __init__(
        self,
        root: Root,
        chips: Mapping[bytes, ec.EllipticCurvePublicKey],
        *,
        issued: datetime = ISSUED,
        crl_at: datetime | None = None,
        revoked: Sequence[int] = (),
        per_client: float = 0.0,
        latency: float = 0.0,
    ) -> None:
        super().__init__(latency=latency)
        self.root = root
        self.chips = dict(chips)
        self.issued = issued
        self.crl_at = crl_at or issued
        self.revoked = tuple(revoked)
        self.per_client = per_client
        self._last = float("-inf")
        self._crls: dict[tuple[datetime, tuple[int, ...]], bytes] = {}

    def answer(self, asked: Asked) -> Reply:
        """Return what AMD's service would give."""
        if self.per_client and self._too_often():
            return Reply(429, b"Too Many Requests", {"Content-Type": "text/plain"})
        parts = urlsplit(asked.path)
        vcek, file = _VCEK.fullmatch(parts.path), _LINE_FILE.fullmatch(parts.path)
        if vcek is not None:
            return self._vcek(asked, vcek[1], vcek[2], parts.query)
        if file is not None and file[2] == self.root.line:
            body = self.chain(file[1]) if file[3] == "cert_chain" else self.crl()
            kind = "application/x-pem-file" if file[3] == "cert_chain" else "application/pkix-crl"
            return _cached(body, asked, kind)
        return Reply(404, b"Not Found")

    def _too_often(self) -> bool:
        with self._lock:
            now = time.monotonic()
            early = now - self._last < self.per_client
            self._last = now if not early else self._last
            return early

    def _vcek(self, asked: Asked, line: str, hwid: str, query: str) -> Reply:
        key = self.chips.get(bytes.fromhex(hwid)) if len(hwid) % 2 == 0 else None
        wanted = ("fmcSPL", *_SPLS) if line == ProductLine.TURIN else _SPLS
        pairs = parse_qsl(query)
        if tuple(name for name, _ in pairs) != wanted or not all(value.isdigit() for _, value in pairs):
            return Reply(400, b"Bad Request")
        if key is None or line != self.root.line:
            return Reply(404, b"Not Found")
        spl = {name: int(value) for name, value in pairs}
        tcb = TcbVersion(spl["blSPL"], spl["teeSPL"], spl["snpSPL"], spl["ucodeSPL"], spl.get("fmcSPL"))
        padded = bytes.fromhex(hwid).ljust(64, b"\0")
        der = self.root.issue_vcek(key, chip_id=padded, tcb=tcb, at=self.issued)
        return _cached(der, asked, "application/octet-stream")

    def chain(self, kind: str = "vcek") -> bytes:
        """Return ASK or ASVK, then ARK, in PEM."""
        issuer = self.root.ask if kind == "vcek" else self.root.asvk
        pem = (issuer.pem if issuer is not None else b"") + self.root.ark.pem
        return pem.replace(b"\n", b"\r\n") if self.root.line is ProductLine.TURIN else pem

    def crl(self) -> bytes:
        """Return the revocation list in DER; the same bytes until `crl_at` or `revoked` change."""
        key = (self.crl_at, tuple(self.revoked))
        if key not in self._crls:
            self._crls[key] = self._make_crl()
        return self._crls[key]

    def _make_crl(self) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.root.ark.certificate.subject)
            .last_update(self.crl_at)
            .next_update(self.crl_at + CRL_LIFE)
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.crl_at)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.root.ark.key, SHA384(), rsa_padding=pss()).public_bytes(Encoding.DER)


@contextlib.contextmanager
def running_kds(on: Chip | None = None, **options: Any) -> Iterator[Kds]:
    """Serve AMD's service for a chip's product line while the context lasts; options as for `Kds`."""
    on = on or chip()
    hwid = on.chip_id[: on.line.chip_id_size]
    kds = Kds(on.root, options.pop("chips", None) or {hwid: on.key.public_key()}, **options)
    with kds.running():
        yield kds


# --- NVIDIA ---


class RimService(StandIn):
    """NVIDIA's RIM service.

    Args:
        rims: Manifest by id; replace one to issue it again.
        latency: Seconds before each answer.
    """

    def __init__(self, rims: Mapping[str, bytes], *, latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self.rims = dict(rims)

    def answer(self, asked: Asked) -> Reply:
        """Return what NVIDIA's service would give; it sends no caching headers."""
        name = urlsplit(asked.path).path.removeprefix("/v1/rim/")
        common = {"request_id": "00000000-0000-0000-0000-000000000000", "last_updated": ISSUED.isoformat()}
        if name == "ids":
            return _json(200, {"ids": sorted(self.rims), **common})
        if name not in self.rims:
            return _json(404, {"error_code": 1008, "error_message": "RIM not found"})
        data = self.rims[name]
        document = {
            "id": name,
            "rim": base64.b64encode(data).decode(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "rim_format": "TCG",
        }
        return _json(200, document | common)


def _json(status: int, document: Mapping[str, object]) -> Reply:
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


@contextlib.contextmanager
def running_rim_service(rims: Mapping[str, bytes], *, latency: float = 0.0) -> Iterator[RimService]:
    """Serve manifests by id while the context lasts."""
    service = RimService(rims, latency=latency)
    with service.running():
        yield service


class OcspResponder(StandIn):
    """NVIDIA's OCSP responder for the chains of some devices and of their manifests.

    Args:
        gpus: The devices.
        at: When answers are made.
        latency: Seconds before each answer.
    """

    def __init__(self, gpus: Sequence[SimulatedGpu], *, at: datetime, latency: float = 0.0) -> None:
        super().__init__(latency=latency)
        self.at = at
        self.statuses: dict[int, Status] = {}
        """Other statuses than `good`, by serial number."""
        self.nonces = True
        """Whether answers repeat the nonce."""
        self._issued: dict[tuple[int, bytes], tuple[x509.Certificate, EcAuthority, GpuRoot]] = {}
        for gpu in gpus:
            for certificate, issuer in zip(gpu.chain, gpu.chain[1:], strict=False):
                self.know(certificate.certificate, issuer, gpu.root)
            chip_name, root = gpu.model.certified_as, gpu.root
            issuer, authority = root.rim_issuers[chip_name], root.rim_authorities[chip_name]
            self.know(issuer.certificate, authority, root)
            self.know(authority.certificate, root.rim, root)

    def know(self, certificate: x509.Certificate, issuer: EcAuthority, root: GpuRoot) -> None:
        """Answer about one more certificate."""
        request = pyca_ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer.certificate, SHA384())
        key = (certificate.serial_number, request.build().issuer_key_hash)
        self._issued[key] = (certificate, issuer, root)

    def answer(self, asked: Asked) -> Reply:
        """Return what NVIDIA's responder would give."""
        kind = {"Content-Type": "application/ocsp-response"}
        if asked.headers.get("content-type") != "application/ocsp-request":
            return Reply(415)
        try:
            request = pyca_ocsp.load_der_ocsp_request(asked.body)
            nonce = request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        except (ValueError, x509.ExtensionNotFound):
            return Reply(200, self._unsuccessful(pyca_ocsp.OCSPResponseStatus.MALFORMED_REQUEST), kind)
        found = self._issued.get((request.serial_number, request.issuer_key_hash))
        if found is None or not isinstance(request.hash_algorithm, SHA384):
            return Reply(200, self._unsuccessful(pyca_ocsp.OCSPResponseStatus.UNAUTHORIZED), kind)
        certificate, issuer, root = found
        body = gpu_ocsp.answer(
            certificate,
            issuer,
            root.responder(issuer),
            at=self.at,
            status=self.statuses.get(certificate.serial_number, "good"),
            nonce=nonce if self.nonces else None,
        )
        return Reply(200, body, kind)

    @staticmethod
    def _unsuccessful(status: pyca_ocsp.OCSPResponseStatus) -> bytes:
        return pyca_ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


@contextlib.contextmanager
def running_ocsp(
    gpus: Sequence[SimulatedGpu], *, at: datetime, latency: float = 0.0
) -> Iterator[OcspResponder]:
    """Serve OCSP answers about devices while the context lasts."""
    responder = OcspResponder(gpus, at=at, latency=latency)
    with responder.running():
        yield responder
