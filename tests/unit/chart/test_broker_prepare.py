# SPDX-License-Identifier: BSD-3-Clause
"""What the broker's pod does before the broker starts: private files, and a database without its password."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sealroom_broker.__main__ import main
from sealroom_broker.config import load_config
from support.helm import CHART, objects, template

SCRIPT = CHART / "files" / "prepare.py"
Run = Callable[[], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mounts(tmp_path: Path, helm_program: str) -> Path:
    """The folder in which the chart mounts everything, as Kubernetes does it: links into a hidden folder."""
    (made,) = [
        item for item in objects(template())
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "demo-sealroom-broker"
    ]  # fmt: skip
    folder = tmp_path / "mounts"
    mount(folder / "config", made["data"])
    return folder


def mount(folder: Path, files: dict[str, str]) -> None:
    (folder / "..2027").mkdir(parents=True)
    (folder / "..data").symlink_to("..2027")
    for name, text in files.items():
        (folder / "..2027" / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state" / "broker"


@pytest.fixture
def run(home: Path, mounts: Path) -> Run:
    def prepared() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", *map(str, (SCRIPT, home, mounts))]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return prepared


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_file_is_the_brokers_alone(home: Path, mounts: Path, run: Run) -> None:
    mount(mounts / "keys", {"kek.key": "k", "audit.pem": "a"})
    mount(mounts / "tls", {"tls.crt": "c", "tls.key": "k"})
    mount(mounts / "files" / "pins", {"hsm.pin": "1234"})
    mount(mounts / "files" / "vault", {"secret-id": "s"})
    assert run().returncode == 0
    own = ("broker.toml", "kek.key", "audit.pem", "tls/tls.crt", "tls/tls.key")
    assert modes(home) == dict.fromkeys((*own, "secrets/hsm.pin", "secrets/secret-id"), 0o600)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_the_databases_password_is_in_a_file_and_not_in_the_configuration(
    home: Path, mounts: Path, run: Run
) -> None:
    url = "postgresql+psycopg://sea%40room:p%2Fw@db.example:5433/broker?sslmode=verify-full"
    mount(mounts / "database", {"url": f"{url}\n"})
    assert run().returncode == 0
    config = load_config(home / "broker.toml")
    assert config.postgresql is not None
    assert config.postgresql.url == "postgresql://sea%40room@db.example:5433/broker?sslmode=verify-full"
    assert config.postgresql.password is not None
    assert config.postgresql.password.read_text() == "p/w"
    assert "p/w" not in (home / "broker.toml").read_text()
    assert "p%2Fw" not in (home / "broker.toml").read_text()


@pytest.mark.parametrize("url", ["mysql://a:b@c/d", "postgresql:///d", "", "db.example"])
def test_a_database_that_is_no_postgresql_is_refused_without_its_password(
    mounts: Path, run: Run, url: str
) -> None:
    mount(mounts / "database", {"url": url})
    done = run()
    assert done.returncode != 0
    assert "must be like postgresql://" in done.stderr
    assert "a:b" not in done.stderr


def test_the_next_start_finds_the_same_keys_and_a_newer_configuration(
    home: Path, mounts: Path, run: Run, tmp_path: Path
) -> None:
    config = mounts / "config" / "..2027" / "broker.toml"
    environments = tmp_path / "environments"
    environments.mkdir()
    config.write_text(config.read_text().replace("/etc/sealroom/environments", str(environments)))
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from sealroom.environments import generate_key

    public = generate_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (environments / "publisher.pub.pem").write_bytes(public)
    assert run().returncode == 0
    assert main(["init", "--home", str(home)]) == 0
    keys = {name: (home / name).read_bytes() for name in ("kek.key", "audit.pem")}
    config.write_text(f'owner = "us"\n{config.read_text()}')
    assert run().returncode == 0
    assert main(["init", "--home", str(home)]) == 0
    assert keys == {name: (home / name).read_bytes() for name in keys}
    assert load_config(home / "broker.toml").owner == "us"


def test_the_script_needs_nothing_but_python() -> None:
    imported = {
        line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith(("import ", "from "))
    }
    assert imported <= {"json", "os", "sys", "pathlib", "urllib.parse"}
