# SPDX-License-Identifier: BSD-3-Clause
"""What the hub's configuration makes of the chart's values, and of values that somebody wrote by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from jupyterhub.app import JupyterHub
from jupyterhub.proxy import ConfigurableHTTPProxy
from support.chart import SETS
from support.helm import objects, template
from traitlets.config.loader import Config, LazyConfigValue, PyFileConfigLoader
from traitlets.utils.importstring import import_item

CONFIG = Path(__file__).resolve().parents[3] / "hub_config" / "jupyterhub_config.py"
SECRETS = ("cookie-secret", "crypt-key", "proxy-token", "status-token", "metrics-token")
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads the whole configuration with the chart's places put into a folder."""
    (tmp_path / "secrets").mkdir()
    for number, name in enumerate(SECRETS):
        (tmp_path / "secrets" / name).write_text(f"{number:064x}\n")
    (tmp_path / "extra").mkdir()
    (tmp_path / "files" / "oidc").mkdir(parents=True)
    (tmp_path / "files" / "oidc" / "client-secret").write_text("hidden\n")
    monkeypatch.delenv("SEALROOM_HOME", raising=False)
    monkeypatch.setenv("POD_IP", "10.0.0.7")

    def loaded(values: dict[str, Any], *, kind: str = "json") -> Config:
        places = {
            "state_dir": str(tmp_path / "state"),
            "secrets_dir": str(tmp_path / "secrets"),
            "secret_files_dir": str(tmp_path / "files"),
            "extra_config_dir": str(tmp_path / "extra"),
        }
        path = tmp_path / f"values.{kind}"
        path.write_text(json.dumps({**values, **places}) if kind == "json" else values["text"])
        monkeypatch.setenv("SEALROOM_HUB_VALUES", str(path))
        return PyFileConfigLoader(CONFIG.name, path=str(CONFIG.parent)).load_config()

    return loaded


def listed(value: Any) -> list[Any]:
    """Return a list that configuration only added to."""
    return list(value.get_value([])) if isinstance(value, LazyConfigValue) else list(value)


def values_of(text: str) -> dict[str, Any]:
    (found,) = [
        item for item in objects(text)
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == "demo-sealroom-hub"
    ]  # fmt: skip
    values: dict[str, Any] = json.loads(found["data"]["values.json"])
    return values


BY_HAND: dict[str, Any] = {
    "format": "sealroom-hub-values/1",
    "hub": {"base_url": "/", "hub_connect_url": "http://hub:8081"},
    "proxy_api_url": "http://proxy:8001",
    "broker_url": "https://broker.example",
}


@pytest.fixture
def from_chart(load: Load, rendered: str, chosen: str, tmp_path: Path) -> Config:
    values = values_of(rendered)
    if values["database_file"]:
        values["database_file"] = str(tmp_path / "url")
        (tmp_path / "url").write_text("postgresql://hub:word@db.example/hub\n")
    return load(values)


def test_every_setting_is_one_that_jupyterhub_has(from_chart: Config) -> None:
    assert set(from_chart.JupyterHub) <= set(JupyterHub.class_traits(config=True))
    assert set(from_chart.ConfigurableHTTPProxy) <= set(ConfigurableHTTPProxy.class_traits(config=True))


def test_every_setting_of_the_spawner_is_one_that_it_has(from_chart: Config) -> None:
    pytest.importorskip("kubespawner", reason="KubeSpawner is not installed here")
    SealedKubeSpawner = import_item(from_chart.JupyterHub.spawner_class)  # noqa: N806 - a class

    assert set(from_chart.SealedKubeSpawner) <= set(SealedKubeSpawner.class_traits(config=True))


def test_servers_and_the_proxy_outlive_the_hub(from_chart: Config) -> None:
    assert from_chart.JupyterHub.cleanup_servers is False
    assert from_chart.JupyterHub.cleanup_proxy is False
    assert from_chart.ConfigurableHTTPProxy.should_start is False


def test_servers_get_the_labels_that_the_policies_select_by(from_chart: Config, rendered: str) -> None:
    labels = from_chart.SealedKubeSpawner.extra_labels
    (policy,) = [
        item for item in objects(rendered)
        if item["kind"] == "NetworkPolicy" and item["metadata"]["name"] == "demo-sealroom-notebook"
    ]  # fmt: skip
    assert policy["spec"]["podSelector"]["matchLabels"] == labels


def test_secrets_come_from_files_and_are_used(from_chart: Config) -> None:
    hub = from_chart.JupyterHub
    services = {service["name"]: service for service in listed(hub.services)}
    assert hub.cookie_secret == bytes(32)
    assert from_chart.CryptKeeper["keys"] == [(1).to_bytes(32, "big")]
    assert from_chart.ConfigurableHTTPProxy.auth_token.endswith("2")
    assert from_chart.SealedKubeSpawner.status_token == services["sealroom"]["api_token"]
    assert services["sealroom-metrics"]["api_token"].endswith("4")


def test_every_role_is_of_a_service_that_there_is(from_chart: Config) -> None:
    names = {service["name"] for service in listed(from_chart.JupyterHub.services)}
    used = {name for role in listed(from_chart.JupyterHub.load_roles) for name in role.get("services", ())}
    assert used <= names


def test_the_status_service_is_where_the_proxy_reaches_it(from_chart: Config) -> None:
    (status,) = [one for one in listed(from_chart.JupyterHub.services) if one["name"] == "sealroom"]
    assert status["url"] == "http://10.0.0.7:8090"


def test_an_ipv6_address_of_the_pod_is_one_of_a_url(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_IP", "fd00::7")
    (status,) = [one for one in listed(load(BY_HAND).JupyterHub.services) if one["name"] == "sealroom"]
    assert status["url"] == "http://[fd00::7]:8090"


def test_the_production_set_uses_postgresql_with_the_driver_of_the_image(
    load: Load, helm_program: str, tmp_path: Path
) -> None:
    values = values_of(template(*SETS["production"]))
    (tmp_path / "url").write_text("postgresql://hub:word@db.example/hub\n")
    config = load({**values, "database_file": str(tmp_path / "url")})
    assert config.JupyterHub.db_url == "postgresql+psycopg://hub:word@db.example/hub"
    assert config.JupyterHub.bind_url == "http://0.0.0.0:8000/lab/"
    assert config.GenericOAuthenticator.client_secret == "hidden"
    (board,) = [one for one in listed(config.JupyterHub.load_roles) if one["name"] == "sealroom-board"]
    assert (board["users"], board["groups"]) == (["operator"], ["instructors"])


def test_values_by_hand_are_enough(load: Load) -> None:
    config = load(BY_HAND)
    assert config.JupyterHub.db_url.startswith("sqlite:///")
    assert config.JupyterHub.spawner_class == "sealroom_spawner.kube.SealedKubeSpawner"
    assert [one["name"] for one in listed(config.JupyterHub.services)] == [
        "sealroom-broker", "sealroom", "sealroom-orphans", "sealroom-metrics",
    ]  # fmt: skip


def test_values_may_be_toml(load: Load, tmp_path: Path) -> None:
    text = f"""
format = "sealroom-hub-values/1"
state_dir = "{tmp_path}/state"
secrets_dir = "{tmp_path}/secrets"
proxy_api_url = "http://proxy:8001"
broker_url = "https://broker.example"
[hub]
base_url = "/x/"
"""
    assert load({"text": text}, kind="toml").JupyterHub.bind_url == "http://0.0.0.0:8000/x/"


def test_values_of_another_format_are_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="must say format"):
        load({**BY_HAND, "format": "sealroom-hub-values/9"})


@pytest.mark.parametrize("name", ["../secrets/crypt-key", "/etc/passwd", "oidc/../../secrets/crypt-key"])
def test_a_file_outside_of_the_secrets_is_refused(load: Load, name: str) -> None:
    with pytest.raises(ValueError, match="is not a file of"):
        load({**BY_HAND, "config": {"A": {"b": {"from_file": name}}}})


def test_an_operators_own_python_has_the_last_word(load: Load, tmp_path: Path) -> None:
    (tmp_path / "extra" / "10-a.py").write_text("c.JupyterHub.shutdown_on_logout = False\n")
    (tmp_path / "extra" / "20-b.py").write_text("c.JupyterHub.shutdown_on_logout = True\n")
    config = load({**BY_HAND, "config": {"JupyterHub": {"shutdown_on_logout": False}}})
    assert config.JupyterHub.shutdown_on_logout is True


def test_the_culler_may_do_no_more_than_it_is_asked_to(load: Load) -> None:
    def role(**more: Any) -> dict[str, Any]:
        config = load({**BY_HAND, "cull": {"enabled": True, "timeout": 60, "every": 10, **more}})
        (found,) = [one for one in listed(config.JupyterHub.load_roles) if one["name"] == "sealroom-culler"]
        return dict(found)

    assert "admin:users" not in role()["scopes"]
    assert "admin:users" in role(users=True)["scopes"]


def test_a_workshop_is_where_the_hub_looks_for_it(
    load: Load, helm_program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = objects(template(*SETS["workshop"]))
    (found,) = [one for one in made if one["kind"] == "ConfigMap" and "workshop.toml" in one.get("data", {})]
    (hub,) = [
        one for one in made
        if one["kind"] == "Deployment" and one["metadata"]["name"] == "demo-sealroom-hub"
    ]  # fmt: skip
    (container,) = hub["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    assert found["metadata"]["name"] == "demo-sealroom-hub"
    assert env["SEALROOM_WORKSHOP"] == "/etc/sealroom/hub/workshop.toml"
    (tmp_path / "workshop.toml").write_text(found["data"]["workshop.toml"])
    monkeypatch.setenv("SEALROOM_WORKSHOP", str(tmp_path / "workshop.toml"))
    monkeypatch.setenv("SEALROOM_WORKSHOP_STATE", str(tmp_path))
    config = load(values_of(template(*SETS["workshop"])))
    assert config.JupyterHub.authenticator_class == "ltiauthenticator.lti13.auth.LTI13Authenticator"
    assert "workshop-ending" in {one["name"] for one in listed(config.JupyterHub.services)}


def test_a_workshop_leaves_the_hub_no_groups_of_its_own(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub does not start with both.
    assert load(BY_HAND | {"board": {"groups": ["lab"]}}).JupyterHub.load_groups == {"lab": {"users": []}}
    (tmp_path / "workshop.toml").write_text(
        'name = "summer-school"\ntitle = "Hearts"\nseats = 2\nenvironment = "simulated-cpu"\n'
        "until = 2100-01-01T00:00:00Z\n"
    )
    monkeypatch.setenv("SEALROOM_WORKSHOP", str(tmp_path / "workshop.toml"))
    monkeypatch.setenv("SEALROOM_WORKSHOP_STATE", str(tmp_path))
    config = load(BY_HAND | {"board": {"groups": ["lab"]}})
    assert config.Authenticator.manage_groups
    assert config.JupyterHub.load_groups == {}


def test_without_values_the_file_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALROOM_HUB_VALUES", raising=False)
    monkeypatch.delenv("SEALROOM_HOME", raising=False)
    config = PyFileConfigLoader(CONFIG.name, path=str(CONFIG.parent)).load_config()
    assert "SealedKubeSpawner" not in config
    assert "spawner_class" not in config.JupyterHub


def test_the_image_has_the_configuration_where_the_chart_looks_for_it(rendered: str) -> None:
    (hub,) = [
        item for item in objects(rendered)
        if item["kind"] == "Deployment" and item["metadata"]["name"] == "demo-sealroom-hub"
    ]  # fmt: skip
    (container,) = hub["spec"]["template"]["spec"]["containers"]
    text = (CONFIG.parents[1] / "images" / "hub" / "Dockerfile").read_text()
    assert "COPY hub_config /opt/sealroom/hub_config" in text
    assert container["args"][1] == "/opt/sealroom/hub_config/jupyterhub_config.py"


def test_the_overlay_for_zero_to_jupyterhub_starts_the_same_spawner() -> None:
    overlay = yaml.safe_load((CONFIG.parents[1] / "helm" / "z2jh-values.yaml").read_text())
    assert (
        overlay["hub"]["config"]["JupyterHub"]["spawner_class"] == "sealroom_spawner.kube.SealedKubeSpawner"
    )


def test_the_overlay_lets_proxy_hub_and_servers_reach_the_status_service() -> None:
    overlay = yaml.safe_load((CONFIG.parents[1] / "helm" / "z2jh-values.yaml").read_text())
    (rule,) = overlay["hub"]["networkPolicy"]["ingress"]
    named = [one["podSelector"]["matchLabels"]["component"] for one in rule["from"]]
    assert named == ["proxy", "hub", "singleuser-server"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 8090}]
