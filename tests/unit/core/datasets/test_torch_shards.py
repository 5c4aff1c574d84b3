# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import io
import itertools
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealroom.errors import AccessDeniedError, ConfigurationError, FormatError, IntegrityError, StorageError
from support.sealed import Backend, Sealed, noise

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from sealroom.datasets.torch.tar import BLOCK, members  # noqa: E402
from sealroom.torch import SealedShards  # noqa: E402
from support.torch_data import FORK, Bytes, damage, seal_files, serving, tar  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

# Torch warns of more workers than processors, which is what some tests are about.
pytestmark = [FORK, pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")]

SHARDS = 6
EACH = 10
FILES = {
    f"train-{shard:03}.tar": tar(
        {
            name: data
            for number in range(shard * EACH, (shard + 1) * EACH)
            for name, data in (
                (f"{number:06}.bin", noise(20_000, number)),
                (f"{number:06}.cls", str(number % 3).encode()),
            )
        }
    )
    for shard in range(SHARDS)
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_files(tmp_path_factory.mktemp("shards"), {**FILES, "other.tar": tar({"a.txt": b"a"})})


@pytest.fixture
def served(dataset: Sealed, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    with serving(dataset, run, monkeypatch) as backend:
        yield backend


def key(sample: dict[str, Any]) -> int:
    return int(sample["__key__"])


def numbers(shards: Any, **more: Any) -> list[int]:
    return [int(batch) for batch in DataLoader(shards, batch_size=None, **more)]


def read(data: bytes) -> list[tuple[str, bytes]]:
    return [(member.name, bytes(member.data)) for member in members(Bytes(data))]


def test_members_of_one_key_are_one_sample(served: Backend) -> None:
    samples = list(SealedShards("heartbeats/train-*.tar"))
    assert len(samples) == SHARDS * EACH
    for number, sample in enumerate(samples):
        assert sample == {
            "__key__": f"{number:06}",
            "__shard__": f"heartbeats/train-{number // EACH:03}.tar",
            "bin": noise(20_000, number),
            "cls": str(number % 3).encode(),
        }


def test_key_is_the_name_up_to_the_first_dot_of_its_last_part() -> None:
    files = {
        "a.b/x.seg.png": b"1",
        "a.b/x.json": b"2",
        "a.b/y.png": b"3",
        "README": b"4",
        "a.b/.hidden": b"5",
    }
    found = list(SealedShards([Bytes(tar(files))]))
    assert [(one["__key__"], sorted(set(one) - {"__key__", "__shard__"})) for one in found] == [
        ("a.b/x", ["json", "seg.png"]),
        ("a.b/y", ["png"]),
    ]


def test_field_that_comes_twice_in_a_sample_is_refused() -> None:
    with pytest.raises(FormatError, match="the sample 'x' has two fields 'png'"):
        list(SealedShards([Bytes(tar({"x.png": b"1", "x.PNG": b"2"}))]))


@pytest.mark.parametrize("workers", [0, 1, 4, 8])
@pytest.mark.parametrize("shuffle", [0, 15])
def test_workers_share_the_shards_and_nothing_comes_twice(
    served: Backend, workers: int, shuffle: int
) -> None:
    shards = SealedShards("heartbeats/train-*.tar", transform=key, shuffle=shuffle)
    found = numbers(shards, num_workers=workers)
    assert sorted(found) == list(range(SHARDS * EACH))
    assert (found == sorted(found)) is (shuffle == 0 and workers < 2)


def test_ranks_share_the_shards_and_nothing_comes_twice(served: Backend) -> None:
    ranks = [
        SealedShards("heartbeats/train-*.tar", transform=key, shuffle=5, num_replicas=3, rank=rank)
        for rank in range(3)
    ]
    found = [numbers(one, num_workers=2) for one in ranks]
    assert [len(one) for one in found] == [2 * EACH] * 3
    assert sorted(itertools.chain(*found)) == list(range(SHARDS * EACH))


def test_epoch_reaches_workers_that_live_on(served: Backend) -> None:
    shards = SealedShards("heartbeats/train-*.tar", transform=key, shuffle=20, seed=3)
    loader = DataLoader(shards, batch_size=None, num_workers=2, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        shards.set_epoch(epoch)
        orders.append([int(one) for one in loader])
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_shards_pickle_as_names(served: Backend) -> None:
    data = pickle.dumps(SealedShards("heartbeats/train-*.tar"))
    assert len(data) < 4000
    assert len(list(pickle.loads(data))) == SHARDS * EACH


@pytest.mark.parametrize(
    ("shards", "error"),
    [
        ("heartbeats/nothing-*.tar", StorageError),
        ("heartbeats", ConfigurationError),
        (["heartbeats/train-000.tar", "heartbeats/gone.tar"], StorageError),
    ],
)
def test_shards_that_are_not_there_are_refused(served: Backend, shards: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        SealedShards(shards)


def test_fewer_shards_than_ranks_are_refused(served: Backend) -> None:
    with pytest.raises(ConfigurationError, match="6 shards for 7 ranks"):
        SealedShards("heartbeats/train-*.tar", num_replicas=7, rank=0)


@pytest.mark.parametrize("arguments", [{"shuffle": -1}, {"seed": -1}, {"num_replicas": 2, "rank": 2}])
def test_arguments_that_make_no_order_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SealedShards([Bytes(b"")] * 2, **arguments)


@pytest.mark.parametrize("workers", [0, 2])
def test_tampered_shard_is_named_around_the_loop(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    sealed = seal_files(tmp_path, dict(FILES))
    damage(sealed, "train-003.tar", 2)
    with serving(sealed, run, monkeypatch):
        shards = SealedShards("heartbeats/train-*.tar", transform=key)
        with pytest.raises(IntegrityError, match=r"^train-003\.tar: segment 2 of 4 was changed"):
            numbers(shards, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_shard_that_lies_about_a_size_is_named_around_the_loop(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    sealed = seal_files(tmp_path, {"a.tar": with_size(tar({"x.bin": b"1"}), b"00000100000\0")})
    with (
        serving(sealed, run, monkeypatch),
        pytest.raises(FormatError, match=r"^heartbeats/a\.tar is a damaged tar archive .* beyond the end"),
    ):
        numbers(SealedShards("heartbeats/a.tar"), num_workers=workers)


def test_access_that_ends_between_two_shards_ends_the_pass(served: Backend) -> None:
    shards = iter(SealedShards("heartbeats/train-*.tar"))
    next(shards)
    served.vault.drop("heartbeats", "It was withdrawn.")
    with pytest.raises(AccessDeniedError, match="It was withdrawn"):
        list(shards)


# --- the archives themselves ---


def checked(block: bytes) -> bytes:
    """Return a header with its checksum made right."""
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


def with_size(data: bytes, field: bytes) -> bytes:
    return checked(data[:124] + field + data[136:BLOCK]) + data[BLOCK:]


def with_kind(data: bytes, kind: bytes) -> bytes:
    return checked(data[:156] + kind + data[157:BLOCK]) + data[BLOCK:]


ONE = tar({"x.bin": b"contents"})
TWO = tar({"x.bin": b"1", "y.bin": b"2"})
OLD = checked(ONE[:257] + bytes(8) + ONE[265:BLOCK]) + ONE[BLOCK:]
LONG = "d/" * 120 + "x.bin"


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_kind_are_read_as_tarfile_reads_them(kind: int) -> None:
    files = {"a.bin": b"", "b/c.bin": noise(511, 1), "ü.bin": noise(512, 2), "d.bin": noise(5_000_000, 3)}
    if kind != tarfile.USTAR_FORMAT:
        files[LONG] = b"long"
    assert read(tar(files, kind=kind)) == list(files.items())


def test_directories_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read(out.getvalue()) == []


def test_binary_size_of_gnu_tar_is_read() -> None:
    assert read(with_size(ONE, b"\x80" + (8).to_bytes(11, "big"))) == [("x.bin", b"contents")]


REFUSED = {
    "nothing": (b"", "goes 512 bytes beyond the end"),
    "no tar": (noise(2048, 1), "there is no tar header"),
    "old tar without a magic": (
        checked(ONE[:257] + bytes(8) + ONE[265:BLOCK]) + ONE[BLOCK:],
        "no tar header",
    ),
    "flipped bit in a header": (b"y" + ONE[1:], "checksum of a header is wrong"),
    "checksum that is no number": (ONE[:148] + b"zzzzzzzz" + ONE[156:], "checksum of a header is no number"),
    "size that is no number": (with_size(ONE, b"0000000001x\0"), "size of a header is no number"),
    "size that is negative": (with_size(ONE, b"-0000000008\0"), "size of a header is no number"),
    "size beyond the end": (with_size(ONE, b"77777777777\0"), "beyond the end"),
    "binary size beyond the end": (with_size(ONE, b"\x80" + b"\xff" * 11), "beyond the end"),
    "binary size that is negative": (with_size(ONE, b"\xff" * 12), "size of a header is no number"),
    "size that hides what follows": (
        with_size(TWO, b"00000002000\0"),
        "header",
    ),
    "no end": (ONE[: 2 * BLOCK], "goes 512 bytes beyond the end"),
    "half an end": (ONE[: 3 * BLOCK], "its end is missing"),
    "cut in a member": (ONE[: BLOCK + 100], "beyond the end"),
    "something behind the end": (ONE[:-1] + b"x", "something stands behind the end"),
    "much behind the end": (ONE + bytes(5 << 20), "bytes stand behind the end"),
    "link": (with_kind(ONE, b"2"), "'x.bin' is a link"),
    "hard link": (with_kind(ONE, b"1"), "'x.bin' is a link"),
    "device": (with_kind(ONE, b"3"), "'x.bin' is no regular file"),
    "sparse file": (with_kind(ONE, b"S"), "'x.bin' is a sparse file"),
    "directory with contents": (with_kind(ONE, b"5"), "a directory has contents"),
    "no name": (checked(bytes(100) + ONE[100:BLOCK]) + ONE[BLOCK:], "a member has no name"),
    "name that is not UTF-8": (checked(b"\xff" + ONE[1:BLOCK]) + ONE[BLOCK:], "not UTF-8"),
    "long name of nothing": (with_kind(ONE, b"L"), "followed by no file"),
    "pax header of a wrong length": (with_kind(tar({"p": b"99 path=a\n"}), b"x"), "wrong length"),
    "pax header that is too short": (with_kind(tar({"p": b"3 path=a\n"}), b"x"), "wrong length"),
    "pax size that is no number": (with_kind(tar({"p": b"10 size=a\n"}), b"x"), "size is no number"),
    "pax name for all": (with_kind(tar({"p": b"10 path=a\n"}), b"g"), "stands for all members"),
    "pax sparse file": (with_kind(tar({"p": b"22 GNU.sparse.major=1\n"}), b"x"), "of a sparse file"),
    "pax header that is too long": (with_kind(tar({"p": bytes((1 << 20) + 1)}), b"x"), "is too long"),
}


@pytest.mark.parametrize("what", sorted(REFUSED))
def test_archive_is_refused(what: str) -> None:
    data, words = REFUSED[what]
    with pytest.raises(FormatError, match=words):
        read(data)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_but_an_error_of_ours_leaves_whatever_the_bytes(data: st.DataObject) -> None:
    archive = bytearray(tar({"x.bin": b"contents", LONG: b"1"}, kind=tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, 6 * BLOCK))] = data.draw(st.integers(0, 255))
    for file in (bytes(archive), bytes(archive[: data.draw(st.integers(0, len(archive)))])):
        try:
            read(file)
        except FormatError:
            continue
