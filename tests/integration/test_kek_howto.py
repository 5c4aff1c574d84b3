# SPDX-License-Identifier: BSD-3-Clause
"""What the page on key-encryption keys says is done as it says it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.softhsm import SoftHsm, library, softhsm
from support.vault import Vault, vault, write_secret

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "key-encryption-keys.md"

__all__ = ["softhsm", "vault"]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def type_in(folder: Path, lines: list[str], **environ: str) -> str:
    """Type lines into a shell, and return what it says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-ex", "-c", "\n".join(lines)],
        cwd=folder,
        env={**os.environ, **environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_commands_for_a_token_run_from_top_to_bottom(softhsm: SoftHsm, tmp_path: Path) -> None:
    typed = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(typed) == 6
    made, rotated, moved = typed[:4], typed[4], typed[5]
    module = "/usr/lib/softhsm/libsofthsm2.so"
    type_in(tmp_path, [line.replace(module, str(library())) for line in made], **softhsm.environ)
    text = (tmp_path / "broker" / "broker.toml").read_text()
    assert '[kek]\nprovider = "pkcs11"' in text
    assert "USER-PIN" not in text
    assert "new version of the key" in type_in(tmp_path, [rotated], **softhsm.environ)
    # A broker with a file moves to the token.
    type_in(tmp_path, ["mv broker first", "sealroom-broker init --home broker"])
    (new,) = [block for block in blocks("toml") if block.startswith("# new-kek.toml")]
    (tmp_path / "new-kek.toml").write_text(new.replace(module, str(library())))
    assert "broker.toml says so" in type_in(tmp_path, [moved], **softhsm.environ)
    assert 'provider = "pkcs11"' in (tmp_path / "broker" / "broker.toml").read_text()


def test_policy_of_the_page_is_enough_and_not_too_much(vault: Vault, tmp_path: Path) -> None:
    policy, key = PAGE.read_text().partition("<<'EOF'\n")[2].partition("EOF")[0], vault.new_key()
    vault.call("PUT", "sys/policies/acl/page", {"policy": policy.replace("sealroom", key)})
    token = vault.token(tmp_path / "vault.token", "page", period="24h")
    write_secret(tmp_path / "vault-ca.pem", vault.ca.read_text())
    (line,) = [one for one in PAGE.read_text().splitlines() if "init" in one and "--kek vault" in one]
    line = line.replace("https://vault.example:8200", vault.address)
    backup = "sealroom-broker backup --config broker/broker.toml copy"
    assert f"the key transit/{key} of Vault" in type_in(tmp_path, [f"{line} --vault-key {key}", backup])
    assert token.read_text().strip() not in (tmp_path / "broker" / "broker.toml").read_text()
    for path, body in ((f"transit/keys/{key}/rotate", {}), (f"transit/encrypt/{key}x", {"plaintext": ""})):
        with pytest.raises(AssertionError, match="403"):
            vault.call("POST", path, body, token=token.read_text().strip())


def test_tables_of_the_page_can_be_read(tmp_path: Path) -> None:
    from sealroom_broker.wrap.settings import load_kek

    providers = []
    for block in blocks("toml"):
        text = block
        if "[kek]" not in block:  # AppRole's lines stand for `token_file`
            (whole,) = [one for one in blocks("toml") if 'provider = "vault"' in one]
            text = re.sub(r"token_file = .*\n", block, whole)
        # What is commented out is possible too.
        path = tmp_path / "kek.toml"
        path.write_text(re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text))
        providers.append(load_kek(path, alone=True).first.provider)
    assert sorted(providers) == ["pkcs11", "pkcs11", "vault", "vault"]
