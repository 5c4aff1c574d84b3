# SPDX-License-Identifier: BSD-3-Clause
"""pysam on sealed files: regions by the tabix index, and whole files in memory."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pysam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealroom.datasets import genomics
from sealroom.datasets.genomics import IndexedVariants, TabixIndex, in_memory
from sealroom.errors import AccessDeniedError, Error, FormatError, StorageError
from support.sealed import Backend, Sealed
from support.sealed_tree import seal_tree, served
from support.variants import vcf_text

PATH = "calls/some/calls.vcf.gz"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same files, not sealed."""
    folder = tmp_path_factory.mktemp("variants") / "plain"
    (folder / "some").mkdir(parents=True)
    text = folder / "calls.vcf"
    text.write_text(vcf_text(100_000))
    packed = folder / "some" / "calls.vcf.gz"
    pysam.tabix_compress(str(text), str(packed))
    pysam.tabix_index(str(packed), preset="vcf")
    # As small as one that was cut, and one whose header alone takes many blocks.
    few, long = folder / "few.vcf", folder / "long.vcf"
    few.write_text(vcf_text(10))
    filters = "".join(f'##FILTER=<ID=F{os.urandom(20).hex()},Description="f">\n' for _ in range(30_000))
    head, line = vcf_text(1).splitlines(keepends=True)[:-2], vcf_text(1).splitlines(keepends=True)[-2]
    long.write_text(head[0] + filters + "".join(head[1:]) + line)
    for one in (few, long):
        pysam.tabix_index(str(one), preset="vcf")
    with pysam.AlignmentFile(
        str(folder / "reads.bam"), "wb", reference_names=["chr1"], reference_lengths=[100_000]
    ) as reads:
        for number in range(200):
            read = pysam.AlignedSegment(reads.header)
            read.query_name, read.query_sequence = f"r{number}", "ACGT" * 10
            read.reference_id, read.reference_start, read.cigarstring = 0, 100 * number, "40M"
            reads.write(read)
    pysam.index(str(folder / "reads.bam"))
    (folder / "zipped.vcf.gz").write_bytes(gzip.compress(text.read_bytes()))
    text.unlink()
    return folder


@pytest.fixture(scope="module")
def sealed(plain: Path) -> Sealed:
    return seal_tree(plain, plain.parent / "sealed", "calls")


@pytest.fixture(scope="module")
def backend(sealed: Sealed) -> Iterator[Backend]:
    with served(sealed) as (backend, run), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEALROOM_RUN", str(run))
        yield backend


@pytest.fixture
def variants(backend: Backend) -> Iterator[IndexedVariants]:
    with IndexedVariants(PATH) as opened:
        yield opened


@pytest.fixture(scope="module")
def theirs(plain: Path) -> Iterator[pysam.VariantFile]:
    with pysam.VariantFile(str(plain / "some" / "calls.vcf.gz")) as opened:
        yield opened


@given(
    contig=st.sampled_from(["chr1", "chr2"]), start=st.integers(0, 5_300_000), length=st.integers(1, 200_000)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_region_is_what_pysam_finds_in_the_plain_file(
    variants: IndexedVariants, theirs: pysam.VariantFile, contig: str, start: int, length: int
) -> None:
    ours = [str(record) for record in variants.fetch(contig, start, start + length)]
    assert ours == [str(record) for record in theirs.fetch(contig, start, start + length)]


def test_small_region_reads_little_of_the_file(
    variants: IndexedVariants, backend: Backend, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    before = type(variants._file.client).read_ranges

    def counted(client: object, dataset: str, ranges: list[tuple[str, int, int]]) -> object:
        asked.extend(length for _, _, length in ranges)
        return before(variants._file.client, dataset, ranges)

    monkeypatch.setattr(type(variants._file.client), "read_ranges", counted)
    assert len(list(variants.fetch("chr1", 200, 400))) == 4
    assert 0 < sum(asked) < (plain / "some" / "calls.vcf.gz").stat().st_size / 5


def test_header_and_sequences_are_those_of_the_file(
    variants: IndexedVariants, theirs: pysam.VariantFile
) -> None:
    assert variants.contigs == ("chr1", "chr2")
    record = next(variants.fetch("chr1", 0, 100))
    assert str(record.header) == str(theirs.header)
    assert record.samples["P00001"]["GT"] == (0, 1)
    assert list(variants.fetch("chr1", 5, 5)) == []
    assert list(variants.fetch("chr1", 1 << 28, 1 << 30)) == []


def test_sequence_that_is_not_there_is_refused(variants: IndexedVariants) -> None:
    with pytest.raises(StorageError, match="no sequence 'chrX'") as caught:
        list(variants.fetch("chrX", 0, 10))
    assert "chr1, chr2" in caught.value.advice


def test_whole_file_in_memory_is_searched_by_pysam(backend: Backend, theirs: pysam.VariantFile) -> None:
    with (
        in_memory(PATH) as data,
        in_memory(f"{PATH}.tbi") as index,
        pysam.VariantFile(data.name, index_filename=index.name) as opened,
    ):
        ours = [str(record) for record in opened.fetch("chr2", 700_000, 710_000)]
    assert ours == [str(record) for record in theirs.fetch("chr2", 700_000, 710_000)]
    assert len(ours) > 200


def test_alignments_in_memory_are_searched_by_pysam(backend: Backend, plain: Path) -> None:
    with (
        in_memory("calls/reads.bam") as data,
        in_memory("calls/reads.bam.bai") as index,
        pysam.AlignmentFile(data.name, index_filename=index.name) as opened,
    ):
        assert [read.query_name for read in opened.fetch("chr1", 5000, 5100)] == ["r50"]
        assert opened.count() == 200


def test_memory_is_whole_unchangeable_and_goes(backend: Backend, plain: Path) -> None:
    with in_memory(PATH) as memory:
        name = Path(memory.name)
        assert name.read_bytes() == (plain / "some" / "calls.vcf.gz").read_bytes()
        assert os.fspath(memory) == memory.name
        with pytest.raises(PermissionError):
            os.pwrite(memory.fileno(), b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fileno(), 0)
    with pytest.raises(ValueError, match="closed"):
        memory.fileno()


def test_file_larger_than_free_memory_is_refused(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genomics, "_free_memory", lambda: 1000)
    with pytest.raises(StorageError, match="1000 bytes of memory are free"):
        in_memory(PATH)


def test_limit_of_the_container_counts_as_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert genomics._free_memory() > 1 << 20
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    monkeypatch.setattr(genomics, "_CGROUP", tmp_path)
    assert genomics._free_memory() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert genomics._free_memory() > 1 << 20


def test_withdrawal_ends_reading_regions(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(sealed) as (backend, run):
        monkeypatch.setenv("SEALROOM_RUN", str(run))
        with IndexedVariants(PATH) as opened:
            backend.vault.drop("calls", "The owner withdrew your access.")
            with pytest.raises(AccessDeniedError, match="withdrew"):
                list(opened.fetch("chr1", 0, 10))


def test_file_compressed_with_plain_gzip_is_refused(backend: Backend) -> None:
    with pytest.raises(FormatError, match="not compressed with bgzip"):
        IndexedVariants("calls/zipped.vcf.gz", f"{PATH}.tbi")


def test_file_that_is_not_the_indexed_one_is_refused(backend: Backend) -> None:
    with (
        IndexedVariants("calls/few.vcf.gz", f"{PATH}.tbi") as opened,
        pytest.raises(FormatError, match="not the one that was indexed"),
    ):
        list(opened.fetch("chr2", 2_000_000, 2_000_100))


def test_variants_with_a_long_header_are_read(backend: Backend) -> None:
    with IndexedVariants("calls/long.vcf.gz") as opened:
        (record,) = opened.fetch("chr1", 0, 100)
        assert len(record.header.filters) == 30_001
        assert list(opened.fetch("chr1", 100, 200)) == []


def test_file_that_is_no_index_is_refused(backend: Backend) -> None:
    with pytest.raises(FormatError, match="not a tabix index"):
        IndexedVariants(PATH, PATH)


@pytest.fixture(scope="module")
def index(plain: Path) -> bytes:
    return gzip.decompress((plain / "some" / "calls.vcf.gz.tbi").read_bytes())


def test_index_of_another_kind_of_file_is_refused(index: bytes) -> None:
    with pytest.raises(FormatError, match="not one of a VCF"):
        TabixIndex.from_bytes(index[:8] + struct.pack("<i", 1) + index[12:])


def test_index_that_is_cut_is_refused_wherever_it_is_cut(index: bytes) -> None:
    # The last eight bytes count what lies nowhere, and may be missing.
    for end in range(0, len(index) - 9, 97):
        with pytest.raises(FormatError):
            TabixIndex.from_bytes(index[:end])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_index_raises_anything_but_our_errors(data: st.DataObject) -> None:
    numbers = st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-3, 3)
    words = [2, *data.draw(st.lists(numbers, min_size=8, max_size=24))]
    packed = b"TBI\x01" + struct.pack("<i", words[1]) + struct.pack(f"<{len(words)}i", *words)
    try:
        index = TabixIndex.from_bytes(packed)
    except Error:
        return
    for name in index.sequences:
        index.chunks(name, 0, 1 << 29)
