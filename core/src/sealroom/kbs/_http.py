# SPDX-License-Identifier: BSD-3-Clause
"""One HTTP exchange with a broker: bounded, without redirects, and with our own errors.

Invariants:

- Nothing but `sealroom.errors.Error` leaves `Transport.send` and `Answer.problem`.
- No token, cookie or body is logged or put into an error; what a broker says is cut and stripped of control
  characters before it is shown.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

from sealroom.errors import AccessDeniedError, ConfigurationError, Error, NetworkError, ProtocolError
from sealroom.kbs.calls import Refusal
from sealroom.kbs.messages import KbsError, parse

MAX_ANSWER: Final = 32 * 1024 * 1024
"""Our own bound: a release of 10,000 files' headers has about 4 MB."""

_SHOWN: Final = 500
_POLICY_DENY: Final = "PolicyDeny"
LOGIN_ENDED: Final = "person.ended"
"""The broker's rule that a person's login is presented again from time to time."""
_BUSY: Final = frozenset({429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes = field(repr=False)
    cookie: str | None = field(default=None, repr=False)
    """The session cookie, if the broker set one."""

    @property
    def attest_again(self) -> bool:
        """Whether a new attestation may help: 401, but not Trustee's 401 for a refusal by policy."""
        return (
            self.status == httpx.codes.UNAUTHORIZED and self._refusal().type.endswith(_POLICY_DENY) is False
        )

    @property
    def login_ended(self) -> bool:
        """Whether presenting the person's login again may help."""
        return self.status == httpx.codes.FORBIDDEN and any(
            reason.code == LOGIN_ENDED for reason in self._refusal().reasons
        )

    def problem(self, what: str) -> Error | None:
        """Return the error that this answer stands for, None for a success.

        Args:
            what: What was asked, for the sentence: "The broker refused <what>".
        """
        if self.status == httpx.codes.OK or self.status == httpx.codes.CREATED:
            return None
        refusal = self._refusal()
        detail, ask = printable(refusal.detail), printable(refusal.ask)
        if self.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            reasons = tuple(
                (printable(reason.code), printable(reason.sentence)) for reason in refusal.reasons
            )
            return AccessDeniedError(
                detail or f"The broker refused {what}.",
                reasons=reasons,
                # Whom to ask may stand in the sentence already.
                advice=f"Ask {ask}." if ask and ask not in detail else "",
            )
        if self.status in _BUSY:
            return NetworkError(
                detail or f"The broker cannot answer {what} now (HTTP {self.status}).",
                advice="Try again in a minute; if it stays so, tell whoever runs the broker.",
            )
        if self.status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return NetworkError(
                f"The broker failed at {what} (HTTP {self.status})."
                + (f" It says: {detail}" if detail else ""),
                advice="Tell whoever runs the broker; its log has the cause.",
            )
        if self.status < httpx.codes.BAD_REQUEST:
            return NetworkError(
                f"The broker's address answers with a redirect (HTTP {self.status}).",
                advice="Use the broker's own address.",
            )
        return ProtocolError(detail or f"The broker did not understand {what} (HTTP {self.status}).")

    def _refusal(self) -> Refusal:
        try:
            return parse(Refusal, self.body)
        except ProtocolError:
            pass
        try:
            error = parse(KbsError, self.body)
        except ProtocolError:
            return Refusal(type="", detail="")
        return Refusal(type=error.type, detail=error.detail)


class Transport:
    """Sends requests to one broker."""

    def __init__(self, base_url: str, http: httpx.Client | None, timeout: float) -> None:
        """Check the address.

        Args:
            base_url: The broker's address, without `/kbs/v0`.
            http: A client to use, for example with a certificate authority of your own; its cookies are
                cleared.
            timeout: Seconds for each step of a request.

        Raises:
            ConfigurationError: The address is no HTTP URL.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{base_url!r} is not the address of a broker.", advice="Give it as https://host[:port]."
            )
        self.base_url: Final = base_url.rstrip("/")
        self._owned = http is None
        # A proxy that the environment names must not come between this machine and itself.
        self._http = http or httpx.Client(timeout=timeout, trust_env=not is_loopback(parts.hostname))

    def close(self) -> None:
        """Close the connections, unless the caller gave the client."""
        if self._owned:
            self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str],
        cookie_name: str = "",
    ) -> Answer:
        """Send one request.

        Raises:
            NetworkError: The broker cannot be reached, does not answer in time, or answers too much.
        """
        headers = {"Accept": "application/json", **headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            with self._http.stream(
                method, self.base_url + path, content=body, headers=headers, follow_redirects=False
            ) as response:
                content = self._read(response)
                cookie = response.cookies.get(cookie_name) if cookie_name else None
                return Answer(response.status_code, content, cookie)
        except httpx.TimeoutException as error:
            raise NetworkError(
                f"The broker at {self.base_url} did not answer in time.",
                advice="Try again; if it stays so, check that the broker is not overloaded.",
            ) from error
        except httpx.HTTPError as error:
            raise NetworkError(
                f"The broker at {self.base_url} cannot be reached ({type(error).__name__}).",
                advice="Check the address, the network, and that the broker runs.",
            ) from error
        except (httpx.InvalidURL, httpx.CookieConflict, ValueError) as error:
            raise NetworkError(f"The broker at {self.base_url} does not speak HTTP as expected.") from error
        finally:
            # The session cookie is sent explicitly, so that two sessions over one client never mix.
            self._http.cookies.clear()

    def _read(self, response: httpx.Response) -> bytes:
        chunks, size = [], 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > MAX_ANSWER:
                raise NetworkError(f"The broker's answer is longer than {MAX_ANSWER} bytes.")
            chunks.append(chunk)
        return b"".join(chunks)


def printable(text: str) -> str:
    """Return a peer's text cut and without control characters, fit to be shown."""
    return "".join(char if char.isprintable() else " " for char in text[:_SHOWN]).strip()


def is_loopback(host: str) -> bool:
    """Tell whether a host's name is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
