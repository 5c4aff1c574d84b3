# SPDX-License-Identifier: BSD-3-Clause
"""Keys on a real token, SoftHSM's, in this process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sealroom.errors import ConfigurationError, StorageError
from sealroom_broker.wrap.device import Device, Login
from sealroom_broker.wrap.settings import Pkcs11Kek
from sealroom_broker.wrap.token import TokenKeyWrap, create_key
from support.softhsm import SoftHsm, Token, library, softhsm, token

__all__ = ["softhsm", "token"]


@pytest.fixture
def settings(token: Token) -> Pkcs11Kek:
    """A token with a key."""
    assert create_key(token.settings())
    return token.settings()


@pytest.fixture
def wrap(settings: Pkcs11Kek) -> Iterator[TokenKeyWrap]:
    made = TokenKeyWrap(settings)
    yield made
    made.close()


def generate(token: Token, label: str, *, size: int = 256, key_type: str = "AES", **template: Any) -> None:
    """Make a key as another program does, in another process."""
    script = (
        "import os, sys, pkcs11\n"
        "from pkcs11 import Attribute, KeyType\n"
        "session = pkcs11.lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open("
        "rw=True, user_pin=sys.argv[3])\n"
        "template = {getattr(Attribute, name): value for name, value in eval(sys.argv[5]).items()}\n"
        "if 'VALUE' in eval(sys.argv[5]):\n"
        "    session.create_object({Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: "
        "KeyType.AES, Attribute.LABEL: sys.argv[4], Attribute.ID: os.urandom(16), **template})\n"
        "else:\n"
        "    more = {} if 'ID' in eval(sys.argv[5]) else {'id': os.urandom(16)}\n"
        "    session.generate_key(KeyType[sys.argv[7]], int(sys.argv[6]), label=sys.argv[4], store=True, "
        "template=template, **more)\n"
    )
    words = [str(library()), token.label, token.pin, label, repr(template), str(size), key_type]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


# --- what it wraps


def test_unwraps_what_was_wrapped(wrap: TokenKeyWrap) -> None:
    for secret, context in ((b"", ""), (b"secret", "dataset:a"), (bytes(200_000), "resource:ä/b/c")):
        wrapped = wrap.wrap(secret, context=context)
        assert len(secret) < 8 or secret not in wrapped
        assert wrapped.startswith(wrap.prefix)
        assert wrap.unwrap(wrapped, context=context) == secret


def test_other_context(wrap: TokenKeyWrap) -> None:
    with pytest.raises(StorageError, match="does not open"):
        wrap.unwrap(wrap.wrap(b"secret", context="dataset:a"), context="dataset:b")


def test_every_changed_byte(wrap: TokenKeyWrap) -> None:
    wrapped = wrap.wrap(b"secret", context="c")
    for at in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[at] ^= 1
        with pytest.raises(StorageError):
            wrap.unwrap(bytes(changed), context="c")
    assert wrap.unwrap(wrapped, context="c") == b"secret"


@pytest.mark.parametrize("size", [0, 1, 8, 9, 20, 30])
def test_cut(wrap: TokenKeyWrap, size: int) -> None:
    with pytest.raises(StorageError):
        wrap.unwrap(wrap.wrap(b"secret", context="c")[:size], context="c")


def test_key_of_another_token(wrap: TokenKeyWrap, softhsm: SoftHsm) -> None:
    other = softhsm.token()
    create_key(other.settings())
    second = TokenKeyWrap(other.settings())
    with pytest.raises(StorageError, match="another key-encryption key"):
        second.unwrap(wrap.wrap(b"secret", context="c"), context="c")
    second.close()


def test_key_made_by_init_is_made_once(token: Token) -> None:
    assert create_key(token.settings())
    assert not create_key(token.settings())


# --- keys that are refused


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        ({"EXTRACTABLE": True, "SENSITIVE": True}, "is extractable"),
        ({"EXTRACTABLE": False, "SENSITIVE": False}, "is not sensitive"),
        ({"VALUE": bytes(32), "TOKEN": True, "SENSITIVE": True, "EXTRACTABLE": False}, "was not made by the"),
        ({"size": 128}, "is not an AES-256 key"),
        ({"size": 256, "key_type": "GENERIC_SECRET"}, "is not an AES-256 key"),
        ({"DECRYPT": False}, "may not encrypt and decrypt"),
        ({"ID": b""}, "has no CKA_ID"),
    ],
)
def test_key_that_is_not_as_it_must_be(token: Token, made: dict[str, Any], sentence: str) -> None:
    if made.get("key_type") == "GENERIC_SECRET":
        made = {**made, "SIGN": True}
    generate(token, "sealroom-kek-v1", **made)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        TokenKeyWrap(token.settings())
    assert caught.value.advice


def test_key_of_a_ceremony_is_accepted_where_that_is_said(token: Token) -> None:
    generate(token, "sealroom-kek", VALUE=bytes(32), TOKEN=True, SENSITIVE=True, EXTRACTABLE=False)
    made = TokenKeyWrap(token.settings(imported=True))
    assert made.unwrap(made.wrap(b"secret", context="c"), context="c") == b"secret"
    made.close()


def test_extractable_version_that_somebody_adds_is_not_used(wrap: TokenKeyWrap, token: Token) -> None:
    old = wrap.wrap(b"secret", context="c")
    generate(token, "sealroom-kek-v2", EXTRACTABLE=True)
    with pytest.raises(ConfigurationError, match="is extractable"):
        wrap.wrap(b"secret", context="c")
    with pytest.raises(ConfigurationError, match="is extractable"):
        wrap.check()
    assert wrap.unwrap(old, context="c") == b"secret"


def test_token_without_the_key(token: Token) -> None:
    with pytest.raises(ConfigurationError, match="has no key 'sealroom-kek'"):
        TokenKeyWrap(token.settings())


def test_label_that_only_begins_alike_is_another_key(token: Token) -> None:
    generate(token, "sealroom-kek-v1-old")
    with pytest.raises(ConfigurationError, match="has no key"):
        TokenKeyWrap(token.settings())


def test_two_keys_of_the_same_id(token: Token) -> None:
    for label in ("sealroom-kek-v1", "sealroom-kek-v2"):
        generate(token, label, ID=b"same")
    with pytest.raises(ConfigurationError, match="same CKA_ID"):
        TokenKeyWrap(token.settings())


# --- versions


def test_newest_version_wraps_and_all_unwrap(wrap: TokenKeyWrap, settings: Pkcs11Kek) -> None:
    running, old = TokenKeyWrap(settings), wrap.wrap(b"old", context="c")
    assert wrap.begin(stale=False)
    assert wrap.label == "sealroom-kek-v2"
    new = running.wrap(b"new", context="c")
    assert new.startswith(wrap.prefix)
    assert not old.startswith(wrap.prefix)
    for one in (wrap, running):
        assert (one.unwrap(old, context="c"), one.unwrap(new, context="c")) == (b"old", b"new")
    running.close()


def test_version_that_another_process_wrapped_with_is_looked_for(
    wrap: TokenKeyWrap, settings: Pkcs11Kek
) -> None:
    second = TokenKeyWrap(settings)
    second.begin(stale=False)
    assert wrap.unwrap(second.wrap(b"new", context="c"), context="c") == b"new"
    second.close()


def test_rotation_that_is_to_be_finished_makes_no_version(wrap: TokenKeyWrap) -> None:
    assert not wrap.begin(stale=True)
    assert wrap.label == "sealroom-kek-v1"


def test_two_operators_who_rotate_at_once_lose_nothing(wrap: TokenKeyWrap, token: Token) -> None:
    wrap.begin(stale=False)
    generate(token, "sealroom-kek-v2", SENSITIVE=True, EXTRACTABLE=False)
    wrapped = wrap.wrap(b"secret", context="c")
    assert wrap.unwrap(wrapped, context="c") == b"secret"
    wrap.begin(stale=False)
    assert wrap.label == "sealroom-kek-v3"


def test_destroyed_versions_do_not_open_any_more(wrap: TokenKeyWrap) -> None:
    old = wrap.wrap(b"secret", context="c")
    wrap.begin(stale=False)
    wrap.finish(destroy=False)
    assert wrap.unwrap(old, context="c") == b"secret"
    wrap.finish(destroy=True)
    with pytest.raises(StorageError, match="another key-encryption key"):
        wrap.unwrap(old, context="c")


# --- the token and its PIN


def test_token_that_is_lost_and_comes_back(wrap: TokenKeyWrap, token: Token) -> None:
    wrapped = wrap.wrap(b"secret", context="c")
    token.take_away()
    with pytest.raises(StorageError, match="There is no PKCS#11 token"):
        wrap.wrap(b"other", context="c")
    with pytest.raises(StorageError):
        wrap.unwrap(wrapped, context="c")
    with pytest.raises(StorageError):
        wrap.check()
    token.bring_back()
    time.sleep(1.1)  # a login that failed is not tried again at once
    assert wrap.unwrap(wrapped, context="c") == b"secret"


def test_library_initialised_anew_by_another_user_of_it(wrap: TokenKeyWrap, softhsm: SoftHsm) -> None:
    wrapped = wrap.wrap(b"secret", context="c")
    device = Device.of(Path(str(library())))
    for _ in range(2):
        device.run(device.restart, 10)
        assert wrap.unwrap(wrapped, context="c") == b"secret"
        assert wrap.wrap(b"x", context="c").startswith(wrap.prefix)


def test_wrong_pin_is_presented_once(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(token.settings())
    token.write_pin("wrong-pin")
    with pytest.raises(ConfigurationError, match="is refused by the token") as caught:
        TokenKeyWrap(token.settings())
    assert "wrong-pin" not in caught.value.diagnostics()
    presented = 0
    read = Login._log_in

    def counted(self: Login, found: Any) -> Any:
        nonlocal presented
        before = found.flags
        try:
            return read(self, found)
        finally:
            presented += before != found.flags

    monkeypatch.setattr(Login, "_log_in", counted)
    for _ in range(5):
        with pytest.raises(ConfigurationError, match="not tried again"):
            TokenKeyWrap(token.settings())
    token.write_pin(token.pin)
    made = TokenKeyWrap(token.settings())
    assert made.unwrap(made.wrap(b"secret", context="c"), context="c") == b"secret"
    made.close()


class FakeToken:
    """A token that says how many tries it has left, and counts logins."""

    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.logins = 0

    def open(self, user_pin: str | None = None) -> Any:
        self.logins += 1
        raise AssertionError("a PIN was presented")


@pytest.mark.parametrize(
    ("flag", "sentence"), [("USER_PIN_LOCKED", "has locked"), ("USER_PIN_FINAL_TRY", "would be the last")]
)
def test_last_try_of_a_pin_is_left_to_a_person(token: Token, flag: str, sentence: str) -> None:
    import pkcs11

    found = FakeToken(pkcs11.TokenFlag[flag])
    with pytest.raises(ConfigurationError, match=sentence):
        Login(token.settings())._log_in(found)  # type: ignore[arg-type]
    assert found.logins == 0


def test_token_that_names_a_wrong_pin_otherwise_is_not_asked_again(
    token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pkcs11

    class Odd(FakeToken):
        def open(self, user_pin: str | None = None) -> Any:
            self.logins += 1
            self.flags |= pkcs11.TokenFlag.USER_PIN_COUNT_LOW
            raise pkcs11.FunctionFailed

    found, login = Odd(0), Login(token.settings())
    monkeypatch.setattr(login, "_token", lambda: found)
    fresh = Odd(0)
    with pytest.raises(ConfigurationError, match="is refused by the token"):
        login._log_in(_Snapshot(fresh, found))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="not tried again"):
        login._log_in(fresh)  # type: ignore[arg-type]
    assert found.logins + fresh.logins == 1


class _Snapshot:
    """A token's flags as they were before, as the library reads them once."""

    def __init__(self, before: FakeToken, now: FakeToken) -> None:
        self.flags, self._now = before.flags, now

    def open(self, user_pin: str | None = None) -> Any:
        return self._now.open(user_pin)


@pytest.mark.parametrize(("content", "sentence"), [(b"\n", "is empty"), (b"\xff\xfe", "is not UTF-8")])
def test_pin_file_with_something_else_in_it(token: Token, content: bytes, sentence: str) -> None:
    token.pin_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=sentence):
        TokenKeyWrap(token.settings())


def test_pin_file_that_others_may_read(token: Token) -> None:
    token.pin_file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="others may read it"):
        TokenKeyWrap(token.settings())


def test_token_that_is_not_there(token: Token) -> None:
    with pytest.raises(StorageError, match="There is no PKCS#11 token 'other'"):
        TokenKeyWrap(token.settings(token="other"))


def test_library_that_is_not_there(token: Token, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be used"):
        TokenKeyWrap(token.settings(module=tmp_path / "none.so"))


def test_python_without_the_library_for_pkcs11(token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        TokenKeyWrap(token.settings())
    assert "sealroom-broker[pkcs11]" in caught.value.advice


def test_pin_is_not_shown(wrap: TokenKeyWrap, token: Token, settings: Pkcs11Kek) -> None:
    for shown in (repr(wrap), repr(settings), str(settings), settings.model_dump_json()):
        assert token.pin not in shown


# --- threads


def test_many_threads(wrap: TokenKeyWrap) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for count in range(25):
                secret = f"{number} {count}".encode()
                assert wrap.unwrap(wrap.wrap(secret, context=str(number)), context=str(number)) == secret
        except Exception as error:  # noqa: BLE001 - it is the test's
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed


def test_device_that_hangs_is_waited_for_only_so_long(tmp_path: Path) -> None:
    device, release = Device(tmp_path / "hanging.so"), threading.Event()
    with pytest.raises(StorageError, match=r"did not answer within 0\.1 seconds"):
        device.run(release.wait, 0.1)
    ran: list[int] = []
    with pytest.raises(StorageError, match="did not answer"):
        device.run(lambda: ran.append(1), 0.1)
    release.set()
    # What was given up on is not done behind the caller's back.
    device.run(lambda: ran.append(2), 10)
    assert ran == [2]
