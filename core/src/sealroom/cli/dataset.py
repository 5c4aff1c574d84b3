# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom dataset`: seal a directory, show and check the result, register it with the broker."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sealroom.cli._dataset import (
    Place,
    base64_text,
    begun_at,
    files_text,
    key_file,
    new_dataset_key,
    own_public_key,
    progress_bar,
    public_key,
    read_dataset_key,
    read_private,
    signing_key,
    write_private,
)
from sealroom.cli._dataset_change import add, rekey, unseal
from sealroom.cli._moment import future, when
from sealroom.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNCHECKED,
    exit_code,
    json_option,
    load_owner,
    output,
    owner_option,
    plain,
    short,
    size_text,
)
from sealroom.crypt4gh import read_secret_key, write_secret_key
from sealroom.datasets.check import check_dataset
from sealroom.datasets.manifest import Manifest, check_id
from sealroom.datasets.metadata import croissant, dcat
from sealroom.datasets.seal import Description, list_files, seal_directory, unfinished
from sealroom.datasets.seal_s3 import begun
from sealroom.datasets.seal_s3 import seal_to_bucket as seal_far
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, Error

if TYPE_CHECKING:
    from sealroom.kbs.admin import OwnedDataset

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(name="dataset")
def command() -> None:
    """Seal, show, check, change and register datasets."""


for _change in (add, rekey, unseal):
    command.add_command(_change)


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--id", "dataset", required=True, metavar="ID", help="Short name: a-z, 0-9, '-', '_', '.'.")
@click.option("--title", required=True, metavar="TEXT", help="What it is, in a line.")
@click.option("--owner", required=True, metavar="TEXT", help="Who answers for the data.")
@click.option("--contact", default="", metavar="TEXT", help="Whom a researcher asks for access.")
@click.option("--description", default="", metavar="TEXT", help="What it is, in a few sentences.")
@click.option("--source", default="", metavar="TEXT", help="Where the data come from, with a citation.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data.")
@click.option("--term", "terms", multiple=True, metavar="DUO:…", help="A data use term; may be repeated.")
@click.option(
    "--out",
    required=True,
    type=Place(),
    help="Where the sealed dataset is made, also s3://bucket/prefix; must not exist.",
)
@click.option(
    "--settings", type=_FILE, help="The owner's settings, owner.toml; found as by the other commands."
)
@click.option(
    "--sha256", is_flag=True, help="Make a SHA-256 over each sealed file, too; sealing takes longer."
)
@json_option
def seal(
    directory: Path, dataset: str, out: Path | str, settings: Path | None, sha256: bool, **texts: str
) -> None:
    """Seal the files of DIRECTORY as a new dataset; they are only read.

    If it is interrupted, the same command goes on with the files that are left.

    A bucket is reached as the AWS_ variables say: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and others.
    """
    owner = load_owner(settings)
    check_id(dataset)
    signing = signing_key(owner)
    files = list_files(directory)
    size = sum(file.size for file in files)
    if (unfinished(out) is not None) if isinstance(out, Path) else begun(out):
        output().note("Going on with what an earlier try has sealed.")
    started = time.monotonic()
    to = (
        partial(seal_directory, directory, out)
        if isinstance(out, Path)
        else partial(seal_far, directory, out)
    )
    key = new_dataset_key(owner, dataset, begun=lambda: begun_at(out))
    try:
        with key as secret, progress_bar("Sealing", size) as advance:
            manifest = to(
                description=_description(dataset, texts),
                dataset_key=secret.public,
                signing_key=signing,
                progress=advance,
                whole_digests=sha256,
            )
    except BaseException:
        if begun_at(out):
            rest = unfinished(out) if isinstance(out, Path) else f"what is below {out}"
            output().note(f"The same command goes on from here. To begin anew instead, remove {rest} first.")
        raise
    seconds = max(time.monotonic() - started, 1e-3)
    secret_file = key_file(owner, dataset)
    if output().json:
        result = {"id": dataset, "path": str(out), "files": len(manifest.files), "size": manifest.size}
        output().result({**result, "manifest_sha256": manifest.sha256, "key_file": str(secret_file)})
        return
    rate = size_text(int(manifest.size / seconds))
    output().say(f"Sealed {files_text(manifest)} into {out} in {seconds:.1f} s ({rate}/s).")
    output().say(f"The dataset's secret key is {secret_file}: keep a copy of it in a safe place.")
    output().say(f"The clear files in {directory} were left as they are.")
    output().say(f"Next: sealroom dataset register {out}")


@command.command()
@click.argument("directory", type=Place())
@click.option("--croissant", "form", flag_value="croissant", help="As Croissant metadata (JSON-LD).")
@click.option("--dcat", "form", flag_value="dcat", help="As DCAT-AP metadata (JSON-LD).")
@click.option("--url", default="", metavar="URL", help="Where people find the dataset, for the metadata.")
@json_option
def show(directory: Path | str, form: str | None, url: str) -> None:
    """Show what the manifest in DIRECTORY, or s3://bucket/prefix, says; this checks nothing."""
    manifest = Manifest.from_bytes(DatasetDirectory(directory).read_manifest().data)
    if form is not None:
        output().result((croissant if form == "croissant" else dcat)(manifest, url=url))
        return
    if output().json:
        output().result(manifest.model_dump(mode="json", exclude_none=True))
        return
    rows = [
        ("Id", manifest.id),
        ("Title", manifest.title),
        ("Owner", manifest.owner),
        ("Contact", manifest.contact),
        ("Description", manifest.description),
        ("Source", manifest.source),
        ("Licence", manifest.licence),
        ("Terms", ", ".join(str(term) for term in manifest.terms)),
        ("Version", str(manifest.version or "")),
        ("Sealed", manifest.created.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("Manifest", f"sha256:{manifest.sha256}"),
    ]
    output().table("Dataset", ("", ""), [row for row in rows if row[1]])
    entries = [(e.name, size_text(e.size), e.media_type, short(e.segments_root)) for e in manifest.files]
    output().table(files_text(manifest), ("file", "size", "type", "root of its segments"), entries)
    output().say("Nothing was checked: `sealroom dataset verify` does.")


@command.command()
@click.argument("directory", type=Place())
@click.option("--key", type=_FILE, help="The data owner's public key (PEM, Ed25519); your own by default.")
@click.option("--decrypt", is_flag=True, help="Decrypt every segment too, in memory, with the dataset's key.")
@owner_option
@json_option
def verify(directory: Path | str, key: Path | None, decrypt: bool, owner: Path | None) -> int:
    """Check that DIRECTORY holds what the data owner sealed: all of it, in order, unchanged.

    DIRECTORY may be s3://bucket/prefix.
    """
    place = DatasetDirectory(directory)
    settings = load_owner(owner) if key is None or decrypt else None
    owner_key = public_key(key) if key is not None else own_public_key(settings)
    manifest = place.read_manifest().verify(owner_key)
    secret = read_dataset_key(settings, manifest.id) if settings is not None and decrypt else None
    size = sum(entry.cipher_size for entry in manifest.files)
    with progress_bar("Checking", size) as advance:
        found = check_dataset(place, manifest, secret=secret, progress=advance)
    wrong = {name: error for name, error in found.items() if error is not None}
    return _report(manifest, wrong)


@command.command()
@click.argument("directory", type=Place())
@click.option(
    "--keep-until",
    callback=future,
    metavar="WHEN",
    help="When the permit ends and the broker destroys the key: 2027-03-31, or +30d. A later one extends it.",
)
@owner_option
@json_option
def register(directory: Path | str, keep_until: datetime | None, owner: Path | None) -> None:
    """Give the broker the manifest and the secret key of the dataset in DIRECTORY. No data are sent."""
    from sealroom.kbs.calls import DatasetRegistration

    settings = load_owner(owner)
    owner_key = own_public_key(settings)
    signed = DatasetDirectory(directory).read_manifest()
    manifest = signed.verify(owner_key)
    secret = read_dataset_key(settings, manifest.id)
    if secret.public.to_base64() != manifest.dataset_key:
        raise ConfigurationError(
            f"The key {key_file(settings, manifest.id)} is not the one that this dataset is sealed to.",
            advice="Put the key that was made when it was sealed into its place.",
        )
    registration = DatasetRegistration(
        manifest=base64_text(signed.data),
        signature=base64_text(signed.signature),
        owner_key=base64_text(owner_key),
        secret_key=base64_text(secret.reveal()),
        keep_until=keep_until,
    )
    with settings.client() as client:
        registered = client.register_dataset(registration)
    if output().json:
        output().result(registered.model_dump(mode="json"))
        return
    output().say(
        f"Registered {registered.id} with the broker at {settings.broker}. Nobody uses it without a grant."
    )
    if registered.keep_until is not None:
        output().say(f"The broker destroys its key on {when(registered.keep_until)}.")
    output().say(f"Next: sealroom grant add {registered.id} --user NAME")


@command.command("trustee-resource")
@click.argument("directory", type=Place())
@click.option("--key", type=_FILE, help="The dataset's secret key; the one of your settings by default.")
@click.option("--out", required=True, type=_FILE, help="The file to write; must not exist.")
@click.option("--key-only", is_flag=True, help="Without the manifest: for a manifest of more than 1 MB.")
@owner_option
@json_option
def trustee_resource(
    directory: Path | str, key: Path | None, out: Path, key_only: bool, owner: Path | None
) -> None:
    """Write the key of the dataset in DIRECTORY as a resource for a Trustee key broker.

    Whoever gets the resource reads the dataset. Remove the file once the key broker has it.
    """
    from sealroom.kbs.trustee import KIND, REPOSITORY, DatasetKey

    settings = load_owner(owner)
    signed = DatasetDirectory(directory).read_manifest()
    manifest = signed.verify(own_public_key(settings))
    path = key or key_file(settings, manifest.id)
    secret = read_secret_key(read_private(path, f"the key of {manifest.id}"))
    if secret.public.to_base64() != manifest.dataset_key:
        raise ConfigurationError(f"The key {path} is not the one that this dataset is sealed to.")
    if key_only:
        data = write_secret_key(secret)
    else:
        data = DatasetKey(secret, manifest.id, signed.data, signed.signature).to_bytes()
    write_private(out, data)
    name = f"{REPOSITORY}/{KIND}/{manifest.id}"
    if output().json:
        output().result({"id": manifest.id, "path": str(out), "resource": name, "size": len(data)})
        return
    output().say(f"Wrote the key of {manifest.id} to {out}: {size_text(len(data))}, for your eyes only.")
    output().say(f"Next: kbs-client config set-resource --path {name} --resource-file {out}")
    output().say(f"Then remove {out}.")


@command.command(name="list")
@owner_option
@json_option
def list_(owner: Path | None) -> None:
    """List the datasets that the broker holds."""
    with load_owner(owner).client() as client:
        datasets = client.datasets()
    if output().json:
        output().result([one.model_dump(mode="json") for one in datasets])
    elif not datasets:
        output().say("The broker holds no dataset.")
    else:
        columns = ("id", "title", "files", "size", "registered", "permit until", "key")
        output().table("Datasets", columns, [_owned_row(one) for one in datasets])


@command.command(name="destroy-key")
@click.argument("dataset", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it stands in the audit log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@owner_option
@json_option
def destroy_key(dataset: str, reason: str, yes: bool, owner: Path | None) -> None:
    """Destroy the broker's key of dataset ID: nobody can open it until you register it again."""
    settings = load_owner(owner)
    if not yes:
        question = f"Destroy the key of {dataset} at {settings.broker}? Running servers lose the data, too"
        click.confirm(plain(question), abort=True, err=True)
    with settings.client() as client:
        owned = client.destroy_key(dataset, reason)
    if output().json:
        output().result(owned.model_dump(mode="json"))
        return
    output().say(f"The broker at {settings.broker} has no key of {owned.id} any more.")
    output().say('Its backups do: see what to do with them in the guide on grants, "Destroy a key".')
    output().say(f"Your own key is still there: {key_file(settings, owned.id)}.")


def _owned_row(owned: OwnedDataset) -> tuple[str, ...]:
    return (
        owned.id,
        owned.title,
        str(owned.files),
        size_text(owned.size),
        when(owned.registered),
        when(owned.keep_until) if owned.keep_until else "-",
        f"destroyed {when(owned.destroyed)}" if owned.destroyed else "there",
    )


def _report(manifest: Manifest, wrong: dict[str, Error]) -> int:
    """Write what a check found and return the exit code."""
    if output().json:
        files = [
            {
                "name": e.name,
                "ok": e.name not in wrong,
                "error": wrong[e.name].message if e.name in wrong else "",
            }
            for e in manifest.files
        ]
        result = {"id": manifest.id, "manifest_sha256": manifest.sha256, "ok": not wrong, "files": files}
        output().result(result)
    else:
        for entry in manifest.files:
            error = wrong.get(entry.name)
            output().say(f"{entry.name}: unchanged" if error is None else f"REFUSED  {error.diagnostics()}")
        if not wrong:
            output().say(f"{manifest.id} is what the data owner sealed: {files_text(manifest)}.")
    codes = {exit_code(error) for error in wrong.values()}
    if not codes:
        return EXIT_OK
    return EXIT_REFUSED if EXIT_REFUSED in codes else EXIT_UNCHECKED


def _description(dataset: str, texts: dict[str, str]) -> Description:
    return Description(
        id=dataset,
        title=texts["title"],
        owner=texts["owner"],
        contact=texts["contact"],
        description=texts["description"],
        source=texts["source"],
        licence=texts["licence"],
        terms=tuple(texts["terms"]),
    )
