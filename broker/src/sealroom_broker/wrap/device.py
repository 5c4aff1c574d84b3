# SPDX-License-Identifier: BSD-3-Clause
"""A PKCS#11 library in this process, and a login to a token of it.

`python-pkcs11` initialises a library without locks (`C_Initialize(NULL)`), which tells the library that only
one thread ever calls it (PKCS #11 2.40, section 5.4). So every call of a library runs in one thread of its
own. That also bounds how long a caller waits for a device that hangs.

Invariants:

- A PIN that a token refused is not presented again, also not by the next process, until its file changes:
  tokens lock after a few wrong ones. Nor is one presented that would be the token's last try.
- A PIN is in memory only while it is presented.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from sealroom.errors import ConfigurationError, Error, StorageError

from sealroom_broker.files import create_private, read_private
from sealroom_broker.wrap.settings import Pkcs11Kek

if TYPE_CHECKING:
    import pkcs11

R = TypeVar("R")

_log = logging.getLogger(__name__)
_PAUSE = 1.0
"""Seconds after a failed login until the next one."""


def library() -> ModuleType:
    """Return `python-pkcs11`.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import pkcs11
    except ImportError as error:
        raise ConfigurationError(
            "The library for PKCS#11 is not installed.",
            advice="Install it: `pip install 'sealroom-broker[pkcs11]'`.",
        ) from error
    return pkcs11


class Device:
    """One vendor's library, all of whose calls run in one thread.

    Args:
        path: The library.
    """

    _all: dict[str, Device] = {}  # noqa: RUF012 - a library is initialised once in a process
    _guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self.restarts = 0
        """How often it was initialised anew, which ends all sessions."""
        threading.Thread(target=self._work, name=f"pkcs11 {path.name}", daemon=True).start()

    @classmethod
    def of(cls, path: Path) -> Device:
        """Return this process's device for a library."""
        with cls._guard:
            return cls._all.setdefault(str(path), cls._all.get(str(path)) or cls(path))

    def run(self, job: Callable[[], R], timeout: float) -> R:
        """Run something in the library's thread.

        Args:
            job: What to run.
            timeout: Seconds to wait for it.

        Raises:
            StorageError: It was not done in time.
        """
        future: Future[R] = Future()
        self._jobs.put((future, job))
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise StorageError(
                f"The PKCS#11 token did not answer within {timeout:g} seconds.",
                advice="See whether it is up and reachable.",
            ) from None

    def open(self) -> Any:
        """Return the library, loaded. To be called in its thread.

        Raises:
            ConfigurationError: It cannot be loaded.
        """
        module = library()
        try:
            return module.lib(str(self._path))
        except module.PKCS11Error as error:
            raise ConfigurationError(
                f"The PKCS#11 library {self._path} cannot be used ({said(error)}).",
                advice="Give the path of the vendor's library as `module`, and its own configuration.",
            ) from error

    def restart(self) -> None:
        """Initialise the library anew, so that it looks at its tokens again. To be called in its thread.

        Raises:
            ConfigurationError: It cannot be used any more.
        """
        module = library()
        self.restarts += 1
        opened = self.open()
        try:
            opened.reinitialize()
        except module.PKCS11Error as error:
            _log.info("the PKCS#11 library %s is initialised anew (%s)", self._path, said(error))

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)
            # Nothing of a job outlives it here: it may hold a secret.
            del future, job


class Login:
    """A session with a token, logged in as its user, opened again when it was lost.

    All methods but `of` and `close` are to be called in the device's thread.

    Args:
        settings: Which token.
        clock: Seconds that only go forward.
    """

    _all: dict[tuple[Path, str], Login] = {}  # noqa: RUF012 - a token knows one login of a process
    _guard = threading.Lock()

    def __init__(self, settings: Pkcs11Kek, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.device = Device.of(settings.module)
        self._settings = settings
        self._clock = clock
        self.users = 0
        """Who uses it in this process."""
        self._session: pkcs11.Session | None = None
        self._since = -1
        self._refused: bytes | None = None
        self._failed: tuple[float, Error] | None = None

    @classmethod
    def of(cls, settings: Pkcs11Kek) -> Login:
        """Return this process's login to a token, for one more user."""
        key = (settings.module, settings.token)
        with cls._guard:
            found = cls._all.setdefault(key, cls._all.get(key) or cls(settings))
            found.users += 1
            return found

    def close(self) -> None:
        """Take one user away; the last one logs out."""
        with self._guard:
            self.users -= 1
            if self.users:
                return
            self._all.pop((self._settings.module, self._settings.token), None)
        try:
            self.device.run(self.lose, self._settings.timeout)
        except StorageError as error:
            _log.warning("%s", error)

    def session(self) -> pkcs11.Session:
        """Return the session; open one if there is none.

        Raises:
            ConfigurationError: The token, or its PIN, is not as configured.
            StorageError: The token is not there now.
        """
        if self._session is not None and self._since == self.device.restarts:
            return self._session
        if self._failed is not None and self._clock() < self._failed[0]:
            raise self._failed[1]
        self._session, self._failed = None, None
        try:
            self._session = self._open()
        except Error as error:
            self._failed = (self._clock() + _PAUSE, error)
            raise
        self._since = self.device.restarts
        return self._session

    def writing(self) -> pkcs11.Session:
        """Return a session of its own that may make keys; to be closed.

        Raises:
            Error: There is none.
        """
        self.session()
        return self._token().open(rw=True)

    def lose(self) -> None:
        """Forget the session, which does not work any more."""
        session, self._session = self._session, None
        if session is not None and self._since == self.device.restarts:
            try:
                session.close()
            except library().PKCS11Error as error:
                _log.info("the session with the token %s is gone (%s)", self._settings.token, said(error))

    def _open(self) -> pkcs11.Session:
        module = library()
        try:
            return self._log_in(self._token())
        except module.PKCS11Error as error:
            _log.info("the token %s is looked for again (%s)", self._settings.token, said(error))
        except StorageError:
            # Libraries look for tokens when they are initialised.
            pass
        self.device.restart()
        try:
            return self._log_in(self._token())
        except module.PKCS11Error as error:
            raise StorageError(
                f"The PKCS#11 token {self._settings.token!r} cannot be used now ({said(error)}).",
                advice="See whether it is up and reachable.",
            ) from error

    def _token(self) -> pkcs11.Token:
        found = list(self.device.open().get_tokens(token_label=self._settings.token))
        if not found:
            raise StorageError(
                f"There is no PKCS#11 token {self._settings.token!r}.",
                advice="See whether it is up and reachable, and whether its label is the configured one.",
            )
        if len(found) > 1:
            raise ConfigurationError(
                f"There are {len(found)} PKCS#11 tokens {self._settings.token!r}.",
                advice="Give one of them another label.",
            )
        token: pkcs11.Token = found[0]
        return token

    def _log_in(self, token: pkcs11.Token) -> pkcs11.Session:
        module, path = library(), self._settings.pin_file
        pin = _pin(path)
        seen = _fingerprint(path)
        if seen in (self._refused, _kept(path)):
            raise _refusal(path, "was refused before; it is not tried again, so that the token is not locked")
        if token.flags & module.TokenFlag.USER_PIN_LOCKED:
            raise _refusal(path, "cannot be used: the token has locked its PIN")
        if token.flags & module.TokenFlag.USER_PIN_FINAL_TRY:
            raise _refusal(path, "is not tried: a wrong one would be the last")
        try:
            return token.open(user_pin=pin)
        except module.UserAlreadyLoggedIn:
            return token.open()
        except (
            module.PinIncorrect, module.PinInvalid, module.PinLenRange, module.PinLocked, module.PinExpired,
            module.UserPinNotInitialized,
        ) as error:  # fmt: skip
            raise self._pin_refused(path, seen, error) from error
        except module.PKCS11Error as error:
            # A token may say in its own way that a PIN is wrong. It counts it all the same.
            low = module.TokenFlag.USER_PIN_COUNT_LOW
            if not token.flags & low and self._token().flags & low:
                raise self._pin_refused(path, seen, error) from error
            raise

    def _pin_refused(self, path: Path, seen: bytes, error: Exception) -> ConfigurationError:
        self._refused = seen
        _keep(path, seen)
        return _refusal(path, f"is refused by the token ({said(error)})")


def said(error: Exception) -> str:
    """Return what a library said: the name of its error, and its words if there are any."""
    words = str(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _pin(path: Path) -> str:
    try:
        pin = read_private(path, "The token's PIN").decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"The token's PIN {path} is not UTF-8.") from error
    if not pin:
        raise ConfigurationError(f"The token's PIN {path} is empty.")
    return pin


def _refusal(path: Path, words: str) -> ConfigurationError:
    return ConfigurationError(
        f"The PIN in {path} {words}.",
        advice="Find out the right one, log in once with the vendor's program, and write the PIN file anew.",
    )


def _fingerprint(path: Path) -> bytes:
    """Return what changes when a PIN file is written anew. It tells nothing of the PIN."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigurationError(f"The token's PIN {path} cannot be read: {error.strerror}.") from error
    return hashlib.sha256(f"{status.st_ino} {status.st_mtime_ns}".encode()).digest()


def _mark(path: Path) -> Path:
    return path.with_name(f".{path.name}.refused")


def _kept(path: Path) -> bytes | None:
    try:
        return _mark(path).read_bytes()
    except OSError:
        return None


def _keep(path: Path, seen: bytes) -> None:
    """Remember for the next process that a PIN was refused."""
    mark = _mark(path)
    try:
        mark.unlink(missing_ok=True)
        create_private(mark, seen)
    except (OSError, StorageError):
        _log.warning("that the PIN was refused cannot be kept: do not restart the broker with it")
