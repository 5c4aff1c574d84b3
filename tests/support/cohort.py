# SPDX-License-Identifier: BSD-3-Clause
"""The files that the page on reading sealed files reads, made with the libraries that read them there."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pysam
import torch
import xarray
import zarr

from support.variants import vcf_text

# Without types of their own.
h5py: Any = import_module("h5py")
pandas: Any = import_module("pandas")
pa: Any = import_module("pyarrow")
pq: Any = import_module("pyarrow.parquet")

VISITS = 200_000
ROWS = 1_000_000


def make_cohort(folder: Path) -> Path:
    """Make the files in a folder and return it."""
    folder.mkdir(parents=True)
    _tables(folder)
    _arrays(folder)
    _variants(folder)
    return folder


def _tables(folder: Path) -> None:
    number = np.arange(VISITS)
    visits = pandas.DataFrame(
        {
            "patient": [f"P{n % 5000:05d}" for n in number],
            "sex": np.where(number % 2, "female", "male"),
            "age": 20 + number % 70,
            "systolic": 110.0 + number % 40,
        }
    )
    visits[:1000].to_csv(folder / "visits.csv", index=False)
    pq.write_table(pa.Table.from_pandas(visits, preserve_index=False), folder / "visits.parquet")
    signal = pa.array(np.sin(np.arange(ROWS) / 50).astype(np.float32))
    table = pa.table({"millivolt": signal})
    with pa.OSFile(str(folder / "signal.arrow"), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)


def _arrays(folder: Path) -> None:
    ecg = (np.arange(8 * 60_000, dtype=np.float32) % 1000).reshape(8, 60_000)
    np.save(folder / "ecg.npy", ecg)
    with h5py.File(folder / "ecg.h5", "w") as out:
        out.create_dataset("leads", data=ecg, chunks=(1, 10_000), compression="gzip")
    scan: Any = zarr.create_array(
        str(folder / "scan.zarr"), shape=(64, 128, 128), chunks=(8, 64, 64), dtype="int16"
    )
    scan[:] = np.broadcast_to(np.arange(64, dtype=np.int16)[:, None, None], scan.shape)
    xarray.Dataset(
        {"heart_rate": (("patient", "hour"), (60.0 + np.arange(50 * 24) % 24).reshape(50, 24))},
        coords={"patient": np.arange(50), "hour": np.arange(24)},
    ).to_zarr(folder / "monitor.zarr", consolidated=False)
    stream = io.BytesIO()
    torch.save({"weight": torch.ones(4, 8), "bias": torch.zeros(4)}, stream)
    (folder / "model.pt").write_bytes(stream.getvalue())


def _variants(folder: Path) -> None:
    plain = folder / "calls.vcf"
    plain.write_text(vcf_text())
    pysam.tabix_compress(str(plain), str(folder / "calls.vcf.gz"), force=True)
    pysam.tabix_index(str(folder / "calls.vcf.gz"), preset="vcf", force=True)
    plain.unlink()
