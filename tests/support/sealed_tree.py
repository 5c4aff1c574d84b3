# SPDX-License-Identifier: BSD-3-Clause
"""Any files as a sealed dataset, and an agent that serves it unlocked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory
from sealroom.datasets.workspace import Workspace

from support.sealed import CREATED, DESCRIPTION, Backend, Sealed, write_tree


def seal_tree(source: Path, root: Path, dataset: str) -> Sealed:
    """Seal the files of a directory to `root/dataset`."""
    root.mkdir(parents=True, exist_ok=True)
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        source,
        root / dataset,
        description=replace(DESCRIPTION, id=dataset),
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    return Sealed(root, manifest, dataset_key, signing_key, SecretKey.generate())


@contextmanager
def served(sealed: Sealed, workspace: Workspace | None = None) -> Iterator[tuple[Backend, Path]]:
    """Serve a dataset unlocked; yields the backend and what `SEALROOM_RUN` has to be.

    Args:
        sealed: The dataset.
        workspace: Where results are saved; nowhere by default.
    """
    # Its path is short enough for a Unix socket.
    run = Path(tempfile.mkdtemp(prefix="sr-"))
    try:
        backend = Backend(sealed)
        sealed.unlock(backend.vault)
        with AgentServer(run / "agent.sock", backend, workspace=workspace):
            yield backend, run
    finally:
        shutil.rmtree(run)


def seal_files(files: Mapping[str, bytes], root: Path, dataset: str) -> Sealed:
    """Seal files that are given by name and bytes."""
    return seal_tree(write_tree(root / "source", dict(files)), root / "sealed", dataset)
