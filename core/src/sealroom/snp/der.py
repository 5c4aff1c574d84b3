# SPDX-License-Identifier: BSD-3-Clause
"""A small reader of DER, as strict as the certificates that it reads.

What this is: a cursor over bytes that takes one element after another and refuses what DER does not allow.
Why it is here: AMD's endorsement certificates have serial number 0, which X.509 libraries warn about today
and will refuse one day, and their extensions are checked byte by byte anyway. What this is not: a general
ASN.1 library; it knows the types that AMD's certificates and revocation lists use.

Invariants:

- Definite lengths in the shortest form, tags of one byte, no bytes after the outermost element (ITU-T
  X.690, section 10).
- Every refusal names the field and the offset in the outermost input.
- Nothing is read outside the element that was entered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from sealroom.errors import FormatError

BOOLEAN: Final = 0x01
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OID: Final = 0x06
UTF8_STRING: Final = 0x0C
PRINTABLE_STRING: Final = 0x13
IA5_STRING: Final = 0x16
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30
SET: Final = 0x31

MAX_LENGTH_BYTES: Final = 3
"""Longest long-form length: 16 MiB, far above any certificate or revocation list of AMD's."""
MAX_INTEGER: Final = 1024
"""Longest INTEGER in bytes: twice the modulus of AMD's RSA keys."""
MAX_OID: Final = 32
"""Longest object identifier in bytes; those that AMD uses have at most eleven."""
_PRINTABLE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")


def context(number: int) -> int:
    """Return the tag of a constructed context-specific element such as `[3]`."""
    return 0xA0 | number


@lru_cache(maxsize=256)
def _dotted(raw: bytes) -> str | None:
    """Return the dotted form of an object identifier's content, or None if it has none."""
    if not raw or raw[-1] & 0x80 or len(raw) > MAX_OID:
        return None
    arcs: list[int] = []
    value, fresh = 0, True
    for byte in raw:
        if fresh and byte == 0x80:
            return None
        value = value << 7 | byte & 0x7F
        fresh = not byte & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    top = min(arcs[0] // 40, 2)
    return ".".join(map(str, (top, arcs[0] - 40 * top, *arcs[1:])))


class Reader:
    """A cursor over the elements of one constructed element.

    Args:
        data: The outermost bytes; offsets in errors count from their start.
        check: Id of the check that a refusal fails.
        start: First byte to read.
        end: One past the last byte to read; the end of `data` if None.
    """

    __slots__ = ("check", "data", "end", "pos")

    def __init__(self, data: bytes, check: str, start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.check = check
        self.pos = start
        self.end = len(data) if end is None else end

    def fail(self, message: str, field: str, offset: int | None = None) -> FormatError:
        """Return the error for a refusal at an offset, by default the current one."""
        at = self.pos if offset is None else offset
        return FormatError(f"{field} at offset {at}: {message}", field=field, offset=at, check=self.check)

    def more(self) -> bool:
        """Tell whether another element follows."""
        return self.pos < self.end

    def next_is(self, tag: int) -> bool:
        """Tell whether the next element has a tag."""
        return self.pos < self.end and self.data[self.pos] == tag

    def finish(self, field: str) -> None:
        """Refuse bytes after the last element that was expected."""
        if self.pos != self.end:
            raise self.fail(f"{self.end - self.pos} bytes follow that do not belong there.", field)

    def span(self, tag: int, field: str) -> tuple[int, int, int]:
        """Take one element and return its start, the start of its content and its end."""
        data, start = self.data, self.pos
        if start >= self.end:
            raise self.fail("missing.", field)
        if data[start] != tag:
            raise self.fail(f"has tag {data[start]:#04x} and must have {tag:#04x}.", field)
        if start + 1 >= self.end:
            raise self.fail("ends before its length.", field)
        first = data[start + 1]
        content = start + 2
        length = first
        if first >= 0x80:
            count = first & 0x7F
            content += count
            if not 0 < count <= MAX_LENGTH_BYTES or content > self.end:
                raise self.fail("has a length that cannot be.", field)
            length = int.from_bytes(data[start + 2 : content], "big")
            if length < 0x80 or data[start + 2] == 0:
                raise self.fail("has a length that is not in its shortest form.", field)
        end = content + length
        if end > self.end:
            raise self.fail(f"is {length} bytes long and only {self.end - content} follow.", field)
        self.pos = end
        return start, content, end

    def enter(self, tag: int, field: str) -> Reader:
        """Take one constructed element and return a reader of its content."""
        # Most elements are short: those are taken without a further call, all others and errors by `span`.
        data, start = self.data, self.pos
        if start + 1 < self.end and data[start] == tag and (length := data[start + 1]) < 0x80:
            end = start + 2 + length
            if end <= self.end:
                self.pos = end
                return Reader(data, self.check, start + 2, end)
        _, content, end = self.span(tag, field)
        return Reader(data, self.check, content, end)

    def take(self, tag: int, field: str) -> bytes:
        """Take one element and return its content."""
        data, start = self.data, self.pos
        if start + 1 < self.end and data[start] == tag and (length := data[start + 1]) < 0x80:
            end = start + 2 + length
            if end <= self.end:
                self.pos = end
                return data[start + 2 : end]
        _, content, end = self.span(tag, field)
        return data[content:end]

    def element(self, tag: int, field: str) -> bytes:
        """Take one element and return it whole, with tag and length."""
        start, _, end = self.span(tag, field)
        return self.data[start:end]

    def integer(self, field: str) -> int:
        """Take an INTEGER that is not negative."""
        at = self.pos
        raw = self.take(INTEGER, field)
        if not 0 < len(raw) <= MAX_INTEGER:
            raise self.fail(f"an INTEGER of {len(raw)} bytes cannot be.", field, at)
        if raw[0] & 0x80:
            raise self.fail("is negative.", field, at)
        if len(raw) > 1 and raw[0] == 0 and not raw[1] & 0x80:
            raise self.fail("is not in its shortest form.", field, at)
        return int.from_bytes(raw, "big")

    def oid(self, field: str) -> str:
        """Take an OBJECT IDENTIFIER and return it in dotted form."""
        at = self.pos
        dotted = _dotted(self.take(OID, field))
        if dotted is None:
            raise self.fail("is no object identifier in its shortest form.", field, at)
        return dotted

    def boolean(self, field: str) -> bool:
        """Take a BOOLEAN."""
        at = self.pos
        raw = self.take(BOOLEAN, field)
        if raw not in (b"\x00", b"\xff"):
            raise self.fail("is no BOOLEAN.", field, at)
        return raw == b"\xff"

    def null(self, field: str) -> None:
        """Take a NULL."""
        at = self.pos
        if self.take(NULL, field):
            raise self.fail("is no NULL.", field, at)

    def bits(self, field: str) -> bytes:
        """Take a BIT STRING that fills whole bytes."""
        at = self.pos
        raw = self.take(BIT_STRING, field)
        if not raw or raw[0] != 0:
            raise self.fail("is no BIT STRING of whole bytes.", field, at)
        return raw[1:]

    def text(self, field: str) -> str:
        """Take a UTF8String, PrintableString or IA5String."""
        at = self.pos
        tag = self.data[at] if at < self.end else -1
        if tag not in (UTF8_STRING, PRINTABLE_STRING, IA5_STRING):
            raise self.fail("is no string of a kind that AMD uses.", field)
        raw = self.take(tag, field)
        if tag == PRINTABLE_STRING and not _PRINTABLE.issuperset(raw):
            raise self.fail("has a character that a PrintableString cannot have.", field, at)
        try:
            return raw.decode("utf-8" if tag == UTF8_STRING else "ascii")
        except UnicodeDecodeError as error:
            raise self.fail("has bytes that are no characters.", field, at) from error

    def time(self, field: str) -> datetime:
        """Take a UTCTime or GeneralizedTime in the one form that X.509 allows (RFC 5280, section 4.1.2.5)."""
        at = self.pos
        long = self.next_is(GENERALIZED_TIME)
        raw = self.take(GENERALIZED_TIME if long else UTC_TIME, field)
        digits = raw[:-1]
        if len(raw) != (15 if long else 13) or raw[-1:] != b"Z" or not digits.isdigit():
            raise self.fail("is no time in UTC with seconds.", field, at)
        number = int(digits)
        year, number = divmod(number, 10**10)
        if not long:
            year += 1900 if year >= 50 else 2000
        month, number = divmod(number, 10**8)
        day, number = divmod(number, 10**6)
        hour, number = divmod(number, 10**4)
        minute, second = divmod(number, 100)
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError as error:
            raise self.fail("is no date and time.", field, at) from error
