# SPDX-License-Identifier: BSD-3-Clause
"""What attested servers cost the broker, whether it grows, and what its audit log costs at any size.

Handshakes: the broker's own program with a SQLite file, and servers in a process of their own that prove
themselves, say who asks, and get a dataset's headers, fifty at once, each time in a new session with a new
key. CPU time is the broker's alone (`broker_measured.py`), without what it waits for. The limit is the one
verification on P-384 that a handshake needs when the chain of the processor is known: the report's.

Log: appending to and proving from logs of 10^3, 10^5 and, in full, 10^6 entries, in a folder and, where there
is a PostgreSQL server, in a database.

Nothing here asserts a figure. `full_rows` adds 100,000 handshakes without releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks import broker_log
from benchmarks.bench_snp import openssl_limit
from benchmarks.broker_load import MARKS, SIGNED, Prepared
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sealroom import testing
from sealroom.crypt4gh import SecretKey
from sealroom.kbs.calls import GrantSpec
from sealroom.kbs.evidence import snp_to_json
from support.broker_process import BrokerProcess
from support.brokers import DESCRIPTION, Data

SERVERS: Final = 50
FILES: Final = 8
WARMING: Final = 300
HANDSHAKES: Final = 2_000
HANDSHAKES_FULL: Final = 100_000
LIMIT: Final = "openssl speed ecdsap384, one verification a handshake"
_HERE: Final = Path(__file__).resolve().parent
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SETTINGS: Final = """
[limits]
rate = 1000000.0
burst = 1000000

[periods]
nonce = 60
attestation = 60
session = 60
"""
"""Everything comes from one address; and sessions end soon, so that the database shows whether it grows."""


class Hub:
    """Answers `GET /hub/api/user` as JupyterHub does, over connections that stay."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.api_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hub/api"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                name = head.partition("token token-")[2].partition("\r\n")[0]
                scopes = [f"access:servers!server=user-{name}/", "access:services!service=sealroom-broker"]
                user = {"kind": "user", "name": f"user-{name}", "groups": [], "scopes": scopes}
                body = json.dumps(user).encode()
                kind = b"Content-Type: application/json\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (kind, len(body), body))
        writer.close()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@dataclass
class Measured:
    """What a run gave."""

    calls: dict[str, list[float]]
    """CPU seconds of the newest requests, by call."""
    handshakes: int
    seconds: float
    cpu: float
    """CPU seconds of the broker's process."""
    resident: list[tuple[int, float, float]] = field(default_factory=list)
    """Handshakes, MiB resident, MiB of the database with its journal."""
    evidence: float = 0.0
    """MiB beside the database: log and evidence."""


class Bench:
    """A broker with people, a dataset and their grants, and what the load process needs.

    Args:
        folder: Where everything is.
        hub: Knows the people.
    """

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self._result = folder, folder / "result.json"
        (folder / "load").mkdir()
        self.broker = BrokerProcess.prepare(folder, hub)  # type: ignore[arg-type]
        self.broker.settings(_SETTINGS)

    def start(self) -> None:
        """Start the broker, register the dataset and give the grants."""
        program = (sys.executable, _HERE / "broker_measured.py", self._result)
        self.broker.start(program=[str(word) for word in program])
        files = {f"part-{number}.bin": bytes(1000) for number in range(FILES)}
        data = Data.seal(self.folder, DESCRIPTION, files)
        with self.broker.owner() as owner:
            owner.register_dataset(data.registration())
            for number in range(SERVERS):
                owner.add_grant(
                    GrantSpec(dataset="heartbeats", subject=f"user-{number}", minimum="simulated")
                )
        _prepared(data).write(self.folder / "load")

    @property
    def pid(self) -> int:
        assert self.broker.process is not None
        return self.broker.process.pid

    def run(self, handshakes: int, marks: tuple[int, ...], *, only: bool = False) -> Measured:
        """Run handshakes, and look at the broker's memory after as many as the marks say."""
        self._load(WARMING)
        os.kill(self.pid, signal.SIGUSR1)
        time.sleep(0.1)
        before = self._cpu()
        resident = []
        with self._started(handshakes, only=only) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line[:1] == b"{":
                    done: dict[str, float] = json.loads(line)
                elif int(line) in marks:
                    resident.append((int(line), self._resident(), self._size("broker.sqlite*")))
        cpu = self._cpu() - before
        return Measured({}, int(done["handshakes"]), done["seconds"], cpu, resident)

    def end(self, measured: Measured) -> Measured:
        """End the broker and add what it counted."""
        measured.evidence = self._size("audit/**/*")
        self.broker.end(signal.SIGTERM)
        measured.calls = json.loads(self._result.read_text())
        return measured

    def _load(self, handshakes: int) -> None:
        with self._started(handshakes) as process:
            assert process.stdout is not None
            process.stdout.read()

    @contextlib.contextmanager
    def _started(self, handshakes: int, *, only: bool = False) -> Iterator[subprocess.Popen[bytes]]:
        words = (
            _HERE / "broker_load.py",
            self.folder / "load",
            self.broker.port,
            SERVERS,
            handshakes,
            int(only),
        )
        command = [sys.executable, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            yield process
        if process.returncode:
            raise RuntimeError("the servers of the benchmark failed; see above, and the broker's log")

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _resident(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError("the broker has no memory")

    def _size(self, pattern: str) -> float:
        root = self.broker.config.parent
        return sum(path.stat().st_size for path in root.glob(pattern) if path.is_file()) / (1 << 20)


def _prepared(data: Data) -> Prepared:
    chip, environment = testing.chip(), testing.environment()
    report = bytearray(testing.evidence(bytes(64), environment, on=chip).report)
    evidence: Any = snp_to_json(bytes(report), chip.certificates)
    fields = evidence["attestation_report"]
    fields["report_data"], fields["signature"] = "@report_data", {"r": "@r", "s": "@s"}
    message = {
        "init-data": None,
        "runtime-data": "@runtime",
        "tee-evidence": {"primary_evidence": evidence, "additional_evidence": ""},
    }
    attest = json.dumps(message, separators=(",", ":"))
    if any(attest.count(mark) != 1 for mark in MARKS):
        raise RuntimeError("the prepared message lacks a mark")
    pem = chip.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    request = data.request(SecretKey.generate())
    return Prepared(bytes(report[:SIGNED]), pem, attest, request.model_dump_json().encode())


def _measure(handshakes: int, marks: tuple[int, ...], *, only: bool = False) -> Measured:
    hub = Hub()
    try:
        with tempfile.TemporaryDirectory(prefix="sealroom-bench-") as name:
            bench = Bench(Path(name), hub)
            try:
                bench.start()
                return bench.end(bench.run(handshakes, marks, only=only))
            finally:
                bench.broker.kill()
    finally:
        hub.close()


def rows() -> list[dict[str, Any]]:
    """Measure and return one row a figure: what, ours, unit and, where there is one, peer and ratio."""
    return _rows(HANDSHAKES, broker_log.SIZES[:-1])


def full_rows() -> list[dict[str, Any]]:
    """Measure as `rows` does, up to logs of a million entries, and the memory over 100,000 handshakes."""
    return [*_rows(10_000, broker_log.SIZES), *memory_rows()]


def memory_rows() -> list[dict[str, Any]]:
    """Measure the memory over 100,000 handshakes without releases."""
    marks = (HANDSHAKES_FULL // 100, HANDSHAKES_FULL // 10, HANDSHAKES_FULL // 2, HANDSHAKES_FULL)
    return _memory(_measure(HANDSHAKES_FULL, marks, only=True))


def _rows(handshakes: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    limits = [openssl_limit()]
    measured = _measure(handshakes, (handshakes // 10, handshakes // 2, handshakes))
    limits.append(openssl_limit())
    speeds = [limit for limit in limits if limit is not None]
    speed = _speed(measured, statistics.mean(speeds) if speeds else None)
    return [*_calls(measured), *speed, *_memory(measured), *broker_log.rows(sizes)]


def _calls(measured: Measured) -> list[dict[str, Any]]:
    found = []
    for call, values in measured.calls.items():
        times = sorted(1000 * value for value in values)
        for what, at in (("median", 0.5), ("99th percentile", 0.99)):
            value = times[min(len(times) - 1, int(at * len(times)))]
            title = f"broker, {SERVERS} servers at once: {call}, {what}"
            found.append({"what": title, "ours": round(value, 2), "unit": "ms of CPU"})
    whole = 1000 * measured.cpu / measured.handshakes
    what = "broker: whole process, for each handshake with headers"
    return [*found, {"what": what, "ours": round(whole, 2), "unit": "ms of CPU"}]


def _speed(measured: Measured, limit: float | None) -> list[dict[str, Any]]:
    reached = measured.handshakes / measured.seconds
    ours = measured.handshakes / measured.cpu
    wall = {
        "what": "broker: handshakes with a release, reached",
        "ours": round(reached),
        "unit": "per second",
    }
    row: dict[str, Any] = {"what": "broker: the same", "ours": round(ours), "unit": "per CPU second"}
    if limit is not None:
        row |= {"peer": LIMIT, "theirs": round(limit), "ratio": round(ours / limit, 2)}
    return [wall, row]


def _memory(measured: Measured) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    first = measured.resident[0]
    for handshakes, resident, database in measured.resident:
        for what, value, base in (("memory", resident, first[1]), ("database", database, first[2])):
            row = {
                "what": f"broker: {what} after {handshakes} handshakes",
                "ours": round(value),
                "unit": "MiB",
            }
            peer = f"after {first[0]}"
            found.append(row | {"peer": peer, "theirs": round(base), "ratio": round(value / base, 2)})
    each = 1024 * measured.evidence / measured.handshakes
    what = "broker: log and evidence on disk, for each handshake with headers"
    return [*found, {"what": what, "ours": round(each, 1), "unit": "KiB"}]


if __name__ == "__main__":
    print(json.dumps(full_rows() if "--full" in sys.argv[1:] else rows(), indent=2))
