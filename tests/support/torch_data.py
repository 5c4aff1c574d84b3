# SPDX-License-Identifier: BSD-3-Clause
"""Sealed arrays, images and tar shards for tests of what torch reads, and an agent that serves them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sealroom.crypt4gh import CIPHER_SEGMENT, SecretKey
from sealroom.datasets.agent_server import AgentServer
from sealroom.datasets.seal import seal_directory

from support.sealed import CREATED, DESCRIPTION, Backend, Sealed, write_tree

FORK = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
"""A test's own agent has threads, and workers are forked beside them; they use none of its locks."""


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def npy_with(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a `.npy` file with any header."""
    size = 2 if version[:1] == b"\x01" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(size, "little") + header + data


def tar(files: Mapping[str, bytes], *, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def seal_files(root: Path, files: dict[str, bytes], name: str = "heartbeats") -> Sealed:
    dataset_key, signing_key = SecretKey.generate(), Ed25519PrivateKey.generate()
    manifest = seal_directory(
        write_tree(root / "source", files),
        root / name,
        description=dataclasses.replace(DESCRIPTION, id=name),
        dataset_key=dataset_key.public,
        signing_key=signing_key,
        created=CREATED,
    )
    return Sealed(root, manifest, dataset_key, signing_key, SecretKey.generate())


@contextlib.contextmanager
def serving(sealed: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Serve a dataset that is unlocked, where `sealroom` finds it."""
    monkeypatch.setenv("SEALROOM_RUN", str(run))
    backend = Backend(sealed)
    sealed.unlock(backend.vault)
    with AgentServer(run / "agent.sock", backend):
        yield backend


def damage(sealed: Sealed, name: str, segment: int) -> None:
    """Change one byte in the middle of a segment, counted from 1."""
    path = sealed.directory.sealed_file(name)
    data = bytearray(path.read_bytes())
    data[sealed.manifest.file(name).header_size + (segment - 1) * CIPHER_SEGMENT + 1000] ^= 1
    path.write_bytes(data)


class Bytes:
    """A file in memory with what a sealed one has."""

    def __init__(self, data: bytes, name: str = "heartbeats/x.tar") -> None:
        self.data, self.name, self.size = data, name, len(data)

    def pread_buffer(self, offset: int, length: int) -> memoryview:
        return memoryview(self.data)[offset : offset + length]
