# SPDX-License-Identifier: BSD-3-Clause
"""Attested servers that keep a broker busy, in a process of their own: its CPU time is not the broker's.

`broker_load.py FOLDER PORT SERVERS HANDSHAKES` runs that many handshakes with a release each, as many at once
as there are servers, every one in a session of its own with a new key. It prints how many are done from time
to time, and at the end a JSON object. Only OpenSSL signs here; everything that does not depend on the nonce
was prepared by `bench_broker.py`, see `Prepared.write`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sealroom.kbs.binding import cpu_report_data
from sealroom.kbs.jwe import TeeKey
from sealroom.simulated.reports import sign_report

PROGRESS: Final = 100
REPORT_DATA: Final = slice(0x50, 0x90)
R: Final = slice(0x2A0, 0x2E8)
S: Final = slice(0x2E8, 0x330)
SIGNED: Final = 0x2A0
MARKS: Final = ('"@report_data"', '"@r"', '"@s"', '"@runtime"')
"""What stands in the prepared `attest` message for what depends on the nonce."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What does not depend on the nonce."""

    signed: bytes
    """The signed part of a report of the approved environment."""
    key: bytes
    """The chip's key, PEM."""
    attest: str
    """An `attest` message with `MARKS` in it."""
    release: bytes
    """A release request."""

    def write(self, folder: Path) -> None:
        """Keep it for the load process."""
        (folder / "signed.bin").write_bytes(self.signed)
        (folder / "chip.pem").write_bytes(self.key)
        (folder / "attest.json").write_text(self.attest)
        (folder / "release.json").write_bytes(self.release)

    @classmethod
    def read(cls, folder: Path) -> Prepared:
        """Read it."""
        return cls(
            (folder / "signed.bin").read_bytes(),
            (folder / "chip.pem").read_bytes(),
            (folder / "attest.json").read_text(),
            (folder / "release.json").read_bytes(),
        )


class Server:
    """One notebook server with a connection to the broker."""

    def __init__(self, prepared: Prepared, port: int, number: int) -> None:
        self._prepared, self._port, self._number = prepared, port, number
        key = load_pem_private_key(prepared.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    async def connect(self) -> None:
        """Connect."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def handshake(self) -> str:
        """Prove, and return the session's cookie."""
        request = b'{"version":"0.4.0","tee":"snp","extra-params":""}'
        answer, cookie = await self._post("/kbs/v0/auth", request, "")
        nonce: str = json.loads(answer)["nonce"]
        await self._post("/kbs/v0/attest", self._attest(nonce), cookie)
        return cookie

    async def handshake_and_headers(self) -> bytes:
        """Prove, say who asks, and get the headers; return the answer to the release."""
        cookie = await self.handshake()
        identity = json.dumps({"provider": "jupyterhub", "token": f"token-{self._number}"}).encode()
        await self._post("/kbs/v0/sealroom/identity", identity, cookie)
        path = "/kbs/v0/sealroom/datasets/heartbeats/release"
        return (await self._post(path, self._prepared.release, cookie))[0]

    def _attest(self, nonce: str) -> bytes:
        jwk = TeeKey.generate().public_jwk()
        part = bytearray(self._prepared.signed)
        part[REPORT_DATA] = cpu_report_data(nonce, jwk)
        report = sign_report(bytes(part), self._key)
        message = self._prepared.attest
        runtime = {"nonce": nonce, "tee-pubkey": jwk}
        values = (*(list(report[where]) for where in (REPORT_DATA, R, S)), runtime)
        for mark, value in zip(MARKS, values, strict=True):
            message = message.replace(mark, json.dumps(value, separators=(",", ":")), 1)
        return message.encode()

    async def _post(self, path: str, body: bytes, cookie: str) -> tuple[bytes, str]:
        sent = f"Cookie: kbs-session-id={cookie}\r\n" if cookie else ""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: broker\r\nContent-Type: application/json\r\n"
            f"{sent}Content-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        raw = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = raw.decode("latin-1").split("\r\n")
        length, found = 0, cookie
        for line in lines:
            name, _, value = line.partition(": ")
            if name.lower() == "content-length":
                length = int(value)
            elif name.lower() == "set-cookie":
                found = value.partition(";")[0].partition("=")[2]
        answer = await self._reader.readexactly(length)
        if " 200 " not in status:
            raise RuntimeError(f"{path} was answered with {status}: {answer[:300]!r}")
        return answer, found


async def load(folder: Path, port: int, servers: int, handshakes: int, only: int = 0) -> dict[str, float]:
    """Run the handshakes and return how many there were and the seconds that they took.

    Args:
        folder: What is prepared.
        port: The broker's.
        servers: At once.
        handshakes: How many.
        only: 1 for the handshake alone, without a person and headers.
    """
    prepared, begun, done = Prepared.read(folder), 0, 0

    async def one(number: int) -> None:
        nonlocal begun, done
        server = Server(prepared, port, number)
        await server.connect()
        while begun < handshakes:
            begun += 1
            await (server.handshake() if only else server.handshake_and_headers())
            done += 1
            if done % PROGRESS == 0:
                print(done, flush=True)
        server.close()

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(servers):
            group.create_task(one(number))
    return {"handshakes": done, "seconds": time.monotonic() - start, "cpu": time.process_time()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(Path(sys.argv[1]), *map(int, sys.argv[2:])))), flush=True)
