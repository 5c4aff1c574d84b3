# SPDX-License-Identifier: BSD-3-Clause
"""The firmware id (FWID) in a device's certificate: TCG DICE extensions, read strictly.

Hopper and LS10 carry a composite device id, Blackwell a DiceTcbInfo (TCG DICE Attestation Architecture 1.1,
section 6.1; NVIDIA/attestation-sdk, nv_x509):

    CompositeDeviceID ::= SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid FWID }
    DiceTcbInfo ::= SEQUENCE { vendor [0], model [1], version [2], svn [3], layer [4], index [5],
                               fwids [6] SEQUENCE OF FWID, flags [7], … }, every field optional
    FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }

Invariants:

- DER only: definite lengths in their shortest form, nothing after the end, fields in their order.
- The digest is SHA-384. Of several in DiceTcbInfo the first counts, as in NVIDIA's own verifier.
- A certificate that carries both extensions has to say the same in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from cryptography import x509

from sealroom.errors import BindingError, FormatError
from sealroom.nvidia.certificates import Certificate
from sealroom.nvidia.opaque import FWID_SIZE

COMPOSITE_DEVICE_ID: Final = "2.23.133.5.4.1"
TCB_INFO: Final = "2.23.133.5.4.1.1"
_CHECK: Final = "nvidia.report.fwid"
_SHA384: Final = bytes.fromhex("608648016503040202")
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_FWIDS: Final = 0xA6
_TCB_INFO_TAGS: Final = (*range(0x80, 0x86), _FWIDS, *range(0x87, 0x8B), 0xAB)
"""Context tags 0 to 11 in their order; fwids and integrityRegisters hold others, so they are constructed."""


def certified_fwid(leaf: Certificate) -> bytes | None:
    """Return the firmware id in a device's certificate, 48 bytes; None if it has none.

    Raises:
        FormatError: An extension is there and does not have the form that is known.
        BindingError: There are two, which differ.
    """
    found: set[bytes] = set()
    for oid, read in _READERS.items():
        try:
            value = leaf.x509.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value
        except x509.ExtensionNotFound:
            continue
        try:
            found.add(read(value.public_bytes()))
        except _MalformedError as error:
            raise FormatError(
                f"The firmware id (extension {oid}) in the certificate of {leaf.name} is malformed: {error}.",
                field="FWID",
                check=_CHECK,
            ) from None
    if len(found) > 1:
        raise BindingError(f"The certificate of {leaf.name} names two firmware ids.", check=_CHECK)
    return found.pop() if found else None


class _MalformedError(Exception):
    """The bytes are not this structure in DER."""


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of the elements that follow one another, to the end."""
    offset = 0
    while offset < len(data):
        tag = data[offset]
        if tag & 0x1F == 0x1F:
            raise _MalformedError("a tag has several bytes")
        start, size = _length(data, offset + 1)
        if start + size > len(data):
            raise _MalformedError("an element reaches beyond the end")
        yield tag, data[start : start + size]
        offset = start + size


def _length(data: bytes, offset: int) -> tuple[int, int]:
    """Return where the content begins and how long it is."""
    first = data[offset] if offset < len(data) else 0x80
    if first < 0x80:
        return offset + 1, first
    # The extensions here have less than 64 KiB: one or two bytes of length.
    count = first & 0x7F
    octets = data[offset + 1 : offset + 1 + count]
    size = int.from_bytes(octets, "big")
    if not 1 <= count <= 2 or len(octets) != count or size < (0x80, 0x100)[count - 1]:
        raise _MalformedError("a length is not in DER")
    return offset + 1 + count, size


def _sequence(data: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of the one sequence that the bytes are."""
    outer = list(_elements(data))
    if len(outer) != 1 or outer[0][0] != _SEQUENCE:
        raise _MalformedError("it is not one sequence")
    return list(_elements(outer[0][1]))


def _sha384(content: bytes) -> bytes:
    """Return the digest in the content of a FWID."""
    algorithm, digest = _fwid(content)
    if algorithm != _SHA384 or len(digest) != FWID_SIZE:
        raise _MalformedError("the digest is not SHA-384")
    return digest


def _fwid(content: bytes) -> tuple[bytes, bytes]:
    parts = list(_elements(content))
    if [tag for tag, _ in parts] != [_OID, _OCTETS]:
        raise _MalformedError("a firmware id is not an algorithm and a digest")
    return parts[0][1], parts[1][1]


def _composite_device_id(value: bytes) -> bytes:
    parts = _sequence(value)
    if [tag for tag, _ in parts] != [_INTEGER, _SEQUENCE, _SEQUENCE]:
        raise _MalformedError("it is not a version, a key and a firmware id")
    return _sha384(parts[2][1])


def _tcb_info(value: bytes) -> bytes:
    parts = _sequence(value)
    tags = [tag for tag, _ in parts]
    places = [_TCB_INFO_TAGS.index(tag) if tag in _TCB_INFO_TAGS else -1 for tag in tags]
    if -1 in places or sorted(set(places)) != places:
        raise _MalformedError("its fields are not those of DiceTcbInfo in their order")
    listed = [list(_elements(content)) for tag, content in parts if tag == _FWIDS]
    if not listed or not listed[0] or any(tag != _SEQUENCE for tag, _ in listed[0]):
        raise _MalformedError("it has no list of firmware ids")
    for _, content in listed[0][1:]:
        _fwid(content)
    return _sha384(listed[0][0][1])


_READERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    COMPOSITE_DEVICE_ID: _composite_device_id,
    TCB_INFO: _tcb_info,
}
