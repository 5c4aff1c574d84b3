# SPDX-License-Identifier: BSD-3-Clause
# mypy: disable-error-code="import-not-found,misc"
# (hatchling is there in the build environment only)
"""Puts the built lab extension into the wheel, and builds it with Node first where that has not been done.

- A wheel and an sdist hold the built extension: installing either needs no Node.
- An editable install leaves the lab extension alone, so that it needs no Node either; link it with
  `jupyter labextension develop`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHARE = "share/jupyter/labextensions"


class LabExtensionHook(BuildHookInterface[Any]):
    """Build the lab extension if it is not built, and add it to the wheel's shared data."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Prepare one target; hatchling calls this before it collects files."""
        if version == "editable":
            return
        root = Path(self.root)
        product = root / "sealroom_jupyter" / "labextension"
        if not (product / "package.json").is_file():
            _build(root)
        if self.target_name == "wheel":
            name = json.loads((root / "package.json").read_text(encoding="utf-8"))["name"]
            build_data["shared_data"][str(product)] = f"{SHARE}/{name}"
            build_data["shared_data"][str(root / "install.json")] = f"{SHARE}/{name}/install.json"


def _build(root: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            "The lab extension is not built yet, and building it needs Node with npm. "
            "Install Node 20.19 or newer, or install sealroom-jupyter from a wheel."
        )
    for arguments in (["ci", "--ignore-scripts"], ["run", "build:prod"]):
        try:
            subprocess.run([npm, *arguments], cwd=root, check=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(
                f"Building the lab extension failed in `npm {' '.join(arguments)}`."
            ) from error
