# SPDX-License-Identifier: BSD-3-Clause
"""The image that tests of the chart use for hub, proxy and broker alike."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.cluster.images import (
    HUB,
    NOTEBOOK,
    OURS,
    Image,
    _layer,
    _of_python,
    _own,
    _packages,
    _proxy,
    _python,
    _write,
)


def chart_image(config: Path) -> Image:
    """Make the image.

    Args:
        config: The folder `hub_config`.
    """
    stamp = sorted((path.name, path.read_bytes()) for path in config.rglob("*") if path.is_file())

    def fill(root: Path) -> None:
        shutil.copytree(
            config,
            root / "opt/sealroom/hub_config",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        (root / "usr/bin").mkdir(parents=True)
        shutil.copyfile("/usr/bin/env", root / "usr/bin/env")
        (root / "usr/bin/env").chmod(0o755)

    layers = [
        _python(),
        _packages(NOTEBOOK),
        _packages(HUB, without=NOTEBOOK),
        *_proxy(),
        _own("hub", tuple(OURS)),
        _layer("hub-config", repr(stamp), fill),
    ]
    return _write("sealroom/chart", layers, _of_python("jupyterhub"))
