# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sealroom import testing
from sealroom.cli import run
from sealroom.collateral import layout
from sealroom.collateral.store import Store
from sealroom.kbs.evidence import snp_to_json
from sealroom.nvidia import NvidiaRoots
from sealroom.simulated.gpu_certificates import Life
from sealroom.snp import ProductLine, VekKind
from sealroom.snp.bundle import EvidenceBundle
from sealroom.testing.services import (
    Fault,
    Kds,
    OcspResponder,
    RimService,
    running_kds,
    running_ocsp,
    running_rim_service,
)

GENOA = ProductLine.GENOA
CHIP = testing.chip()
ROOTS = testing.development_roots()
GPU = testing.gpu()
VCEK = layout.vcek_name(ROOTS, GENOA, CHIP.chip_id, CHIP.tcb)
CRL = layout.crl_name(ROOTS, GENOA, VekKind.VCEK)
Shown = Callable[[], str]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a development root, a report, and a store that the environment names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALROOM_COLLATERAL", str(tmp_path / "store"))
    (tmp_path / "ark.pem").write_bytes(testing.chain().pem)
    (tmp_path / "report.bin").write_bytes(CHIP.report())
    gpus = testing.gpu_root()
    (tmp_path / "gpu-device-root.pem").write_bytes(gpus.device_pem)
    (tmp_path / "gpu-rim-root.pem").write_bytes(gpus.rim_pem)
    return tmp_path


@pytest.fixture
def store(here: Path) -> Store:
    return Store(here / "store")


@pytest.fixture
def kds() -> Iterator[Kds]:
    with running_kds(crl_at=now() - timedelta(days=1)) as running:
        yield running


@pytest.fixture
def service() -> Iterator[RimService]:
    # Signed by a signer that is valid while this test runs.
    rims = {
        GPU.driver_rim_id: GPU.rim("driver", signer_life=life()),
        GPU.vbios_rim_id: GPU.rim("vbios", signer_life=life()),
    }
    with running_rim_service(rims) as running:
        yield running


def life() -> Life:
    return Life(testing.gpu_root().at, testing.gpu_root().at + timedelta(days=9 * 365))


@pytest.fixture
def responder() -> Iterator[OcspResponder]:
    with running_ocsp([GPU], at=now()) as running:
        root, chip = testing.gpu_root(), GPU.model.certified_as
        running.know(root.signer(chip, life()).certificate, root.rim_issuers[chip], root)
        yield running


def kds_options(kds: Kds) -> list[str]:
    return ["--root", "ark.pem", "--kds-url", kds.url, "--pace", "0"]


@pytest.fixture
def filled(here: Path, kds: Kds, store: Store, capsys: pytest.CaptureFixture[str]) -> Store:
    """A store with a chip's certificate and the line's revocation list."""
    assert run(["collateral", "fetch", "--report", "report.bin", *kds_options(kds)]) == 0
    capsys.readouterr()
    return store


# --- fetch ---


def test_what_a_report_needs_is_fetched(
    here: Path, kds: Kds, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["collateral", "fetch", "--report", "report.bin", *kds_options(kds)]) == 0
    assert {VCEK, CRL} <= set(store.names())
    captured = capsys.readouterr()
    assert "entries are new or newer" in captured.out
    # Progress stands beside the result.
    assert f"GET {kds.url}/vcek/v1/Genoa/" in captured.err


def test_certificate_that_is_issued_while_it_is_fetched_is_taken(here: Path, kds: Kds, store: Store) -> None:
    kds.issued = now() + timedelta(seconds=30)
    assert run(["collateral", "fetch", "--report", "report.bin", *kds_options(kds)]) == 0
    assert VCEK in store.names()


def test_certificates_that_came_with_a_report_are_not_fetched(here: Path, kds: Kds, store: Store) -> None:
    bundle = EvidenceBundle(b"n" * 32, CHIP.report(), CHIP.certificates)
    (here / "bundle.json").write_bytes(bundle.to_json())
    (here / "coco.json").write_text(json.dumps(snp_to_json(CHIP.report(), CHIP.certificates)))
    for name in ("bundle.json", "coco.json"):
        assert run(["collateral", "fetch", "--report", name, *kds_options(kds)]) == 0
    assert kds.paths == ["/vcek/v1/Genoa/crl"]
    assert store.read(VCEK) == CHIP.vek


def test_chip_is_named_by_line_id_and_tcb(here: Path, kds: Kds, store: Store) -> None:
    arguments = ["--line", "genoa", "--chip-id", CHIP.chip_id.hex(), "--tcb", layout.tcb_text(CHIP.tcb)]
    assert run(["collateral", "fetch", *arguments, *kds_options(kds)]) == 0
    assert {VCEK, CRL} <= set(store.names())


@pytest.mark.parametrize("zeros", [0, 56])
def test_turin_chip_is_named_by_sixteen_digits_or_as_its_report_has_it(
    here: Path, store: Store, zeros: int
) -> None:
    chip = testing.chip(ProductLine.TURIN)
    (here / "turin.pem").write_bytes(testing.chain(ProductLine.TURIN).chain_pem)
    digits = chip.chip_id[:8].hex() + "00" * zeros
    arguments = ["--line", "Turin", "--chip-id", digits, "--tcb", layout.tcb_text(chip.tcb)]
    with running_kds(chip, crl_at=now()) as kds:
        options = ["--root", "turin.pem", "--kds-url", kds.url, "--pace", "0"]
        assert run(["collateral", "fetch", *arguments, *options]) == 0
        assert kds.paths[0].startswith(f"/vcek/v1/Turin/{chip.chip_id[:8].hex()}?fmcSPL=")


def test_json_lists_what_was_stored(
    here: Path, kds: Kds, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["collateral", "fetch", "--line", "Genoa", *kds_options(kds), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["store"] == str(store.path)
    assert CRL in result["stored"]


def test_manifest_is_fetched_with_answers_about_who_signed_it(
    here: Path, store: Store, service: RimService, responder: OcspResponder
) -> None:
    options = ["--gpu-root", ".", "--rim-url", service.url, "--ocsp-url", responder.url]
    assert run(["collateral", "fetch", "--rim", GPU.driver_rim_id, *options]) == 0
    kinds = [layout.Entry.parse(name).kind for name in store.names()]
    assert kinds.count(layout.Kind.RIM) == 1
    assert kinds.count(layout.Kind.OCSP) == 3


def test_what_a_gpu_needs_is_fetched(
    here: Path, store: Store, service: RimService, responder: OcspResponder
) -> None:
    from sealroom.kbs.devices import encode_devices

    (here / "gpu.json").write_text(encode_devices([testing.device_evidence(bytes(32))]))
    options = ["--gpu-root", ".", "--rim-url", service.url, "--ocsp-url", responder.url]
    assert run(["collateral", "fetch", "--report", "gpu.json", *options]) == 0
    kinds = [layout.Entry.parse(name).kind for name in store.names()]
    assert kinds.count(layout.Kind.RIM) == 2
    assert kinds.count(layout.Kind.OCSP) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--chip-id", "00"],
        ["--line", "Genoa", "--chip-id", "00" * 64],
        ["--line", "Genoa", "--chip-id", "00", "--tcb", "bl1-tee0-snp2-ucode3"],
        ["--line", "Genoa", "--chip-id", "xy", "--tcb", "bl1-tee0-snp2-ucode3"],
        ["--line", "Venice"],
        ["--line", "Genoa", "--kds-url", "ftp://h"],
        ["--report", "none.bin"],
        ["--line", "Genoa", "--root", "none.pem"],
    ],
)
def test_wrong_usage(here: Path, arguments: list[str]) -> None:
    assert run(["collateral", "fetch", *arguments]) == 64


def test_service_that_cannot_be_reached_could_not_be_done(
    here: Path, kds: Kds, capsys: pytest.CaptureFixture[str]
) -> None:
    kds.fail(Fault(drop=True))
    assert run(["collateral", "fetch", "--report", "report.bin", *kds_options(kds)]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_certificate_of_another_chip_is_refused(here: Path, kds: Kds, store: Store) -> None:
    kds.fail(Fault(body=testing.vek(chip_id=b"\7" * 64)))
    assert run(["collateral", "fetch", "--report", "report.bin", *kds_options(kds)]) == 1
    assert VCEK not in store.names()


def test_store_is_in_the_data_directory_if_none_is_named(
    here: Path, kds: Kds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALROOM_COLLATERAL")
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "data"))
    assert run(["collateral", "fetch", "--line", "Genoa", *kds_options(kds)]) == 0
    assert (here / "data" / "sealroom" / "collateral" / CRL).is_file()
    assert run(["collateral", "fetch", "--line", "Genoa", *kds_options(kds), "--store", "named"]) == 0
    assert (here / "named" / CRL).is_file()


# --- show ---


def test_everything_is_shown_after_it_was_checked(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["collateral", "show", "--root", "ark.pem"]) == 0
    shown = capsys.readouterr().out
    assert "VCEK" in shown
    assert "revocation list" in shown
    assert "Genoa, chip" in shown
    assert "(simulated)" in shown
    assert "damaged" not in shown


def test_damaged_entry_is_shown_and_is_exit_status_1(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (filled.path / VCEK).write_bytes(b"damaged")
    assert run(["collateral", "show", "--root", "ark.pem", "--json"]) == 1
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["name"] for entry in entries if entry["state"] == "damaged"} == {VCEK}


def test_entry_whose_root_was_not_named_is_not_called_good(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["collateral", "show", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert {entry["state"] for entry in entries if not entry["name"].endswith(".json")} == {"unchecked"}


def test_old_revocation_list_is_called_old(
    filled: Store, kds: Kds, capsys: pytest.CaptureFixture[str]
) -> None:
    kds.crl_at = now() - timedelta(days=60)
    filled.write(CRL, kds.crl())
    assert run(["collateral", "show", "--root", "ark.pem", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert entries[CRL]["state"] == "old"


def test_empty_store_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["collateral", "show"]) == 0
    assert "There is nothing in" in capsys.readouterr().out


# --- export and import ---


def test_store_is_carried_to_a_machine_without_a_network(filled: Store, here: Path) -> None:
    assert run(["collateral", "export", "bundle.tar", "--root", "ark.pem"]) == 0
    assert stat.S_IMODE((here / "bundle.tar").stat().st_mode) == 0o644
    assert run(["collateral", "import", "bundle.tar", "--root", "ark.pem", "--store", "other"]) == 0
    assert Store(here / "other").names() == filled.names()


def test_damaged_entry_is_left_out_of_an_export_and_is_exit_status_2(
    filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    (filled.path / VCEK).write_bytes(b"damaged")
    assert run(["collateral", "export", "bundle.tar", "--root", "ark.pem"]) == 2
    assert f"left out: {VCEK}" in capsys.readouterr().err


def test_there_is_nothing_to_export(here: Path) -> None:
    assert run(["collateral", "export", "bundle.tar"]) == 64
    assert not (here / "bundle.tar").exists()


def test_export_into_a_folder_that_is_not_there_could_not_be_done(filled: Store) -> None:
    assert run(["collateral", "export", "none/bundle.tar", "--root", "ark.pem"]) == 2


def test_tampered_bundle_is_refused_and_nothing_is_written(filled: Store, here: Path) -> None:
    run(["collateral", "export", "bundle.tar", "--root", "ark.pem"])
    data = bytearray((here / "bundle.tar").read_bytes())
    data[-2000] ^= 1
    (here / "bundle.tar").write_bytes(bytes(data))
    assert run(["collateral", "import", "bundle.tar", "--root", "ark.pem", "--store", "other"]) == 1
    assert not (here / "other").exists()


def test_bundle_with_entries_of_a_development_root_needs_that_root(filled: Store, here: Path) -> None:
    run(["collateral", "export", "bundle.tar", "--root", "ark.pem"])
    assert run(["collateral", "import", "bundle.tar", "--store", "other"]) == 64
    assert not (here / "other").exists()


# --- refresh ---


def test_list_that_ends_soon_is_fetched_anew(
    filled: Store, kds: Kds, capsys: pytest.CaptureFixture[str]
) -> None:
    kds.crl_at = now() - timedelta(days=42)
    filled.write(CRL, kds.crl())
    kds.crl_at = now()
    assert run(["collateral", "refresh", "--within", "24", *kds_options(kds)]) == 0
    assert filled.read(CRL) != kds.crl()
    assert run(["collateral", "refresh", "--within", "240", *kds_options(kds)]) == 0
    assert filled.read(CRL) == kds.crl()


def test_refresh_that_fails_keeps_what_is_there_and_is_exit_status_2(
    filled: Store, kds: Kds, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled.read(CRL)
    kds.fail(Fault(status=500))
    assert run(["collateral", "refresh", "--all", *kds_options(kds)]) == 2
    assert filled.read(CRL) == before
    assert "HTTP 500" in capsys.readouterr().err


def test_reissued_manifest_is_fetched_and_said(
    here: Path,
    store: Store,
    service: RimService,
    responder: OcspResponder,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--gpu-root", ".", "--rim-url", service.url, "--ocsp-url", responder.url]
    run(["collateral", "fetch", "--rim", GPU.vbios_rim_id, *options])
    service.rims[GPU.vbios_rim_id] = GPU.rim("vbios", reissued=True, signer_life=life())
    assert run(["collateral", "refresh", *options]) == 0
    assert "has issued the manifest" not in capsys.readouterr().err
    assert run(["collateral", "refresh", "--all", *options]) == 0
    assert "has issued the manifest" in capsys.readouterr().err
    root = testing.gpu_root()
    folder = layout.rim_folder(NvidiaRoots.development(root.device_pem, root.rim_pem), GPU.vbios_rim_id)
    assert len([name for name in store.names(folder) if name.endswith(".xml")]) == 2


# --- what is not loaded ---


def test_help_and_the_package_load_no_http() -> None:
    program = (
        "import sys, sealroom.collateral, sealroom.collateral.store, sealroom.collateral.resolver; "
        "sys.exit('httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
