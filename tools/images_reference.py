# SPDX-License-Identifier: BSD-3-Clause
"""Write what the images install, with hashes, from the one lock, and a bill of materials of each.

python tools/images_reference.py            write images/*/requirements*.txt and images/*/sbom*.cdx.json
python tools/images_reference.py --check    fail if one of them is not what would be written

`uv export` reads the lock; nothing is downloaded. It writes CycloneDX too, but with a new serial number and
the time at each run, and for one distribution: a file that is compared with what would be written cannot be
that.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "images"
LINUX = {
    "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
    "implementation_name": "cpython", "platform_python_implementation": "CPython",
}  # fmt: skip
MACHINES = ("x86_64", "aarch64")
PYTHONS = [{"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"} for minor in range(11, 15)]
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One package in one version."""

    name: str
    version: str
    hashes: frozenset[str]
    """SHA-256 of each file that it may be installed from."""
    markers: frozenset[str]
    """It is needed where one of these holds; everywhere if none is given."""

    def joined(self, other: Pin) -> Pin:
        """Return what both need."""
        always = not self.markers or not other.markers
        markers = frozenset() if always else self.markers | other.markers
        return Pin(self.name, self.version, self.hashes | other.hashes, markers)

    def text(self) -> str:
        """Return its lines in a requirements file."""
        words = sorted(self.markers)
        marker = words[0] if len(words) == 1 else " or ".join(f"({word})" for word in words)
        head = f"{self.name}=={self.version}" + (f" ; {marker}" if words else "")
        return " \\\n    ".join([head, *(f"--hash=sha256:{one}" for one in sorted(self.hashes))]) + "\n"


def images() -> dict[str, Any]:
    """Return what images/images.toml says."""
    return tomllib.loads((IMAGES / "images.toml").read_text(encoding="utf-8"))


def exports(image: Mapping[str, Any]) -> dict[str, Sequence[Sequence[str]]]:
    """Return the exports of each variant of an image, by the end of its files' names."""
    if "variants" not in image:
        return {"": image["exports"]}
    return {f"-{name}": variant["exports"] for name, variant in image["variants"].items()}


def pins(every: Iterable[Sequence[str]]) -> list[Pin]:
    """Return what several exports need together, by name."""
    found: dict[tuple[str, str], Pin] = {}
    for words in every:
        for pin in parse(_export(words)):
            key = (pin.name, pin.version)
            found[key] = found[key].joined(pin) if key in found else pin
    return [found[key] for key in sorted(found)]


def parse(text: str) -> list[Pin]:
    """Return the packages of a requirements file with hashes.

    Raises:
        ValueError: There is a line without a pin, or a pin without a hash.
    """
    found = []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        match = _PIN.fullmatch(entry.splitlines()[0].rstrip(" \\"))
        hashes = frozenset(_HASH.findall(entry))
        if match is None or not hashes:
            raise ValueError(f"not a pin with hashes: {entry.splitlines()[0]}")
        marker = frozenset({match["marker"].strip()}) if match["marker"] else frozenset()
        found.append(Pin(match["name"].lower(), match["version"], hashes, marker))
    return found


def on_linux(pin: Pin) -> bool:
    """Tell whether a package is for Linux at all, in one of the Pythons that are supported."""
    return not pin.markers or any(
        Marker(marker).evaluate({**LINUX, "platform_machine": machine, **python})
        for marker in pin.markers
        for machine in MACHINES
        for python in PYTHONS
    )


def sbom(image: str, distributions: Sequence[str], found: Sequence[Pin]) -> dict[str, Any]:
    """Return a bill of materials (CycloneDX 1.5): the Python packages, not those of the base image."""
    own = [
        {"type": "library", "bom-ref": name, "name": name, "version": _own_version(name),
         "purl": f"pkg:pypi/{name}@{_own_version(name)}", "licenses": [{"license": {"id": "BSD-3-Clause"}}]}
        for name in distributions
    ]  # fmt: skip
    foreign = [
        {"type": "library", "bom-ref": f"{pin.name}@{pin.version}", "name": pin.name, "version": pin.version,
         "purl": f"pkg:pypi/{pin.name}@{pin.version}"}
        for pin in found
    ]  # fmt: skip
    components = own + foreign
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": "image", "name": f"sealroom/{image}"},
            "tools": [{"name": "tools/images_reference.py"}],
        },
        "components": components,
    }


def render() -> dict[Path, str]:
    """Return every file's content."""
    made: dict[Path, str] = {}
    for name, image in images().items():
        for end, words in exports(image).items():
            found = [pin for pin in pins(words) if on_linux(pin)]
            head = "# Written by tools/images_reference.py from uv.lock. Do not edit.\n"
            made[IMAGES / name / f"requirements{end}.txt"] = head + "".join(pin.text() for pin in found)
            bill = sbom(f"{name}{end}", image["distributions"], found)
            made[IMAGES / name / f"sbom{end}.cdx.json"] = _lines(bill)
    return made


def _lines(bill: Mapping[str, Any]) -> str:
    """Return the JSON with a line for each component, so that a change of one is a change of a line."""
    rest = {key: value for key, value in bill.items() if key != "components"}
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(component)}" for component in bill["components"])
    return f'{head},\n "components": [\n{lines}\n ]\n}}\n'


def uv() -> str:
    """Return the program: the one that the set-up installed, or one on the path."""
    own = ROOT / ".tools" / "uv" / "bin" / "uv"
    found = str(own) if own.is_file() else shutil.which("uv")
    if found is None:
        sys.exit("There is no uv: `make setup` installs it.")
    return found


def _export(words: Sequence[str]) -> str:
    base = ("--frozen", "--offline", "--no-dev", "--no-emit-workspace", "--no-header", "--no-annotate")
    chosen = [word for word in base if word != "--no-dev" or "--only-group" not in words]
    command = [uv(), "export", "--quiet", *chosen, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"uv export {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _own_version(name: str) -> str:
    folder = {"sealroom": "core", "sealroom-jupyter": "extensions/jupyter"}
    project = ROOT / folder.get(name, name.removeprefix("sealroom-")) / "pyproject.toml"
    version: str = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    return version


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description="Write what the images install.")
    parser.add_argument("--check", action="store_true", help="fail if a file is stale")
    arguments = parser.parse_args()
    for path, text in render().items():
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            name = path.relative_to(ROOT)
            print(f"{name} is stale: run python tools/images_reference.py", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
