# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom audit`: show the broker's audit log, check it as an auditor does, and take a copy."""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sealroom.audit.entry import AuditEntry
from sealroom.audit.log import DirectoryReader
from sealroom.audit.note import Checkpoint, VerifierKey
from sealroom.audit.tlog import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Reader,
    Tiles,
    bundle_path,
    bundles_of,
    decode_bundle,
    leaf_hash,
    read_bundle,
    tile_path,
    tiles_of,
    verify_inclusion,
)
from sealroom.audit.verify import LogReport, verify_log
from sealroom.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNCHECKED,
    json_option,
    load_owner,
    output,
    owner_option,
    short,
)
from sealroom.errors import ConfigurationError, Error, StorageError

if TYPE_CHECKING:
    from sealroom.appraisal import Policy
    from sealroom.environments import Environment
    from sealroom.nvidia import NvidiaRoots
    from sealroom.snp import Roots

KEY_FILE = "audit.pub"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW = click.Path(dir_okay=False, path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])


@click.group(name="audit")
def command() -> None:
    """Show, check and export the broker's audit log."""


def _source_options(function: F) -> F:
    options = (
        click.option("--log", type=_FOLDER, help="A copy of a log, as `audit export` makes it."),
        click.option(
            "--key", type=_FILE, help=f"The log's key; {KEY_FILE} beside the owner's settings without it."
        ),
        owner_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command()
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="How many entries."
)
@click.option("--dataset", default="", help="Only entries about this dataset.")
@_source_options
@json_option
def show(limit: int, dataset: str, log: Path | None, key: Path | None, owner: Path | None) -> None:
    """Show the newest entries, each proven to be in the signed log."""
    with _source(log, key, owner) as (reader, verifier):
        checkpoint = Checkpoint.open(reader.get(CHECKPOINT_PATH), verifier)
        entries = list(_newest(reader, checkpoint, limit, dataset))[::-1]
    if output().json:
        output().result([{"index": index, **entry.model_dump(mode="json")} for index, entry in entries])
    elif not entries:
        output().say("The log has no such entries.")
    else:
        title = f"{checkpoint.origin}: {len(entries)} of {checkpoint.size} entries"
        output().table(title, _COLUMNS, [_row(index, entry) for index, entry in entries])


def _newest(
    reader: Reader, checkpoint: Checkpoint, limit: int, dataset: str
) -> Iterator[tuple[int, AuditEntry]]:
    tiles = Tiles(reader, checkpoint.size)
    for number, _ in reversed(list(bundles_of(checkpoint.size))):
        bundle = read_bundle(reader, number, checkpoint.size)
        for offset in reversed(range(len(bundle))):
            index = number * TILE_WIDTH + offset
            entry = AuditEntry.from_bytes(bundle[offset])
            if dataset and entry.dataset != dataset:
                continue
            proof = tiles.inclusion_proof(index)
            verify_inclusion(leaf_hash(bundle[offset]), index, checkpoint.size, proof, checkpoint.root)
            yield index, entry
            limit -= 1
            if limit == 0:
                return


_COLUMNS = ("#", "time", "what", "who", "dataset", "purpose", "server proved", "why")


def _row(index: int, entry: AuditEntry) -> tuple[str, ...]:
    who = entry.person.name if entry.person else entry.actor
    reasons = " ".join(reason.sentence for reason in entry.decision.reasons)
    return (
        str(index),
        entry.time.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        entry.kind,
        who or "-",
        entry.dataset or "-",
        entry.purpose or "-",
        entry.ear.tier if entry.ear else "-",
        reasons or entry.detail,
    )


@command.command()
@click.option("--older", type=_FILE, help="A checkpoint that you kept: the log must continue it.")
@click.option(
    "--save", type=_NEW, help="Keep the checkpoint here; what stands there already is the older one."
)
@click.option(
    "--root", type=_FILE, help="Root certificate of simulated processors, for a development broker's log."
)
@click.option(
    "--gpu-root",
    type=_FOLDER,
    help="Folder with the root certificates of simulated GPUs, gpu-device-root.pem and gpu-rim-root.pem.",
)
@click.option(
    "--environments", type=_FOLDER, help="Folder of environment manifests, to appraise evidence again."
)
@click.option("--policy", type=_FILE, help="The broker's appraisal policy, if it is not the strict one.")
@_source_options
@json_option
@click.pass_context
def verify(
    context: click.Context,
    older: Path | None,
    save: Path | None,
    root: Path | None,
    gpu_root: Path | None,
    environments: Path | None,
    policy: Path | None,
    log: Path | None,
    key: Path | None,
    owner: Path | None,
) -> None:
    """Check the whole log: tree, signatures, continuity, and every stored evidence as of its time."""
    from sealroom.cli.reverify import Reverifier

    development, gpus = _development_root(root), _development_gpu_root(gpu_root)
    known, policies = _environments(environments), _policies(policy)
    if older is None and save is not None and save.exists():
        older = save
    kept = None if older is None else _read(older, "the older checkpoint")
    with _source(log, key, owner) as (reader, verifier), _progress() as progress:
        stored = reader.get
        reverify = Reverifier(
            development,
            known,
            policies,
            gpu_root=gpus,
            collateral=lambda digest: stored(f"evidence/{digest}"),
        )
        report = verify_log(reader, verifier, older=kept, reverify=reverify, progress=progress)
    if report.ok and save is not None:
        _write(save, report.note)
    if output().json:
        output().result(_as_json(report, reverify.appraised))
    else:
        _tell(report, reverify.appraised)
    context.exit(EXIT_OK if report.ok else EXIT_REFUSED if report.refused else EXIT_UNCHECKED)


def _tell(report: LogReport, appraised: int) -> None:
    say, checkpoint = output().say, report.checkpoint
    say(f"{checkpoint.origin}: {checkpoint.size} entries, root {short(checkpoint.root.hex())}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items()))
    if kinds and report.first and report.last:
        say(f"  from {report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} UTC: {kinds}")
    say(f"  evidence verified again: {report.evidence}, of which appraised again: {appraised}")
    if report.older is not None:
        say(f"  compared with a checkpoint of {report.older.size} entries")
    for finding in report.findings:
        say(f"  {finding.code}: {finding.sentence}")
    if report.ok:
        say("The log is complete and unchanged.")
    elif report.refused:
        say("The log is NOT what was signed, or evidence in it does not hold.")
    else:
        say("Not everything could be checked: this is not a pass.")


def _as_json(report: LogReport, appraised: int) -> dict[str, object]:
    def head(checkpoint: Checkpoint | None) -> dict[str, object] | None:
        if checkpoint is None:
            return None
        root = base64.b64encode(checkpoint.root).decode()
        return {"origin": checkpoint.origin, "size": checkpoint.size, "root": root}

    return {
        "ok": report.ok,
        "checkpoint": head(report.checkpoint),
        "older": head(report.older),
        "kinds": dict(report.kinds),
        "evidence": {
            "verified": report.evidence,
            "appraised": appraised,
            "compared_by_digest_only": report.evidence_skipped,
        },
        "first": report.first.isoformat() if report.first else None,
        "last": report.last.isoformat() if report.last else None,
        "findings": [
            {"code": finding.code, "sentence": finding.sentence, "index": finding.index}
            for finding in report.findings
        ],
    }


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_source_options
@json_option
def export(directory: Path, log: Path | None, key: Path | None, owner: Path | None) -> None:
    """Copy the log with its evidence to the new folder DIRECTORY, to check it elsewhere."""
    if directory.exists():
        raise click.UsageError(f"{directory} exists already; name a new folder.")
    with _source(log, key, owner) as (reader, verifier), _progress() as progress:
        note = reader.get(CHECKPOINT_PATH)
        checkpoint = Checkpoint.open(note, verifier)
        files = {CHECKPOINT_PATH: note, KEY_FILE: f"{verifier}\n".encode()}
        with _new_folder(directory) as folder:
            for path, data in files.items():
                _write(folder / path, data)
            for path in _paths(reader, folder, checkpoint.size, progress):
                _write(folder / path, reader.get(path))
    if output().json:
        output().result({"directory": str(directory), "size": checkpoint.size})
        return
    output().say(
        f"Copied {checkpoint.size} entries to {directory}. "
        f"Check them with: sealroom audit verify --log {directory} --key {directory / KEY_FILE}"
    )


def _paths(reader: Reader, folder: Path, size: int, progress: Callable[[int, int], None]) -> Iterator[str]:
    """Yield the paths of a log's files; each bundle is written before its entries are asked for evidence."""
    for level, index, width in tiles_of(size):
        yield tile_path(level, index, width)
    seen: set[str] = set()
    for number, width in bundles_of(size):
        path = bundle_path(number, width)
        yield path
        for data in decode_bundle((folder / path).read_bytes(), width):
            entry = AuditEntry.from_bytes(data)
            named = [entry.evidence, *(one for digests in entry.collateral.values() for one in digests)]
            for digest in named:
                if digest and digest not in seen:
                    seen.add(digest)
                    yield f"evidence/{digest}"
        progress(min(size, (number + 1) * TILE_WIDTH), size)


# --- where things come from and go to ---


@contextlib.contextmanager
def _source(log: Path | None, key: Path | None, owner: Path | None) -> Iterator[tuple[Reader, VerifierKey]]:
    """Open the log, from a copy or from the broker, with its key."""
    if log is not None:
        if key is None:
            raise click.UsageError(
                "Name the log's key with --key: the key in a copy proves nothing by itself."
            )
        yield DirectoryReader(log), _verifier(key)
        return
    from sealroom.kbs.admin import AuditReader

    settings = load_owner(owner)
    verifier = _verifier(key or settings.audit_key)
    with settings.client() as client:
        yield AuditReader(client), verifier


def _verifier(path: Path) -> VerifierKey:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"The audit log's key {path} cannot be read.", advice="Name the file with --key."
        ) from error
    try:
        return VerifierKey.parse(text)
    except Error as error:
        raise ConfigurationError(f"{path}: {error.message}") from error


def _development_root(path: Path | None) -> Roots | None:
    if path is None:
        return None
    from sealroom.snp import Roots

    return Roots.development(_read(path, "the development root"))


def _development_gpu_root(folder: Path | None) -> NvidiaRoots | None:
    if folder is None:
        return None
    from sealroom.nvidia import NvidiaRoots

    device, rim = (
        _read(folder / f"gpu-{kind}-root.pem", "the development root of GPUs") for kind in ("device", "rim")
    )
    return NvidiaRoots.development(device, rim)


def _environments(folder: Path | None) -> Iterable[Environment]:
    if folder is None:
        return ()
    from sealroom.environments import Environment

    # No signature is asked for: an entry names its environment by digest.
    return [Environment.from_toml(_read(path, "an environment")) for path in sorted(folder.glob("*.toml"))]


def _policies(path: Path | None) -> Iterable[Policy]:
    if path is None:
        return ()
    from sealroom.appraisal import Policy

    return [Policy.from_toml(_read(path, "the appraisal policy"))]


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"The file of {what}, {path}, cannot be read: {error.strerror}.") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _new_folder(directory: Path) -> Iterator[Path]:
    """Give a folder that appears under its name only when it is complete."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    except OSError as error:
        raise StorageError(f"{directory} cannot be made: {error.strerror}.") from error
    try:
        yield temporary
        temporary.rename(directory)
    except OSError as error:
        raise StorageError(f"{directory} cannot be made: {error.strerror}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show progress on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading the log", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance
