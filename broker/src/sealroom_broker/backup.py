# SPDX-License-Identifier: BSD-3-Clause
"""Make a backup of a broker that runs, and a broker of a backup.

A backup is a folder: `broker.toml`, `broker.sqlite`, `audit/` (the log with its evidence, as any auditor can
check it) and `backup.json` with the database's digest. Keys go into a folder of their own: whoever has both
can open every dataset. A key-encryption key on a token or in Vault is in neither, nor is what lets the broker
use it: whoever keeps it backs it up. With PostgreSQL the database itself is `pg_dump`'s; the log is in the
backup all the same.

Consistency: the database and the log's checkpoint are taken while nobody writes; what the checkpoint covers
is immutable and copied afterwards. So every release of the backup has its entry in it.

A restored broker is the one of back then. What a restoration must not bring back: sessions and logins, since
nonces in them may have been used meanwhile, are forgotten; where the newer log survived, grants that were
withdrawn meanwhile are withdrawn again, projects that were halted are halted, and keys that were destroyed
are destroyed. A grant that was changed meanwhile is withdrawn: the log has its new terms in words only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import Checkpoint, VerifierKey
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    Reader,
    bundle_path,
    bundles_of,
    read_bundle,
    tile_path,
    tiles_of,
)
from sealroom.audit.verify import verify_log
from sealroom.errors import ConfigurationError, IntegrityError, StorageError
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sealroom_broker import __version__
from sealroom_broker.audit import KEY_FILE, Record, log_signer
from sealroom_broker.config import Config, load_config
from sealroom_broker.entries import start_entry
from sealroom_broker.files import create_private, read_private, sync_directory
from sealroom_broker.migrate import check_schema, head, migrate
from sealroom_broker.registry import forget_key
from sealroom_broker.rotate import check_secrets
from sealroom_broker.setup import CONFIG_FILE, PUBLIC_KEY_FILE
from sealroom_broker.sharedlog import SharedLog
from sealroom_broker.store import (
    DatasetRow,
    GrantRow,
    LogHeadRow,
    LoginRow,
    ProjectRow,
    ResourceRow,
    SessionRow,
    Store,
)
from sealroom_broker.wrap import Chain, FileKek, Kek

MANIFEST_FILE = "backup.json"
_DATABASE = "broker.sqlite"
_AUDIT = "audit"
_KEK = "kek.key"
_RESOURCE = "Resource "


@dataclass(frozen=True, slots=True)
class Backup:
    """What was backed up."""

    folder: Path
    entries: int
    """Entries of the log in it."""
    database: bool
    """Whether the database is in it."""
    keys: Path | None
    elsewhere: tuple[str, ...] = ()
    """Key-encryption keys that no backup can have, with the files that let the broker use them."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    config: Path
    entries: int
    """Entries of the log, those of a newer one among them."""
    secrets: int
    """Stored secrets, all of which open."""
    withdrawn: int
    """Grants, resources and keys that were withdrawn, changed or destroyed after the backup, and projects
    that were halted: now again."""
    newer: int
    """Entries after the backup: what else they tell of must be done again."""


def backup(path: Path, folder: Path, keys: Path | None, now: datetime) -> Backup:
    """Back up a broker, also one that runs.

    Args:
        path: Its configuration file.
        folder: Where to; made, and must not be there.
        keys: Where to with the keys; they are left out without it.
        now: The time.

    Raises:
        ConfigurationError: A folder is there already.
        StorageError: Something cannot be read or written.
        IntegrityError: The log that was copied does not verify.
    """
    config = load_config(path)
    for target in (folder, keys):
        if target is not None and target.exists():
            raise ConfigurationError(f"{target} is there already.", advice="Name a folder that is not there.")
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    store = Store.of(config)
    try:
        _make(partial)
        reader, note = _snapshot(config, store, partial)
        public = _public_key(config)
        size = copy_log(reader, note, public, partial / _AUDIT)
    finally:
        store.close()
    create_private(partial / CONFIG_FILE, path.read_bytes())
    _check_log(partial / _AUDIT, public)
    _write_manifest(partial, config, note, now)
    os.sync()
    partial.rename(folder)
    sync_directory(folder.parent)
    if keys is not None:
        _copy_keys(config, keys)
    return Backup(folder, size, not store.database.shared, keys, _elsewhere(config.kek))


def _snapshot(config: Config, store: Store, folder: Path) -> tuple[Reader, bytes]:
    """Take the database and the checkpoint that belongs to it."""
    if store.database.shared:
        check_schema(store)
        with store.read() as session:
            note = session.scalars(select(LogHeadRow.checkpoint)).one()
        return SharedLog(store, log_signer(config.name, config.keys / KEY_FILE)), note
    if not config.database.exists():
        raise StorageError(f"There is no database {config.database}.")
    reader = DirectoryReader(config.audit)
    # Nobody else writes meanwhile: a release's row and its entry are both there, or neither.
    with store.write():
        note = reader.get(CHECKPOINT_PATH)
        _copy_database(config.database, folder / _DATABASE)
    return reader, note


def _copy_database(source: Path, target: Path) -> None:
    try:
        target.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            # The copy is one file, without a log of its own.
            new.execute("PRAGMA journal_mode=DELETE").close()
            (verdict,) = new.execute("PRAGMA integrity_check").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The database cannot be copied ({error}).") from error
    if verdict != "ok":
        raise IntegrityError("The database is damaged.", advice="Restore it from an older backup.")


def copy_log(reader: Reader, note: bytes, key: VerifierKey, target: Path) -> int:
    """Copy what a checkpoint covers, and the evidence that its entries name.

    Returns:
        How many entries there are.

    Raises:
        Error: The log cannot be read, or the copy cannot be written.
    """
    checkpoint = Checkpoint.open(note, key)
    names: set[str] = set()
    for number, width in bundles_of(checkpoint.size):
        _write(target, bundle_path(number, width), reader.get(bundle_path(number, width)))
        for data in read_bundle(reader, number, checkpoint.size):
            entry = AuditEntry.from_bytes(data)
            names |= {entry.evidence} if entry.evidence else set()
            names |= {digest for digests in entry.collateral.values() for digest in digests}
    for level, index, width in tiles_of(checkpoint.size):
        _write(target, tile_path(level, index, width), reader.get(tile_path(level, index, width)))
    for name in names:
        _write(target, f"evidence/{name}", reader.get(f"evidence/{name}"))
    _write(target, CHECKPOINT_PATH, note)
    return checkpoint.size


def restore(
    folder: Path, keys: Path, home: Path, now: datetime, *, newer_log: Path | None = None
) -> Restored:
    """Make a broker of a backup.

    Args:
        folder: The backup.
        keys: The keys that belong to it.
        home: The new broker's folder; made, and must not be there.
        now: The time.
        newer_log: The audit folder of the lost broker, if it survived: it is taken over in place of the
            backup's, and withdrawals in it are done again.

    Raises:
        ConfigurationError: The folder is there already, or paths of the configuration lead out of it.
        IntegrityError: The backup was changed, or its log, or the newer one, does not verify.
        StorageError: Something cannot be read or written, or a stored secret does not open.
    """
    if home.exists():
        raise ConfigurationError(f"{home} is there already.", advice="Name a folder that is not there.")
    _check_manifest(folder)
    partial = home.with_name(f".{home.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    _make(partial)
    _copy(folder / CONFIG_FILE, partial / CONFIG_FILE)
    config = load_config(partial / CONFIG_FILE)
    _place(config, partial.resolve(), folder, keys, newer_log)
    restored = _settle(config, folder, now)
    partial.rename(home)
    sync_directory(home.parent)
    return Restored(home / CONFIG_FILE, *restored)


def _place(config: Config, home: Path, folder: Path, keys: Path, newer_log: Path | None) -> None:
    """Put everything where the configuration looks for it."""
    shared = config.postgresql is not None
    wanted = {*config.kek.files, config.keys} | (set() if shared else {config.database, config.audit})
    outside = [path for path in wanted if not path.resolve().is_relative_to(home)]
    if outside:
        raise ConfigurationError(
            f"The configuration of this backup names {outside[0]}, which is outside of the new folder.",
            advice="Put the files there by hand, or make the path in broker.toml relative.",
        )
    places = {**_credentials(config.kek), **_key_files(config.kek)}
    for source in sorted(keys.iterdir()):
        target = places.get(source.name, config.keys / source.name)
        if not target.resolve().is_relative_to(home):
            raise ConfigurationError(
                f"{source} belongs at {target}, which is outside of the new folder.",
                advice="Put it there by hand, and take it out of the folder with the keys.",
            )
        _copy(source, target)
    if shared:
        if newer_log is not None:
            raise ConfigurationError("With PostgreSQL the log is in the database: there is no newer one.")
        return
    _copy(folder / _DATABASE, config.database)
    public = _public_key(config)
    _check_log(folder / _AUDIT, public)
    if newer_log is None:
        note = DirectoryReader(folder / _AUDIT).get(CHECKPOINT_PATH)
        copy_log(DirectoryReader(folder / _AUDIT), note, public, config.audit)
    else:
        older = DirectoryReader(folder / _AUDIT).get(CHECKPOINT_PATH)
        _check_log(newer_log, public, older=older)
        note = DirectoryReader(newer_log).get(CHECKPOINT_PATH)
        copy_log(DirectoryReader(newer_log), note, public, config.audit)
    _check_log(config.audit, public)


def _settle(config: Config, folder: Path, now: datetime) -> tuple[int, int, int, int]:
    """Open what was restored, check it, and take back what must not come back."""
    signer = log_signer(config.name, config.keys / KEY_FILE)
    then = Checkpoint.open(DirectoryReader(folder / _AUDIT).get(CHECKPOINT_PATH), signer.verifier)
    store = Store.of(config)
    record: Record | None = None
    try:
        if store.database.shared:
            check_schema(store)
        else:
            migrate(store)
        store.bind_mode(config.mode)
        record = Record.of(config, store, signer)
        if record.log.size < then.size:
            raise IntegrityError(
                f"The database's log has {record.log.size} entries, the backup's {then.size}.",
                advice="Restore the database that was dumped with or after this backup.",
            )
        secrets = _check_secrets(config.kek, store)
        newer = record.log.size - then.size
        made = _manifest(folder)["made"]
        with store.write() as session:
            session.execute(delete(SessionRow))
            session.execute(delete(LoginRow))
            withdrawn = 0
            for _, data in record.log.entries(then.size):
                withdrawn += _again(store, AuditEntry.from_bytes(data))
            detail = f"Restored from the backup of {made}; {withdrawn} withdrawals after it were done again."
            record.append(start_entry(detail, now))
        store.erase()
        return record.log.size, secrets, withdrawn, newer
    finally:
        if record is not None:
            record.close()
        store.close()


def _check_secrets(kek: Kek, store: Store) -> int:
    chain = Chain(kek)
    try:
        return check_secrets(store, chain)
    finally:
        chain.close()


def _again(store: Store, entry: AuditEntry) -> int:
    """Do again what closed something after the backup, and say what a project is now."""
    with store.join() as session:
        if entry.kind in ("halt", "resume"):
            _turn_again(session, entry)
            return 1
        if entry.kind == "destruction":
            return _destroy_again(session, entry)
        if entry.kind not in ("withdrawal", "change"):
            return 0
        if entry.grant is not None:
            grant = session.get(GrantRow, entry.grant.id)
            if grant is None or grant.withdrawn is not None:
                return 0
            grant.withdrawn, grant.version = entry.time, grant.version + 1
            return 1
        resource = session.get(ResourceRow, entry.detail.removeprefix(_RESOURCE))
        if resource is None or resource.created > entry.time:
            return 0
        session.delete(resource)
        return 1


def _turn_again(session: Session, entry: AuditEntry) -> None:
    row = session.get(ProjectRow, entry.project)
    if row is None:
        row = ProjectRow(name=entry.project)
        session.add(row)
    row.halted, row.since, row.reason = entry.kind == "halt", entry.time, entry.detail
    session.flush()


def _destroy_again(session: Session, entry: AuditEntry) -> int:
    row = session.get(DatasetRow, entry.dataset)
    if row is None or row.destroyed is not None:
        return 0
    forget_key(session, row, entry.time)
    return 1


def _public_key(config: Config) -> VerifierKey:
    return log_signer(config.name, config.keys / KEY_FILE).verifier


def _check_log(folder: Path, key: VerifierKey, older: bytes | None = None) -> None:
    report = verify_log(DirectoryReader(folder), key, older=older)
    if not report.ok:
        raise IntegrityError(f"The log in {folder} does not verify: {report.findings[0].sentence}")


def _copy_keys(config: Config, target: Path) -> None:
    _make(target)
    for name, path in _key_files(config.kek).items():
        _copy(path, target / name)
    for path in sorted(config.keys.glob("ear-*.pem")):
        _copy(path, target / path.name)
    for name in (KEY_FILE, PUBLIC_KEY_FILE):
        _copy(config.keys / name, target / name)


def _key_files(kek: Kek) -> Mapping[str, Path]:
    """Return the key files by their names in a folder of keys."""
    names = (_KEK, *(f"kek-{number}.key" for number in range(2, 6)))
    return dict(zip(names, kek.files, strict=False))


def _credentials(kek: Kek) -> Mapping[str, Path]:
    """Return where PINs, tokens and secret ids belong, by their names: a person may add them to the keys."""
    return {path.name: path for one in kek.all for path in one.credentials}


def _elsewhere(kek: Kek) -> tuple[str, ...]:
    """Say which keys no backup can have, and what lets the broker use them."""
    found = [one for one in kek.all if not isinstance(one, FileKek)]
    return tuple(f"{one.where} ({', '.join(str(path) for path in one.credentials)})" for one in found)


def _write_manifest(folder: Path, config: Config, note: bytes, now: datetime) -> None:
    # Not of the configuration: an operator may adapt it before a restoration.
    files = [name for name in (_DATABASE,) if (folder / name).exists()]
    manifest = {
        "format": "sealroom-backup/1",
        "made": now.isoformat(timespec="seconds"),
        "version": __version__,
        "schema": head(),
        "name": config.name,
        "mode": config.mode,
        "checkpoint": note.decode(),
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
    }
    create_private(folder / MANIFEST_FILE, json.dumps(manifest, indent=2).encode() + b"\n")


def _manifest(folder: Path) -> Mapping[str, object]:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{folder} is no backup: it has no {MANIFEST_FILE}.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != "sealroom-backup/1":
        raise ConfigurationError(f"{folder} is no backup that this version knows.")
    return manifest


def _check_manifest(folder: Path) -> None:
    digests = _manifest(folder).get("sha256")
    for name, expected in digests.items() if isinstance(digests, dict) else ():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise StorageError(f"{folder / name} cannot be read: {error.strerror}.") from error
        if found != expected:
            raise IntegrityError(f"{folder / name} is not the file that was backed up.")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}.") from error


def _copy(source: Path, target: Path) -> None:
    """Copy a file to one of mode 0600; a key that others may read is refused."""
    try:
        content = source.read_bytes()
    except OSError as error:
        raise StorageError(f"{source} cannot be read: {error.strerror}.") from error
    if source.suffix in (".key", ".pem"):
        read_private(source, "The key")
    create_private(target, content)


def _write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
