# SPDX-License-Identifier: BSD-3-Clause
"""A small sealed dataset with its keys, and a running agent that serves it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from support.s3 import s3, s3_server
from support.sealed import CREATED, DESCRIPTION, PLAIN, Backend, Sealed, write_tree

__all__ = ["s3", "s3_server"]


@pytest.fixture(scope="session")
def _pristine(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    root = tmp_path_factory.mktemp("pristine")
    source = write_tree(root / "source", PLAIN)
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        source,
        root / "heartbeats",
        description=DESCRIPTION,
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    return Sealed(root, manifest, dataset_key, signing_key, SecretKey.generate())


@pytest.fixture
def sealed(_pristine: Sealed, tmp_path: Path) -> Sealed:
    """A copy that the test may damage."""
    shutil.copytree(_pristine.root / "heartbeats", tmp_path / "datasets" / "heartbeats")
    return Sealed(
        tmp_path / "datasets",
        _pristine.manifest,
        _pristine.dataset_key,
        _pristine.signing_key,
        _pristine.reader_key,
    )


@pytest.fixture
def run() -> Iterator[Path]:
    """A directory whose path is short enough for a Unix socket."""
    path = Path(tempfile.mkdtemp(prefix="sr-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def backend(sealed: Sealed) -> Backend:
    return Backend(sealed)


@pytest.fixture
def agent(backend: Backend, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AgentServer]:
    """A running agent that `sealroom` finds."""
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    with AgentServer(run / "agent.sock", backend) as server:
        yield server
