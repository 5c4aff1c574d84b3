# SPDX-License-Identifier: BSD-3-Clause
"""What Kata's guests have besides the containers: a secure processor and CoCo's guest components, simulated.

One process serves every pod. The stand-in runtime tells it of each sandbox; it then listens on
127.0.0.1:8006 in that pod's network namespace, as api-server-rest of the guest components does (router.rs),
until the sandbox is deleted. Evidence is byte for byte of the form that hardware gives, by a chip under a
development root: who verifies it finds that it is simulated, and `/info` says so.

The guest is launched with what the pod's annotations say: HOST_DATA is the digest of the initdata. Its
measurement is that of the shape, with as many processors and with GPUs or without, of the environment with
this HOST_DATA in `environments`; a pod that fits none gets one that nobody knows.

`python -m support.cluster.guests FOLDER`
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
import socketserver
import sys
import threading
import tomllib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sealroom.environments import Environment, initdata_from_annotation
from sealroom.environments.initdata import check_initdata
from sealroom.errors import Error, FormatError
from sealroom.guest import DeviceEvidence, GuestEvidence
from sealroom.kbs.client import KbsClient
from sealroom.kbs.devices import encode_devices
from sealroom.kbs.evidence import snp_to_json
from sealroom.simulated import gpu_root, root
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.processor import Processor

from support.cluster.node import enter_network

PORT = 8006
CLOCK_SKEW = timedelta(minutes=1)
KATA = "io.katacontainers.config.hypervisor."
CRI = "io.kubernetes.cri."
MAX_RUNTIME_DATA = 1 << 16
_RESOURCE = re.compile(r"/cdh/resource/([^/]+)/([^/]+)/([^/]+)")
_BASE64 = re.compile(r"[A-Za-z0-9_-]*")


def cpus(annotations: Mapping[str, str]) -> int:
    """Return how many processors Kata would give the guest: those asked for, else the pod's limit."""
    asked = annotations.get(f"{KATA}default_vcpus", "")
    if asked:
        return ceil(float(asked))
    quota = int(annotations.get(f"{CRI}sandbox-cpu-quota", "0"))
    period = int(annotations.get(f"{CRI}sandbox-cpu-period", "0"))
    return max(1, ceil(quota / period)) if quota > 0 and period > 0 else 1


def measurement(
    environments: Mapping[str, Environment], host_data: bytes, vcpus: int, *, gpu: bool
) -> tuple[bytes, int]:
    """Return the launch measurement of a guest and its guest policy."""
    for environment in environments.values():
        if environment.tee != "simulated" or environment.host_data != host_data:
            continue
        for shape in environment.shapes:
            if shape.vcpus == vcpus and bool(shape.gpus) is gpu:
                return shape.measurement_bytes[0], environment.guest_policy
    return hashlib.sha384(f"a guest that nobody has measured, {vcpus}".encode()).digest(), 0x30000


@dataclass
class Guest:
    """One sandbox's guest."""

    processor: Processor
    gpus: Callable[[int], list[SimulatedGpu]]
    broker: str = ""
    initdata: str | None = None
    devices: int = 0
    """How many GPUs were passed to the pod's containers."""
    server: ThreadingHTTPServer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    client: KbsClient | None = None

    # --- the interface that the answers are made of ---

    def information(self) -> bytes:
        """Answer of /info; members without a value are left out, as serde does."""
        members: dict[str, object] = {"version": "0.11.0-simulated", "tee": "snp", "feature": "all"}
        if self.devices:
            members["additional_tees"] = ["nvidia"]
        return json.dumps(members).encode()

    def evidence(self, runtime_data: bytes) -> bytes:
        """Evidence of the processor; shorter report data is filled with zeros, as the attester does."""
        report = self.processor.report(runtime_data[:64].ljust(64, b"\0"))
        return json.dumps(snp_to_json(report, self.processor.certificates)).encode()

    def additional(self, runtime_data: bytes) -> bytes:
        """Evidence of the GPUs over the first 32 bytes; nothing without GPUs."""
        return encode_devices(self._devices(runtime_data[:32].ljust(32, b"\0"))).encode()

    def resource(self, repository: str, kind: str, tag: str) -> bytes:
        """A resource of the broker that the initdata names."""
        with self.lock:
            if self.client is None:
                if not self.broker:
                    raise FormatError("The initdata names no broker.")
                gathered = DevicesOf(self._devices) if self.devices else None
                self.client = KbsClient(
                    self.broker, self._gather, devices=gathered, init_data=self.initdata, timeout=30.0
                )
            return self.client.resource(repository, kind, tag)

    def close(self) -> None:
        """Stop listening."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
        if self.client is not None:
            self.client.close()

    def _gather(self, report_data: bytes) -> GuestEvidence:
        chip = self.processor
        return GuestEvidence("snp", chip.report(report_data), chip.certificates, "coco")

    def _devices(self, nonce: bytes) -> list[DeviceEvidence]:
        return [
            DeviceEvidence(gpu.architecture, gpu.uuid, gpu.report(nonce), gpu.chain_pem)
            for gpu in self.gpus(self.devices)
        ]


@dataclass(frozen=True)
class DevicesOf:
    """The devices as the client of the broker asks for them."""

    evidence: Callable[[bytes], list[DeviceEvidence]]


def decode(text: str, encoding: str | None) -> bytes:
    """Decode runtime data as `decode_runtime_data` of the guest components does."""
    if encoding is None:
        return text.encode()
    if encoding != "base64" or not _BASE64.fullmatch(text):
        raise ValueError(encoding)
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def answer(guest: Guest, target: str) -> tuple[int, bytes]:
    """Return status and body for a GET."""
    parts = urlsplit(target)
    if parts.path == "/info":
        return 200, guest.information()
    wanted = _RESOURCE.fullmatch(parts.path)
    if wanted:
        try:
            return 200, guest.resource(*(unquote(part) for part in wanted.groups()))
        except Error as error:
            return 500, f"rpc status: Status {{ code: INTERNAL, message: {error.message!r} }}".encode()
    routes = {"/aa/evidence": guest.evidence, "/aa/additional-evidence": guest.additional}
    if parts.path not in routes:
        return 404, b"URL NOT FOUND"
    parameters = {name: values[0] for name, values in parse_qs(parts.query).items()}
    try:
        data = decode(parameters["runtime_data"], parameters.get("encoding"))
    except (KeyError, ValueError, binascii.Error):
        return 400, b"BAD REQUEST"
    return 200, routes[parts.path](data)


class Guests:
    """All guests of the node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = root.load(folder / "simulated")
        self.gpu_root = gpu_root.load(folder / "simulated-gpus")
        self._gpus: dict[int, SimulatedGpu] = {}
        self._guests: dict[str, Guest] = {}
        self._lock = threading.Lock()

    def handle(self, request: Mapping[str, str]) -> None:
        """Do what the runtime asks for; raises where it cannot be done."""
        if request["do"] == "delete":
            with self._lock:
                gone = self._guests.pop(request["id"], None)
            if gone is not None:
                # A handler may be in the middle of an answer.
                threading.Thread(target=gone.close, daemon=True).start()
            return
        record = json.loads(Path(request["record"]).read_text())
        annotations = record["config"].get("annotations", {})
        if annotations.get(f"{CRI}container-type") == "sandbox":
            guest = self._launch(record, annotations)
            with self._lock:
                self._guests[request["id"]] = guest
            return
        with self._lock:
            guest = self._guests[annotations[f"{CRI}sandbox-id"]]
        passed = [
            d for d in record["config"]["linux"].get("devices", ()) if d["path"].startswith("/dev/vfio/")
        ]
        guest.devices += len(passed)

    def _launch(self, record: Mapping[str, Any], annotations: Mapping[str, str]) -> Guest:
        text, host_data, broker = None, bytes(32), ""
        packed = annotations.get(f"{KATA}cc_init_data")
        if packed:
            # A guest refuses to start with initdata that it cannot read.
            text = initdata_from_annotation(packed)
            host_data, broker = check_initdata(text), _broker(text)
        value, policy = measurement(
            self._environments(), host_data, cpus(annotations), gpu="gpu" in record["runtime_class"]
        )
        now = datetime.now(UTC) - CLOCK_SKEW
        chip = Processor(self.root, at=now, measurement=value, host_data=host_data, policy=policy)
        guest = Guest(chip, self._some_gpus, broker, text)
        namespaces = record["config"]["linux"]["namespaces"]
        network = next(item["path"] for item in namespaces if item["type"] == "network")
        with ThreadPoolExecutor(1, initializer=enter_network, initargs=(network,)) as there:
            guest.server = there.submit(_listen, guest).result(10.0)
        threading.Thread(target=guest.server.serve_forever, args=(0.2,), daemon=True).start()
        return guest

    def _environments(self) -> dict[str, Environment]:
        found = {}
        for path in sorted((self.folder / "environments").glob("*.toml")):
            with contextlib.suppress(Error, OSError):
                found[path.name] = Environment.from_toml(path.read_bytes())
        return found

    def _some_gpus(self, count: int) -> list[SimulatedGpu]:
        with self._lock:
            for number in range(count):
                if number not in self._gpus:
                    seed = hashlib.sha256(self.gpu_root.seed + bytes([number])).digest()
                    self._gpus[number] = SimulatedGpu(self.gpu_root, "HOPPER", seed=seed)
            return [self._gpus[number] for number in range(count)]


def _broker(initdata: str) -> str:
    """Return the broker's address that the guest components are told; empty without one."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        agent = tomllib.loads(tomllib.loads(initdata)["data"]["aa.toml"])
        return str(agent["token_configs"]["kbs"]["url"])
    return ""


def _listen(guest: Guest) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        server_version = "sealroom-simulated-guest"
        sys_version = ""

        def do_GET(self) -> None:
            status, body = answer(guest, self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return ThreadingHTTPServer(("127.0.0.1", PORT), Handler)


class _Runtime(socketserver.StreamRequestHandler):
    guests: Guests

    def handle(self) -> None:
        try:
            self.guests.handle(json.loads(self.rfile.readline(1 << 16)))
            said = "ok"
        except Exception as error:  # noqa: BLE001 - whatever it is, the pod must not start
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
            print(said, flush=True)
        self.wfile.write(said.encode() + b"\n")


class _Sockets(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    """Serve until killed."""
    folder = Path(sys.argv[1])
    _Runtime.guests = Guests(folder)
    path = folder / "guests.sock"
    path.unlink(missing_ok=True)
    with _Sockets(str(path), _Runtime) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
