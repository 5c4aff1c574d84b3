# SPDX-License-Identifier: BSD-3-Clause
"""What the pages on results and on buckets tell people to type, typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sealroom
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.workspace import Workspace
from support.s3 import BUCKET, S3Server
from support.sealed import Backend, write_tree

HOWTO = Path(__file__).resolve().parents[4] / "docs" / "howto"
BIN = Path(sys.executable).parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (HOWTO / page).read_text(), re.S)


def commands(page: str) -> list[str]:
    return [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line[:2] == "$ "]


@pytest.fixture
def home(backend: Backend, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A person's home with a workspace, in a notebook server."""
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.chdir(made)
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    with AgentServer(run / "agent.sock", backend, workspace=Workspace(made / "workspace")):
        yield made


def shell(command: str, where: Path, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **more}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=where, env=environment, input=typed, text=True,
        capture_output=True, check=False, timeout=120, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_the_page_on_results_runs_from_top_to_bottom(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pandas", "pyarrow", "torch", "h5py"):
        pytest.importorskip(name)
    make, open_it = commands("save-sealed-results.md")
    # It asks for a passphrase, twice.
    shell(make, home, "pass\npass\n")
    names: dict[str, Any] = {}
    for block in blocks("save-sealed-results.md", "python"):
        exec(compile(block, "save-sealed-results.md", "exec"), names)
    said = capsys.readouterr().out
    assert "The first run." in said
    assert "nothing was overwritten" in said
    assert sealroom.open("workspace/notes.txt").read() == b"The second run.\n"
    (home / "final.csv.c4gh").write_bytes((home / "workspace" / "final.csv.c4gh").read_bytes())
    shell(open_it, home, C4GH_PASSPHRASE="pass")
    assert (home / "final.csv").read_text() == "age,group\n54,a\n61,b\n47,a\n"
    assert all(path.name.endswith(".c4gh") for path in (home / "workspace").iterdir())


def test_the_commands_of_the_page_on_buckets_run(s3: S3Server, tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "owner.toml").write_text('broker = "http://127.0.0.1:9"\n')
    for name, data in (("signing.pem", pem), ("token", b"token\n")):
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(0o600)
    write_tree(tmp_path / "my-data", {"cohort.csv": b"id,age\n1,54\n"})
    place = f"s3://{BUCKET}/{uuid.uuid4().hex}/"
    typed = commands("datasets-in-a-bucket.md")
    assert len(typed) == 3
    done = shell(
        "\n".join(typed).replace("s3://datasets/sealed/", place),
        tmp_path,
        SEALROOM_OWNER=str(tmp_path / "owner.toml"),
        AWS_ACCESS_KEY_ID=s3.access_key,
        AWS_SECRET_ACCESS_KEY=s3.secret_key,
        AWS_REGION="us-east-1",
        AWS_ENDPOINT_URL=s3.endpoint,
        AWS_ALLOW_HTTP="true",
    )
    assert "my-cohort is what the data owner sealed" in done.stdout


def test_a_change_of_a_dataset_in_a_bucket_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    from sealroom.cli import run
    from sealroom.cli.common import EXIT_USAGE

    assert run(["dataset", "rekey", f"s3://{BUCKET}/x"]) == EXIT_USAGE
    assert "copy it to a directory first" in capsys.readouterr().err
