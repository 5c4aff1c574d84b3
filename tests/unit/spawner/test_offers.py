# SPDX-License-Identifier: BSD-3-Clause
"""What the spawn page offers, and which options are taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from sealroom import environments
from sealroom.errors import FormatError, StorageError
from sealroom_spawner import offers
from sealroom_spawner.tiers import BADGES, badge


def test_a_signed_environment_is_offered(state: Path) -> None:
    (offer,) = offers.read_offers(state / "environments")
    assert offer.name == "simulated-cpu"
    assert offer.simulated
    assert offer.digest.startswith("sha256:")
    assert all(path.is_file() for path in offer.public_files)


def test_a_changed_manifest_is_not_offered(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = state / "environments" / "simulated-cpu.toml"
    path.write_bytes(path.read_bytes().replace(b"Simulated TEE, CPU", b"Genuine TEE, GPU!!"))
    assert offers.read_offers(state / "environments") == []
    assert "simulated-cpu.toml is not offered" in caplog.text


def test_a_manifest_that_another_publisher_signed_is_not_offered(state: Path) -> None:
    path = state / "environments" / "simulated-cpu.toml"
    signature = environments.sign(path.read_bytes(), environments.generate_key())
    path.with_name("simulated-cpu.toml.sig").write_bytes(signature)
    assert offers.read_offers(state / "environments") == []


def test_a_manifest_without_signature_is_not_offered(state: Path) -> None:
    (state / "environments" / "simulated-cpu.toml.sig").unlink()
    assert offers.read_offers(state / "environments") == []


def test_a_good_environment_is_offered_beside_a_bad_one(state: Path) -> None:
    (state / "environments" / "bad.toml").write_bytes(b"\xff")
    assert [offer.name for offer in offers.read_offers(state / "environments")] == ["simulated-cpu"]


def test_no_options_mean_the_first_environment(state: Path) -> None:
    found = offers.read_offers(state / "environments")
    assert offers.choose(found, {}) is found[0]
    assert offers.choose(found, {"environment": "simulated-cpu"}) is found[0]


@pytest.mark.parametrize(
    "options",
    [
        None,
        "simulated-cpu",
        ["simulated-cpu"],
        {"environment": ["simulated-cpu"]},
        {"environment": ""},
        {"environment": None},
        {"environment": "other"},
        {"environment": "../simulated-cpu"},
        {"environment": "simulated-cpu", "uid": 0},
        {"cmd": "sh"},
        {1: 2},
    ],
)
def test_any_other_options_are_refused(state: Path, options: object) -> None:
    with pytest.raises(FormatError):
        offers.choose(offers.read_offers(state / "environments"), options)


def test_a_name_that_is_none_is_not_repeated(state: Path) -> None:
    with pytest.raises(FormatError) as caught:
        offers.choose(offers.read_offers(state / "environments"), {"environment": "<script>"})
    assert "script" not in caught.value.message


def test_nothing_on_offer_is_said() -> None:
    with pytest.raises(StorageError, match="No environment"):
        offers.choose([], {})


def test_the_form_shows_what_it_is_and_what_it_may_ask_for(state: Path) -> None:
    found = offers.read_offers(state / "environments")
    page = offers.form(found, offers.read_datasets(state / "datasets"), "", "All <alone>.")
    assert "Simulated TEE, CPU" in page
    assert "Simulated TEE (not a real one)" in page
    assert "sealroom-simulated" in page
    assert "Heart &lt;beats&gt;" in page
    assert "All &lt;alone&gt;." in page
    assert 'value="simulated-cpu" checked' in page


def test_an_environment_for_some_datasets_shows_only_these(state: Path) -> None:
    key = environments.generate_key()
    manifest = environments.simulated_cpu(datasets=["other"])
    directory = state / "environments"
    (directory / "simulated-cpu.toml").write_bytes(manifest.raw)
    (directory / "simulated-cpu.toml.sig").write_bytes(environments.sign(manifest.raw, key))
    (directory / "publisher.pub.pem").write_bytes(environments.public_pem(key))
    page = offers.form(offers.read_offers(directory), offers.read_datasets(state / "datasets"), "", "")
    assert "Heart" not in page


def test_an_environment_that_is_gone_is_not_selected(state: Path) -> None:
    found = offers.read_offers(state / "environments")
    assert 'value="simulated-cpu" checked' in offers.form(found, [], "gone", "")


def test_a_damaged_dataset_is_not_shown(state: Path) -> None:
    (state / "datasets" / "heartbeats" / "dataset.json").write_text("[]")
    assert offers.read_datasets(state / "datasets") == []


def test_the_forms_fields_become_options() -> None:
    assert offers.options_from_form({"environment": ["a"], "_xsrf": ["x"]}) == {"environment": "a"}
    assert offers.options_from_form({}) == {}


def test_simulated_looks_like_no_other_tier() -> None:
    simulated = badge("simulated")
    assert [shown for shown in BADGES.values() if shown.css == simulated.css] == [simulated]
    assert [shown for shown in BADGES.values() if shown.icon == simulated.icon] == [simulated]
    assert "not a real one" in simulated.title


def test_a_tier_that_nobody_knows_proves_nothing() -> None:
    assert badge("genuine") is BADGES["none"]


def test_amber_is_amber_in_light_and_dark() -> None:
    css = (Path(offers.__file__).parent / "templates" / "tiers.css").read_text()
    rules = [line for line in css.splitlines() if ".sealroom-simulated" in line]
    assert len(rules) == 2
    for rule in rules:
        border = rule.split("border-color: #")[1][:6]
        red, green, blue = (int(border[i : i + 2], 16) for i in (0, 2, 4))
        assert red > green > blue
        assert red - blue > 100
