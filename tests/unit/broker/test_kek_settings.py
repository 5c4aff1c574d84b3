# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import pytest
from sealroom.errors import ConfigurationError
from sealroom_broker.config import load_config
from sealroom_broker.wrap.options import add_kek_options, kek_of
from sealroom_broker.wrap.settings import FileKek, Kek, Pkcs11Kek, VaultKek, load_kek, replace_kek

TOKEN = '[kek]\nprovider = "pkcs11"\nmodule = "/usr/lib/hsm.so"\ntoken = "t"\npin_file = "hsm.pin"\n'
VAULT = '[kek]\nprovider = "vault"\naddress = "https://vault.example:8200"\ntoken_file = "vault.token"\n'


def parsed(tmp_path: Path, text: str) -> Kek:
    path = tmp_path / "broker.toml"
    path.write_text(f'mode = "production"\n{text}')
    kek = load_kek(path)
    # The whole configuration says the same, or the same is wrong with it.
    assert load_config(path).kek == kek
    return kek


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "broker.toml"
    path.write_text(f'mode = "production"\n{text}')
    with pytest.raises(ConfigurationError) as caught:
        load_kek(path)
    with pytest.raises(ConfigurationError) as again:
        load_config(path)
    assert again.value.message == caught.value.message
    return caught.value.message


def test_nothing_said_is_a_file(tmp_path: Path) -> None:
    assert parsed(tmp_path, "").first == FileKek(path=tmp_path / "kek.key")


def test_short_form_is_a_file(tmp_path: Path) -> None:
    kek = parsed(tmp_path, 'kek = "keys/one.key"\n')
    assert kek.files == (tmp_path / "keys" / "one.key",)
    assert kek.first.credentials == ()


def test_token_with_paths_seen_from_the_file(tmp_path: Path) -> None:
    first = parsed(tmp_path, TOKEN).first
    assert isinstance(first, Pkcs11Kek)
    assert first.credentials == (tmp_path / "hsm.pin",)
    assert (first.key, first.module) == ("sealroom-kek", Path("/usr/lib/hsm.so"))


def test_vault_with_a_token_file(tmp_path: Path) -> None:
    first = parsed(tmp_path, VAULT).first
    assert isinstance(first, VaultKek)
    assert (first.mount, first.key, first.token_file) == ("transit", "sealroom", tmp_path / "vault.token")


def test_former_keepers_stand_behind_the_first(tmp_path: Path) -> None:
    kek = parsed(tmp_path, TOKEN + '[[kek.former]]\nprovider = "file"\npath = "kek.key"\n')
    assert [one.provider for one in kek.all] == ["pkcs11", "file"]
    assert kek.files == (tmp_path / "kek.key",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TOKEN + 'pin = "1234"\n', "kek.pkcs11.pin: Extra inputs are not permitted"),
        (VAULT + 'token = "hvs.secret"\n', "kek.vault.token: Extra inputs"),
        (VAULT.replace("https", "http"), "kek.vault.address: must be an https address"),
        (VAULT.replace(":8200", ":8200/v1"), "without a user, a path"),
        (VAULT + 'role_id = "r"\nsecret_id_file = "s"\n', "either token_file, or role_id"),
        (VAULT + 'role_id = "r"\n', "either token_file, or role_id"),
        (VAULT.replace("token_file", "secret_id_file"), "either token_file, or role_id"),
        (VAULT + 'namespace = "a\\r\\nX-Other: b"\n', "kek.vault.namespace: must be a path"),
        (VAULT + 'mount = "../sys"\n', "kek.vault.mount"),
        (VAULT + 'key = "a/../b"\n', "kek.vault.key"),
        (VAULT + "timeout = 0\n", "kek.vault.timeout"),
        (TOKEN.replace("pin_file", "#"), "kek.pkcs11.pin_file: Field required"),
        (TOKEN.replace("pkcs11", "aws"), "'aws'"),
        ('[kek]\npath = "a"\n[[kek.former]]\nprovider = "file"\npath = "a"\n', "may be named once"),
        ("kek = 5\n", "kek"),
    ],
)
def test_what_cannot_be_is_refused_and_named(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(tmp_path, text)


def test_configuration_without_kek_is_no_move(tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text('mode = "production"\n' + TOKEN)
    with pytest.raises(ConfigurationError, match=r"must have a \[kek\] table and nothing else"):
        load_kek(path, alone=True)


# --- changing a configuration file


CONFIGURATION = """\
# The broker of the hospital.
mode = "production"
kek = "kek.key"   # the old one
name = "b"

[environments]
directories = ["environments"]  # [kek] is below

# Nobody else.
[limits]
rate = 5
"""


def test_other_tables_and_comments_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(CONFIGURATION)
    first = parse(tmp_path, TOKEN)
    new = replace_kek(CONFIGURATION, first, path)
    assert new.startswith(CONFIGURATION.replace('kek = "kek.key"   # the old one\n', ""))
    assert new.endswith(
        '[kek]\nprovider = "pkcs11"\nmodule = "/usr/lib/hsm.so"\ntoken = "t"\npin_file = "hsm.pin"\n'
    )
    path.write_text(new)
    assert load_kek(path) == first


def test_tables_are_replaced_wherever_they_stand(tmp_path: Path) -> None:
    path, top = tmp_path / "broker.toml", 'mode = "production"\n\n'
    former = '[[kek.former]]\npath = "kek.key"\nprovider = "file"\n'
    text = f"{top}{TOKEN}\n{former}\n# Ours.\n[limits]\nrate = 5\n"
    path.write_text(text)
    vault = parse(tmp_path, VAULT)
    both = Kek(first=vault.first, former=load_kek(path).all)
    new = replace_kek(text, both, path)
    assert "# Ours.\n[limits]\nrate = 5" in new
    path.write_text(new)
    assert [one.provider for one in load_kek(path).all] == ["vault", "pkcs11", "file"]
    back = replace_kek(new, Kek(first=FileKek(path=tmp_path / "kek.key")), path)
    assert tomllib.loads(back) == {
        "mode": "production",
        "limits": {"rate": 5},
        "kek": {"provider": "file", "path": "kek.key"},
    }


@pytest.mark.parametrize(
    "text",
    [
        'mode = "production"\nkek.provider = "file"\nkek.path = """a\nb"""\n',
        'mode = """\nkek = 1\n"""\n',
        'kek = {provider = "file",\n path = "a"}\n',
    ],
)
def test_file_that_is_written_in_another_way_is_left_to_a_person(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broker.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="does not change") as caught:
        replace_kek(text, parse(tmp_path, TOKEN), path)
    assert "provider" in caught.value.advice


def parse(tmp_path: Path, text: str) -> Kek:
    path = tmp_path / "only.toml"
    path.write_text(text)
    return load_kek(path, alone=True)


# --- the options of `init`


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_kek_options(parser)
    return parser.parse_args(words)


def test_options_make_settings() -> None:
    words = ("--kek", "pkcs11", "--pkcs11-module", "/m.so", "--pkcs11-token", "t", "--pkcs11-pin-file", "p")
    made = kek_of(options(*words))
    assert made == Pkcs11Kek(provider="pkcs11", module=Path("/m.so"), token="t", pin_file=Path("p"))
    assert kek_of(options()) == FileKek()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--kek", "pkcs11"), "--pkcs11-module: Field required"),
        (("--kek", "vault", "--vault-address", "http://v"), "--vault-address: must be an https"),
        (("--kek", "vault", "--vault-address", "https://v"), "--kek vault: name either token_file"),
        (("--vault-address", "https://v"), "--vault-address needs --kek vault"),
    ],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kek_of(options(*words))
    assert sentence in caught.value.message
