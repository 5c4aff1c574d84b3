# SPDX-License-Identifier: BSD-3-Clause
"""Vault's answers, good and bad, over a transport in this process.

Their shapes are those that Vault 1.14 gives; a real one is in the integration tests.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.errors import ConfigurationError, Error, StorageError
from sealroom_broker.wrap.settings import VaultKek
from sealroom_broker.wrap.transit import TransitKeyWrap, check_key
from sealroom_broker.wrap.vault import VaultLink, VaultRefusalError
from sealroom_broker.wrap.vaultlogin import VaultLogin

KEY = {
    "allow_plaintext_backup": False,
    "auto_rotate_period": 0,
    "deletion_allowed": False,
    "derived": False,
    "exportable": False,
    "imported_key": False,
    "keys": {"1": 1700000000, "2": 1700000001},
    "latest_version": 2,
    "min_available_version": 0,
    "min_decryption_version": 1,
    "min_encryption_version": 0,
    "name": "sealroom",
    "supports_decryption": True,
    "supports_encryption": True,
    "type": "aes256-gcm96",
}
TOKEN = "hvs.token-of-a-test"


class FakeVault:
    """Transit, tokens and AppRole, as far as a broker sees them. What is wrapped is bound to its data."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.answers: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.key: dict[str, Any] = dict(KEY)
        self.good = {TOKEN}
        self.ttl, self.renewable, self.period = 0, False, 0
        self.logins = 0

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, token = request.url.path.removeprefix("/v1/"), request.headers.get("X-Vault-Token", "")
        self.calls.append((request.method, path, token))
        if path in self.answers:
            return self.answers[path](request)
        body = json.loads(request.content) if request.content else {}
        if path == "auth/approle/login":
            if body != {"role_id": "role", "secret_id": "secret-id"}:
                return errors(400, "invalid secret id")
            self.logins += 1
            self.good.add(f"{TOKEN}-{self.logins}")
            lease = {"lease_duration": self.ttl, "renewable": self.renewable}
            return data({"client_token": f"{TOKEN}-{self.logins}", **lease}, "auth")
        if token not in self.good:
            return errors(403, "permission denied")
        if path == "auth/token/lookup-self":
            return data({"ttl": self.ttl, "creation_ttl": self.ttl, "renewable": self.renewable})
        if path == "auth/token/renew-self":
            return data({"lease_duration": self.ttl, "renewable": self.renewable}, "auth")
        if path == "transit/keys/sealroom":
            return data(self.key)
        if path == "transit/encrypt/sealroom":
            sealed = base64.b64encode(json.dumps(body).encode()).decode()
            return data({"ciphertext": f"vault:v{self.key['latest_version']}:{sealed}", "key_version": 2})
        if path == "transit/decrypt/sealroom":
            try:
                known = json.loads(base64.b64decode(body["ciphertext"].split(":")[2]))
            except ValueError:
                known = {}
            if known.get("associated_data") != body["associated_data"]:
                return errors(400, "cipher: message authentication failed")
            return data({"plaintext": known["plaintext"]})
        return errors(404)


def data(value: object, name: str = "data") -> httpx.Response:
    return httpx.Response(200, json={"request_id": "r", name: value})


def errors(status: int, *words: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"errors": list(words)}, headers=headers)


def secret_file(path: Path, secret: str) -> Path:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n")
    return path


@pytest.fixture
def vault() -> FakeVault:
    return FakeVault()


@pytest.fixture
def settings(tmp_path: Path) -> VaultKek:
    token = secret_file(tmp_path / "vault.token", TOKEN)
    return VaultKek(provider="vault", address="https://vault.example:8200", token_file=token)


@pytest.fixture
def wrap(vault: FakeVault, settings: VaultKek) -> TransitKeyWrap:
    return TransitKeyWrap(settings, transport=vault.transport)


# --- what it wraps


def test_unwraps_what_was_wrapped(wrap: TransitKeyWrap) -> None:
    wrapped = wrap.wrap(b"secret", context="dataset:a")
    assert wrapped.startswith(wrap.prefix)
    assert wrap.unwrap(wrapped, context="dataset:a") == b"secret"


def test_other_context(wrap: TransitKeyWrap) -> None:
    with pytest.raises(StorageError, match="does not open"):
        wrap.unwrap(wrap.wrap(b"secret", context="dataset:a"), context="dataset:b")


def test_other_key_of_the_same_vault(wrap: TransitKeyWrap, vault: FakeVault, settings: VaultKek) -> None:
    vault.answers["transit/keys/other"] = lambda _: data(KEY)
    other = TransitKeyWrap(settings.model_copy(update={"key": "other"}), transport=vault.transport)
    asked = len(vault.calls)
    with pytest.raises(StorageError, match="another key-encryption key"):
        other.unwrap(wrap.wrap(b"secret", context="c"), context="c")
    # One call, the wrap: what another key wrapped is not sent.
    assert len(vault.calls) == asked + 1


def test_version_of_vaults_text_is_kept(wrap: TransitKeyWrap, vault: FakeVault) -> None:
    old = wrap.wrap(b"old", context="c")
    vault.key["latest_version"] = 7
    new = wrap.wrap(b"new", context="c")
    assert (old[9:13], new[9:13]) == (b"\0\0\0\2", b"\0\0\0\7")
    assert not new.startswith(wrap.prefix)
    wrap.refresh()
    assert new.startswith(wrap.prefix)


@pytest.mark.parametrize("size", [0, 1, 8, 9, 12, 13])
def test_cut(wrap: TransitKeyWrap, size: int) -> None:
    with pytest.raises(StorageError):
        wrap.unwrap(wrap.wrap(b"secret", context="c")[:size], context="c")


# --- keys that are refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"type": "aes128-gcm96"}, "not of the type"),
        ({"derived": True}, "is derived"),
        ({"exportable": True}, "is exportable"),
        ({"allow_plaintext_backup": True}, "backed up in clear"),
        ({"deletion_allowed": True}, "may be deleted"),
        ({"deletion_allowed": None}, "may be deleted"),
        ({"imported_key": True}, "was imported"),
    ],
)
def test_key_that_is_not_as_it_must_be(settings: VaultKek, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        check_key({"data": {**KEY, **changes}}, settings)
    assert caught.value.advice


@pytest.mark.parametrize(
    "name", ["type", "derived", "exportable", "allow_plaintext_backup", "deletion_allowed"]
)
def test_key_that_does_not_say_what_it_is(settings: VaultKek, name: str) -> None:
    known = {field: value for field, value in KEY.items() if field != name}
    with pytest.raises(ConfigurationError):
        check_key({"data": known}, settings)


def test_imported_key_where_that_is_said(settings: VaultKek) -> None:
    said = settings.model_copy(update={"imported": True})
    assert check_key({"data": {**KEY, "imported_key": True}}, said) == 2


def test_key_that_is_not_there(vault: FakeVault, settings: VaultKek) -> None:
    vault.answers["transit/keys/sealroom"] = lambda _: errors(404)
    with pytest.raises(ConfigurationError, match="Vault has no key transit/sealroom") as caught:
        TransitKeyWrap(settings, transport=vault.transport)
    assert "vault write transit/keys/sealroom type=aes256-gcm96" in caught.value.advice


# --- "could not"


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "does not permit it"),
        (404, "has nothing there"),
        (412, "not up to date"),
        (429, "limit on requests"),
        (472, "is a standby"),
        (473, "is a standby"),
        (500, "failed"),
        (502, "failed"),
        (503, "is sealed"),
        (307, "is a standby"),
        (418, "failed"),
    ],
)
def test_answer_that_is_no_success_is_could_not(
    wrap: TransitKeyWrap, vault: FakeVault, status: int, sentence: str
) -> None:
    wrapped = wrap.wrap(b"secret", context="c")
    for name in ("encrypt", "decrypt"):
        vault.answers[f"transit/{name}/sealroom"] = lambda _: errors(
            status, "words of vault", Location="https://elsewhere.example/"
        )
    asked = len(vault.calls)
    with pytest.raises(StorageError, match=sentence) as caught:
        wrap.unwrap(wrapped, context="c")
    with pytest.raises(StorageError, match=sentence):
        wrap.wrap(b"secret", context="c")
    assert caught.value.advice
    assert f"{status}: words of vault" in caught.value.message
    # Nothing was sent elsewhere, and nothing twice.
    assert len(vault.calls) == asked + 2


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"not JSON"),
        httpx.Response(200, content=b"[" * 100_000),
        httpx.Response(200, content=b"[1]"),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, json={"data": {"plaintext": 5, "ciphertext": 5}}),
        httpx.Response(200, json={"data": {"plaintext": "!", "ciphertext": "vault:v0:AAAA"}}),
        httpx.Response(200, json={"data": {"plaintext": None, "ciphertext": "vault:v1:"}}),
        httpx.Response(204),
        httpx.Response(200, content=b" " * (3 << 20)),
    ],
)
def test_answer_that_is_not_understood(
    wrap: TransitKeyWrap, vault: FakeVault, answer: httpx.Response
) -> None:
    wrapped = wrap.wrap(b"secret", context="c")
    for name in ("encrypt", "decrypt"):
        vault.answers[f"transit/{name}/sealroom"] = lambda _: httpx.Response(
            answer.status_code, content=answer.content
        )
    with pytest.raises(StorageError):
        wrap.unwrap(wrapped, context="c")
    with pytest.raises(StorageError):
        wrap.wrap(b"secret", context="c")


def test_vault_that_cannot_be_reached(wrap: TransitKeyWrap, vault: FakeVault) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    vault.answers["transit/encrypt/sealroom"] = gone
    with pytest.raises(StorageError, match="cannot be reached"):
        wrap.wrap(b"secret", context="c")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
NAMED = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("data", "auth", "errors", "plaintext", "ciphertext", "ttl", "latest_version", "type"), JSON
    ),
)


@given(status=st.integers(200, 599), body=JSON | NAMED | NAMED.map(lambda inner: {"data": inner}))
def test_nothing_but_our_errors_leaves_whatever_vault_says(
    tmp_path_factory: pytest.TempPathFactory, status: int, body: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "vault.token"
    if not path.exists():
        secret_file(path, TOKEN)
    settings = VaultKek(provider="vault", address="https://vault.example", token_file=path)
    fake = FakeVault()
    wrap = TransitKeyWrap(settings, transport=fake.transport)
    wrapped = wrap.wrap(b"secret", context="c")
    content = json.dumps(body).encode()
    for name in ("transit/encrypt/sealroom", "transit/decrypt/sealroom", "transit/keys/sealroom"):
        fake.answers[name] = lambda _: httpx.Response(status, content=content)
    with contextlib.suppress(Error):
        wrap.wrap(b"s", context="c")
    with contextlib.suppress(Error):
        wrap.unwrap(wrapped, context="c")
    with contextlib.suppress(Error):
        wrap.refresh()


# --- tokens


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def login(vault: FakeVault, settings: VaultKek, clock: Clock) -> VaultLogin:
    return VaultLogin(settings, VaultLink(settings, transport=vault.transport), clock=clock)


def test_token_without_an_end(vault: FakeVault, settings: VaultKek) -> None:
    clock = Clock()
    made = login(vault, settings, clock)
    assert made.token() == TOKEN
    clock.now += 1e7
    assert made.token() == TOKEN
    assert made.ends() is None
    assert [path for _, path, _ in vault.calls] == ["auth/token/lookup-self"]


def test_token_is_renewed_at_half_of_its_time(vault: FakeVault, settings: VaultKek) -> None:
    clock, (vault.ttl, vault.renewable) = Clock(), (3600, True)
    made = login(vault, settings, clock)
    made.token()
    clock.now += 1700
    made.token()
    assert made.ends() == 1900
    clock.now += 200
    made.token()
    assert made.ends() == 3600
    assert [path for _, path, _ in vault.calls] == ["auth/token/lookup-self", "auth/token/renew-self"]


def test_token_that_cannot_be_renewed_holds_to_its_end_and_no_longer(
    vault: FakeVault, settings: VaultKek
) -> None:
    clock, (vault.ttl, vault.renewable) = Clock(), (3600, True)
    made = login(vault, settings, clock)
    made.token()
    vault.answers["auth/token/renew-self"] = lambda _: errors(503, "Vault is sealed")
    for _ in range(35):
        clock.now += 100
        assert made.token() == TOKEN
    assert made.ends() == 100
    # Not at each use: the pauses are an eighth of what is left.
    assert len(vault.calls) < 30
    clock.now += 101
    with pytest.raises(StorageError, match="has ended"):
        made.token()


def test_new_token_in_the_file_is_taken_at_once(
    vault: FakeVault, settings: VaultKek, wrap: TransitKeyWrap
) -> None:
    vault.good = {"hvs.new"}
    with pytest.raises(StorageError, match="does not permit it"):
        wrap.wrap(b"secret", context="c")
    assert settings.token_file is not None
    secret_file(settings.token_file, "hvs.new")
    assert wrap.wrap(b"secret", context="c").startswith(wrap.prefix)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is not one"), (b"two words", "is not one"), (b"\xff", "is not one")]
)
def test_token_file_with_something_else_in_it(
    vault: FakeVault, settings: VaultKek, content: bytes, sentence: str
) -> None:
    assert settings.token_file is not None
    settings.token_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=sentence):
        TransitKeyWrap(settings, transport=vault.transport)
    assert not vault.calls


def test_token_file_that_others_may_read(vault: FakeVault, settings: VaultKek) -> None:
    assert settings.token_file is not None
    settings.token_file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read it"):
        TransitKeyWrap(settings, transport=vault.transport)


@pytest.fixture
def approle(tmp_path: Path) -> VaultKek:
    path = secret_file(tmp_path / "secret-id", "secret-id")
    return VaultKek(
        provider="vault", address="https://vault.example:8200", role_id="role", secret_id_file=path
    )


def test_approle_logs_in_again_before_its_token_ends(vault: FakeVault, approle: VaultKek) -> None:
    clock, (vault.ttl, vault.renewable) = Clock(), (3600, False)
    made = login(vault, approle, clock)
    assert made.token() == f"{TOKEN}-1"
    clock.now += 2600
    assert made.token() == f"{TOKEN}-1"
    clock.now += 500
    assert made.token() == f"{TOKEN}-2"


def test_approle_logs_in_again_where_its_token_was_revoked_and_only_then(
    vault: FakeVault, approle: VaultKek
) -> None:
    vault.ttl = 3600
    wrap = TransitKeyWrap(approle, transport=vault.transport)
    vault.good.clear()
    assert wrap.wrap(b"secret", context="c").startswith(wrap.prefix)
    assert vault.logins == 2
    # A permission that is missing is not a token that is missing.
    vault.answers["transit/encrypt/sealroom"] = lambda _: errors(403, "permission denied")
    for _ in range(5):
        with pytest.raises(StorageError, match="does not permit it"):
            wrap.wrap(b"secret", context="c")
    assert vault.logins == 2


def test_secret_id_that_is_refused_is_not_sent_at_each_use(vault: FakeVault, approle: VaultKek) -> None:
    assert approle.secret_id_file is not None
    secret_file(approle.secret_id_file, "wrong")
    clock = Clock()
    made = login(vault, approle, clock)
    for _ in range(4):
        with pytest.raises(VaultRefusalError, match="invalid secret id"):
            made.token()
    assert len(vault.calls) == 1
    clock.now += 6
    with pytest.raises(VaultRefusalError):
        made.token()
    assert len(vault.calls) == 2


def test_namespace_and_token_are_headers(vault: FakeVault, settings: VaultKek) -> None:
    seen: list[httpx.Headers] = []

    def note(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return vault(request)

    named = settings.model_copy(update={"namespace": "research/genomes"})
    TransitKeyWrap(named, transport=httpx.MockTransport(note)).wrap(b"s", context="c")
    assert {one["x-vault-namespace"] for one in seen} == {"research/genomes"}
    assert {one["x-vault-token"] for one in seen} == {TOKEN}


def test_token_is_not_shown(vault: FakeVault, settings: VaultKek, wrap: TransitKeyWrap) -> None:
    made = login(vault, settings, Clock())
    made.token()
    for shown in (repr(wrap), repr(settings), repr(made), repr(made._held), repr(vars(wrap))):
        assert TOKEN not in shown


def test_rotation_and_the_destruction_of_older_versions(wrap: TransitKeyWrap, vault: FakeVault) -> None:
    bodies: dict[str, Any] = {}

    def rotate(_: httpx.Request) -> httpx.Response:
        vault.key["latest_version"] += 1
        return data(vault.key)

    def note(request: httpx.Request) -> httpx.Response:
        bodies[request.url.path] = json.loads(request.content)
        return httpx.Response(204)

    vault.answers["transit/keys/sealroom/rotate"] = rotate
    vault.answers["transit/keys/sealroom/config"] = vault.answers["transit/keys/sealroom/trim"] = note
    assert not wrap.begin(stale=True)
    assert wrap.begin(stale=False)
    assert wrap.prefix.endswith(b"\0\0\0\3")
    wrap.finish(destroy=False)
    assert not bodies
    wrap.finish(destroy=True)
    assert bodies == {
        "/v1/transit/keys/sealroom/config": {"min_decryption_version": 3, "min_encryption_version": 3},
        "/v1/transit/keys/sealroom/trim": {"min_available_version": 3},
    }
