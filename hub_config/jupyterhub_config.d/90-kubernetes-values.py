# SPDX-License-Identifier: BSD-3-Clause
"""What an operator of a hub on Kubernetes sets by class and trait, or in Python: it wins over other files.

Does nothing without SEALROOM_HUB_VALUES; see 20-kubernetes.py.
"""

import json
import os
import tomllib
from pathlib import Path


def read_file(folder: Path, name: str) -> str:
    """Return the text of a secret's file, without the newline at its end."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise ValueError(f"{name} is not a file of {folder}")
    return (folder / name).read_text(encoding="utf-8").strip()


def with_files(value: object, folder: Path) -> object:
    """Put the content of files in the place of `{"from_file": "<secret>/<key>"}`."""
    if isinstance(value, dict) and set(value) == {"from_file"}:
        return read_file(folder, value["from_file"])
    if isinstance(value, dict):
        return {key: with_files(item, folder) for key, item in value.items()}
    return [with_files(item, folder) for item in value] if isinstance(value, list) else value


if os.environ.get("SEALROOM_HUB_VALUES"):
    c = get_config()
    path = Path(os.environ["SEALROOM_HUB_VALUES"])
    text = path.read_text(encoding="utf-8")
    values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    files = Path(values.get("secret_files_dir") or "/nonexistent")
    for name, traits in values.get("config", {}).items():
        for trait, value in traits.items():
            c[name][trait] = with_files(value, files)
    extra = values.get("extra_config_dir")
    for file in sorted(Path(extra).glob("*.py")) if extra else ():
        load_subconfig(str(file))
