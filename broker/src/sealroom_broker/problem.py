# SPDX-License-Identifier: BSD-3-Clause
"""Answers that are not a success, in the form of the KBS protocol's errors.

401 makes a guest attest again, so it stands only where attesting again helps. A refusal by policy is 403, and
"could not check" is 503.
"""

from __future__ import annotations

from collections.abc import Mapping

from sealroom.kbs.calls import Reason, Refusal
from sealroom.kbs.messages import ERROR_BASE


class Problem(Exception):  # noqa: N818 - an answer to the client, not a fault of ours
    """An answer that ends a call.

    Args:
        status: HTTP status.
        name: The error's name in the protocol, for example `AttestationError`.
        detail: One sentence for the person.
        reasons: Stable codes with a sentence each.
        ask: Whom to ask.
        headers: More HTTP headers.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        reasons: tuple[Reason, ...] = (),
        ask: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.body = Refusal(type=ERROR_BASE + name, detail=detail, reasons=reasons, ask=ask)


def attest_again(code: str, sentence: str) -> Problem:
    """Return a 401 that tells a guest to attest again."""
    return Problem(401, "AttestationError", sentence, reasons=(Reason(code=code, sentence=sentence),))


def refused(code: str, sentence: str, *, ask: str = "") -> Problem:
    """Return a 403 with one reason."""
    return Problem(403, "PolicyDeny", sentence, reasons=(Reason(code=code, sentence=sentence),), ask=ask)


def bad_request(sentence: str, *, status: int = 400) -> Problem:
    """Return a 400: the client speaks the protocol wrongly."""
    return Problem(status, "ProtocolError", sentence)


def not_found(sentence: str) -> Problem:
    """Return a 404."""
    return Problem(404, "NotFound", sentence)


def unavailable(code: str, sentence: str) -> Problem:
    """Return a 503: something could not be checked or done now, which is never a yes."""
    reasons = (Reason(code=code, sentence=sentence),)
    return Problem(503, "Unavailable", sentence, reasons=reasons, headers={"Retry-After": "5"})
