# SPDX-License-Identifier: BSD-3-Clause
"""Feeds inputs to one target and stops at the first thing that must not happen.

What this is: the judgement of one input, and two sources of inputs: atheris (libFuzzer with Python coverage)
where it is installed, else a mutator with a fixed seed. What this is not: the targets (`fuzz.targets`).

Invariants:

- Only `sealroom.errors.Error` may leave a target. Anything else ends the run; input and traceback are kept.
- An error's message is one printable line: whatever the bytes, nothing of them reaches a terminal raw.
- A run says how many inputs it judged, and how many of them were accepted and refused.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

FOUND = 77
"""Exit status of a run that found something."""
DICTIONARY = (
    b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00" * 8,
    b"\xed\xa0\x80", b"\\ud800", b"\xc3\x28", b"\x1b[2J", b"\r\n", b"\n\n", b"1e999", b"-1", b"NaN",
    b"9" * 5000, b"[" * 3000, b"null", b"true", b'""', b"{}", b"[]",
)  # fmt: skip
"""Bytes that parsers stumble over: limits of numbers, broken UTF-8, terminal escapes, deep nesting."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser or verifier, and inputs to start from."""

    run: Callable[[bytes], object]
    """Called with each input; its result does not matter."""
    seeds: Callable[[], Sequence[bytes]]
    """Inputs to start from; the target accepts the first, or it would never get far."""
    longest: int = 8192
    """Longest input in bytes."""


@dataclass
class Figures:
    """What a run did."""

    target: str
    engine: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0


class FoundError(Exception):
    """A target let something escape that it must not."""


def judge(target: Target, data: bytes) -> bool:
    """Run a target on one input.

    Returns:
        True if it was accepted and False if it was refused.

    Raises:
        FoundError: Something else than our error escaped, or an error's message is not one printable line.
    """
    from sealroom.errors import Error

    try:
        target.run(data)
    except Error as error:
        if not error.diagnostics().isprintable() or not error.message:
            raise FoundError(f"not one printable line: {error.diagnostics()!r}") from error
        return False
    except BaseException as error:
        raise FoundError(f"{type(error).__name__} escaped") from error
    return True


def fuzz(name: str, target: Target, *, runs: int, seed: int, engine: str, place: Path) -> NoReturn:
    """Judge inputs until there were enough or something is found; this ends the process.

    Args:
        name: Name of the target.
        target: The target.
        runs: How many inputs to judge.
        seed: Where randomness starts.
        engine: `atheris` or `mutator`.
        place: Directory for the result, and for the input of what is found.
    """
    figures = Figures(name, engine)
    started = time.process_time()

    def one(data: bytes) -> None:
        figures.inputs += 1
        try:
            accepted = judge(target, data)
        except FoundError as found:
            _report(name, data, found, place)
            _end(FOUND)
        figures.accepted += accepted
        figures.refused += not accepted
        if figures.inputs >= runs:
            figures.seconds = round(time.process_time() - started, 3)
            (place / f"{name}.json").write_text(json.dumps(asdict(figures)))
            _end(0)

    seeds = [one for one in target.seeds() if len(one) <= target.longest]
    if engine == "mutator":
        for data in mutations(seeds, seed, target.longest):
            one(data)
    _atheris(one, seeds, seed, target.longest, place / f"{name}.atheris")
    raise AssertionError("the source of inputs ended")


def mutations(seeds: Sequence[bytes], seed: int, longest: int) -> Iterator[bytes]:
    """Yield the seeds, then changed ones without end; the same for the same seed."""
    yield from seeds
    source = random.Random(seed)
    pool = list(seeds) or [b""]
    while True:
        data = bytearray(source.choice(pool))
        for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
            _mutate(data, pool, source)
        yield bytes(data[:longest])


def _mutate(data: bytearray, pool: Sequence[bytes], source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    end = min(len(data), at + source.choice((1, 2, 4, 8, 64)))
    match source.randrange(6):
        case 0 if at < len(data):
            data[at] ^= 1 << source.randrange(8)
        case 1 if at < len(data):
            data[at] = source.randrange(256)
        case 2:
            data[at:at] = source.choice(DICTIONARY)
        case 3:
            data[at:end] = source.choice(DICTIONARY)[: end - at]
        case 4:
            del data[at:end]
        case _:
            other = source.choice(pool)
            start = source.randrange(len(other) + 1)
            data[at:end] = other[start : start + source.choice((1, 4, 16, 256))]


def _atheris(
    one: Callable[[bytes], None], seeds: Sequence[bytes], seed: int, longest: int, folder: Path
) -> None:
    import atheris  # type: ignore[import-untyped, unused-ignore]

    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir(parents=True)
    for number, data in enumerate(seeds):
        (corpus / f"{number:04}").write_bytes(data)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in DICTIONARY if len(word) < 64))
    options = [
        f"-seed={seed + 1}",
        f"-max_len={longest}",
        f"-dict={words}",
        "-rss_limit_mb=4096",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *options, "-verbosity=0", str(corpus)], one)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _report(name: str, data: bytes, found: FoundError, place: Path) -> None:
    file = place / f"{name}.input"
    file.write_bytes(data)
    print(f"{name}: {found}; the input is {data[:200]!r}, kept in {file}", file=sys.stderr)
    traceback.print_exception(found.__cause__ or found, file=sys.stderr)


def _end(status: int) -> NoReturn:
    # libFuzzer would take an exit for a crash, and reports of its own for the result.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
