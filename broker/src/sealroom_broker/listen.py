# SPDX-License-Identifier: BSD-3-Clause
"""The broker's connections: its certificate, and clients that are too slow.

uvicorn waits for the head of a request without an end, and for a client that does not read its answer.
`PatientProtocol` ends a connection whose next head does not arrive in time, whether its bytes come one by one
or not at all, and one whose client does not take what is sent. Bodies have their own time (`web.read_body`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, ClassVar

from sealroom.errors import ConfigurationError, Error
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sealroom_broker.config import Limits, Tls
from sealroom_broker.files import read_private

_log = logging.getLogger("sealroom_broker")


class Certificate:
    """The broker's certificate and key.

    Args:
        settings: Where they are.

    Raises:
        ConfigurationError: They cannot be read, do not fit together, or others may read the key.
    """

    def __init__(self, settings: Tls) -> None:
        self._settings = settings
        self.context = _context()
        self._load(self.context)

    def reload(self) -> bool:
        """Read both files again; new connections get what is in them. What cannot be used changes nothing."""
        try:
            # Tried on another context first: a half-loaded pair must not be served.
            self._load(_context())
            self._load(self.context)
        except Error as error:
            _log.error("the certificate stays as it was: %s", error.diagnostics())
            return False
        _log.info("the certificate was read again")
        return True

    def _load(self, context: ssl.SSLContext) -> None:
        read_private(self._settings.key, "The TLS key")
        try:
            context.load_cert_chain(self._settings.certificate, self._settings.key, password=_no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigurationError(
                f"The certificate {self._settings.certificate} and its key cannot be used "
                f"({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or 'not PEM'}).",
                advice="Both are PEM files; the key fits the first certificate and has no password.",
            ) from error


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to the waiting for a request's head and for a client that does not read."""

    head_seconds: ClassVar[float] = 15.0
    answer_seconds: ClassVar[float] = 60.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        # Whatever the kernel does not take at once counts as not read. Not 0: asyncio's TLS would pause at
        # once, with nothing to write.
        transport.set_write_buffer_limits(high=1, low=0)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on waiting, or stop when the head is complete."""
        super().data_received(data)
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._stop_waiting()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        self._read_again()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has read what was there."""
        self._read_again()
        super().resume_writing()

    def _read_again(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _too_slow(self) -> None:
        self._waiting = None
        self.transport.abort()


def protocol(limits: Limits) -> type[PatientProtocol]:
    """Return a protocol that waits as long as the limits say."""
    times = {"head_seconds": limits.head_seconds, "answer_seconds": limits.answer_seconds}
    return type("Protocol", (PatientProtocol,), times)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _no_password() -> bytes:
    # Without this, OpenSSL asks at the terminal.
    return b""
