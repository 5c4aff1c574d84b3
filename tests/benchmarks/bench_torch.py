# SPDX-License-Identifier: BSD-3-Clause
"""Training on sealed data against plain files: a `DataLoader` of 12 KiB samples, tar shards, and a small CNN.

The data lie in memory. Every candidate has two workers that live on, batches of 128, and, but for one, the
same order; each runs one epoch a round, interleaved. CPU time is that of all processes: the training loop's,
the workers', and the agent's, which decrypts. "Plain file, as usual" is what people write: `numpy.load` with
`mmap_mode`, a row at a time, torch's own collate function. "The same class over the plain file" differs
from ours in nothing but that the bytes come from a mapped plain file.
"""

from __future__ import annotations

import contextlib
import gc
import io
import mmap
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.sealed_parts import agent_process, clock_of, seal
from sealroom.datasets.agent import AgentClient
from sealroom.datasets.file import SealedFile
from support.sealed import Sealed

SAMPLES, SIDE, CHANNELS = 8192, 64, 3
BATCH, WORKERS, ROUNDS = 128, 2, 7
SHARDS = 4
TRAINED = 2048

_ARRAY = "images.npy"


def rows() -> list[dict[str, Any]]:
    """Measure.

    Returns:
        One row per comparison: `what`, `peer`, `unit`, `ours` and `theirs` (more is better) and `ratio`.
    """
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sealroom-bench-", dir=place) as directory:
        folder = Path(directory)
        source = folder / "source"
        source.mkdir()
        _write(source)
        sealed = seal(folder, source)
        # The agent's process first: it is forked before torch makes threads.
        with agent_process(sealed, folder / "agent.sock") as agent:
            client = AgentClient(folder / "agent.sock")
            return [
                *_loader_rows(source, sealed, client, agent),
                *_shard_rows(source, sealed, client, agent),
                *_training_rows(source, sealed, client, agent),
            ]


def _write(source: Path) -> None:
    numpy = import_module("numpy")
    draw = numpy.random.default_rng(12)
    images = draw.integers(0, 256, (SAMPLES, CHANNELS, SIDE, SIDE), numpy.uint8)
    numpy.save(source / _ARRAY, images)
    each = SAMPLES // SHARDS
    for shard in range(SHARDS):
        with tarfile.open(source / f"train-{shard:03}.tar", "w") as archive:
            for number in range(shard * each, (shard + 1) * each):
                member = tarfile.TarInfo(f"{number:06}.rgb")
                member.size = images[number].nbytes
                archive.addfile(member, io.BytesIO(images[number].tobytes()))


class PlainFile:
    """A plain file with what a sealed one has: ranges of it, here of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._map()

    def pread_buffer(self, offset: int, length: int) -> memoryview:
        return self._view[offset : offset + length]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "name": self.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def _map(self) -> None:
        with self.path.open("rb") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        self.size = len(self._view)


class UsualRows:
    """What people write: a row at a time of a mapped array."""

    def __init__(self, path: Path) -> None:
        self.array = import_module("numpy").load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Any:
        return import_module("torch").from_numpy(self.array[index].copy())


class Epochs:
    """Runs epochs of loaders, interleaved, and takes the time of all processes that work for one."""

    def __init__(self, agent: int) -> None:
        self._agent = agent
        self._loaders: dict[str, tuple[Any, Callable[[Any], object]]] = {}

    def add(self, name: str, loader: Any, work: Callable[[Any], object] = len) -> None:
        self._loaders[name] = loader, work

    def measure(self, rounds: int) -> dict[str, tuple[float, float]]:
        """Return CPU seconds and seconds by the clock of an epoch of each, medians."""
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in self._loaders}
        for loader, work in self._loaders.values():
            self._epoch(loader, work)  # workers start, files open
        for _ in range(rounds):
            for name, (loader, work) in self._loaders.items():
                spent[name].append(self._epoch(loader, work))
        return {
            name: (statistics.median(c for c, _ in times), statistics.median(w for _, w in times))
            for name, times in spent.items()
        }

    def close(self) -> None:
        """End the workers."""
        self._loaders.clear()
        gc.collect()

    def _epoch(self, loader: Any, work: Callable[[Any], object]) -> tuple[float, float]:
        began, before = time.perf_counter(), self._cpu(loader)
        for batch in loader:
            work(batch)
        return self._cpu(loader) - before, time.perf_counter() - began

    def _cpu(self, loader: Any) -> float:
        clocks = [clock_of(self._agent)]
        iterator = getattr(loader, "_iterator", None)
        clocks += [clock_of(worker.pid) for worker in getattr(iterator, "_workers", ())]
        return time.process_time() + sum(time.clock_gettime(clock) for clock in clocks)


@contextlib.contextmanager
def _epochs(agent: int) -> Iterator[Epochs]:
    epochs = Epochs(agent)
    try:
        yield epochs
    finally:
        epochs.close()


def _row(what: str, ours: float, peer: str, theirs: float, unit: str) -> dict[str, Any]:
    figures = {"ours": f"{ours:.0f}", "theirs": f"{theirs:.0f}", "ratio": round(ours / theirs, 2)}
    return {"what": what, "peer": peer, "unit": unit, **figures}


def _compared(
    measured: dict[str, tuple[float, float]], samples: int, what: str, ours: str, peers: dict[str, str]
) -> list[dict[str, Any]]:
    found = []
    for peer, words in peers.items():
        for number, unit in enumerate(("samples/cpu-s", "samples/s")):
            mine, theirs = (samples / measured[name][number] for name in (ours, peer))
            found.append(_row(what, mine, words, theirs, unit))
    return found


def _sealed_array(sealed: Sealed, client: AgentClient) -> Any:
    kinds = import_module("sealroom.torch")
    return kinds.SealedArray(SealedFile(client, "heartbeats", _ARRAY, sealed.manifest.file(_ARRAY).size))


def _usual(path: Path, sampler: Any) -> Any:
    data = import_module("torch.utils.data")
    return data.DataLoader(
        UsualRows(path), BATCH, sampler=sampler, num_workers=WORKERS, persistent_workers=True
    )


def _block_order(length: int) -> Any:
    sampler = import_module("sealroom.torch").BlockShuffleSampler
    return sampler([length], block=85, batch_size=BATCH, workers=WORKERS)


def _loader_rows(place: Path, sealed: Sealed, client: AgentClient, agent: int) -> list[dict[str, Any]]:
    kinds, data = import_module("sealroom.torch"), import_module("torch.utils.data")
    with _epochs(agent) as epochs:
        epochs.add("sealed", kinds.data_loader(_sealed_array(sealed, client), BATCH, workers=WORKERS))
        array = _sealed_array(sealed, client)
        sampler = kinds.BlockShuffleSampler(array, batch_size=BATCH, workers=WORKERS)
        usual = {"num_workers": WORKERS, "persistent_workers": True}
        epochs.add("own", data.DataLoader(array, BATCH, sampler=sampler, **usual))
        full = data.DataLoader(_sealed_array(sealed, client), BATCH, shuffle=True, **usual)
        epochs.add("full", full)
        epochs.add("usual", _usual(place / _ARRAY, _block_order(SAMPLES)))
        same = kinds.SealedArray(PlainFile(place / _ARRAY))
        epochs.add("same", kinds.data_loader(same, BATCH, workers=WORKERS))
        measured = epochs.measure(ROUNDS)
    peers = {"usual": "plain file, as usual"}
    return [
        *_compared(
            measured,
            SAMPLES,
            "DataLoader, block shuffle",
            "sealed",
            {**peers, "same": "the same class over the plain file"},
        ),
        *_compared(measured, SAMPLES, "DataLoader, torch's own collate", "own", peers),
        *_compared(measured, SAMPLES, "DataLoader, full shuffle", "full", peers),
    ]


def _shard_rows(place: Path, sealed: Sealed, client: AgentClient, agent: int) -> list[dict[str, Any]]:
    kinds, data = import_module("sealroom.torch"), import_module("torch.utils.data")
    names = [f"train-{shard:03}.tar" for shard in range(SHARDS)]
    usual = {"num_workers": WORKERS, "persistent_workers": True, "collate_fn": len}
    files = [SealedFile(client, "heartbeats", name, sealed.manifest.file(name).size) for name in names]
    with _epochs(agent) as epochs:
        for name, shards in (("sealed", files), ("same", [PlainFile(place / one) for one in names])):
            epochs.add(name, data.DataLoader(kinds.SealedShards(shards), BATCH, **usual), bool)
        measured = epochs.measure(ROUNDS)
    peers = {"same": "the same class over plain files"}
    return _compared(measured, SAMPLES, "tar shards", "sealed", peers)


def _training_rows(place: Path, sealed: Sealed, client: AgentClient, agent: int) -> list[dict[str, Any]]:
    torch, kinds = import_module("torch"), import_module("sealroom.torch")
    nn = torch.nn
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(CHANNELS, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 2),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def step(images: Any) -> None:
        wanted = (images[:, 0, 0, 0] > 127).long()
        loss = nn.functional.cross_entropy(net(images.float().div_(255)), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    subset = import_module("torch.utils.data").Subset
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _epochs(agent) as epochs:
            mine = subset(_sealed_array(sealed, client), range(TRAINED))
            epochs.add("sealed", kinds.data_loader(mine, BATCH, workers=WORKERS), step)
            loader = _usual(place / _ARRAY, _block_order(TRAINED))
            epochs.add("usual", loader, step)
            measured = epochs.measure(ROUNDS)
    finally:
        torch.set_num_threads(threads)
    return _compared(measured, TRAINED, "epoch of a small CNN", "sealed", {"usual": "plain file, as usual"})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for line in rows():
        print(line)
