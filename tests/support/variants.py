# SPDX-License-Identifier: BSD-3-Clause
"""A made-up VCF of any length."""

from __future__ import annotations


def vcf_text(per_contig: int = 20_000) -> str:
    """Return a VCF with a variant every 50 bases of two sequences, and some long deletions."""
    lines = [
        "##fileformat=VCFv4.2",
        "##contig=<ID=chr1,length=248956422>",
        "##contig=<ID=chr2,length=242193529>",
        '##INFO=<ID=DP,Number=1,Type=Integer,Description="Depth">',
        '##INFO=<ID=END,Number=1,Type=Integer,Description="End">',
        '##ALT=<ID=DEL,Description="Deletion">',
        '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">',
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tP00001",
    ]
    for contig in ("chr1", "chr2"):
        for number in range(per_contig):
            start = 1 + 50 * number
            if number % 1000 == 7:
                change, info = "G\t<DEL>", f"DP=30;END={start + 100_000}"
            elif number % 10 == 3:
                change, info = "ACGT\tA", f"DP={number % 60}"
            else:
                change, info = "C\tT", f"DP={number % 60}"
            lines.append(f"{contig}\t{start}\t.\t{change}\t50\tPASS\t{info}\tGT\t0/1")
    return "\n".join(lines) + "\n"
