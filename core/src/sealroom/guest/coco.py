# SPDX-License-Identifier: BSD-3-Clause
"""Evidence from the CoCo guest components' REST interface (api-server-rest).

The interface gives evidence in the JSON form of CoCo's attesters. The decoders are the caller's
(`sealroom.kbs.evidence.snp_from_json` and `sealroom.kbs.devices.decode_devices`), because this package stands
beside `sealroom.kbs`, not above it.
"""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import httpx

from sealroom.errors import FormatError, NetworkError, ProtocolError
from sealroom.guest.devices import DeviceEvidence, check_devices, check_nonce
from sealroom.guest.provider import GuestEvidence, check_report_data

BASE_URL: Final = "http://127.0.0.1:8006"
MAX_EVIDENCE: Final = 1 << 20
"""Our own bound; eight GPUs' evidence has about 200 kB."""
DEVICES: Final = "nvidia"
"""KBS name of the devices that we know."""
_REPORT_DATA: Final = slice(0x50, 0x90)
_TOO_OLD: Final = "Use guest components that take binary runtime data (encoding=base64)."

Decoder = Callable[[Mapping[str, Any]], tuple[bytes, Mapping[str, bytes]]]


class Device(Protocol):
    """A device's evidence as a decoder gives it (`sealroom.kbs.devices.Device`)."""

    @property
    def arch(self) -> str:
        """Architecture."""

    @property
    def uuid(self) -> str:
        """The device's name."""

    @property
    def report(self) -> bytes:
        """The report's bytes."""

    @property
    def chain_pem(self) -> bytes:
        """The chain in PEM."""


DeviceDecoder = Callable[[str], Sequence[Device]]


class _Components:
    """The guest components' REST interface (guest-components, api-server-rest/src/router.rs)."""

    def __init__(self, base_url: str, transport: httpx.BaseTransport | None, timeout: float) -> None:
        self._url = httpx.URL(base_url)
        self._transport = transport
        self._timeout = timeout

    def absent(self) -> str:
        """Return why nobody can be asked; empty if somebody listens there."""
        if self._transport is not None:
            return ""
        try:
            with socket.create_connection((self._url.host, self._url.port or 80), timeout=1.0):
                return ""
        except OSError as error:
            return f"{self._url}: {error.strerror or error}"

    def ask(self, path: str, runtime_data: bytes) -> bytes:
        """Ask for evidence over runtime data."""
        # URL-safe and without padding is the only base64 that the interface takes.
        data = base64.urlsafe_b64encode(runtime_data).rstrip(b"=").decode("ascii")
        return self.get(path, {"runtime_data": data, "encoding": "base64"})

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """Return the body of an answer.

        Raises:
            NetworkError: Nobody answers.
            ProtocolError: The answer is a refusal, or too long.
        """
        try:
            # The environment's proxies are not for loopback: evidence must not leave the guest.
            with httpx.Client(transport=self._transport, timeout=self._timeout, trust_env=False) as client:
                answer = client.get(self._url.join(path), params=parameters)
        except httpx.HTTPError as error:
            raise NetworkError(f"The guest components do not answer: {error}.") from error
        if answer.status_code != httpx.codes.OK:
            raise ProtocolError(
                f"The guest components refused with status {answer.status_code}: {answer.text[:200]}"
            )
        if len(answer.content) > MAX_EVIDENCE:
            raise ProtocolError(f"The guest components' evidence is longer than {MAX_EVIDENCE} bytes.")
        return answer.content


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
        self._components = _Components(base_url, transport, timeout)

    def available(self) -> str:
        """Return why it cannot be used; empty if somebody listens there."""
        return self._components.absent()

    def evidence(self, report_data: bytes) -> GuestEvidence:
        """Ask for evidence over 64 bytes of report data."""
        check_report_data(report_data)
        body = self._components.ask("/aa/evidence", report_data)
        try:
            document = json.loads(body)
            if not isinstance(document, dict):
                raise FormatError("it is no JSON object.")
            report, certificates = self._decode(document)
        except (ValueError, RecursionError, FormatError) as error:
            raise ProtocolError(f"The guest components' evidence is malformed: {error}") from error
        if report[_REPORT_DATA] != report_data:
            raise ProtocolError("The guest components' evidence covers other report data.", advice=_TOO_OLD)
        return GuestEvidence("snp", report, certificates, self.name)


class CocoDeviceProvider:
    """Asks the guest components for the evidence of the devices beside the processor.

    Args:
        decode: Turns CoCo's JSON into the evidence of each device (`sealroom.kbs.devices.decode_devices`).
        base_url: Where the guest components listen; loopback only.
        transport: Transport of the HTTP client; tests put a stand-in here.
        timeout: Seconds to wait.
    """

    name = "coco"

    def __init__(
        self,
        decode: DeviceDecoder,
        *,
        base_url: str = BASE_URL,
        transport: httpx.BaseTransport | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._decode = decode
        self._components = _Components(base_url, transport, timeout)

    def available(self) -> str:
        """Return why it cannot be used; empty if the components say that they attest GPUs."""
        absent = self._components.absent()
        if absent:
            return absent
        try:
            information = json.loads(self._components.get("/info"))
        except (NetworkError, ProtocolError) as error:
            return error.message
        except (ValueError, RecursionError):
            return "the guest components' /info is no JSON"
        tees = information.get("additional_tees", []) if isinstance(information, dict) else []
        if isinstance(tees, list) and DEVICES in [str(tee).lower() for tee in tees]:
            return ""
        return "the guest components attest no GPU"

    def evidence(self, nonce: bytes) -> list[DeviceEvidence]:
        """Ask for the evidence of every device over 32 bytes of nonce."""
        check_nonce(nonce)
        body = self._components.ask("/aa/additional-evidence", nonce)
        try:
            devices = [
                DeviceEvidence(device.arch, device.uuid, device.report, device.chain_pem)
                for device in self._decode(body.decode("utf-8"))
            ]
        except (ValueError, FormatError) as error:
            raise ProtocolError(f"The guest components' device evidence is malformed: {error}") from error
        return check_devices(devices, nonce, "The guest components")
