# SPDX-License-Identifier: BSD-3-Clause
"""Evidence from the CoCo guest components' REST interface (api-server-rest, `/aa/evidence`).

The interface gives the report in the JSON form of CoCo's attester. Its decoder is the caller's
(`sealroom.kbs.evidence.snp_from_json`), because this package stands beside `sealroom.kbs`, not above it.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from sealroom.errors import FormatError, NetworkError, ProtocolError
from sealroom.guest.provider import GuestEvidence, check_report_data

BASE_URL = "http://127.0.0.1:8006"
MAX_EVIDENCE = 1 << 20

Decoder = Callable[[Mapping[str, Any]], tuple[bytes, Mapping[str, bytes]]]


class CocoProvider:
    """Asks the guest components in the same pod.

    Args:
        decode: Turns CoCo's JSON into the report's bytes and its certificates.
        base_url: Where the guest components listen; loopback only.
        transport: Transport of the HTTP client; tests put a stand-in here.
        timeout: Seconds to wait.
    """

    name = "coco"

    def __init__(
        self,
        decode: Decoder,
        *,
        base_url: str = BASE_URL,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._decode = decode
        self._url = httpx.URL(base_url)
        self._transport = transport
        self._timeout = timeout

    def available(self) -> str:
        """Return why it cannot be used; empty if somebody listens there."""
        if self._transport is not None:
            return ""
        try:
            with socket.create_connection((self._url.host, self._url.port or 80), timeout=1.0):
                return ""
        except OSError as error:
            return f"{self._url}: {error.strerror or error}"

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Ask for evidence over 64 bytes of report data."""
        check_report_data(report_data)
        runtime = base64.b64encode(report_data).decode("ascii")
        try:
            # The environment's proxies are not for loopback: evidence must not leave the guest.
            with httpx.Client(transport=self._transport, timeout=self._timeout, trust_env=False) as client:
                answer = client.get(
                    self._url.join("/aa/evidence"), params={"runtime_data": runtime, "encoding": "base64"}
                )
        except httpx.HTTPError as error:
            raise NetworkError(f"The guest components do not answer: {error}.") from error
        if answer.status_code != httpx.codes.OK:
            raise ProtocolError(
                f"The guest components refused with status {answer.status_code}: {answer.text[:200]}"
            )
        if len(answer.content) > MAX_EVIDENCE:
            raise ProtocolError(f"The guest components' evidence is longer than {MAX_EVIDENCE} bytes.")
        try:
            document = json.loads(answer.content)
            if not isinstance(document, dict):
                raise FormatError("it is no JSON object.")
            report, certificates = self._decode(document)
        except (ValueError, RecursionError, FormatError) as error:
            raise ProtocolError(f"The guest components' evidence is malformed: {error}") from error
        return GuestEvidence("snp", report, certificates, self.name)
