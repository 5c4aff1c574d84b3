# SPDX-License-Identifier: BSD-3-Clause
"""Every error that Sealroom raises on bad data, lost connections or refused access.

Invariants:

- Nothing but `Error` leaves a verify, appraise, parse or release call, whatever the bytes.
- Each error carries a stable machine `code` and a sentence for a person; `diagnostics()` adds what to do.
- "Could not check" is a class of its own and never a pass.
- The sentence is one printable line, also where it quotes what came from outside: control characters, which
  a terminal would obey, and halves of characters, which cannot be written, are shown as escapes.
- Misuse by the programmer stays `TypeError` or `RuntimeError`.
"""

from __future__ import annotations

from typing import ClassVar, Final

MAX_MESSAGE: Final = 1000
"""Longest sentence; one that quotes something longer is cut."""


def one_line(text: str) -> str:
    """Return a text as one printable line of at most `MAX_MESSAGE` characters."""
    if len(text) > MAX_MESSAGE:
        text = text[: MAX_MESSAGE - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


class Error(Exception):
    """Base of all errors of Sealroom.

    Args:
        message: One sentence that says what is wrong.
        advice: One sentence that says what to do, shown by `diagnostics`.
        check: The id of the check that failed, if one did (see `docs/reference/checks.md`).
    """

    code: ClassVar[str] = "error"
    """Stable machine code of the class."""

    def __init__(self, message: str, *, advice: str = "", check: str = "") -> None:
        message = one_line(message)
        super().__init__(message)
        self.message = message
        """One sentence that says what is wrong."""
        self.advice = one_line(advice)
        """One sentence that says what to do; empty if there is nothing to be done."""
        self.check = check
        """Id of the failed check; empty if none."""

    def diagnostics(self) -> str:
        """Return the message with what to do next."""
        return f"{self.message} {self.advice}".rstrip()


class FormatError(Error):
    """Bytes are not what they claim to be: wrong length, unknown version, reserved bits set.

    Args:
        message: One sentence.
        field: Name of the field in its specification's spelling.
        offset: Byte offset at which the input goes wrong, if known.
        advice: What to do.
        check: Id of the failed check.
    """

    code = "format"

    def __init__(
        self, message: str, *, field: str = "", offset: int | None = None, advice: str = "", check: str = ""
    ) -> None:
        super().__init__(message, advice=advice, check=check)
        self.field = field
        self.offset = offset


class VerificationError(Error):
    """Evidence is not authentic."""

    code = "verification"


class SignatureError(VerificationError):
    """A signature does not verify."""

    code = "signature"


class ChainError(VerificationError):
    """A certificate does not lead to the given root, or says something else than the evidence."""

    code = "chain"


class ExpiredError(ChainError):
    """A certificate is past its end at the reference time."""

    code = "expired"


class NotYetValidError(ChainError):
    """A certificate is not valid yet at the reference time."""

    code = "not_yet_valid"


class RevokedError(ChainError):
    """A certificate is revoked."""

    code = "revoked"


class FreshnessError(VerificationError):
    """Evidence or a token is too old, or answers another nonce."""

    code = "freshness"


class BindingError(VerificationError):
    """Evidence is genuine but covers other data than it was presented with."""

    code = "binding"


class RevocationUnavailableError(VerificationError):
    """Revocation was to be checked and could not be."""

    code = "revocation_unavailable"


class AppraisalError(Error):
    """Evidence is authentic and not acceptable."""

    code = "appraisal"


class IntegrityError(Error):
    """A sealed file is not what its signed manifest says: cut, swapped, changed or injected."""

    code = "integrity"


class ProtocolError(Error):
    """The other side speaks the protocol wrongly."""

    code = "protocol"


class AccessDeniedError(Error):
    """The broker refused; `reasons` says why.

    Args:
        message: One sentence.
        reasons: Pairs of a stable rule id and a sentence for the person who was refused.
        advice: What to do, usually whom to ask.
    """

    code = "access_denied"

    def __init__(
        self, message: str, *, reasons: tuple[tuple[str, str], ...] = (), advice: str = "", check: str = ""
    ) -> None:
        super().__init__(message, advice=advice, check=check)
        self.reasons = reasons


class NetworkError(Error):
    """A server cannot be reached or answered with something else than its protocol."""

    code = "network"


class CollateralUnavailableError(NetworkError):
    """A certificate, revocation list or reference value that is needed is not here and cannot be had now."""

    code = "collateral_unavailable"


class ConfigurationError(Error):
    """A configuration file or command line asks for something that is not there or not allowed."""

    code = "configuration"


class StorageError(Error):
    """A file cannot be read or written: no space, no permission, not there."""

    code = "storage"
