# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sealroom.errors import ConfigurationError
from sealroom_broker.config import Config, Postgresql, load_config, split_address
from sealroom_broker.database import PostgresqlDatabase
from sealroom_broker.setup import Plan, initialise, render

MINIMAL = 'mode = "production"\n'


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = folder / "broker.toml"
    path.write_text(text)
    return load_config(path, environ)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = MINIMAL + '[environments]\ndirectories = ["../environments"]\npublishers = ["p.pem"]\n'
    config = load(tmp_path, text)
    assert config.database == tmp_path / "broker.sqlite"
    assert config.environments.directories == (tmp_path / "../environments",)
    assert config.environments.publishers == (tmp_path / "p.pem",)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no configuration file"):
        load_config(tmp_path / "broker.toml")


def test_no_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="mode: Field required"):
        load(tmp_path, "")


def test_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path, "mode = ")


@pytest.mark.parametrize(
    "line", ['moed = "x"', "[limits]\nbdoy = 1", '[identity]\napi_url = "http://h"\nx = 1']
)
def test_misspelt_key(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match="Extra inputs are not permitted"):
        load(tmp_path, MINIMAL + line)


def test_development_root_in_production(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must not have a development_root"):
        load(tmp_path, MINIMAL + 'development_root = "ark.pem"\n')


@pytest.mark.parametrize("listen", ["127.0.0.1", ":8200", "127.0.0.1:x", "127.0.0.1:99999", "h:1/path"])
def test_listen_that_is_no_address(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigurationError, match="listen: "):
        load(tmp_path, MINIMAL + f'listen = "{listen}"\n')


def test_ipv6_address() -> None:
    assert split_address("[::1]:8200") == ("::1", 8200)


def test_hub_address_that_is_no_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"identity\.api_url"):
        load(tmp_path, MINIMAL + '[identity]\napi_url = "file:///etc"\n')


def test_what_a_hub_says_wins_over_the_file(tmp_path: Path) -> None:
    environ = {
        "JUPYTERHUB_API_URL": "http://127.0.0.1:1234/hub/api",
        "JUPYTERHUB_SERVICE_NAME": "keys",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9999",
    }
    config = load(tmp_path, MINIMAL + '[identity]\napi_url = "http://127.0.0.1:8081/hub/api"\n', environ)
    assert config.listen == "127.0.0.1:9999"
    assert config.identity is not None
    assert config.identity.api_url == "http://127.0.0.1:1234/hub/api"
    assert config.identity.service == "keys"


def test_issuer_stays_when_the_hub_moves(tmp_path: Path) -> None:
    environ = {"JUPYTERHUB_API_URL": "http://127.0.0.1:1234/hub/api"}
    config = load(tmp_path, MINIMAL + '[identity]\napi_url = "http://127.0.0.1:8081/hub/api"\n', environ)
    assert config.identity is not None
    assert config.identity.issuer == "http://127.0.0.1:8081/hub/api"


def test_hub_without_a_section_in_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL, {"JUPYTERHUB_API_URL": "http://127.0.0.1:1234/hub/api"})
    assert config.identity is not None
    assert config.identity.api_url == "http://127.0.0.1:1234/hub/api"


def test_no_hub_is_no_identity(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL).identity is None


def test_rendered_configuration_is_read_back(tmp_path: Path) -> None:
    plan = Plan(
        mode="development",
        development_root=tmp_path / "ark.pem",
        environments=[tmp_path / 'with "quotes"'],
        publishers=[tmp_path / "p.pem"],
        hub_api_url="http://127.0.0.1:8081/hub/api",
    )
    config = load(tmp_path / "", render(plan, tmp_path))
    assert config.environments.directories == (tmp_path / 'with "quotes"',)
    assert config.development_root == tmp_path / "ark.pem"


def test_init_twice_changes_nothing(tmp_path: Path) -> None:
    plan = Plan(mode="production")
    initialise(tmp_path / "b", plan)
    files = [path for path in (tmp_path / "b").iterdir() if path.suffix != ".sqlite" and path.is_file()]
    before = {path.name: path.read_bytes() for path in files}
    initialise(tmp_path / "b", plan)
    assert before == {path.name: path.read_bytes() for path in files}


def test_everything_that_init_makes_is_private(tmp_path: Path) -> None:
    initialise(tmp_path / "b", Plan(mode="production"))
    for path in [tmp_path / "b", *(tmp_path / "b").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_init_of_production_with_a_development_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must not have a development root"):
        initialise(tmp_path / "b", Plan(mode="production", development_root=tmp_path / "ark.pem"))
    assert not (tmp_path / "b").exists()


# --- database, certificate, watchers, proxies

POSTGRESQL = "[postgresql]\nurl = "


def test_paths_of_operation_are_relative_to_the_file(tmp_path: Path) -> None:
    text = MINIMAL + '[tls]\ncertificate = "b.crt"\nkey = "b.key"\n[metrics]\ntoken = "m"\n'
    config = load(tmp_path, text + POSTGRESQL + '"postgresql://u@h/d"\npassword = "p"\n')
    assert config.tls is not None
    assert config.postgresql is not None
    assert (config.tls.certificate, config.tls.key) == (tmp_path / "b.crt", tmp_path / "b.key")
    assert (config.metrics.token, config.postgresql.password) == (tmp_path / "m", tmp_path / "p")


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@h/d", "postgresql://h/d?password=secret", "mysql://h/d", "postgresql://h", "d"],
)
def test_address_of_a_database_that_is_none_or_has_a_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql"):
        load(tmp_path, MINIMAL + POSTGRESQL + f'"{url}"\n')


def test_proxy_that_is_no_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not appear to be an IPv4 or IPv6 network"):
        load(tmp_path, MINIMAL + 'trusted_proxies = ["everybody"]\n')


def test_plan_with_postgresql_names_no_file(tmp_path: Path) -> None:
    config = load(tmp_path, render(Plan(mode="production", postgresql="postgresql://u@h/d"), tmp_path))
    assert config.postgresql is not None
    assert (config.postgresql.url, config.log) == ("postgresql://u@h/d", "json")


def test_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match="not installed") as caught:
        PostgresqlDatabase(Postgresql(url="postgresql://u@h/d"))
    assert "sealroom-broker[postgres]" in caught.value.advice
