# SPDX-License-Identifier: BSD-3-Clause
"""What a notebook reads and saves is clear in memory only: nothing of it, and no key, reaches a disk.

A researcher unlocks a dataset whose every file is marked, reads it, trains on it and saves results. Then
every file of the machine that was written meanwhile is looked at, and what processes show of themselves.
"""

from __future__ import annotations

import base64
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sealroom.crypt4gh import (
    Header,
    SecretKey,
    decrypt_stream,
    open_header,
    read_secret_key,
    write_public_key,
)
from sealroom_jupyter.memory import swap_on_disk
from support.disk import Seeker, forms_of
from support.stack import Session, Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

WORK = """
import os
import numpy as np, pandas as pd, torch
import sealroom

sealroom.unlock("marked")
people = pd.read_csv(sealroom.open("marked/people.csv"))
again = pd.read_csv("sealed://marked/people.csv")
signal = np.load(sealroom.open("marked/signal.npy"))
whole = sealroom.open("marked/signal.npy").read()

x = torch.from_numpy(signal[:, :-1].astype("f4") / 255)
y = torch.from_numpy(signal[:, -1:].astype("f4") / 255)
model = torch.nn.Linear(x.shape[1], 1)
steps = torch.optim.SGD(model.parameters(), 0.01)
for _ in range(20):
    steps.zero_grad()
    loss = ((model(x) - y) ** 2).mean()
    loss.backward()
    steps.step()

with sealroom.create("workspace/model.pt", recipients=["~/me.pub"]) as out:
    torch.save({"weights": model.state_dict(), "people": list(people.name), "first": signal[0]}, out)
people.to_parquet("sealed://workspace/people.parquet")
with sealroom.create("workspace/notes.txt", "w") as out:
    out.write("The first is " + people.name[0])
assert pd.read_parquet("sealed://workspace/people.parquet").equals(people)
try:
    with sealroom.create("workspace/half.bin") as out:
        out.write(whole)
        raise ValueError
except ValueError:
    pass
print("done", os.getpid(), len(again), len(whole), float(loss) > 0)
"""


@dataclass
class Worked:
    """What was done, and what is looked for."""

    session: Session
    started: float
    mark: bytes
    """In every row of the table."""
    row: bytes
    """A row of the array."""
    kernel: int
    """Process id of the kernel, which still runs."""
    server: int
    me: SecretKey
    seeker: Seeker
    aside: tuple[Path, ...]
    """What belongs to the data owner: their clear copy and their keys."""


@pytest.fixture(scope="module")
def worked(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worked]:
    owners = tmp_path_factory.mktemp("owner") / "clear"
    owners.mkdir()
    mark = b"MARK" + secrets.token_hex(16).encode()
    rows = "".join(f"{mark.decode()} {n},{20 + n % 60}\n" for n in range(5000))
    (owners / "people.csv").write_text("name,age\n" + rows)
    signal = np.frombuffer(secrets.token_bytes(4000 * 500), "u1").reshape(4000, 500)
    np.save(owners / "signal.npy", signal)
    started = time.time()
    place = stack.home / "datasets" / "marked"
    texts = ["--title", "Marked", "--owner", "A clinic", "--term", "DUO:0000042"]
    stack.cli("dataset", "seal", str(owners), "--id", "marked", *texts, "--out", str(place))
    stack.cli("dataset", "register", str(place))
    grant = ["--user", "researcher", "--purpose", "DUO:0000042", "--minimum", "simulated", "--outputs"]
    stack.cli("grant", "add", "marked", *grant)
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)

    session = stack.login("researcher")
    session.start_server()
    home = stack.home / "users" / "researcher"
    me = SecretKey.generate()
    (home / "home" / "me.pub").write_bytes(write_public_key(me.public))
    (home / "home" / "me.pub").chmod(0o644)
    kernels = f"/user/{session.user}/api/kernels"
    kernel = session.client.post(kernels, json={"name": "python3"}).raise_for_status().json()["id"]
    done = session._execute(kernel, WORK, 300)
    assert done.stdout.startswith("done "), (done.stdout, done.error)
    pid, people, whole, trained = done.stdout.split()[1:]
    assert (people, int(whole) > 2_000_000, trained) == ("5000", True, "True")

    keys = stack.home / "owner" / "keys"
    dataset_key = read_secret_key((keys / "marked.sec").read_bytes())
    wanted = {"a person": mark, "a row of the array": signal[1234].tobytes()[:48]}
    wanted["the dataset's key"] = dataset_key.reveal()
    for name in ("people.csv", "signal.npy"):
        wanted[f"the key of {name}"] = data_key(place / f"{name}.c4gh", dataset_key)
    wanted["the key of the result"] = data_key(home / "home" / "workspace" / "model.pt.c4gh", me)
    yield Worked(
        session,
        started,
        mark,
        signal[1234].tobytes()[:48],
        int(pid),
        int((home / "run" / "server.pid").read_text().split()[0]),
        me,
        Seeker(wanted),
        (owners, keys),
    )
    session.client.delete(f"{kernels}/{kernel}")
    shutil.rmtree(owners)


def data_key(sealed: Path, secret: SecretKey) -> bytes:
    """Return the key of a sealed file's segments."""
    with sealed.open("rb") as stream:
        return open_header(Header.read(stream), secret).data_keys[0].reveal()


def test_a_form_of_a_mark_is_found_wherever_it_lies(worked: Worked, tmp_path: Path) -> None:
    for number, form in enumerate(forms_of(worked.mark)):
        (tmp_path / f"form-{number}").write_bytes(os.urandom(9 << 20) + form + os.urandom(100))
    (tmp_path / "long.txt").write_bytes(base64.encodebytes(b"xy" + worked.row).replace(b"\n", b""))
    _, found = worked.seeker.find_since(worked.started, aside=worked.aside)
    here = [Path(path).name for path in found if Path(path).parent == tmp_path]
    assert len(here) == len(forms_of(worked.mark)) + 1
    shutil.rmtree(tmp_path)


def test_no_file_that_was_written_holds_anything_clear_or_a_key(worked: Worked) -> None:
    count, found = worked.seeker.find_since(worked.started, aside=worked.aside)
    assert count > 20, "the sealed dataset, the results and the logs were looked at"
    assert found == {}


def test_the_results_are_there_and_open_for_their_recipient(worked: Worked, stack: Stack) -> None:
    workspace = stack.home / "users" / "researcher" / "home" / "workspace"
    assert sorted(path.name for path in workspace.iterdir()) == [
        "model.pt.c4gh",
        "notes.txt.c4gh",
        "people.parquet.c4gh",
    ]
    clear = io.BytesIO()
    decrypt_stream(io.BytesIO((workspace / "model.pt.c4gh").read_bytes()), clear, worked.me)
    assert worked.mark in clear.getvalue()


def test_no_process_shows_anything_clear_or_a_key(worked: Worked) -> None:
    assert worked.seeker.find_in_processes() == {}


@pytest.mark.parametrize("who", ["server", "kernel"])
def test_no_file_without_a_name_is_open_that_holds_anything_clear(worked: Worked, who: str) -> None:
    assert worked.seeker.find_in_open_files(getattr(worked, who)) == {}


@pytest.mark.parametrize("who", ["server", "kernel"])
def test_no_core_file_can_be_left(worked: Worked, who: str) -> None:
    limits = Path(f"/proc/{getattr(worked, who)}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert all(int(word) <= 1 for word in line.split()[4:6])


def test_nobody_but_root_can_read_the_memory_of_the_server(worked: Worked) -> None:
    # A process that cannot be dumped belongs to root in /proc, whoever runs it.
    assert Path(f"/proc/{worked.server}/mem").stat().st_uid == 0


def test_swap_on_a_disk_is_said_in_the_log_of_the_server(worked: Worked, stack: Stack) -> None:
    logs = [path for path in (stack.home / "users" / "researcher").rglob("*.log*") if path.is_file()]
    said = any(b"swap is on" in path.read_bytes() for path in logs)
    assert logs
    assert said == bool(swap_on_disk())


def test_nothing_of_the_server_was_swapped_out(worked: Worked) -> None:
    for pid in (worked.server, worked.kernel):
        status = Path(f"/proc/{pid}/status").read_text()
        swapped = [line.split()[1] for line in status.splitlines() if line.startswith("VmSwap:")]
        if not swap_on_disk():
            assert swapped in (["0"], [])
