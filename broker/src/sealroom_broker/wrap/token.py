# SPDX-License-Identifier: BSD-3-Clause
"""A key-encryption key on a token that is reached by PKCS#11: a hardware security module, or SoftHSM.

The key is an AES-256 key that the token made and never gives away. Secrets go to the token to be wrapped with
AES-GCM (`CKM_AES_GCM`; PKCS #11 2.40, current mechanisms), 96 random bits as nonce and the context as
additional data.

A wrapped secret is: version 2, eight bytes of a digest of the key's `CKA_ID`, nonce, cipher text with tag.

Invariants:

- A key that could leave the token, or that ever could, is refused: it is not used and the broker does not
  start with it.
- Each release is a call of the token: nothing that it unwrapped is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sealroom.errors import ConfigurationError, StorageError

from sealroom_broker.wrap.base import PROBE, does_not_open, key_id, other_key
from sealroom_broker.wrap.device import Login, library, said
from sealroom_broker.wrap.settings import Pkcs11Kek

if TYPE_CHECKING:
    import pkcs11

R = TypeVar("R")

_VERSION = b"\x02"
_BITS = 256
_NONCE_SIZE = 12
_TAG_BITS = 128
_ID_SIZE = 16


@dataclass(frozen=True, slots=True)
class _Version:
    """One version of the key: an object on the token."""

    number: int
    label: str
    prefix: bytes
    key: Any
    """Its handle, good in one session only."""


class _NoKeyError(Exception):
    """The token shows no key, as one does that was pulled out."""


class TokenKeyWrap:
    """AES-256-GCM on a token.

    Args:
        settings: Which token and which key.

    Raises:
        ConfigurationError: The library, the token's PIN, or the key is not as it must be.
        StorageError: The token is not there now.
    """

    mark = _VERSION

    def __init__(self, settings: Pkcs11Kek) -> None:
        self._settings = settings
        self._versions: Sequence[_Version] = ()
        self._login = Login.of(settings)
        try:
            self._on_token(self._look)
        except BaseException:
            self._login.close()
            raise

    @property
    def prefix(self) -> bytes:
        """What everything begins with that the newest version wrapped."""
        return self._versions[-1].prefix

    @property
    def label(self) -> str:
        """The label of the version that wraps."""
        return self._versions[-1].label

    def knows(self, wrapped: bytes) -> bool:
        """Tell whether one of the versions that were seen wrapped this."""
        return any(wrapped.startswith(one.prefix) for one in self._versions)

    def refresh(self) -> None:
        """Look for versions that somebody else made.

        Raises:
            ConfigurationError: One is not as it must be.
            StorageError: The token is not there now.
        """
        self._on_token(self._look)

    def wrap(self, secret: bytes, *, context: str) -> bytes:
        """Return the secret wrapped for this context by the newest version on the token.

        Raises:
            ConfigurationError: The key is not as it must be.
            StorageError: The token is not there now.
        """

        def job() -> bytes:
            self._look()
            newest, nonce = self._versions[-1], os.urandom(_NONCE_SIZE)
            return newest.prefix + nonce + self._encrypt(newest, nonce, secret, context)

        return self._on_token(job)

    def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """Return the secret.

        Raises:
            ConfigurationError: The key is not as it must be.
            StorageError: It was wrapped by another key or for another context, or was changed, or the token
                is not there now.
        """

        def job() -> bytes:
            version = self._version_of(wrapped)
            if version is None:
                self._look()
                version = self._version_of(wrapped)
            if version is None:
                raise other_key()
            return self._decrypt(version, wrapped[len(version.prefix) :], context)

        return self._on_token(job)

    def check(self) -> None:
        """See whether the newest version is as it must be, and wraps and unwraps.

        Raises:
            ConfigurationError: It is not as it must be.
            StorageError: The token is not there now.
        """

        def job() -> None:
            self._look(again=True)
            self._probe(self._versions[-1])

        self._on_token(job)

    def begin(self, *, stale: bool) -> bool:
        """Have the token make a new version, unless something is still wrapped by an older one.

        Raises:
            ConfigurationError: The token refuses.
            StorageError: It is not there now.
        """
        self.refresh()
        if stale:
            return False

        def job() -> None:
            _generate(self._login, self._settings, self._versions[-1].number + 1)
            self._look()

        self._on_token(job)
        return True

    def finish(self, *, destroy: bool) -> None:
        """Destroy the older versions if that is wanted; else they stay, for older backups.

        Raises:
            ConfigurationError: The token refuses.
            StorageError: It is not there now.
        """
        if destroy:
            self._on_token(self._destroy)

    def ends(self) -> None:
        """Return None: a login has no end."""

    def close(self) -> None:
        """Log out, if nobody else in this process uses the token."""
        self._versions = ()
        self._login.close()

    def _on_token(self, job: Callable[[], R]) -> R:
        """Run something in the library's thread; once more where the session was lost."""
        return self._login.device.run(lambda: self._try_twice(job), self._settings.timeout)

    def _try_twice(self, job: Callable[[], R]) -> R:
        module = library()
        try:
            return job()
        except (module.PKCS11Error, _NoKeyError):
            # The session, or the key's handle in it, may be of a token that was away meanwhile. Libraries
            # look for tokens when they are initialised.
            self._versions = ()
            self._login.lose()
            self._login.device.restart()
        try:
            return job()
        except _NoKeyError:
            raise ConfigurationError(
                f"The token {self._settings.token!r} has no key {self._settings.key!r}.",
                advice="Have it made: `sealroom-broker init` makes it, or the vendor's program does.",
            ) from None
        except module.PKCS11Error as error:
            self._versions = ()
            self._login.lose()
            raise StorageError(
                f"The PKCS#11 token {self._settings.token!r} did not do it ({said(error)}).",
                advice="See whether it is up and reachable.",
            ) from error

    def _look(self, *, again: bool = False) -> None:
        """Find the versions on the token, and check those that are new; or, `again`, all."""
        session, known = self._login.session(), {one.prefix: one for one in self._versions}
        found = sorted(_found(session, self._settings), key=lambda one: (one.number, one.prefix))
        if not found:
            raise _NoKeyError
        if len({one.prefix for one in found}) != len(found):
            raise ConfigurationError(
                f"Two keys {self._settings.key!r} of {self._settings.token!r} have the same CKA_ID.",
                advice="Give each of them a CKA_ID of its own.",
            )
        for one in found:
            if again or one.prefix not in known:
                _check_key(one, self._settings)
        self._versions = found

    def _version_of(self, wrapped: bytes) -> _Version | None:
        # The same handle may be another key's in another session.
        session = self._login.session()
        mine = (one for one in self._versions if one.key.session is session)
        return next((one for one in mine if wrapped.startswith(one.prefix)), None)

    def _encrypt(self, version: _Version, nonce: bytes, secret: bytes, context: str) -> bytes:
        module = library()
        sealed: bytes = version.key.encrypt(
            secret, mechanism=module.Mechanism.AES_GCM, mechanism_param=_gcm(nonce, version, context)
        )
        if len(sealed) != len(secret) + _TAG_BITS // 8:
            raise StorageError("The token returned a cipher text of another length.")
        return sealed

    def _decrypt(self, version: _Version, body: bytes, context: str) -> bytes:
        module = library()
        nonce, sealed = body[:_NONCE_SIZE], body[_NONCE_SIZE:]
        if len(nonce) < _NONCE_SIZE or len(sealed) < _TAG_BITS // 8:
            raise does_not_open()
        mechanism, parameters = module.Mechanism.AES_GCM, _gcm(nonce, version, context)
        try:
            secret: bytes = version.key.decrypt(sealed, mechanism=mechanism, mechanism_param=parameters)
        except (module.EncryptedDataInvalid, module.EncryptedDataLenRange) as error:
            raise does_not_open() from error
        except (module.GeneralError, module.FunctionFailed, module.DataInvalid, module.DeviceError) as error:
            # Tokens say so where a tag is wrong, and where they fail. One that works has not failed.
            self._probe(version)
            raise does_not_open() from error
        return secret

    def _probe(self, version: _Version) -> None:
        module = library()
        nonce, sent = os.urandom(_NONCE_SIZE), os.urandom(16)
        sealed = self._encrypt(version, nonce, sent, PROBE)
        back = version.key.decrypt(
            sealed, mechanism=module.Mechanism.AES_GCM, mechanism_param=_gcm(nonce, version, PROBE)
        )
        if back != sent:
            raise StorageError("The token does not give back what it wrapped.")

    def _destroy(self) -> None:
        self._look()
        newest, session = self._versions[-1].prefix, self._login.writing()
        try:
            for one in _found(session, self._settings):
                if one.prefix != newest:
                    one.key.destroy()
        finally:
            session.close()
        self._look()

    def __repr__(self) -> str:
        return f"<TokenKeyWrap {self._settings.token!r} {self._settings.key!r}>"


def create_key(settings: Pkcs11Kek) -> bool:
    """Have the token make the key if it has none.

    Returns:
        Whether it was made now.

    Raises:
        ConfigurationError: The library, the PIN, or a key that is there is not as it must be; or the token
            refuses.
        StorageError: The token is not there now.
    """
    login = Login.of(settings)
    try:

        def job() -> bool:
            if _found(login.session(), settings):
                return False
            _generate(login, settings, 1)
            return True

        made = login.device.run(job, settings.timeout)
        TokenKeyWrap(settings).close()
        return made
    except library().PKCS11Error as error:
        raise StorageError(f"The PKCS#11 token {settings.token!r} did not do it ({said(error)}).") from error
    finally:
        login.close()


def _generate(login: Login, settings: Pkcs11Kek, number: int) -> None:
    module = library()
    name, session = module.Attribute, login.writing()
    flag = module.MechanismFlag
    try:
        session.generate_key(
            module.KeyType.AES,
            _BITS,
            id=os.urandom(_ID_SIZE),
            label=f"{settings.key}-v{number}",
            store=True,
            capabilities=flag.ENCRYPT | flag.DECRYPT,
            template={
                name.PRIVATE: True,
                name.SENSITIVE: True,
                name.EXTRACTABLE: False,
                name.MODIFIABLE: False,
                # For nothing else than this.
                name.WRAP: False,
                name.UNWRAP: False,
                name.SIGN: False,
                name.VERIFY: False,
                name.DERIVE: False,
            },
        )
    except module.PKCS11Error as error:
        raise ConfigurationError(
            f"The token {settings.token!r} does not make a key ({said(error)}).",
            advice="Make one with the vendor's program: AES-256, sensitive, not extractable, with a CKA_ID, "
            f"labelled {settings.key}-v{number}.",
        ) from error
    finally:
        session.close()


def _found(session: pkcs11.Session, settings: Pkcs11Kek) -> list[_Version]:
    module = library()
    name = module.Attribute
    pattern, found = re.compile(rf"{re.escape(settings.key)}(?:-v([1-9][0-9]{{0,5}}))?"), []
    for one in list(session.get_objects({name.CLASS: module.ObjectClass.SECRET_KEY})):
        label = str(one[name.LABEL])
        match = pattern.fullmatch(label)
        if match:
            prefix = key_id(_VERSION, bytes(one[name.ID] or b""))
            found.append(_Version(int(match[1] or 0), label, prefix, one))
    return found


def _check_key(version: _Version, settings: Pkcs11Kek) -> None:
    """Refuse a key that is not what everything here depends on."""
    module = library()
    key, name = version.key, module.Attribute
    wrong: str | None = None
    try:
        mechanisms = key.session.token.slot.get_mechanisms()
        history = () if settings.imported else ((name.ALWAYS_SENSITIVE, True), (name.NEVER_EXTRACTABLE, True))
        if (key[name.KEY_TYPE], key[name.VALUE_LEN]) != (module.KeyType.AES, _BITS // 8):
            wrong = "is not an AES-256 key"
        elif key[name.SENSITIVE] is not True:
            wrong = "is not sensitive (CKA_SENSITIVE): the token would show it"
        elif key[name.EXTRACTABLE] is not False:
            wrong = "is extractable (CKA_EXTRACTABLE): it could leave the token"
        elif any(key[one] is not value for one, value in history):
            wrong = "was not made by the token, or was extractable once"
        elif not (key[name.ENCRYPT] is True and key[name.DECRYPT] is True):
            wrong = "may not encrypt and decrypt"
        elif not key[name.ID]:
            wrong = "has no CKA_ID"
        elif module.Mechanism.AES_GCM not in mechanisms:
            wrong = "is on a token without AES-GCM (CKM_AES_GCM)"
    except (module.AttributeTypeInvalid, module.AttributeSensitive, ValueError) as error:
        wrong = f"does not say what it is ({said(error)})"
    if wrong is not None:
        raise ConfigurationError(
            f"The key {version.label!r} of the token {settings.token!r} {wrong}.",
            advice="Let the broker have one made: remove or rename this one, and run `sealroom-broker init`."
            if "not made by" not in wrong
            else "Let the broker have one made, or set `imported = true` if a key ceremony brought it there.",
        )


def _gcm(nonce: bytes, version: _Version, context: str) -> pkcs11.GCMParams:
    made: pkcs11.GCMParams = library().GCMParams(nonce, version.prefix + context.encode(), _TAG_BITS)
    return made
