# SPDX-License-Identifier: BSD-3-Clause
"""The wheels hold what their users need: the lab extension above all, so that installing it needs no Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.stack import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def build(member: str, out: Path) -> zipfile.ZipFile:
    """Build a distribution's wheel without Node on the path."""
    uv = REPOSITORY / ".tools" / "uv" / "bin" / "uv"
    program = str(uv) if uv.exists() else shutil.which("uv")
    assert program, "`make test` brings uv"
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment["PATH"] = str(out)
    done = subprocess.run(
        [program, "build", "--wheel", "--out-dir", str(out), str(REPOSITORY / member)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_jupyter_wheel_holds_the_built_lab_extension(tmp_path: Path) -> None:
    with build("extensions/jupyter", tmp_path) as wheel:
        names = wheel.namelist()
        lab = [name for name in names if "/share/jupyter/labextensions/@sealroom/lab/" in name]
        package = next(name for name in lab if name.endswith("/package.json"))
        entry = json.loads(wheel.read(package))["jupyterlab"]["_build"]["load"]
        assert any(name.endswith(f"/{entry}") for name in lab)
        assert any(name.endswith("/install.json") for name in lab)
        server = "etc/jupyter/jupyter_server_config.d/sealroom_jupyter.json"
        config = json.loads(wheel.read(next(name for name in names if name.endswith(server))))
        assert config["ServerApp"]["jpserver_extensions"] == {"sealroom_jupyter": True}
        assert any(name.endswith("sealroom_jupyter/config/labconfig/page_config.json") for name in names)


def test_the_core_wheel_holds_amds_roots(tmp_path: Path) -> None:
    with build("core", tmp_path) as wheel:
        roots = [name for name in wheel.namelist() if "/snp/roots/" in name]
        assert len([name for name in roots if name.endswith((".der", ".pem"))]) >= 9


def test_the_broker_wheel_holds_its_pages(tmp_path: Path) -> None:
    with build("broker", tmp_path) as wheel:
        names = set(wheel.namelist())
    folder = REPOSITORY / "broker" / "src" / "sealroom_broker"
    for kind in ("templates", "static"):
        files = {f"sealroom_broker/{kind}/{path.name}" for path in (folder / kind).iterdir()}
        assert files
        assert files <= names
