# SPDX-License-Identifier: BSD-3-Clause
"""Evidence of NVIDIA devices as the key broker protocol carries it: the string `additional_evidence`.

```json
{"nvidia": {"device_evidence_list": [
  {"arch": "HOPPER", "uuid": "GPU-…", "evidence": "<base64>", "certificate": "<base64 of PEM>"}]}}
```

(guest-components attestation-agent/attester/src/nvidia, Trustee deps/verifier/src/nvidia.) Older guests write
`evidence` in hexadecimal and the architecture in another case; one that reads NVIDIA's own library has no
uuid.

Invariants:

- `decode_devices(encode_devices(devices))` gives back the same devices.
- Nothing but `sealroom.errors.FormatError` leaves `decode_devices`. Devices of another kind than `nvidia` are
  refused, never passed over.
- This is a change of form only: nothing here is verified.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sealroom.errors import FormatError

NVIDIA: Final = "nvidia"
"""KBS name of NVIDIA's devices."""
ARCHITECTURES: Final = ("HOPPER", "BLACKWELL", "LS10")
MAX_TEXT: Final = 1 << 20
"""Our own bound; the evidence of eight GPUs has about 100 kB."""
MAX_DEVICES: Final = 32
MAX_REPORT: Final = 0x2000
MAX_CHAIN: Final = 16 * 1024
MAX_UUID: Final = 64
NO_UUID: Final = "unknown"
"""What CoCo's guest puts where NVIDIA's library gives no uuid."""
_LIST: Final = "device_evidence_list"
_HEX: Final = re.compile(r"[0-9A-Fa-f]+")


class DeviceLike(Protocol):
    """A device's evidence; `sealroom.guest.DeviceEvidence` is one."""

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


@dataclass(frozen=True, slots=True)
class Device:
    """The evidence of one device, as it was sent: nothing in it is verified."""

    arch: str
    """`HOPPER`, `BLACKWELL` or `LS10`."""
    uuid: str
    """The device's name, as the guest gives it; `unknown` if it gives none."""
    report: bytes = field(repr=False)
    """SPDM request and response, signed."""
    chain_pem: bytes = field(repr=False)
    """The device's certificates in PEM, leaf first."""


def encode_devices(devices: Sequence[DeviceLike]) -> str:
    """Return the string that `additional_evidence` carries; empty without devices."""
    if not devices:
        return ""
    items = [
        {
            "arch": device.arch,
            "uuid": device.uuid,
            "evidence": base64.b64encode(device.report).decode("ascii"),
            "certificate": base64.b64encode(device.chain_pem).decode("ascii"),
        }
        for device in devices
    ]
    return json.dumps({NVIDIA: {_LIST: items}}, separators=(",", ":"))


def decode_devices(text: str) -> tuple[Device, ...]:
    """Return the devices in `additional_evidence`.

    Args:
        text: The string as it was sent, which the CPU's report covers; empty without devices.

    Raises:
        FormatError: It is something else, or names devices of another kind than `nvidia`.
    """
    if not text:
        return ()
    if len(text) > MAX_TEXT:
        raise _bad("additional_evidence", f"is longer than the {MAX_TEXT} characters that are accepted")
    try:
        document = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise _bad("additional_evidence", "is not JSON, or has a member twice") from None
    evidence = _object(document, "additional_evidence")
    if set(evidence) != {NVIDIA}:
        raise _bad("additional_evidence", "does not hold the evidence of NVIDIA devices and nothing else")
    items = _object(evidence[NVIDIA], NVIDIA).get(_LIST)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_DEVICES:
        raise _bad(_LIST, f"is not an array of 1 to {MAX_DEVICES} devices")
    return tuple(_device(item, f"{_LIST}[{number}]") for number, item in enumerate(items))


def _device(item: object, place: str) -> Device:
    # Unknown members are passed over, as CoCo's own broker does: they are covered, and mean nothing here.
    members = _object(item, place)
    arch = _text(members, "arch", place, MAX_UUID).upper()
    if arch not in ARCHITECTURES:
        raise _bad(f"{place}.arch", f"is {arch[:16]!r}, which is none of {', '.join(ARCHITECTURES)}")
    return Device(
        arch,
        _text(members, "uuid", place, MAX_UUID) if "uuid" in members else NO_UUID,
        _report(_text(members, "evidence", place, 2 * MAX_REPORT), f"{place}.evidence"),
        _base64(_text(members, "certificate", place, 2 * MAX_CHAIN), f"{place}.certificate", MAX_CHAIN),
    )


def _report(text: str, place: str) -> bytes:
    # The base64 of a report begins with `EeAB/`, so it is never hexadecimal by chance.
    if not _HEX.fullmatch(text):
        return _base64(text, place, MAX_REPORT)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _bad(place, "has half a byte at its end") from None


def _base64(text: str, place: str, limit: int) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(place, "is not base64") from None
    if len(data) > limit:
        raise _bad(place, f"is longer than the {limit} bytes that are accepted")
    return data


def _text(members: Mapping[str, object], name: str, place: str, limit: int) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise _bad(f"{place}.{name}", f"is not a text of 1 to {limit} characters")
    return value


def _object(value: object, place: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _bad(place, "is not an object")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _bad(field: str, why: str) -> FormatError:
    return FormatError(f"The device evidence's {field} {why}.", field=field)
