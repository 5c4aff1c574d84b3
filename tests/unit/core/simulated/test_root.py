# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import ConfigurationError, StorageError
from sealroom.simulated import create, load, root
from sealroom.simulated.root import FILES, INDEX
from sealroom.snp import ProductLine, Roots


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture(autouse=True)
def shared_keys(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """RSA keys take seconds: hand out the shared ones, and count."""
    made: list[int] = []

    def key() -> object:
        made.append(1)
        return testing.rsa_key("ark" if len(made) % 2 else "ask")

    monkeypatch.setattr(root, "new_rsa_key", key)
    return made


def test_first_creation_makes_a_root_that_verifies(tmp_path: Path) -> None:
    made = create(tmp_path / "simulated")
    assert made.line is ProductLine.GENOA
    roots = Roots.development((tmp_path / "simulated/ark.pem").read_bytes())
    assert roots.simulated


def test_second_creation_makes_nothing_new(tmp_path: Path, shared_keys: list[int]) -> None:
    first = create(tmp_path)
    count = len(shared_keys)
    assert create(tmp_path).ark.der == first.ark.der
    assert len(shared_keys) == count


def test_keys_are_for_the_owner_alone(tmp_path: Path) -> None:
    create(tmp_path / "simulated")
    assert stat.S_IMODE((tmp_path / "simulated").stat().st_mode) == 0o700
    for name in ("ark.key", "ask.key"):
        assert stat.S_IMODE((tmp_path / "simulated" / name).stat().st_mode) == 0o600


def test_keys_are_not_printed(tmp_path: Path) -> None:
    text = repr(create(tmp_path))
    assert "PrivateKey" not in text


@pytest.mark.parametrize("after", range(5))
def test_creation_that_was_killed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Killed before file number `after` got its name."""
    real = root._write_file
    written: list[Path] = []

    def dying(path: Path, data: bytes) -> None:
        if len(written) == after:
            path.with_name(path.name + ".part").write_bytes(data[:10])
            raise Killed
        written.append(path)
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(root, "_write_file", dying)
        with pytest.raises(Killed):
            create(tmp_path)
    made = create(tmp_path)
    assert load(tmp_path).ark.der == made.ark.der
    assert not list(tmp_path.glob("*.part"))


def test_two_creations_at_once_make_one_root(tmp_path: Path) -> None:
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(create(tmp_path).ark.der)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


@pytest.mark.parametrize("name", FILES)
def test_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    create(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(ConfigurationError, match="is not the file that was made"):
        load(tmp_path)


@pytest.mark.parametrize("name", [*FILES, INDEX])
def test_missing_file_is_reported(tmp_path: Path, name: str) -> None:
    create(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": "other"}', b"\xff"])
def test_wrong_index_is_refused(tmp_path: Path, content: bytes) -> None:
    create(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(ConfigurationError, match="does not describe a development root"):
        load(tmp_path)


def test_index_names_what_it_is(tmp_path: Path) -> None:
    create(tmp_path, at=testing.NOW)
    index = json.loads((tmp_path / INDEX).read_bytes())
    assert index["simulated"] is True
    assert index["created"] == "2026-06-01T00:00:00+00:00"


def test_other_product_line_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(ConfigurationError, match="is for Genoa, not Turin"):
        create(tmp_path, ProductLine.TURIN)


def test_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be written"):
        create(tmp_path / "file")
