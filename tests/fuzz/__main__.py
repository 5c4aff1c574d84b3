# SPDX-License-Identifier: BSD-3-Clause
"""`python -m fuzz run NAME… --runs N`: fuzz one target, some, or all.

With atheris, the modules of `sealroom` are instrumented, so that inputs that reach new code are kept and
changed further. Without it (it exists for Linux on x86-64 and Python before 3.14), the same targets get
inputs from a mutator. Each target runs in a process of its own, made after the imports.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fuzz.engine import FOUND, Target, fuzz


def main(arguments: list[str]) -> int:
    """Run what the command line asks for.

    Returns:
        0, or 77 if something was found, or 1 if a run ended by itself.
    """
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="say which targets there are").add_argument(
        "--targets", default="fuzz.targets"
    )
    run = commands.add_parser("run", help="fuzz some targets")
    run.add_argument("names", nargs="+", metavar="NAME", help="a target, or `all`")
    run.add_argument("--runs", type=int, default=10_000, help="inputs for each target")
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--jobs", type=int, default=1, help="targets at a time")
    run.add_argument("--engine", choices=["auto", "atheris", "mutator"], default="auto")
    run.add_argument("--targets", default="fuzz.targets", help="module with the targets")
    run.add_argument("--place", type=Path, help="where inputs of what is found are kept")
    options = parser.parse_args(arguments)
    if options.command == "list":
        print("\n".join(_targets(options.targets)))
        return 0
    engine = _engine(options.engine)
    targets = _instrumented(options.targets) if engine == "atheris" else _targets(options.targets)
    names = list(targets) if options.names == ["all"] else options.names
    unknown = [name for name in names if name not in targets]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    place = options.place or Path(tempfile.mkdtemp(prefix="sealroom-fuzz-"))
    status = _run_all({name: targets[name] for name in names}, options, engine, place)
    if status == 0 and not options.place:
        shutil.rmtree(place)
    return status


def _engine(asked: str) -> str:
    if asked != "auto":
        return str(asked)
    return "atheris" if importlib.util.find_spec("atheris") else "mutator"


def _targets(module: str) -> Mapping[str, Target]:
    found: Mapping[str, Target] = importlib.import_module(module).TARGETS
    return found


def _instrumented(module: str) -> Mapping[str, Target]:
    import atheris  # type: ignore[import-untyped, unused-ignore]

    with atheris.instrument_imports(include=["sealroom", module], enable_loader_override=False):
        return _targets(module)


def _run_all(targets: Mapping[str, Target], options: argparse.Namespace, engine: str, place: Path) -> int:
    waiting, running = list(targets), dict[int, str]()
    worst = 0
    for target in targets.values():
        target.seeds()  # Made once, before the processes part: keys for signing take seconds.
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            running[_start(name, targets[name], options, engine, place)] = name
        pid, status = os.wait()
        name = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        shutil.rmtree(place / f"{name}.atheris", ignore_errors=True)
        figures = place / f"{name}.json"
        if code == 0 and figures.is_file():
            print(json.dumps(json.loads(figures.read_text())), flush=True)
        else:
            print(json.dumps({"target": name, "engine": engine, "exit": code}), flush=True)
            worst = FOUND if code == FOUND or worst == FOUND else 1
    return worst


def _start(name: str, target: Target, options: argparse.Namespace, engine: str, place: Path) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        fuzz(name, target, runs=options.runs, seed=options.seed, engine=engine, place=place)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
