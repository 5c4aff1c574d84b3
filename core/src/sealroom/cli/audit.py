# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom audit`: show the broker's audit log, check it as an auditor does, take a copy, prove an entry."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealroom.audit.note import Checkpoint
from sealroom.audit.proof import MAX_PROOF, SUFFIX, InclusionProof
from sealroom.audit.tlog import CHECKPOINT_PATH
from sealroom.audit.verify import LogReport, verify_log
from sealroom.cli._audit_export import Exporter
from sealroom.cli._audit_show import KINDS, Filter, newest, show_entry, show_list
from sealroom.cli._audit_source import (
    ENVIRONMENTS,
    FILE,
    FOLDER,
    KEY_FILE,
    key_of,
    open_source,
    progress_bar,
    read_file,
    source_options,
    write_file,
)
from sealroom.cli._moment import past
from sealroom.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNCHECKED,
    json_option,
    output,
    owner_option,
    short,
)
from sealroom.errors import FormatError

if TYPE_CHECKING:
    from sealroom.appraisal import Policy
    from sealroom.environments import Environment
    from sealroom.nvidia import NvidiaRoots
    from sealroom.snp import Roots

_NEW = click.Path(dir_okay=False, path_type=Path)


@click.group(name="audit")
def command() -> None:
    """Show, check and export the broker's audit log."""


@command.command()
@click.argument("index", required=False, type=click.IntRange(min=0))
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 100_000), help="How many entries."
)
@click.option("--dataset", default="", help="Only entries about this dataset.")
@click.option("--person", default="", help="Only entries of this person: their name or subject.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these; may be repeated.")
@click.option("--since", callback=past, metavar="WHEN", help="Not before: 2026-11-01, or -7d, -12h, -2w.")
@click.option(
    "--until", callback=past, metavar="WHEN", help="Not after; a date means its last second, or -7d, -12h."
)
@source_options
@json_option
def show(
    index: int | None,
    limit: int,
    dataset: str,
    person: str,
    kinds: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    log: Path | None,
    key: Path | None,
    owner: Path | None,
) -> None:
    """Show the newest entries, or the one at INDEX in full, each proven to be in the signed log."""
    wanted = Filter(dataset, person, frozenset(kinds), since, until)
    if index is not None and wanted != Filter():
        raise click.UsageError("An entry that is named by its index is not filtered.")
    with open_source(log, key, owner) as source:
        note = source.reader.get(CHECKPOINT_PATH)
        if index is not None:
            show_entry(InclusionProof.of(source.reader, source.key, index, note), source.key)
            return
        checkpoint = Checkpoint.open(note, source.key)
        show_list(checkpoint, list(newest(source.reader, checkpoint, limit, wanted))[::-1])


@command.command()
@click.argument("directory", required=False, type=FOLDER)
@click.option("--older", type=FILE, help="A checkpoint that you kept: the log must continue it.")
@click.option(
    "--save", type=_NEW, help="Keep the checkpoint here; what stands there already is the older one."
)
@click.option(
    "--root", type=FILE, help="Root certificate of simulated processors, for a development broker's log."
)
@click.option(
    "--gpu-root",
    type=FOLDER,
    help="Folder with the root certificates of simulated GPUs, gpu-device-root.pem and gpu-rim-root.pem.",
)
@click.option(
    "--environments", type=FOLDER, help="Folder of environment manifests, to appraise evidence again."
)
@click.option("--policy", type=FILE, help="The broker's appraisal policy, if it is not the strict one.")
@source_options
@json_option
@click.pass_context
def verify(
    context: click.Context,
    directory: Path | None,
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
    """Check the whole log: tree, signatures, continuity, and every stored evidence as of its time.

    DIRECTORY is a copy as `audit export` makes it; without it the broker's log is read. The manifests that
    are in a copy are used where --environments names no others: entries name them by their digest.
    """
    from sealroom.cli.reverify import Reverifier

    if directory is not None and log is not None:
        raise click.UsageError("Name the copy once: as DIRECTORY or with --log.")
    log = directory or log
    if environments is None and log is not None and (log / ENVIRONMENTS).is_dir():
        environments = log / ENVIRONMENTS
    development, gpus = _development_root(root), _development_gpu_root(gpu_root)
    known, policies = _environments(environments), _policies(policy)
    if older is None and save is not None and save.exists():
        older = save
    kept = None if older is None else read_file(older, "the older checkpoint")
    with open_source(log, key, owner) as source, progress_bar() as progress:
        stored = source.reader.get
        reverify = Reverifier(
            development,
            known,
            policies,
            gpu_root=gpus,
            collateral=lambda digest: stored(f"evidence/{digest}"),
        )
        report = verify_log(source.reader, source.key, older=kept, reverify=reverify, progress=progress)
    if report.ok and save is not None:
        write_file(save, report.note)
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
@source_options
@json_option
@click.pass_context
def export(
    context: click.Context, directory: Path, log: Path | None, key: Path | None, owner: Path | None
) -> None:
    """Copy everything that an auditor needs offline to the new folder DIRECTORY.

    That is the log, the evidence and the collateral that its entries name, the log's key, and the manifests
    of environments that the broker still approves. What was interrupted is continued by the same command.
    """
    if directory.exists():
        raise click.UsageError(f"{directory} exists already; name a new folder.")
    with open_source(log, key, owner) as source, progress_bar() as progress:
        exported = Exporter(source, directory).run(progress)
    if output().json:
        output().result(
            {
                "directory": str(directory),
                "size": exported.size,
                "files": exported.files,
                "continued": exported.reused,
                "environments": exported.environments,
                "environments_missing": list(exported.missing),
                "findings": [one.code for one in exported.findings],
            }
        )
    else:
        output().say(f"Copied {exported.size} entries in {exported.files} files to {directory}.")
        if exported.reused:
            output().say(f"{exported.reused} of them were there from an earlier attempt.")
        for digest in exported.missing:
            output().say(
                f"The manifest of {short(digest)} is not to be had: name it to `audit verify` with "
                "--environments, or its evidence is verified and not appraised again."
            )
        for finding in exported.findings:
            output().say(f"  {finding.code}: {finding.sentence}")
        output().say(
            f"Check it with: sealroom audit verify {directory} --key KEY, where KEY is the log's key as you "
            "know it from elsewhere than this copy."
        )
    context.exit(EXIT_REFUSED if exported.findings else EXIT_OK)


@command.command()
@click.argument("index", type=click.IntRange(min=0))
@click.option("--out", type=_NEW, help=f"Where to write it; entry-INDEX{SUFFIX} without it.")
@source_options
@json_option
def proof(index: int, out: Path | None, log: Path | None, key: Path | None, owner: Path | None) -> None:
    """Write the proof that the entry INDEX stands in the signed log, for whoever it concerns."""
    path = out or Path(f"entry-{index}{SUFFIX}")
    if path.exists():
        raise click.UsageError(f"{path} exists already; name another file with --out.")
    with open_source(log, key, owner) as source:
        made = InclusionProof.of(source.reader, source.key, index, source.reader.get(CHECKPOINT_PATH))
    write_file(path, made.to_bytes())
    if output().json:
        output().result({"file": str(path), "index": index, "hashes": len(made.hashes)})
        return
    output().say(f"Wrote the proof of entry {index} to {path}.")
    output().say(f"Check it with: sealroom audit check-proof {path} --key KEY")


@command.command(name="check-proof")
@click.argument("file", type=FILE)
@click.option("--key", type=FILE, help=f"The log's key; {KEY_FILE} beside the owner's settings without it.")
@owner_option
@json_option
def check_proof(file: Path, key: Path | None, owner: Path | None) -> None:
    """Check a proof offline, and show the entry that it proves."""
    verifier = key_of(key, owner)
    if file.stat().st_size > MAX_PROOF:
        raise FormatError("The inclusion proof is too long.", field="proof")
    show_entry(InclusionProof.from_bytes(read_file(file, "the proof")), verifier)


# --- what the auditor trusts ---


def _development_root(path: Path | None) -> Roots | None:
    if path is None:
        return None
    from sealroom.snp import Roots

    return Roots.development(read_file(path, "the development root"))


def _development_gpu_root(folder: Path | None) -> NvidiaRoots | None:
    if folder is None:
        return None
    from sealroom.nvidia import NvidiaRoots

    device, rim = (
        read_file(folder / f"gpu-{kind}-root.pem", "the development root of GPUs")
        for kind in ("device", "rim")
    )
    return NvidiaRoots.development(device, rim)


def _environments(folder: Path | None) -> Iterable[Environment]:
    if folder is None:
        return ()
    from sealroom.environments import Environment

    # No signature is asked for: an entry names its environment by digest.
    return [
        Environment.from_toml(read_file(path, "an environment")) for path in sorted(folder.glob("*.toml"))
    ]


def _policies(path: Path | None) -> Iterable[Policy]:
    if path is None:
        return ()
    from sealroom.appraisal import Policy

    return [Policy.from_toml(read_file(path, "the appraisal policy"))]
