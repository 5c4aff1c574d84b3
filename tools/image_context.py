# SPDX-License-Identifier: BSD-3-Clause
"""Put together what an image is built from, in a folder of its own: nothing else of this tree gets into it.

python tools/image_context.py hub DIRECTORY
buildah bud --build-arg BASE=NAME@sha256:DIGEST --tag sealroom/hub DIRECTORY

The folder gets the Dockerfile, the pinned requirements, the bill of materials, wheels of our distributions
(`uv build`, with hatchling from the registry), and the files that `images.toml` names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from images_reference import IMAGES, ROOT, images, uv


def assemble(name: str, target: Path) -> None:
    """Make the folder.

    Raises:
        FileExistsError: It is there already.
        subprocess.CalledProcessError: A wheel cannot be built.
    """
    image = images()[name]
    target.mkdir(parents=True)
    for path in sorted((IMAGES / name).iterdir()):
        if path.name != "README.md":
            shutil.copyfile(path, target / path.name)
    for file in image.get("files", ()):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / file, target / file, ignore=ignored)
    # Times in the wheels are those of the last commit at most, never of the build.
    env = {**os.environ, "SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", "315532800")}
    for distribution in image["distributions"]:
        command = [uv(), "build", "--quiet", "--wheel", "--package", distribution]
        subprocess.run([*command, "--out-dir", target / "wheels"], cwd=ROOT, env=env, check=True)
    for extra in (target / "wheels").glob(".*"):
        extra.unlink()


def main() -> int:
    """Make a folder."""
    parser = argparse.ArgumentParser(description="Put together what an image is built from.")
    parser.add_argument("image", choices=sorted(images()))
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    assemble(arguments.image, arguments.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
