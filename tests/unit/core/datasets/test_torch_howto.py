# SPDX-License-Identifier: BSD-3-Clause
"""The page on training runs from top to bottom, and says what comes out."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")

from support.torch_data import FORK, npy, seal_files, serving, tar  # noqa: E402

PAGE = Path(__file__).resolve().parents[4] / "docs" / "howto" / "train-on-sealed-data.md"

pytestmark = FORK


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def png(pixels: Any) -> bytes:
    out = io.BytesIO()
    image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def files() -> dict[str, bytes]:
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 2, 600)
    # One class is brighter than the other.
    pixels = (
        draw.integers(0, 128, (600, 28, 28)).astype(np.uint8) + (labels * 100).astype(np.uint8)[:, None, None]
    )
    found = {"train_images.npy": npy(pixels), "train_labels.npy": npy(labels)}
    for number in range(20):
        found[f"folders/{['normal', 'pneumonia'][labels[number]]}/{number}.png"] = png(pixels[number])
    for shard in range(4):
        members = {}
        for number in range(shard * 50, shard * 50 + 50):
            members[f"{number:04}.bin"] = pixels[number].tobytes()
            members[f"{number:04}.cls"] = str(labels[number]).encode()
        found[f"shards/train-{shard}.tar"] = tar(members)
    return found


def test_the_page_on_training_runs_from_top_to_bottom(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = blocks("python")
    assert len(typed) == 8
    names: dict[str, Any] = {"__name__": "page"}
    with serving(seal_files(tmp_path, files(), "chest-xray"), run, monkeypatch):
        for block in typed:
            exec(compile(block, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "(600, 28, 28) uint8" in printed
    assert "torch.Size([28, 28]) torch.Size([8, 28, 28]) torch.uint8" in printed
    assert names["losses"][-1] < names["losses"][0] / 2
    assert names["folder"].classes == ["normal", "pneumonia"]
    assert "torch.Size([8, 28, 28])" in printed
    assert "400 samples" in printed
    assert names["left"] == 600 - 5 * 32
    assert blocks("text")[0] in printed
