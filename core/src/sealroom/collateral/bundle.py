# SPDX-License-Identifier: BSD-3-Clause
"""A store as one file, for machines without a network.

A bundle is a tar file: `manifest.json` with the SHA-256 of every entry, then the entries in the order of
their names. The same store gives the same bytes, whoever exports it and when.

A bundle is not signed, and need not be: every entry is verified to the pinned roots when it is imported, as
if it had been fetched. OCSP answers are about certificates that a bundle does not hold; they are parsed, and
verified when they are used.

Invariants of an import:

- All entries are checked before the first is written; one that is refused refuses the bundle.
- Only regular files under names of entries are taken: no links, no paths out of the store, nothing twice.
- Nothing newer is replaced by something older, and nothing that was stored is lost.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from sealroom.collateral.check import Checker, vek_validity
from sealroom.collateral.kds import SKEW
from sealroom.collateral.layout import Entry, Kind
from sealroom.collateral.ocsp import issue_time
from sealroom.collateral.store import MAX_ENTRY, Fetched, Store
from sealroom.errors import Error, FormatError, StorageError
from sealroom.snp import RevocationList, Roots

if TYPE_CHECKING:
    from sealroom.nvidia import NvidiaRoots

FORMAT: Final = "sealroom-collateral/1"
MANIFEST: Final = "manifest.json"
MAX_ENTRIES: Final = 100_000
"""Most entries of a bundle: as many certificates as 100,000 chips at one TCB have."""
MAX_BUNDLE: Final = 512 << 20
"""Longest bundle in bytes."""
MAX_MANIFEST: Final = 64 << 20
"""Longest manifest in bytes; an entry has about 300."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    added: tuple[str, ...]
    """Names of entries that are new, or newer than what was there."""
    kept: tuple[str, ...]
    """Names of entries that the store has already, or newer."""


# --- export ---


def export_bundle(store: Store, file: IO[bytes], *, checker: Checker) -> list[str]:
    """Write the entries of a store that are authentic.

    Args:
        store: The store.
        file: Where the bundle is written.
        checker: Says what is authentic.

    Returns:
        Names and reasons of entries that were left out.

    Raises:
        StorageError: An entry cannot be read, or the bundle cannot be written.
    """
    contents: dict[str, bytes] = {}
    left_out: list[str] = []
    for entry in ordered([Entry.parse(name) for name in store.names()]):
        data = store.read(entry.name)
        try:
            if data is not None:
                checker.check(entry, data)
                contents[entry.name] = data
        except Error as error:
            if isinstance(error, StorageError):
                raise
            left_out.append(f"{entry.name}: {error.message}")
    try:
        _write(file, contents)
    except OSError as error:
        raise StorageError(f"The bundle cannot be written: {error.strerror}.") from error
    return left_out


def _write(file: IO[bytes], contents: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in ((MANIFEST, _manifest(contents)), *sorted(contents.items())):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def _manifest(contents: dict[str, bytes]) -> bytes:
    entries = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(contents.items())
    }
    return json.dumps({"format": FORMAT, "entries": entries}, indent=1).encode() + b"\n"


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries so that an ASK or ASVK comes before what it signed, otherwise by name."""
    return sorted(entries, key=lambda entry: (entry.kind is not Kind.CA, entry.name))


# --- import ---


def import_bundle(
    store: Store, path: Path, *, roots: Sequence[Roots], nvidia: Sequence[NvidiaRoots] = (), at: datetime
) -> Imported:
    """Check a bundle and put its entries into a store.

    Args:
        store: The store.
        path: The bundle.
        roots: AMD's roots, and development roots if the bundle has entries under them.
        nvidia: The same for NVIDIA.
        at: The present.

    Raises:
        FormatError: The file is no bundle, or an entry is malformed, missing, twice there or too long.
        VerificationError: An entry is not authentic.
        ConfigurationError: An entry is of a development root that was not given.
        StorageError: The file cannot be read, or the store cannot be written.
    """
    contents = read_bundle(path)
    entries = ordered([Entry.parse(name) for name in contents])
    checker = Checker(None, roots, nvidia)
    for entry in entries:
        try:
            checker.check(entry, contents[entry.name])
        except Error as error:
            error.message = f"{entry.name} is refused: {error.message}"
            raise
        if entry.kind is Kind.CA and entry.role != "ARK":
            checker.add_intermediates(entry, contents[entry.name])
    _check_pointers(entries, contents, at)
    wanted = _wanted(store, entries, contents, checker)
    # What points to another entry is written after it.
    wanted.sort(key=lambda name: (name.endswith(".json"), name))
    store.write_all([(name, contents[name]) for name in wanted])
    kept = tuple(name for name in sorted(contents) if name not in set(wanted))
    return Imported(tuple(sorted(wanted)), kept)


def _check_pointers(entries: Sequence[Entry], contents: dict[str, bytes], at: datetime) -> None:
    """Check that what says when a file was fetched is of a file in the bundle, and of the past."""
    for entry in entries:
        if entry.kind is Kind.RIM_CURRENT:
            fetched = Fetched.from_json(contents[entry.name])
            if f"{entry.name.rpartition('/')[0]}/{fetched.sha256}.xml" not in contents:
                raise _bad(f"{entry.name} names a manifest that is not in the bundle.")
        elif entry.kind is Kind.CRL_INFO:
            fetched = Fetched.from_json(contents[entry.name])
        else:
            continue
        if fetched.at > at + SKEW:
            raise _bad(f"{entry.name} says that it was fetched in the future; check this machine's clock.")


def _wanted(
    store: Store, entries: Sequence[Entry], contents: dict[str, bytes], checker: Checker
) -> list[str]:
    """Return the names of entries that are new or newer than what the store has."""
    wanted = [
        entry.name
        for entry in entries
        if entry.kind is not Kind.CRL_INFO and _newer(store, entry, contents[entry.name], checker)
    ]
    # When a revocation list was fetched goes with the list.
    lists = {name.removesuffix(".der") + ".json" for name in wanted}
    return wanted + [one.name for one in entries if one.kind is Kind.CRL_INFO and one.name in lists]


def _newer(store: Store, entry: Entry, data: bytes, checker: Checker) -> bool:
    stored = store.read(entry.name)
    if stored is None:
        return True
    if stored == data or entry.kind in (Kind.VLEK, Kind.CA, Kind.RIM):
        # Named by their content: what differs is damaged.
        return stored != data
    try:
        checker.check(entry, stored)
        return _rank(entry.kind, data) > _rank(entry.kind, stored)
    except Error:
        # What is there is damaged.
        return True


def _rank(kind: Kind, data: bytes) -> float:
    """Return a number that is higher for what is newer."""
    if kind is Kind.VCEK:
        return vek_validity(data)[1].timestamp()
    if kind is Kind.CRL:
        return RevocationList.from_der(data).this_update.timestamp()
    if kind is Kind.OCSP:
        return issue_time(data).timestamp()
    return Fetched.from_json(data).at.timestamp()


def read_bundle(path: Path) -> dict[str, bytes]:
    """Read a bundle and compare it with its manifest; nothing is verified but that.

    Args:
        path: The file.

    Returns:
        Content by name.

    Raises:
        FormatError: It is no bundle, or not what its manifest says.
        StorageError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size > MAX_BUNDLE:
                raise _bad(f"A bundle of {size} bytes is longer than the {MAX_BUNDLE} that are read.")
            contents = dict(_members(file))
            # A tar file ends with zeros, up to a round size.
            tail = file.read()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    if tail.strip(b"\0"):
        raise _bad("Something follows the end of the bundle.")
    raw = contents.pop(MANIFEST, None)
    if raw is None:
        raise _bad(f"The file has no {MANIFEST}, so it is no bundle.")
    _compare(_listed(raw), contents)
    return contents


def _members(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Give name and content of the members of a tar file, after checking what each is."""
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="strict") as tar:
            for member in tar:
                name = member.name
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    raise _bad(f"{name[:200]!r} in the bundle is no regular file.")
                if name in seen:
                    raise _bad(f"{name[:200]!r} stands twice in the bundle.")
                if name != MANIFEST:
                    Entry.parse(name)
                limit = MAX_MANIFEST if name == MANIFEST else MAX_ENTRY
                if member.size > limit:
                    raise _bad(f"{name!r} in the bundle is longer than {limit} bytes.")
                seen.add(name)
                if len(seen) > MAX_ENTRIES + 1:
                    raise _bad(f"The bundle has more than {MAX_ENTRIES} entries.")
                content = tar.extractfile(member)
                data = content.read() if content is not None else b""
                if len(data) != member.size:
                    raise _bad(f"The bundle ends in the middle of {name!r}.")
                yield name, data
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise _bad("The file is no tar file, or a damaged one.") from error


def _listed(raw: bytes) -> dict[str, tuple[str, int]]:
    try:
        document = json.loads(raw)
        if document["format"] != FORMAT or set(document) != {"format", "entries"}:
            raise ValueError(FORMAT)
        return {name: (one["sha256"], one["size"]) for name, one in document["entries"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _bad(f"{MANIFEST} is not one of {FORMAT}.") from error


def _compare(listed: dict[str, tuple[str, int]], contents: dict[str, bytes]) -> None:
    different = listed.keys() ^ contents.keys()
    if different:
        name = min(different)
        what = "is in the manifest and not in the bundle" if name in listed else "is not in the manifest"
        raise _bad(f"{name[:200]!r} {what}.")
    for name, data in contents.items():
        if listed[name] != (hashlib.sha256(data).hexdigest(), len(data)):
            raise _bad(f"{name!r} is not the file that the manifest names.")


def _bad(message: str) -> FormatError:
    return FormatError(message, field="bundle")
