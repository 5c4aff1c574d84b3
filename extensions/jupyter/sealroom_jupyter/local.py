# SPDX-License-Identifier: BSD-3-Clause
"""The sealed datasets that lie on this machine, or in S3. Nothing that is read here is trusted.

A file `<id>.absent.json` in a directory of datasets stands for one that could not be brought here; it is
listed as such, so that a person sees that it exists and why it cannot be used.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from sealroom.datasets.manifest import MANIFEST_NAME, MAX_MANIFEST_SIZE, Manifest, check_id
from sealroom.datasets.source import open_source
from sealroom.datasets.store import DatasetDirectory, find_dataset, is_far, iter_datasets, read_file
from sealroom.errors import Error

ABSENT_SUFFIX = ".absent.json"
_MAX_ABSENT = 64 << 10


class Absent(BaseModel):
    """What is known of a dataset that is not on this machine."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: str
    description: str = ""
    owner: str = ""
    contact: str = ""
    source: str = ""
    licence: str = ""
    reason: str = ""
    """One sentence: why it is not here."""


@dataclass(frozen=True, slots=True)
class LocalDataset:
    """A sealed dataset's directory and what the manifest on disk says, which is not the owner's word yet."""

    directory: DatasetDirectory
    manifest: Manifest | None
    sha256: str
    """SHA-256 (hex) of the manifest's bytes."""
    problem: str = ""
    """Why the manifest cannot be used; empty if it can."""


class LocalDatasets:
    """Looks at the directories for datasets, and reads a manifest again only when its file has changed.

    A directory in S3 is looked at in the background, every `far_for` seconds at most: a server that does not
    answer must not hold up the panel. What is unlocked is looked at afresh.

    Args:
        directories: Where datasets lie, one directory each.
        far_for: Seconds for which a directory in S3 is not looked at again.
        patience: Seconds that a caller waits for one.
        log: Where to say that one does not answer.
    """

    def __init__(
        self,
        directories: Sequence[Path | str],
        *,
        far_for: float = 30.0,
        patience: float = 3.0,
        log: logging.Logger | None = None,
    ) -> None:
        self._near = tuple(Path(one) for one in directories if not is_far(one))
        self._directories = tuple(directories)
        self._far_for, self._patience = far_for, patience
        self._log = log or logging.getLogger(__name__)
        self._lock = threading.Lock()
        self._known: dict[Path | str, tuple[str, LocalDataset]] = {}
        self._far: dict[str, _Far] = {str(one): _Far() for one in directories if is_far(one)}

    def all(self) -> dict[str, LocalDataset]:
        """Return every dataset that is here by its id."""
        found: dict[str, LocalDataset] = {}
        for directory in self._directories:
            here = self._look_far(str(directory)) if is_far(directory) else self._look_at(directory)
            found = {**here, **found}
        return found

    def get(self, dataset: str) -> LocalDataset:
        """Return one dataset.

        Raises:
            StorageError: It is not on this machine.
            FormatError: That is not a dataset's id.
        """
        return self._look(find_dataset(dataset, self._directories))

    def absent(self) -> dict[str, Absent]:
        """Return what is said about datasets that are not here."""
        found: dict[str, Absent] = {}
        for directory in self._near:
            try:
                candidates = sorted(directory.glob(f"*{ABSENT_SUFFIX}"))
            except OSError:
                continue
            for path in candidates:
                name = path.name.removesuffix(ABSENT_SUFFIX)
                try:
                    check_id(name)
                    if name not in found:
                        found[name] = Absent.model_validate_json(read_file(path, _MAX_ABSENT))
                except (Error, ValidationError):
                    continue
        return found

    def _look_at(self, directory: Path | str) -> dict[str, LocalDataset]:
        try:
            return {name: self._look(found) for name, found in iter_datasets([directory])}
        except OSError:
            return {}

    def _look_far(self, directory: str) -> dict[str, LocalDataset]:
        far = self._far[directory]
        with self._lock:
            if not far.running and time.monotonic() >= far.due:
                far.running, far.done = True, threading.Event()
                threading.Thread(
                    target=self._refresh, args=(directory, far), name="sealroom-bucket", daemon=True
                ).start()
            done = far.done
        done.wait(self._patience)
        return far.found

    def _refresh(self, directory: str, far: _Far) -> None:
        try:
            far.found = {name: self._look(found) for name, found in iter_datasets([directory])}
        except Error as error:
            # What was seen last is still shown: reading says by itself what is wrong.
            self._log.warning("Sealroom: datasets in %s are not listed: %s", directory, error.diagnostics())
        except Exception:  # noqa: BLE001 - logged; the next look comes by itself
            self._log.exception("Sealroom: datasets in %s are not listed", directory)
        finally:
            with self._lock:
                far.due, far.running = time.monotonic() + self._far_for, False
            far.done.set()

    def _look(self, directory: DatasetDirectory) -> LocalDataset:
        stamp = _stamp(directory)
        with self._lock:
            known = self._known.get(directory.location)
        if known is not None and stamp and known[0] == stamp and known[1].manifest is not None:
            return known[1]
        found = _read(directory)
        with self._lock:
            self._known[directory.location] = (stamp, found)
        return found


@dataclass(slots=True)
class _Far:
    """A directory in S3, as it was seen last."""

    found: dict[str, LocalDataset] = field(default_factory=dict)
    due: float = 0.0
    running: bool = False
    done: threading.Event = field(default_factory=threading.Event)


def _stamp(directory: DatasetDirectory) -> str:
    """Return what changes with the manifest's file; empty if that cannot be told."""
    location = f"{directory.location}/{MANIFEST_NAME}" if directory.far else directory.path / MANIFEST_NAME
    try:
        source = open_source(location, mapped=False)
    except Error:
        return ""
    try:
        return source.identity()
    except Error:
        return ""
    finally:
        source.close()


def _read(directory: DatasetDirectory) -> LocalDataset:
    data = b""
    try:
        data = directory.read_small(MANIFEST_NAME, MAX_MANIFEST_SIZE)
        manifest = Manifest.from_bytes(data)
    except Error as error:
        return LocalDataset(directory, None, hashlib.sha256(data).hexdigest(), error.message)
    return LocalDataset(directory, manifest, hashlib.sha256(data).hexdigest())
