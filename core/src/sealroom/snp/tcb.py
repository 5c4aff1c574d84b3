# SPDX-License-Identifier: BSD-3-Clause
"""Product lines and TCB versions.

What this is: the two layouts of TCB_VERSION and the mapping from CPUID to the line whose roots apply.
What this is not: a judgement of which version is good enough; that is an appraisal policy's.

Invariants:

- TCB versions are compared component by component, never as one number.
- A version of one line never equals or bounds a version of another line's layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sealroom.errors import FormatError

TCB_SIZE = 8
"""Size of TCB_VERSION (AMD 56860 rev 1.58, table TCB_VERSION)."""


class ProductLine(StrEnum):
    """A processor generation with roots of its own."""

    MILAN = "Milan"
    GENOA = "Genoa"
    """Genoa, and Bergamo and Siena, which AMD certifies under Genoa's roots."""
    TURIN = "Turin"

    @property
    def chip_id_size(self) -> int:
        """Bytes of the chip id that are used (AMD 57230 rev 1.00, extension hwID)."""
        return 8 if self is ProductLine.TURIN else 64

    @property
    def product_names(self) -> tuple[str, ...]:
        """Names that productName may start with (AMD 57230 rev 1.00, extension productName)."""
        return ("Genoa", "Bergamo", "Siena") if self is ProductLine.GENOA else (self.value,)


def line_from_cpuid(family: int, model: int) -> ProductLine | None:
    """Return the line of a CPUID family and model, or None for a part with no roots here.

    Family 19h models 00h-0Fh are Milan, 10h-1Fh Genoa, A0h-AFh Bergamo and Siena; family 1Ah models 00h-11h
    are Turin (AMD 57230 rev 1.00, determining the product name).
    """
    if family == 0x19:
        if model <= 0x0F:
            return ProductLine.MILAN
        if model <= 0x1F or 0xA0 <= model <= 0xAF:
            return ProductLine.GENOA
    if family == 0x1A and model <= 0x11:
        return ProductLine.TURIN
    return None


@dataclass(frozen=True, slots=True)
class TcbVersion:
    """The versions of the firmware that a processor runs."""

    bootloader: int
    """Security patch level of the boot loader."""
    tee: int
    """Security patch level of the secure processor's operating system."""
    snp: int
    """Security patch level of the SNP firmware."""
    microcode: int
    """Patch level of the lowest microcode of all cores."""
    fmc: int | None = None
    """Security patch level of the firmware management code; None before Turin."""

    @classmethod
    def from_bytes(cls, raw: bytes, line: ProductLine) -> TcbVersion:
        """Parse TCB_VERSION in the layout of a line.

        Args:
            raw: Exactly 8 bytes.
            line: The product line that says which layout applies.

        Raises:
            FormatError: Wrong length, or a reserved byte is not zero.
        """
        if len(raw) != TCB_SIZE:
            raise FormatError(f"TCB_VERSION is {len(raw)} bytes and must be {TCB_SIZE}.", field="TCB_VERSION")
        reserved = raw[4:7] if line is ProductLine.TURIN else raw[2:6]
        if any(reserved):
            raise FormatError(
                f"TCB_VERSION {raw.hex()} has reserved bytes set for {line}.",
                field="TCB_VERSION",
                check="snp.report.tcb_layout",
            )
        if line is ProductLine.TURIN:
            return cls(bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7], fmc=raw[0])
        return cls(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])

    def to_bytes(self) -> bytes:
        """Return the 8 bytes of TCB_VERSION; the inverse of `from_bytes`."""
        if self.fmc is not None:
            return bytes((self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode))
        return bytes((self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))

    def components(self) -> dict[str, int]:
        """Return the components by name, in the order of the layout."""
        parts = {} if self.fmc is None else {"fmc": self.fmc}
        return parts | {
            "bootloader": self.bootloader,
            "tee": self.tee,
            "snp": self.snp,
            "microcode": self.microcode,
        }

    def below(self, minimum: TcbVersion) -> tuple[str, ...]:
        """Return the names of the components that are lower than in `minimum`.

        A component that only one of the two has counts as lower: layouts are not comparable.
        """
        own, other = self.components(), minimum.components()
        return tuple(
            name for name in (own | other) if name not in own or name not in other or own[name] < other[name]
        )

    def at_least(self, minimum: TcbVersion) -> bool:
        """Tell whether every component is at least that of `minimum`."""
        return not self.below(minimum)

    def __str__(self) -> str:
        return " ".join(f"{name} {value}" for name, value in self.components().items())
