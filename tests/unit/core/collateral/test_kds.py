# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep

import pytest
from sealroom import testing
from sealroom.collateral import layout
from sealroom.collateral.kds import KdsFetcher, chain_path, crl_path, vcek_path
from sealroom.collateral.store import Store
from sealroom.errors import (
    BindingError,
    ChainError,
    CollateralUnavailableError,
    Error,
    FormatError,
    NetworkError,
    SignatureError,
)
from sealroom.snp import ProductLine, Roots, TcbVersion, Vek, VekKind, verify_vek
from sealroom.testing.services import Fault, Kds, running_kds

from .conftest import FakeTime

GENOA = ProductLine.GENOA
CHIP = testing.chip()
HWID = CHIP.chip_id
CHAIN = "/vcek/v1/Genoa/cert_chain"


@pytest.fixture
def roots() -> Roots:
    """ARK and ASK, as AMD's pinned set has them."""
    return Roots.development(testing.chain().chain_pem)


def fetch(fetcher: KdsFetcher, roots: Roots, tcb: TcbVersion = CHIP.tcb, hwid: bytes = HWID) -> bytes:
    return fetcher.vcek(GENOA, hwid, tcb, roots=roots)


# --- addresses ---


def test_address_of_a_milan_vcek() -> None:
    hwid = bytes(range(64))
    assert vcek_path(ProductLine.MILAN, hwid, TcbVersion(3, 0, 8, 115)) == (
        f"/vcek/v1/Milan/{hwid.hex()}?blSPL=3&teeSPL=0&snpSPL=8&ucodeSPL=115"
    )


def test_address_of_a_turin_vcek_has_fmc_first_and_sixteen_digits() -> None:
    tcb = TcbVersion(1, 0, 2, 71, fmc=4)
    assert vcek_path(ProductLine.TURIN, bytes(range(8)), tcb) == (
        "/vcek/v1/Turin/0001020304050607?fmcSPL=4&blSPL=1&teeSPL=0&snpSPL=2&ucodeSPL=71"
    )


def test_addresses_of_chains_and_revocation_lists() -> None:
    assert chain_path(GENOA, VekKind.VCEK) == "/vcek/v1/Genoa/cert_chain"
    assert chain_path(GENOA, VekKind.VLEK) == "/vlek/v1/Genoa/cert_chain"
    assert crl_path(ProductLine.TURIN, VekKind.VLEK) == "/vlek/v1/Turin/crl"


@pytest.mark.parametrize(
    ("line", "size", "fmc"),
    [
        (ProductLine.TURIN, 64, 0),
        (ProductLine.MILAN, 8, None),
        (ProductLine.TURIN, 8, None),
        (ProductLine.GENOA, 64, 0),
    ],
    ids=["long Turin id", "short Milan id", "Turin without fmc", "Genoa with fmc"],
)
def test_chip_of_another_line_has_no_address(line: ProductLine, size: int, fmc: int | None) -> None:
    with pytest.raises(FormatError):
        vcek_path(line, b"\1" * size, TcbVersion(1, 2, 3, 4, fmc))


# --- VCEK ---


def test_fetched_vcek_is_verified_and_kept(fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots) -> None:
    data = fetch(fetcher, roots)
    assert verify_vek(data, roots=roots, at=testing.NOW).vek.hwid == HWID
    assert store.read(layout.vcek_name(roots, GENOA, HWID, CHIP.tcb)) == data
    assert kds.paths == [vcek_path(GENOA, HWID, CHIP.tcb)]


@pytest.mark.parametrize("line", list(ProductLine))
def test_vcek_of_every_line(store: Store, time: FakeTime, line: ProductLine) -> None:
    chip = testing.chip(line)
    hwid = chip.chip_id[: line.chip_id_size]
    roots = Roots.development(chip.root.chain_pem)
    with running_kds(chip) as kds:
        fetcher = KdsFetcher(store, kds.url, clock=time.clock)
        data = fetcher.vcek(line, hwid, chip.tcb, roots=roots)
        fetcher.close()
    assert verify_vek(data, roots=roots, at=testing.NOW).vek.tcb == chip.tcb


def test_vcek_in_the_store_is_not_fetched_again(fetcher: KdsFetcher, kds: Kds, roots: Roots) -> None:
    assert fetch(fetcher, roots) == fetch(fetcher, roots)
    assert len(kds.requests) == 1


def test_ten_threads_that_miss_one_vcek_send_one_request(fetcher: KdsFetcher, kds: Kds, roots: Roots) -> None:
    kds.hold = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        results = [pool.submit(fetch, fetcher, roots) for _ in range(10)]
        assert kds.arrived.wait(10)
        # Nobody has an answer yet; whoever asks now must wait for the one request, or find it in the store.
        sleep(0.1)
        assert not any(result.done() for result in results)
        kds.hold.set()
        assert len({result.result(30) for result in results}) == 1
    assert len(kds.requests) == 1


_PROCESS = """
import sys
from pathlib import Path
from sealroom.collateral.kds import KdsFetcher
from sealroom.collateral.store import Store
from sealroom.collateral.layout import parse_tcb
from sealroom.snp import ProductLine, Roots
roots = Roots.development(Path(sys.argv[3]).read_bytes())
fetcher = KdsFetcher(Store(Path(sys.argv[1])), sys.argv[2], interval=0.5)
data = fetcher.vcek(ProductLine.GENOA, bytes.fromhex(sys.argv[4]), parse_tcb(sys.argv[5]), roots=roots)
print(data.hex())
"""


def test_processes_that_miss_one_vcek_send_one_request(
    store: Store, kds: Kds, roots: Roots, tmp_path: Path
) -> None:
    (tmp_path / "chain.pem").write_bytes(testing.chain().chain_pem)
    arguments = [str(store.path), kds.url, str(tmp_path / "chain.pem"), HWID.hex(), layout.tcb_text(CHIP.tcb)]
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(kds.requests) == 1


def test_requests_of_one_store_are_ten_seconds_apart(
    fetcher: KdsFetcher, time: FakeTime, roots: Roots
) -> None:
    start = time.now()
    fetch(fetcher, roots)
    fetch(fetcher, roots, replace(CHIP.tcb, snp=1))
    fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert time.now() - start == pytest.approx(20.0, abs=0.01)


def test_service_that_says_429_is_asked_again(
    fetcher: KdsFetcher, kds: Kds, time: FakeTime, roots: Roots
) -> None:
    kds.fail(Fault(status=429), Fault(status=429))
    fetch(fetcher, roots)
    assert len(kds.requests) == 3
    assert sum(time.waits) == pytest.approx(30.0, abs=0.01)


def test_stand_in_gives_a_client_that_comes_too_often_429(store: Store, time: FakeTime, roots: Roots) -> None:
    with running_kds(per_client=3600.0) as kds:
        fetcher = KdsFetcher(store, kds.url, clock=time.clock)
        fetch(fetcher, roots)
        with pytest.raises(CollateralUnavailableError, match="is busy"):
            fetch(fetcher, roots, replace(CHIP.tcb, snp=1))
        fetcher.close()


def test_ask_that_is_not_pinned_is_fetched_and_kept(fetcher: KdsFetcher, store: Store, kds: Kds) -> None:
    roots = testing.development_roots()
    data = fetch(fetcher, roots)
    assert kds.paths == [vcek_path(GENOA, HWID, CHIP.tcb), CHAIN]
    ask = store.read(layout.ca_name(roots, GENOA, "ASK", testing.chain().ask.der))
    assert ask == testing.chain().ask.der
    assert verify_vek(data, roots=roots, at=testing.NOW, intermediates=[ask]).vek.hwid == HWID
    fetch(fetcher, roots, replace(CHIP.tcb, snp=1))
    assert kds.paths[2:] == [vcek_path(GENOA, HWID, replace(CHIP.tcb, snp=1))]


def test_turins_chain_has_other_line_ends_and_is_read(store: Store, time: FakeTime) -> None:
    chip = testing.chip(ProductLine.TURIN)
    roots = testing.development_roots(ProductLine.TURIN)
    with running_kds(chip) as kds:
        assert b"\r\n" in kds.chain()
        fetcher = KdsFetcher(store, kds.url, clock=time.clock)
        assert fetcher.chain(ProductLine.TURIN, VekKind.VCEK, roots=roots) == chip.root.ask.der
        fetcher.close()


def test_asvk_is_fetched(store: Store, time: FakeTime) -> None:
    chip = testing.chip(kind="VLEK")
    roots = testing.development_roots(vlek=True)
    with running_kds(chip) as kds:
        fetcher = KdsFetcher(store, kds.url, clock=time.clock)
        asvk = fetcher.chain(GENOA, VekKind.VLEK, roots=roots)
        fetcher.close()
    assert chip.root.asvk is not None
    assert asvk == chip.root.asvk.der


# --- VCEK: what is refused and never kept ---


def refused(fetcher: KdsFetcher, store: Store, roots: Roots) -> Error:
    with pytest.raises(Error) as caught:
        fetch(fetcher, roots)
    assert store.names() == []
    return caught.value


def test_vcek_of_another_chip_is_refused(fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots) -> None:
    kds.fail(Fault(body=testing.vek(chip_id=b"\7" * 64)))
    assert isinstance(refused(fetcher, store, roots), BindingError)


def test_vcek_of_another_tcb_is_refused(fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots) -> None:
    kds.fail(Fault(body=testing.vek(tcb=replace(CHIP.tcb, microcode=1))))
    assert refused(fetcher, store, roots).check == "snp.binding.tcb"


def test_vcek_that_the_root_itself_signed_is_refused(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots
) -> None:
    # The ARK signed it, which signs no chips.
    kds.fail(Fault(body=testing.vek(issuer=testing.chain().ark)))
    assert isinstance(refused(fetcher, store, roots), ChainError)


def test_vlek_in_place_of_a_vcek_is_refused(fetcher: KdsFetcher, store: Store, kds: Kds) -> None:
    chain = testing.chain(vlek=True)
    assert chain.asvk is not None
    kds.fail(Fault(body=testing.vek(kind="VLEK")))
    roots = Roots.development(chain.chain_pem + chain.asvk.pem)
    assert refused(fetcher, store, roots).check == "snp.vek.kind"


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x30\x80", bytes(4000)])
def test_answer_that_is_no_certificate_is_refused(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots, body: bytes
) -> None:
    kds.fail(Fault(body=body))
    assert isinstance(refused(fetcher, store, roots), FormatError)


def test_flipped_bit_is_refused(fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots) -> None:
    kds.fail(Fault(alter=lambda body: body[:-1] + bytes((body[-1] ^ 1,))))
    with pytest.raises(SignatureError):
        fetch(fetcher, roots)
    # The line's chain was fetched, in case AMD has a new one; it is genuine and kept, the VCEK is not.
    assert kds.paths[1:] == [CHAIN]
    assert not any("/vcek/" in name for name in store.names())


def test_bad_signatures_fetch_the_chain_once_in_a_while(fetcher: KdsFetcher, kds: Kds, roots: Roots) -> None:
    for _ in range(3):
        kds.fail(Fault(alter=lambda body: body[:-1] + bytes((body[-1] ^ 1,))))
        with pytest.raises(SignatureError):
            fetch(fetcher, roots)
    assert kds.paths.count(CHAIN) == 1


@pytest.mark.parametrize("status", [204, 301, 403, 500])
def test_other_status_is_a_network_error(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots, status: int
) -> None:
    kds.fail(Fault(status=status))
    assert isinstance(refused(fetcher, store, roots), NetworkError)


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(cut=True)], ids=["no answer", "half an answer"])
def test_broken_answer_is_a_network_error(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots, fault: Fault
) -> None:
    kds.fail(fault)
    assert isinstance(refused(fetcher, store, roots), NetworkError)
    assert fetch(fetcher, roots)


def test_chip_that_the_service_does_not_know_is_said_and_not_asked_for_again_for_a_while(
    fetcher: KdsFetcher, kds: Kds, time: FakeTime, roots: Roots
) -> None:
    for _ in range(3):
        with pytest.raises(CollateralUnavailableError, match="knows no VCEK") as caught:
            fetch(fetcher, roots, hwid=b"\7" * 64)
    assert caught.value.check == "snp.vek.present"
    assert len(kds.requests) == 1
    time.forward(minutes=11)
    kds.chips[b"\7" * 64] = CHIP.key.public_key()
    assert fetch(fetcher, roots, hwid=b"\7" * 64)


def test_masked_chip_is_said_without_a_request(fetcher: KdsFetcher, kds: Kds, roots: Roots) -> None:
    with pytest.raises(CollateralUnavailableError, match="masks CHIP_ID") as caught:
        fetch(fetcher, roots, hwid=bytes(64))
    assert "MASK_CHIP_ID" in caught.value.advice
    assert kds.requests == []


def test_chain_with_another_root_is_refused(fetcher: KdsFetcher, store: Store, kds: Kds) -> None:
    other = testing.chain(names=testing.AMD_LIKE_NAMES)
    kds.fail(Fault(body=other.chain_pem))
    with pytest.raises(ChainError, match="not the pinned root"):
        fetcher.chain(GENOA, VekKind.VCEK, roots=testing.development_roots())
    assert store.names() == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_chain_of_another_length_is_refused(fetcher: KdsFetcher, kds: Kds, count: int) -> None:
    chain = testing.chain()
    kds.fail(Fault(body=b"".join((chain.ask.pem, chain.ark.pem, chain.ark.pem)[:count])))
    with pytest.raises(FormatError):
        fetcher.chain(GENOA, VekKind.VCEK, roots=testing.development_roots())


# --- a store that is damaged, full or read-only ---


def test_damaged_vcek_is_noticed_and_fetched_again(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots, notes: list[str]
) -> None:
    data = fetch(fetcher, roots)
    name = layout.vcek_name(roots, GENOA, HWID, CHIP.tcb)
    (store.path / name).write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    again = fetch(fetcher, roots)
    assert verify_vek(again, roots=roots, at=testing.NOW).vek.hwid == HWID
    assert store.read(name) == again
    assert len(kds.requests) == 2
    assert "is damaged and fetched again" in notes[0]


def test_expired_vcek_is_fetched_again(fetcher: KdsFetcher, kds: Kds, time: FakeTime, roots: Roots) -> None:
    old = fetch(fetcher, roots)
    time.forward(days=8 * 365)
    kds.issued = time.datetime
    assert fetch(fetcher, roots) != old


def test_vcek_that_cannot_be_kept_is_given_all_the_same(
    store: Store, time: FakeTime, kds: Kds, roots: Roots, notes: list[str]
) -> None:
    store.path.write_bytes(b"a file where the folder should be")
    fetcher = KdsFetcher(store, kds.url, clock=time.clock, note=notes.append)
    assert verify_vek(fetch(fetcher, roots), roots=roots, at=testing.NOW).vek.hwid == HWID
    assert "Fetched and not kept" in notes[0]
    fetcher.close()


# --- revocation lists ---


def test_revocation_list_is_verified_and_kept_until_the_next_is_due(
    fetcher: KdsFetcher, store: Store, kds: Kds, time: FakeTime, roots: Roots
) -> None:
    name = layout.crl_name(roots, GENOA, VekKind.VCEK)
    data = fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert store.read(name) == data
    time.forward(days=40)
    assert fetcher.crl(GENOA, VekKind.VCEK, roots=roots) == data
    assert len(kds.requests) == 1
    time.forward(days=6)
    kds.crl_at = time.datetime
    newer = fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert newer != data
    assert store.read(name) == newer


def test_refreshed_list_that_did_not_change_is_confirmed_without_its_content(
    fetcher: KdsFetcher, store: Store, kds: Kds, time: FakeTime, roots: Roots
) -> None:
    info = layout.crl_name(roots, GENOA, VekKind.VCEK).replace(".der", ".json")
    data = fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    before = store.fetched(info)
    time.forward(days=1)
    assert fetcher.crl(GENOA, VekKind.VCEK, roots=roots, force=True) == data
    after = store.fetched(info)
    assert before is not None
    assert after is not None
    assert kds.requests[1].headers["if-none-match"] == before.etag == after.etag
    assert (after.at - before.at).days == 1


def test_stale_list_is_asked_for_whole(fetcher: KdsFetcher, kds: Kds, time: FakeTime, roots: Roots) -> None:
    fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    time.forward(days=50)
    kds.crl_at = time.datetime
    fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert "if-none-match" not in kds.requests[1].headers


def test_list_that_is_not_current_is_refused(
    fetcher: KdsFetcher, store: Store, kds: Kds, time: FakeTime, roots: Roots
) -> None:
    for at in (testing.later(days=-60), testing.later(days=1)):
        kds.crl_at = at
        with pytest.raises(CollateralUnavailableError, match="is not current"):
            fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert store.names() == []


def test_list_of_another_line_is_refused(fetcher: KdsFetcher, kds: Kds, roots: Roots) -> None:
    with running_kds(testing.chip(ProductLine.MILAN)) as other:
        kds.fail(Fault(body=other.crl()))
    with pytest.raises(BindingError, match="revocation list of"):
        fetcher.crl(GENOA, VekKind.VCEK, roots=roots)


def test_list_with_a_flipped_bit_is_refused(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots
) -> None:
    kds.fail(Fault(alter=lambda body: body[:-1] + bytes((body[-1] ^ 1,))))
    with pytest.raises(SignatureError):
        fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    assert store.names() == []


def test_older_list_does_not_replace_a_newer_one(
    fetcher: KdsFetcher, store: Store, kds: Kds, roots: Roots, notes: list[str]
) -> None:
    newer = fetcher.crl(GENOA, VekKind.VCEK, roots=roots)
    kds.crl_at = testing.later(days=-2)
    assert fetcher.crl(GENOA, VekKind.VCEK, roots=roots, force=True) == newer
    assert store.read(layout.crl_name(roots, GENOA, VekKind.VCEK)) == newer
    assert "older revocation list" in notes[-1]


# --- real chips ---


def test_real_vceks_are_kept_under_the_address_that_amd_serves_them_at(
    vectors: Path, store: Store, time: FakeTime
) -> None:
    real = {
        ProductLine.MILAN: "ms-tee/milan_vcek.der",
        ProductLine.GENOA: "ms-tee/genoa_vcek.der",
        ProductLine.TURIN: "oak/turin_oc_vcek.der",
    }
    with running_kds() as kds:
        fetcher = KdsFetcher(store, kds.url, clock=time.clock)
        for line, path in real.items():
            data = (vectors / "snp" / path).read_bytes()
            vek = Vek.from_der(data)
            assert vek.hwid is not None
            kds.fail(Fault(body=data))
            assert fetcher.vcek(line, vek.hwid, vek.tcb, roots=Roots.amd()) == data
        fetcher.close()
    assert [name.split("/")[1] for name in store.names()] == ["genoa", "milan", "turin"]
    assert store.names()[0].startswith("amd/")
    assert "?fmcSPL=" in kds.paths[2]
