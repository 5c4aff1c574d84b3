# SPDX-License-Identifier: BSD-3-Clause
"""The environments that this broker approves: manifests in its folders that a configured publisher signed.

The folders are looked at again when something in them changes, so that a new manifest needs no restart.

Invariants:

- A manifest without a good signature is left out, with a line in the log; it never stops the others.
- A production broker approves no simulated environment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sealroom.environments import Environment, load, load_public_key
from sealroom.errors import ConfigurationError, Error

from sealroom_broker.config import Environments, Mode

_log = logging.getLogger(__name__)

_Stamp = tuple[tuple[str, int, int], ...]


class ApprovedEnvironments:
    """The approved environments.

    Args:
        settings: Folders and publisher keys.
        mode: The broker's mode.

    Raises:
        ConfigurationError: A publisher key cannot be read.
    """

    def __init__(self, settings: Environments, mode: Mode) -> None:
        self._directories = settings.directories
        self._keys = [_public_key(path) for path in settings.publishers]
        self._mode = mode
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._approved: Mapping[str, Environment] = {}

    def all(self) -> Mapping[str, Environment]:
        """Return the approved environments by digest."""
        stamp = _stamp(self._directories)
        with self._lock:
            if stamp != self._stamp:
                self._approved = self._load()
                self._stamp = stamp
            return self._approved

    def digests(self) -> frozenset[str]:
        """Return the digests of the approved environments."""
        return frozenset(self.all())

    def matching(self, measurement: bytes, host_data: bytes, *, simulated: bool) -> Environment | None:
        """Return the environment that a guest was most likely launched from.

        This chooses what appraisal compares with and is no check: appraisal compares everything, these two
        among it.

        Args:
            measurement: The report's MEASUREMENT.
            host_data: The report's HOST_DATA.
            simulated: Whether the report is of a simulated processor.
        """
        wanted = "simulated" if simulated else "snp"
        candidates = [one for one in self.all().values() if one.tee == wanted]
        ranked = sorted(
            candidates,
            key=lambda one: (
                measurement in one.reference_values.measurements,
                one.host_data == host_data,
                one.version,
            ),
        )
        return ranked[-1] if ranked else None

    def _load(self) -> Mapping[str, Environment]:
        found = {}
        for directory in self._directories:
            for path in sorted(directory.glob("*.toml")):
                environment = _load_one(path, self._keys)
                if environment is None:
                    continue
                if environment.tee == "simulated" and self._mode == "production":
                    _log.warning("%s is left out: a production broker approves nothing simulated", path.name)
                    continue
                found[environment.digest] = environment
        return found


def _load_one(path: Path, keys: Sequence[Ed25519PublicKey]) -> Environment | None:
    try:
        return load(path, keys)
    except Error as error:
        _log.warning("%s is not approved: %s", path.name, error)
        return None


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        return load_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"The publisher key {path} cannot be read: {error.strerror}.") from error


def _stamp(directories: Sequence[Path]) -> _Stamp:
    """Return what changes when a manifest or signature does."""
    found = []
    for directory in directories:
        for path in sorted(directory.glob("*.toml*")):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)
