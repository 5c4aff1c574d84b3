# SPDX-License-Identifier: BSD-3-Clause
"""Against a stand-in that behaves as Documentation/ABI/testing/configfs-tsm says."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.errors import NetworkError, ProtocolError
from sealroom.guest import ConfigfsProvider, Provider
from sealroom.guest.configfs import SystemFiles
from sealroom.snp.table import build_certificate_table

ROOT = Path("/configfs/tsm/report")


@dataclass
class Kernel:
    """configfs-tsm in memory: an entry has attributes, outblob needs inblob, generation counts writes."""

    provider: bytes = b"sev_guest\n"
    interlopers: int = 0
    report: bytes | None = None
    table: bytes = field(default_factory=lambda: build_certificate_table(testing.chip().certificates))
    entries: dict[Path, dict[str, bytes]] = field(default_factory=dict)
    busy: bool = False

    def make(self, path: Path) -> None:
        assert path.parent == ROOT
        self.entries[path] = {"generation": b"0\n"}

    def remove(self, path: Path) -> None:
        del self.entries[path]

    def exists(self, path: Path) -> bool:
        return path == ROOT

    def write(self, path: Path, data: bytes) -> None:
        assert path.name == "inblob"
        entry = self.entries[path.parent]
        entry["inblob"] = data
        entry["generation"] = b"%d\n" % (int(entry["generation"]) + 1 + self.interlopers)

    def read(self, path: Path, limit: int) -> bytes:
        entry = self.entries[path.parent]
        match path.name:
            case "provider":
                return self.provider
            case "generation":
                return entry["generation"]
            case "outblob":
                if "inblob" not in entry:
                    raise OSError(errno.EINVAL, "Invalid argument")
                if self.busy:
                    raise OSError(errno.EBUSY, "Device or resource busy")
                return (
                    testing.chip().report(report_data=entry["inblob"]) if self.report is None else self.report
                )
            case "auxblob":
                return self.table[: limit + 1]
            case other:
                raise AssertionError(other)


def provider(kernel: Kernel) -> ConfigfsProvider:
    return ConfigfsProvider(ROOT, files=kernel)


def test_report_and_certificates_are_read_and_the_entry_is_removed() -> None:
    kernel = Kernel()
    evidence = provider(kernel).evidence(b"n" * 64)
    assert evidence.report[0x50:0x90] == b"n" * 64
    assert evidence.certificates == testing.chip().certificates
    assert evidence.provider == "configfs-tsm"
    assert kernel.entries == {}


def test_is_a_provider() -> None:
    assert isinstance(provider(Kernel()), Provider)
    assert provider(Kernel()).available() == ""


def test_absent_interface_is_said() -> None:
    assert "is not there" in ConfigfsProvider(Path("/configfs/none"), files=Kernel()).available()


def test_real_file_operations_see_no_interface_in_an_absent_directory(tmp_path: Path) -> None:
    assert not SystemFiles().exists(tmp_path / "none")
    files = SystemFiles()
    files.make(tmp_path / "entry")
    files.write(tmp_path / "entry/inblob", b"data")
    assert files.read(tmp_path / "entry/inblob", 2) == b"dat"
    (tmp_path / "entry/inblob").unlink()
    files.remove(tmp_path / "entry")
    assert not (tmp_path / "entry").exists()


def test_host_without_certificates_gives_none() -> None:
    assert provider(Kernel(table=b"")).evidence(bytes(64)).certificates == {}


def test_other_processor_is_refused() -> None:
    kernel = Kernel(provider=b"tdx_guest\n")
    with pytest.raises(ProtocolError, match="tdx_guest"):
        provider(kernel).evidence(bytes(64))
    assert kernel.entries == {}


def test_write_by_somebody_else_is_noticed() -> None:
    with pytest.raises(ProtocolError, match="Somebody else"):
        provider(Kernel(interlopers=1)).evidence(bytes(64))


@pytest.mark.parametrize("size", [1183, 1185])
def test_report_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"has {size} bytes"):
        provider(Kernel(report=bytes(size))).evidence(bytes(64))


def test_malformed_table_is_refused() -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        provider(Kernel(table=b"x" * 30)).evidence(bytes(64))


def test_endless_table_is_refused() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        provider(Kernel(table=bytes(1 << 20))).evidence(bytes(64))


def test_busy_firmware_is_a_network_error_and_leaves_no_entry() -> None:
    kernel = Kernel(busy=True)
    with pytest.raises(NetworkError, match="busy"):
        provider(kernel).evidence(bytes(64))
    assert kernel.entries == {}


class Directory(SystemFiles):
    """configfs-tsm as files on disk, reached with the real file operations.

    A directory of configfs has its attributes from the moment it is made and loses them when it is removed;
    the kernel makes the report when `inblob` was written.
    """

    def make(self, path: Path) -> None:
        super().make(path)
        for name, content in {"provider": b"sev_guest\n", "generation": b"0\n", "auxblob": b""}.items():
            (path / name).write_bytes(content)

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data)
        entry = path.parent
        (entry / "generation").write_bytes(b"%d\n" % (int((entry / "generation").read_bytes()) + 1))
        (entry / "outblob").write_bytes(testing.chip().report(report_data=(entry / "inblob").read_bytes()))
        (entry / "auxblob").write_bytes(build_certificate_table(testing.chip().certificates))

    def remove(self, path: Path) -> None:
        for attribute in path.iterdir():
            attribute.unlink()
        super().remove(path)


def test_report_is_read_from_a_directory_and_two_requests_do_not_meet(tmp_path: Path) -> None:
    provider = ConfigfsProvider(tmp_path, files=Directory())
    assert provider.available() == ""
    for report_data in (b"a" * 64, b"b" * 64):
        evidence = provider.evidence(report_data)
        assert evidence.report[0x50:0x90] == report_data
        assert evidence.certificates == testing.chip().certificates
    assert list(tmp_path.iterdir()) == []


def test_directory_that_makes_no_report_is_a_network_error(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="No such file"):
        ConfigfsProvider(tmp_path).evidence(bytes(64))
