# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom import testing
from sealroom.collateral import layout
from sealroom.collateral.bundle import FORMAT, MANIFEST, export_bundle, import_bundle, read_bundle
from sealroom.collateral.check import Checker
from sealroom.collateral.kds import KdsFetcher
from sealroom.collateral.nvidia import OcspFetcher, RimFetcher
from sealroom.collateral.resolver import resolve
from sealroom.collateral.store import MAX_ENTRY, Fetched, Store
from sealroom.errors import ConfigurationError, Error, FormatError, StorageError, VerificationError
from sealroom.nvidia import NvidiaRoots
from sealroom.snp import ProductLine, Roots, VekKind, verify_report
from sealroom.testing.services import Kds, running_ocsp, running_rim_service

from .conftest import FakeTime

ROOTS = testing.development_roots()
AMD = Roots.amd()
GENOA = ProductLine.GENOA
GPU = testing.gpu()


def nvidia_roots() -> NvidiaRoots:
    root = testing.gpu_root()
    return NvidiaRoots.development(root.device_pem, root.rim_pem)


@pytest.fixture
def filled(store: Store, kds: Kds, fetcher: KdsFetcher, time: FakeTime) -> Store:
    """A store with one entry of every kind."""
    chip = testing.chip()
    fetcher.vcek(GENOA, chip.chip_id, chip.tcb, roots=ROOTS)
    fetcher.crl(GENOA, VekKind.VCEK, roots=ROOTS)
    vlek, roots = testing.chip(kind="VLEK"), testing.development_roots(vlek=True)
    resolve(vlek.report(), vlek.certificates, roots=roots, at=testing.NOW, store=store)
    nvidia = nvidia_roots()
    with (
        running_rim_service({GPU.driver_rim_id: GPU.driver_rim}) as service,
        running_ocsp([GPU], at=testing.NOW) as responder,
    ):
        rims = RimFetcher(store, service.url, clock=time.clock)
        rims.rim(GPU.driver_rim_id, roots=nvidia)
        rims.close()
        ocsp = OcspFetcher(store, responder.url, clock=time.clock)
        ocsp.answers(GPU.chain_der, roots=nvidia, first=1)
        ocsp.close()
    return store


def export(store: Store, path: Path, *roots: Roots) -> list[str]:
    checker = Checker(
        store, [AMD, *(roots or (ROOTS, testing.development_roots(vlek=True)))], [nvidia_roots()]
    )
    with path.open("wb") as file:
        return export_bundle(store, file, checker=checker)


def bring(store: Store, path: Path, *roots: Roots) -> object:
    return import_bundle(
        store,
        path,
        roots=[AMD, *(roots or (ROOTS, testing.development_roots(vlek=True)))],
        nvidia=[nvidia_roots()],
        at=testing.NOW,
    )


@pytest.fixture
def bundle(filled: Store, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    assert export(filled, path) == []
    return path


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store(tmp_path / "other")


def contents(store: Store) -> dict[str, bytes | None]:
    return {name: store.read(name) for name in store.names()}


# --- there and back ---


def test_store_survives_the_way_to_a_machine_without_a_network(
    bundle: Path, filled: Store, other: Store
) -> None:
    done = bring(other, bundle)
    assert contents(other) == contents(filled)
    assert sorted(done.added) == filled.names()  # type: ignore[attr-defined]
    chip = testing.chip()
    found = resolve(chip.report(), {}, roots=ROOTS, at=testing.NOW, store=other)
    verify_report(
        chip.report(),
        found.vek,
        roots=ROOTS,
        at=testing.NOW,
        intermediates=found.intermediates,
        crls=found.crls,
    )
    assert len(found.crls) == 1


def test_same_store_gives_the_same_bytes(bundle: Path, filled: Store, tmp_path: Path, other: Store) -> None:
    export(filled, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()
    bring(other, bundle)
    export(other, tmp_path / "other.tar")
    assert (tmp_path / "other.tar").read_bytes() == bundle.read_bytes()


def test_bundle_is_a_tar_file_that_other_tools_read(bundle: Path, filled: Store) -> None:
    with tarfile.open(bundle) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [MANIFEST, *filled.names()]
        assert all(member.mtime == 0 and member.uid == 0 and member.mode == 0o644 for member in members)
        file = tar.extractfile(MANIFEST)
        assert file is not None
        manifest = json.loads(file.read())
    assert manifest["format"] == FORMAT
    for name, entry in manifest["entries"].items():
        assert entry["sha256"] == hashlib.sha256(filled.read(name) or b"").hexdigest()


def test_importing_twice_changes_nothing(bundle: Path, other: Store) -> None:
    bring(other, bundle)
    before = contents(other)
    done = bring(other, bundle)
    assert done.added == ()  # type: ignore[attr-defined]
    assert contents(other) == before


def test_entry_that_is_not_authentic_is_left_out_of_an_export(filled: Store, tmp_path: Path) -> None:
    name = next(name for name in filled.names() if "/vcek/" in name)
    filled.write(name, testing.vek(chip_id=b"\7" * 64))
    left_out = export(filled, tmp_path / "bundle.tar")
    assert [line.split(":")[0] for line in left_out] == [name]
    assert name not in read_bundle(tmp_path / "bundle.tar")


def test_entry_under_a_root_that_was_not_given_is_left_out_of_an_export(
    filled: Store, tmp_path: Path
) -> None:
    left_out = export(filled, tmp_path / "bundle.tar", AMD)
    assert len(left_out) == len(
        [name for name in filled.names() if "/amd/" in name and not name.endswith("json")]
    )


# --- what is newer stays ---


def test_newer_revocation_list_is_not_replaced_by_an_older_one(
    bundle: Path, other: Store, kds: Kds, fetcher: KdsFetcher
) -> None:
    kds.crl_at = testing.NOW
    name = layout.crl_name(ROOTS, GENOA, VekKind.VCEK)
    info = name.replace(".der", ".json")
    newer, fetched = kds.crl(), Fetched.of(kds.crl(), testing.later(days=1)).to_json()
    other.write_all([(name, newer), (info, fetched)])
    done = bring(other, bundle)
    assert other.read(name) == newer
    assert other.read(info) == fetched
    assert {name, info} <= set(done.kept)  # type: ignore[attr-defined]


def test_older_revocation_list_is_replaced_with_when_it_was_fetched(
    bundle: Path, other: Store, kds: Kds
) -> None:
    kds.crl_at = testing.later(days=-9)
    name = layout.crl_name(ROOTS, GENOA, VekKind.VCEK)
    other.write(name, kds.crl())
    bring(other, bundle)
    assert other.read(name) == read_bundle(bundle)[name]
    assert other.fetched(name.replace(".der", ".json")) is not None


def test_damaged_entry_is_replaced(bundle: Path, other: Store) -> None:
    bring(other, bundle)
    for name in other.names():
        (other.path / name).write_bytes(b"damaged")
    bring(other, bundle)
    assert contents(other) == read_bundle(bundle)


def test_pointer_to_a_younger_manifest_stays(bundle: Path, other: Store) -> None:
    nvidia = nvidia_roots()
    folder = layout.rim_folder(nvidia, GPU.driver_rim_id)
    newer = GPU.rim("driver", reissued=True)
    current = Fetched.of(newer, testing.later(hours=1))
    other.write_all(
        [(f"{folder}/{current.sha256}.xml", newer), (f"{folder}/current.json", current.to_json())]
    )
    bring(other, bundle)
    assert other.fetched(f"{folder}/current.json") == current
    assert len([name for name in other.names() if name.endswith(".xml")]) == 2


# --- what is refused ---


def pack(path: Path, entries: dict[str, bytes], /, **changes: object) -> Path:
    """Write a bundle of any entries with a manifest that fits, or with changes to it."""
    listed = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in entries.items()
    }
    manifest = json.dumps({"format": FORMAT, "entries": listed} | changes).encode()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {MANIFEST: manifest, **entries}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def refused(store: Store, path: Path, *roots: Roots) -> Error:
    before = contents(store)
    with pytest.raises(Error) as caught:
        bring(store, path, *roots)
    assert contents(store) == before
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "../amd/genoa/crl.der",
        "/amd/genoa/crl.der",
        "amd/genoa/../genoa/crl.der",
        "other",
        ".lock",
        "amd/genoa/crl.der/",
    ],
)
def test_name_of_no_entry_is_refused(bundle: Path, other: Store, tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / "bad.tar", {**read_bundle(bundle), name: b"x"})
    assert isinstance(refused(other, path), FormatError)
    assert list(tmp_path.rglob("crl.der")) == list((tmp_path / "store").rglob("crl.der"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_link_folder_or_device_is_refused(other: Store, tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("amd/genoa/crl.der")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    assert "is no regular file" in refused(other, tmp_path / "bad.tar").message


def test_entry_that_stands_twice_is_refused(bundle: Path, other: Store, tmp_path: Path) -> None:
    entries = read_bundle(bundle)
    path = pack(tmp_path / "bad.tar", entries)
    with tarfile.open(path, "a") as tar:
        name = next(iter(entries))
        member = tarfile.TarInfo(name)
        member.size = len(entries[name])
        tar.addfile(member, io.BytesIO(entries[name]))
    assert "stands twice" in refused(other, path).message


def test_entry_that_is_too_long_is_refused_before_it_is_read(other: Store, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("amd/genoa/crl.der")
        member.size = MAX_ENTRY + 1
        tar.addfile(member, io.BytesIO(bytes(MAX_ENTRY + 1)))
    assert "is longer than" in refused(other, tmp_path / "bad.tar").message


def test_entry_that_the_manifest_does_not_name_is_refused(bundle: Path, other: Store, tmp_path: Path) -> None:
    assert (
        "is not in the manifest"
        in refused(other, pack(tmp_path / "bad.tar", read_bundle(bundle), entries={})).message
    )


def test_entry_that_is_missing_is_refused(bundle: Path, other: Store, tmp_path: Path) -> None:
    listed = {"amd/genoa/crl.der": {"sha256": "0" * 64, "size": 1}}
    path = pack(tmp_path / "bad.tar", {}, entries=listed)
    assert "not in the bundle" in refused(other, path).message


def test_entry_with_another_digest_is_refused(bundle: Path, other: Store, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    der = next(data for name, data in read_bundle(bundle).items() if "/vcek/" in name)
    (tmp_path / "bad.tar").write_bytes(data.replace(der, der[:-1] + bytes((der[-1] ^ 1,))))
    assert "is not the file that the manifest names" in refused(other, tmp_path / "bad.tar").message


@pytest.mark.parametrize(
    "changes", [{"format": "other"}, {"entries": []}, {"entries": {"x": 1}}, {"more": 1}, {"entries": None}]
)
def test_manifest_of_another_form_is_refused(
    other: Store, tmp_path: Path, changes: dict[str, object]
) -> None:
    assert isinstance(refused(other, pack(tmp_path / "bad.tar", {}, **changes)), FormatError)


@pytest.mark.parametrize("content", [b"", b"no tar", bytes(10240), b"\x1f\x8b\x08\0" + bytes(600)])
def test_file_that_is_no_bundle_is_refused(other: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    assert isinstance(refused(other, tmp_path / "bad.tar"), FormatError)


def test_bundle_that_was_cut_is_refused(bundle: Path, other: Store) -> None:
    data = bundle.read_bytes()
    for size in (600, len(data) // 2, len(data) // 3):
        bundle.write_bytes(data[:size])
        assert isinstance(refused(other, bundle), FormatError)


def test_bundle_with_something_after_its_end_is_refused(bundle: Path, other: Store) -> None:
    bundle.write_bytes(bundle.read_bytes() + bytes(5000) + b"x")
    assert "follows the end" in refused(other, bundle).message


def test_bundle_that_is_not_there_is_a_storage_error(other: Store, tmp_path: Path) -> None:
    assert isinstance(refused(other, tmp_path / "none.tar"), StorageError)


def test_entry_that_is_not_authentic_refuses_the_whole_bundle(
    bundle: Path, other: Store, tmp_path: Path
) -> None:
    entries = read_bundle(bundle)
    for name in [name for name in entries if not name.endswith(".json") and "/ocsp/" not in name]:
        data = entries[name]
        altered = data[:-9] + bytes((data[-9] ^ 1,)) + data[-8:]
        error = refused(other, pack(tmp_path / "bad.tar", {**entries, name: altered}))
        assert isinstance(error, VerificationError | FormatError)
        assert name in error.message


def test_genuine_certificate_under_another_chips_name_is_refused(
    bundle: Path, other: Store, tmp_path: Path
) -> None:
    entries = read_bundle(bundle)
    name = next(name for name in entries if "/vcek/" in name)
    hwid = testing.chip().chip_id.hex()
    entries[name.replace(hwid, "07" * 64)] = entries[name]
    assert refused(other, pack(tmp_path / "bad.tar", entries)).check == "snp.binding.chip_id"


def test_simulated_certificates_do_not_get_among_amds(bundle: Path, other: Store, tmp_path: Path) -> None:
    entries = {
        name[name.index("/amd/") + 1 :]: data
        for name, data in read_bundle(bundle).items()
        if "/amd/" in name and ROOTS.fingerprint[:16] in name
    }
    assert any("/vcek/" in name for name in entries)
    assert isinstance(refused(other, pack(tmp_path / "bad.tar", entries)), VerificationError)


def test_entries_of_a_root_that_was_not_given_are_refused(bundle: Path, other: Store) -> None:
    assert isinstance(refused(other, bundle, AMD), ConfigurationError)


def test_pointer_to_a_manifest_that_is_missing_is_refused(bundle: Path, other: Store, tmp_path: Path) -> None:
    entries = {name: data for name, data in read_bundle(bundle).items() if not name.endswith(".xml")}
    assert "not in the bundle" in refused(other, pack(tmp_path / "bad.tar", entries)).message


def test_manifest_that_was_fetched_in_the_future_is_refused(
    bundle: Path, other: Store, tmp_path: Path
) -> None:
    entries = read_bundle(bundle)
    name = next(name for name in entries if name.endswith("current.json"))
    entries[name] = Fetched.of(GPU.driver_rim, testing.later(days=1)).to_json()
    assert "in the future" in refused(other, pack(tmp_path / "bad.tar", entries)).message


@pytest.fixture(scope="module")
def real() -> bytes:
    """Bytes of a small bundle of AMD's pinned certificates."""
    from importlib.resources import files

    from sealroom.snp import CaCertificate

    entries = {}
    for file in (files("sealroom.snp") / "roots").iterdir():
        if file.name.endswith(".der"):
            data = file.read_bytes()
            one = CaCertificate.from_der(data)
            entries[layout.ca_name(AMD, one.line, one.role, data)] = data
    stream = io.BytesIO()
    listed = {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in entries.items()}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in {
            MANIFEST: json.dumps({"format": FORMAT, "entries": listed}).encode(),
            **entries,
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_amds_pinned_certificates_are_taken(real: bytes, tmp_path: Path) -> None:
    (tmp_path / "amd.tar").write_bytes(real)
    store = Store(tmp_path / "new")
    import_bundle(store, tmp_path / "amd.tar", roots=[AMD], at=testing.NOW)
    assert len(store.names()) == 9


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_nothing_but_our_error_leaves_an_import(
    real: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    altered = bytearray(real)
    for _ in range(data.draw(st.integers(1, 4))):
        # Mostly headers, which is where a tar file is parsed.
        block = data.draw(st.integers(0, len(real) // 512 - 1)) * 512
        altered[block + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        altered = altered[: data.draw(st.integers(0, len(altered)))]
    path = tmp_path / "fuzzed.tar"
    path.write_bytes(bytes(altered))
    store = Store(tmp_path / "fuzzed")
    try:
        import_bundle(store, path, roots=[AMD], at=testing.NOW)
    except Error:
        assert store.names() == []
        return
    assert set(store.names()) <= set(read_bundle(path))
    for name in store.names():
        store.remove(name)
