# SPDX-License-Identifier: BSD-3-Clause
"""CoCo's guest components as a real HTTP server: the routes and answers of api-server-rest.

(guest-components api-server-rest/src/router.rs and utils.rs.)
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from sealroom import testing
from sealroom.kbs.devices import encode_devices
from sealroom.kbs.evidence import snp_to_json
from sealroom.simulated.gpu import SimulatedGpu

URL_SAFE_NO_PADDING = re.compile(r"[A-Za-z0-9_-]*")


@dataclass
class GuestComponents:
    """What the attestation agent behind the interface can do."""

    gpus: Sequence[SimulatedGpu] = ()
    takes_binary: bool = True
    """Whether `encoding=base64` is known; older ones pass the text on as it is."""
    fails: str = ""
    """Text of the failure that every call for evidence ends with."""
    devices: str | None = None
    """The answer about devices, instead of the GPUs' evidence."""
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def information(self) -> str:
        """The answer of /info, without empty members, as serde leaves them out."""
        members: dict[str, object] = {"version": "0.11.0", "tee": "snp", "feature": "all"}
        if self.gpus or self.devices is not None:
            members["additional_tees"] = ["nvidia"]
        return json.dumps(members)

    def primary(self, runtime_data: bytes) -> str:
        """Evidence of the processor; report data that is shorter is filled with zeros by the attester."""
        chip = testing.chip()
        report = chip.report(report_data=runtime_data[:64].ljust(64, b"\0"))
        return json.dumps(snp_to_json(report, chip.certificates))

    def additional(self, runtime_data: bytes) -> str:
        """Evidence of the devices over the first 32 bytes; nothing at all without an attester for them."""
        if self.devices is not None:
            return self.devices
        nonce = runtime_data[:32].ljust(32, b"\0")
        return encode_devices([testing.device_evidence(nonce, on=gpu) for gpu in self.gpus])

    def decode(self, text: str, encoding: str | None) -> bytes:
        """Decode runtime data as `decode_runtime_data` does."""
        if encoding is None or not self.takes_binary:
            return text.encode()
        if encoding != "base64" or not URL_SAFE_NO_PADDING.fullmatch(text):
            raise ValueError(encoding)
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@contextlib.contextmanager
def running(components: GuestComponents) -> Iterator[GuestComponents]:
    """Serve the components on a free port of the loopback interface while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            components.asked.append(self.path)
            status, body = answer(components, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    components.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield components
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def answer(components: GuestComponents, target: str) -> tuple[int, bytes]:
    """Return status and body for a GET."""
    parts = urlsplit(target)
    routes = {"/aa/evidence": components.primary, "/aa/additional-evidence": components.additional}
    if parts.path == "/info":
        return 200, components.information().encode()
    if parts.path not in routes:
        return 404, b"URL NOT FOUND"
    parameters = {name: values[0] for name, values in parse_qs(parts.query).items()}
    try:
        runtime_data = components.decode(parameters["runtime_data"], parameters.get("encoding"))
    except (KeyError, ValueError, binascii.Error):
        return 400, b"BAD REQUEST"
    if components.fails:
        return 500, components.fails.encode()
    return 200, routes[parts.path](runtime_data).encode()
