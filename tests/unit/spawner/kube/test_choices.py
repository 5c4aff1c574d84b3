# SPDX-License-Identifier: BSD-3-Clause
"""Environments as offers, profiles and the spawn page's form; and the small parts beside them."""

from __future__ import annotations

import html
import json
import logging
import re
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sealroom.errors import ConfigurationError, FormatError
from sealroom_spawner.kube import catalogue, form, plan
from sealroom_spawner.kube.catalogue import Catalogue
from sealroom_spawner.kube.expectation import PodExpectation
from sealroom_spawner.kube.plan import Plan
from sealroom_spawner.kube.provenance import Stage, attribute
from sealroom_spawner.kube.quantities import quantity
from sealroom_spawner.kube.rules import check_pod
from sealroom_spawner.offers import SealedDataset

from .conftest import MakeKubeSpawner, publish
from .pods import DIGEST, EXPECTED, IMAGE, environment, good_pod


def offered(directory: Path) -> list[str]:
    return [offer.name for offer in Catalogue(directory, plan.RUNTIME_CLASSES).offers()]


def rendered(directory: Path, **more: Any) -> str:
    offers = Catalogue(directory, plan.RUNTIME_CLASSES).offers()
    profiles = catalogue.profiles(offers, [], plain=False)
    return form.render(profiles, offers, more.pop("datasets", []), chosen=more.pop("chosen", {}), **more)


# --- offers


def test_signed_environments_are_offered_by_name(tmp_path: Path) -> None:
    publish(tmp_path / "e", environment("zebra"), environment("alpha"))
    assert offered(tmp_path / "e") == ["alpha", "zebra"]


def test_an_environment_whose_signature_does_not_fit_is_not_offered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = publish(tmp_path / "e", environment("good"), environment("bad"))
    (directory / "bad.toml").write_bytes(environment("bad", version="2").raw)
    with caplog.at_level(logging.WARNING):
        assert offered(directory) == ["good"]
    assert "bad.toml is not offered" in caplog.text


def test_an_environment_that_changes_is_read_again(tmp_path: Path) -> None:
    directory = publish(tmp_path / "e", environment("demo"))
    known = Catalogue(directory, plan.RUNTIME_CLASSES)
    assert known.offers()[0].environment.version == "1"
    assert known.offers()[0] is known.offers()[0]
    publish(directory, environment("demo", version="22"))
    assert known.offers()[0].environment.version == "22"
    (directory / "demo.toml").unlink()
    assert known.offers() == []


def test_an_environment_with_another_runtime_class_is_not_offered(tmp_path: Path) -> None:
    publish(tmp_path / "e", environment("plain", runtime_class="runc"))
    assert offered(tmp_path / "e") == []


def test_an_environment_without_a_notebook_image_is_not_offered(tmp_path: Path) -> None:
    publish(tmp_path / "e", environment("bare", images=[]))
    assert offered(tmp_path / "e") == []


# --- from an environment to a pod


def test_the_image_is_the_one_called_notebook_without_its_tag() -> None:
    images = [
        {"name": "sidecar", "reference": "example.org/sidecar", "digest": f"sha256:{'c' * 64}"},
        {"name": "notebook", "reference": "registry.example.org:5000/sealroom/notebook:9", "digest": DIGEST},
    ]
    assert plan.notebook_image(environment(images=images)) == IMAGE


def test_two_images_of_which_none_is_called_notebook_are_refused() -> None:
    images = [{"name": name, "reference": name, "digest": DIGEST} for name in ("a", "b")]
    with pytest.raises(FormatError, match="no image of the notebook"):
        plan.notebook_image(environment(images=images))


@pytest.mark.parametrize(("shape", "expected"), [("small", plan.CPU_CLASS), ("large", plan.GPU_CLASS)])
def test_the_runtime_class_follows_the_gpus(shape: str, expected: str) -> None:
    found = environment()
    assert plan.runtime_class(found, found.shape(shape)) == expected


def test_the_manifests_own_runtime_class_is_taken() -> None:
    found = environment(runtime_class=plan.GPU_CLASS)
    assert plan.runtime_class(found, found.shape("small")) == plan.GPU_CLASS


def test_a_limit_that_kata_fills_alone_is_refused() -> None:
    found = environment()
    with pytest.raises(ConfigurationError, match="default_vcpus"):
        _ = Plan(found, found.shape("small"), Path(), default_vcpus=2.0).cpu_millis


def test_only_an_environment_of_real_hardware_demands_affirming() -> None:
    for tee, demanded in (("snp", True), ("simulated", False)):
        found = environment(tee=tee)
        assert Plan(found, found.shape(), Path()).demands_affirming is demanded


def test_what_is_merged_stays_as_it_was() -> None:
    base = {"a": {"b": 1}, "c": 2}
    assert plan.merged(base, {"a": {"d": 3}, "c": None}) == {"a": {"b": 1, "d": 3}, "c": None}
    assert base == {"a": {"b": 1}, "c": 2}


# --- the form


class Fields(HTMLParser):
    """Collects the fields of a form."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("input", "select", "option"):
            self.fields.append({"tag": tag, **dict(attrs)})


def fields(page: str) -> list[dict[str, str | None]]:
    parser = Fields()
    parser.feed(page)
    return parser.fields


def test_the_form_has_a_card_for_each_environment_and_its_shapes(tmp_path: Path) -> None:
    page = rendered(publish(tmp_path / "e", environment("a"), environment("b")))
    radios = [field for field in fields(page) if field.get("type") == "radio"]
    assert [field["value"] for field in radios] == ["a", "b"]
    selects = [field["name"] for field in fields(page) if field["tag"] == "select"]
    assert selects == ["profile-option-a--shape", "profile-option-b--shape"]
    assert "large: 4 vCPUs, 8 GiB, 1 GPU" in page


def test_the_last_choice_is_selected(tmp_path: Path) -> None:
    page = rendered(
        publish(tmp_path / "e", environment("a"), environment("b")), chosen={"profile": "b", "shape": "large"}
    )
    assert [field["value"] for field in fields(page) if "checked" in field] == ["b"]
    assert [field["value"] for field in fields(page) if "selected" in field] == ["large"]


def test_the_card_says_what_is_verified_and_what_not(tmp_path: Path) -> None:
    body = f'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"policy.rego" = "{DIGEST}"\n'
    real = rendered(publish(tmp_path / "r", environment("real", tee="snp", initdata={"body": body})))
    assert "Must prove itself to be a genuine TEE." in real
    assert "What the server proves before any key is released." in real
    assert 'class="sealroom-unproven"' not in real
    simulated = rendered(publish(tmp_path / "s", environment("simulated")))
    assert "Simulated TEE (not a real one)" in simulated
    assert "Here nothing of it is proven." in simulated
    assert "sealroom-affirming" not in simulated
    assert 'class="sealroom-unproven"' in simulated


def test_an_image_that_the_initdata_does_not_name_is_not_called_proven(tmp_path: Path) -> None:
    page = rendered(publish(tmp_path / "r", environment("real", tee="snp")))
    assert "by the hub alone: not in the initdata" in page
    assert page.count('class="sealroom-unproven"') == 1


def test_the_card_names_the_datasets_that_the_environment_was_made_for(tmp_path: Path) -> None:
    datasets = [SealedDataset("ecg", "Heart <beats>", "A hospital"), SealedDataset("other", "Other", "B")]
    page = rendered(publish(tmp_path / "e", environment("a", datasets=["ecg", "unseen"])), datasets=datasets)
    assert "Heart &lt;beats&gt;" in page
    assert "unseen" in page
    assert "Other" not in page


def test_nobodys_description_becomes_html_or_a_template(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> {{ spawner.api_token }} {% raw %}"
    page = rendered(publish(tmp_path / "e", environment("a", description=evil, title=evil)))
    assert "<script>" not in page
    assert "{{" not in page
    assert "{%" not in page
    assert evil in html.unescape(page)


def test_a_long_list_can_be_searched_and_a_short_one_need_not(tmp_path: Path) -> None:
    few = rendered(publish(tmp_path / "few", *(environment(f"e{n}") for n in range(3))))
    assert 'id="sealroom-find"' not in few
    assert "<script>" not in few
    many = rendered(publish(tmp_path / "many", *(environment(f"e{n}") for n in range(form.SEARCH_FROM))))
    assert 'type="search" id="sealroom-find"' in many
    # Without scripts it is not shown: it would do nothing.
    assert re.search(r'<p id="sealroom-search" hidden>', many)


def test_a_card_is_found_by_what_people_know_of_it(tmp_path: Path) -> None:
    datasets = [SealedDataset("ecg", "Heartbeats", "A hospital")]
    page = rendered(publish(tmp_path / "e", environment("a", datasets=["ecg"])), datasets=datasets)
    (words,) = re.findall(r'data-words="([^"]*)"', page)
    for known in ("demo", "heartbeats", "a hospital", "1 gpu"):
        assert known in words
    assert "sha256" not in words


def test_an_empty_list_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert "The hub's log says" in html.unescape(rendered(tmp_path / "none"))


async def test_the_forms_answer_is_understood(make_kube_spawner: MakeKubeSpawner) -> None:
    spawner = make_kube_spawner()
    page = await spawner.get_options_form()
    answer = {
        str(field["name"]): [str(field["value"])] for field in fields(page) if field.get("type") == "radio"
    }
    answer["profile-option-demo--shape"] = ["large"]
    assert spawner.options_from_form(answer) == {"profile": "demo", "shape": "large"}


async def test_an_option_that_is_no_more_is_not_selected(make_kube_spawner: MakeKubeSpawner) -> None:
    page = await make_kube_spawner(options={"profile": "gone"}).get_options_form()
    assert [field["value"] for field in fields(page) if "checked" in field] == ["demo"]


def test_a_profile_that_names_no_environment_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    offers = Catalogue(publish(tmp_path / "e", environment("a")), plan.RUNTIME_CLASSES).offers()
    given = [{"display_name": "Plain"}, {"display_name": "Gone", "environment": "b"}]
    assert catalogue.profiles(offers, given, plain=False) == []
    assert "Profile Plain is not offered" in caplog.text
    assert [item["display_name"] for item in catalogue.profiles(offers, given, plain=True)] == ["Plain"]


# --- small parts


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", Fraction(1, 2)), ("4Gi", Fraction(4 << 30)), (4.0, Fraction(4)), ("1e3", Fraction(1000)),
        ("1E3", Fraction(1000)), ("1E", Fraction(10**18)), ("0.5", Fraction(1, 2)), (8, Fraction(8)),
        ("-1", Fraction(-1)), ("", None), ("4 Gi", None), ("Gi", None), ("1e", None), ("NaN", None),
        (True, None), (None, None), ([], None), ("1e1000000", None), (float("inf"), None),
    ],
)  # fmt: skip
def test_quantities_are_read_exactly(text: object, number: Fraction | None) -> None:
    assert quantity(text) == number


def test_an_expectation_round_trips_through_the_hubs_state() -> None:
    assert PodExpectation.from_json(json.loads(json.dumps(EXPECTED.to_json()))) == EXPECTED


@pytest.mark.parametrize("change", [{"image": 1}, {"claims": "x"}, {"more": 1}, {"gpus": "2"}], ids=str)
def test_a_damaged_expectation_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        PodExpectation.from_json({**EXPECTED.to_json(), **change})


def test_what_is_no_expectation_at_all_is_refused() -> None:
    values: list[object] = [None, [], {}, "x"]
    for value in values:
        with pytest.raises(FormatError):
            PodExpectation.from_json(value)


def weakened(**fields: Any) -> dict[str, Any]:
    pod = good_pod()
    pod["spec"].update(fields)
    return pod


def test_a_weakness_belongs_to_the_stage_from_which_on_it_is_there() -> None:
    stages = [
        Stage("configuration", good_pod()),
        Stage("profile", weakened(hostPID=True)),
        Stage("hook", weakened(hostPID=True, hostIPC=True)),
    ]
    found = attribute(check_pod(stages[-1].manifest, EXPECTED), stages, EXPECTED)
    assert {(item.path, item.set_by) for item in found} == {
        ("spec.hostPID", "profile"),
        ("spec.hostIPC", "hook"),
    }


def test_what_was_taken_back_and_set_again_belongs_to_the_later() -> None:
    stages = [
        Stage("profile", weakened(hostPID=True)),
        Stage("option", good_pod()),
        Stage("hook", weakened(hostPID=True)),
    ]
    (found,) = attribute(check_pod(stages[-1].manifest, EXPECTED), stages, EXPECTED)
    assert found.set_by == "hook"
