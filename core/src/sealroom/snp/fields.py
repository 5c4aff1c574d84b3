# SPDX-License-Identifier: BSD-3-Clause
"""The words of a report whose bits mean something: guest policy, platform information, key information.

What this is: numbers with a name for each bit, equal to and usable as the numbers they are. What this is
not: a judgement; which bits are acceptable is an appraisal policy's.
"""

from __future__ import annotations

from typing import Final


class GuestPolicy(int):
    """POLICY: what the guest owner allowed and demanded (AMD 56860 rev 1.58, table Guest Policy)."""

    @property
    def abi_minor(self) -> int:
        """Lowest minor ABI version that may launch the guest."""
        return self & 0xFF

    @property
    def abi_major(self) -> int:
        """Lowest major ABI version that may launch the guest."""
        return self >> 8 & 0xFF

    @property
    def smt(self) -> bool:
        """Simultaneous multithreading is allowed."""
        return bool(self >> 16 & 1)

    @property
    def migrate_ma(self) -> bool:
        """Association with a migration agent is allowed."""
        return bool(self >> 18 & 1)

    @property
    def debug(self) -> bool:
        """Debugging is allowed: the host can read and change the guest's memory."""
        return bool(self >> 19 & 1)

    @property
    def single_socket(self) -> bool:
        """The guest may run on one socket only."""
        return bool(self >> 20 & 1)

    @property
    def cxl_allow(self) -> bool:
        """CXL devices and memory are allowed."""
        return bool(self >> 21 & 1)

    @property
    def mem_aes_256_xts(self) -> bool:
        """Memory encryption with AES-256-XTS is demanded."""
        return bool(self >> 22 & 1)

    @property
    def rapl_dis(self) -> bool:
        """Running average power limit must be disabled."""
        return bool(self >> 23 & 1)

    @property
    def ciphertext_hiding_dram(self) -> bool:
        """Ciphertext hiding for DRAM is demanded."""
        return bool(self >> 24 & 1)

    @property
    def page_swap_disable(self) -> bool:
        """The host may not move or swap guest pages."""
        return bool(self >> 25 & 1)


class PlatformInfo(int):
    """PLATFORM_INFO: how the platform runs (AMD 56860 rev 1.58, table PLATFORM_INFO).

    Bits that are not listed are kept and not judged: real Turin parts set bit 6.
    """

    @property
    def smt_en(self) -> bool:
        """Simultaneous multithreading is on."""
        return bool(self & 1)

    @property
    def tsme_en(self) -> bool:
        """Transparent memory encryption is on."""
        return bool(self >> 1 & 1)

    @property
    def ecc_en(self) -> bool:
        """Memory has error correction."""
        return bool(self >> 2 & 1)

    @property
    def rapl_dis(self) -> bool:
        """Running average power limit is disabled."""
        return bool(self >> 3 & 1)

    @property
    def ciphertext_hiding_dram_en(self) -> bool:
        """Ciphertext of guests is hidden from the host."""
        return bool(self >> 4 & 1)

    @property
    def alias_check_complete(self) -> bool:
        """Memory was checked for aliases (BadRAM) since the last reset."""
        return bool(self >> 5 & 1)

    @property
    def tio_en(self) -> bool:
        """Trusted I/O is on."""
        return bool(self >> 7 & 1)


class KeyInfo(int):
    """The word at 0x48: which key signed, what is masked (AMD 56860 rev 1.58, ATTESTATION_REPORT)."""

    VCEK: Final = 0
    VLEK: Final = 1
    NONE: Final = 7

    @property
    def author_key_en(self) -> bool:
        """AUTHOR_KEY_DIGEST is filled in."""
        return bool(self & 1)

    @property
    def mask_chip_key(self) -> bool:
        """The chip's own key (VCEK) is not used."""
        return bool(self >> 1 & 1)

    @property
    def signing_key(self) -> int:
        """SIGNING_KEY: 0 VCEK, 1 VLEK, 7 none."""
        return self >> 2 & 7

    @property
    def signing_key_name(self) -> str:
        """SIGNING_KEY as a word."""
        return {self.VCEK: "VCEK", self.VLEK: "VLEK", self.NONE: "none"}.get(self.signing_key, "reserved")
