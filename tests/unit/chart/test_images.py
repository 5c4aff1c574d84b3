# SPDX-License-Identifier: BSD-3-Clause
"""The images' recipes: pinned, from one base, without a compiler, not as root, with a bill of materials."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.helm import CHART

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "images"
NAMES = ("hub", "broker", "notebook")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def stages(name: str) -> list[list[str]]:
    """The instructions of each stage; continued lines are put together."""
    text = (IMAGES / name / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("FROM "):
            parts.append([])
        parts[-1].append(line)
    return parts


def pinned(path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", path.read_text()):
        if match := re.match(r"([a-z0-9._-]+)==(\S+)", entry):
            assert "--hash=sha256:" in entry, entry
            found.setdefault(match[1], []).append(match[2])
    return found


def test_all_stages_are_from_the_base_that_the_builder_names(stages: Any) -> None:
    assert stages[0] == ["ARG BASE"]
    assert [stage[0] for stage in stages[1:]] == ["FROM ${BASE} AS build", "FROM ${BASE}"]


def test_every_package_is_installed_from_a_file_that_the_lock_names(stages: Any) -> None:
    installs = [line for stage in stages for line in stage if "pip install" in line or " install " in line]
    assert len(installs) == 1
    third_party, own = re.findall(r"install --no-cache-dir[^&]*", installs[0])
    assert {"--require-hashes", "--only-binary", "--no-deps", "-r"} <= set(third_party.split())
    assert {"--no-index", "--no-deps", "wheels/*.whl"} <= set(own.split())
    assert not re.search(r"apt|curl|wget|git ", installs[0])


def test_the_last_stage_installs_nothing_and_refuses_a_compiler(stages: Any) -> None:
    text = "\n".join(stages[-1])
    assert not re.search(r"\b(pip|apt|apt-get|curl|wget|npm)\b", text)
    assert "! command -v gcc" in text


def test_it_runs_as_the_user_that_the_chart_says(name: str, stages: Any) -> None:
    import yaml  # type: ignore[import-untyped]

    (user,) = [line.split()[1] for line in stages[-1] if line.startswith("USER ")]
    uid, _, group = user.partition(":")
    assert uid == group
    assert int(uid) >= 1000
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert name not in values or values[name]["uid"] == int(uid)


def test_nothing_is_copied_but_what_is_named(stages: Any) -> None:
    copied = {line.split()[-2] for stage in stages for line in stage if line.startswith("COPY ")}
    assert not copied & {".", "./", "*"}


def test_it_says_what_it_is_and_has_its_bill_of_materials(stages: Any) -> None:
    last = "\n".join(stages[-1])
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in last
    assert re.search(r"COPY sbom\S*\.cdx\.json /opt/sealroom/sbom\.cdx\.json", last)


def test_no_image_is_given_a_secret(stages: Any) -> None:
    text = "\n".join(line for stage in stages for line in stage)
    assert not re.search(r"password|token|secret|\.pem|\.key", text, re.I)


@pytest.mark.parametrize(
    "sbom", sorted(IMAGES.glob("*/sbom*.cdx.json")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_bill_of_materials_names_just_what_is_installed(sbom: Path) -> None:
    requirements = sbom.with_name(sbom.name.replace("sbom", "requirements").replace(".cdx.json", ".txt"))
    bill = json.loads(sbom.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    own = {one["name"] for one in bill["components"] if one["name"].startswith("sealroom")}
    listed = {(one["name"], one["version"]) for one in bill["components"] if one["name"] not in own}
    installed = {
        (package, version) for package, versions in pinned(requirements).items() for version in versions
    }
    assert listed == installed
    assert own == set(tomllib.loads((IMAGES / "images.toml").read_text())[sbom.parent.name]["distributions"])
    references = [one["bom-ref"] for one in bill["components"]]
    assert len(set(references)) == len(references)


def test_a_broker_image_has_no_hub_and_a_hub_image_no_broker() -> None:
    broker = pinned(IMAGES / "broker" / "requirements.txt")
    hub = pinned(IMAGES / "hub" / "requirements.txt")
    assert {"jupyterhub", "jupyterlab", "torch"} & set(broker) == set()
    assert {"starlette", "torch", "jupyterlab"} & set(hub) == set()
    assert {"psycopg", "python-pkcs11", "uvicorn"} <= set(broker)
    assert {"jupyterhub", "jupyterhub-kubespawner", "jupyterhub-idle-culler"} <= set(hub)


def test_torch_is_in_the_variant_with_cuda_alone() -> None:
    cpu = pinned(IMAGES / "notebook" / "requirements-cpu.txt")
    cuda = pinned(IMAGES / "notebook" / "requirements-cuda.txt")
    assert "torch" in cuda
    assert not [package for package in cpu if re.match(r"torch|nvidia-|triton|cuda-", package)]
    assert set(cpu) < set(cuda)
    assert {"jupyterlab", "jupyterhub", "ipykernel", "pandas"} <= set(cpu)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import images_reference

    yield images_reference
    sys.modules.pop("images_reference", None)


HASH = "--hash=sha256:" + "0" * 64
OTHER = "--hash=sha256:" + "1" * 64


def test_what_two_exports_need_is_needed_where_one_of_them_needs_it(tool: Any) -> None:
    (one,) = tool.parse(f"a==1 ; sys_platform == 'linux' \\\n    {HASH}\n")
    (two,) = tool.parse(f"a==1 ; python_version < '3.12' \\\n    {HASH} \\\n    {OTHER}\n")
    (always,) = tool.parse(f"a==1 \\\n    {HASH}\n")
    assert "(python_version < '3.12') or (sys_platform == 'linux')" in one.joined(two).text()
    assert ";" not in one.joined(always).text()
    assert one.joined(two).text().count("--hash") == 2


@pytest.mark.parametrize(
    "text", ["a==1\n", f"a>=1 \\\n    {HASH}\n", "-e ./core\n", f"./core \\\n    {HASH}\n"]
)
def test_a_line_that_pins_no_file_is_refused(tool: Any, text: str) -> None:
    with pytest.raises(ValueError, match="not a pin with hashes"):
        tool.parse(text)


@pytest.mark.parametrize(
    ("marker", "kept"),
    [
        ("sys_platform == 'win32'", False),
        ("platform_system == 'Darwin'", False),
        ("os_name == 'nt' or sys_platform == 'linux'", True),
        ("python_full_version >= '3.14'", True),
        ("platform_machine == 'aarch64'", True),
    ],
)
def test_what_is_not_for_linux_is_left_out(tool: Any, marker: str, kept: bool) -> None:
    (pin,) = tool.parse(f"a==1 ; {marker} \\\n    {HASH}\n")
    assert tool.on_linux(pin) is kept
