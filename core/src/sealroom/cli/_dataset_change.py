# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom dataset add`, `rekey` and `unseal`: what an owner does with a dataset that is there."""

from __future__ import annotations

import os
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sealroom.cli._dataset import (
    NearPlace,
    files_text,
    key_file,
    own_public_key,
    progress_bar,
    read_dataset_key,
    read_private,
    signing_key,
    write_private,
)
from sealroom.cli.common import json_option, load_owner, output, owner_option, plain
from sealroom.crypt4gh import SecretKey, needs_passphrase, read_secret_key, write_secret_key
from sealroom.datasets.manifest import Manifest, check_name
from sealroom.datasets.partial import sync_directory
from sealroom.datasets.seal import list_files
from sealroom.datasets.sealing import SourceFile
from sealroom.datasets.store import DatasetDirectory
from sealroom.datasets.unseal import unseal_dataset
from sealroom.datasets.update import add_files, complete_update, rekey_dataset
from sealroom.errors import ConfigurationError, StorageError

_DIRECTORY = NearPlace(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--under", default="", metavar="NAME", help="A folder in the dataset that they go into.")
@click.option("--sha256", is_flag=True, help="Make a SHA-256 over each sealed file, too.")
@owner_option
@json_option
def add(directory: Path, files: tuple[Path, ...], under: str, sha256: bool, owner: Path | None) -> None:
    """Seal FILES, and the files in folders among them, into the dataset in DIRECTORY.

    They are sealed to the dataset's key, and its manifest is signed again as the next version.
    """
    settings = load_owner(owner)
    signing = signing_key(settings)
    sources = [source for path in files for source in _sources(path, under)]
    _complete(directory, signing)
    size = sum(source.size for source in sources)
    with progress_bar("Sealing", size) as advance:
        manifest = add_files(directory, sources, signing_key=signing, progress=advance, whole_digests=sha256)
    _changed(directory, manifest, f"Added {len(sources)} files")


@click.command()
@click.argument("directory", type=_DIRECTORY)
@owner_option
@json_option
def rekey(directory: Path, owner: Path | None) -> None:
    """Give the dataset in DIRECTORY a new key: the headers of its files are encrypted again, nothing else.

    The old key stays in your folder of keys, with the version that it opened in its name. Do this when nobody
    reads the dataset: until the broker has the new manifest and key, readers are refused.
    """
    settings = load_owner(owner)
    signing = signing_key(settings)
    completed = _complete(directory, signing)
    there = completed or DatasetDirectory(directory).read_manifest().verify(own_public_key(settings))
    path = key_file(settings, there.id)
    fresh_path = path.with_name(f"{path.name}.next")
    if not fresh_path.exists():
        secret = SecretKey.generate()
        write_private(fresh_path, write_secret_key(secret, comment=f"dataset {there.id}".encode()))
    fresh = read_secret_key(read_private(fresh_path, f"the new key of {there.id}"))
    manifest = there
    # An earlier try may have ended between the headers and the names of the keys.
    if there.dataset_key != fresh.public.to_base64():
        old = read_dataset_key(settings, there.id)
        # Whatever becomes of it, the new key stays for the next try: headers may have been written with it.
        manifest = rekey_dataset(directory, old=old, new=fresh.public, signing_key=signing)
    kept = _exchange(path, fresh_path, (manifest.version or 2) - 1)
    _changed(directory, manifest, "The dataset has a new key", key_file=str(path), old_key_file=str(kept))
    output().say(f"The new key is {path}; the old one was kept as {kept}. Keep a copy of the new one.")
    output().say("Who has the old key and an old copy of the files can still read that: seal again if so.")


@click.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--key", type=_FILE, help="The dataset's secret key; the one of your settings by default.")
@click.option("--out", required=True, type=_DIRECTORY, help="Where the clear files are made; must not exist.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@owner_option
@json_option
def unseal(directory: Path, key: Path | None, out: Path, yes: bool, owner: Path | None) -> None:
    """Write the files of the dataset in DIRECTORY in clear. For its owner only."""
    settings = load_owner(owner)
    place = DatasetDirectory(directory)
    manifest = place.read_manifest().verify(own_public_key(settings))
    secret = read_dataset_key(settings, manifest.id) if key is None else _given_key(key, manifest.id)
    if not yes:
        question = f"Write {files_text(manifest)} of {manifest.id} in clear to {out}, protected by nothing"
        click.confirm(plain(question), abort=True, err=True)
    with progress_bar("Unsealing", manifest.size) as advance:
        unseal_dataset(place, manifest, secret, out, progress=advance)
    if output().json:
        output().result({"id": manifest.id, "path": str(out), "files": len(manifest.files)})
        return
    output().say(f"Wrote {files_text(manifest)} to {out}, in clear; every byte was checked.")
    output().say("Nothing protects them there: remove them when you have done with them.")


def _sources(path: Path, under: str) -> list[SourceFile]:
    prefix = f"{under.rstrip('/')}/" if under else ""
    if path.is_dir() and not path.is_symlink():
        return [SourceFile(check_name(prefix + f.name), f.path, f.size) for f in list_files(path)]
    try:
        status = path.lstat()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error
    return [SourceFile(check_name(prefix + path.name), path, status.st_size)]


def _complete(directory: Path, signing: Ed25519PrivateKey) -> Manifest | None:
    completed = complete_update(directory, signing)
    if completed is not None:
        output().note("An earlier change that had been interrupted was completed first.")
    return completed


def _given_key(path: Path, dataset: str) -> SecretKey:
    data = read_private(path, f"the key of {dataset}")
    passphrase = None
    if needs_passphrase(data):
        passphrase = click.prompt(plain(f"Passphrase of {path}"), hide_input=True, err=True).encode()
    return read_secret_key(data, passphrase)


def _exchange(path: Path, fresh: Path, version: int) -> Path:
    """Put the new key into its place and keep the old one."""
    kept = path.with_name(f"{path.name}.version-{version}")
    try:
        if path.exists() and not kept.exists():
            os.link(path, kept)
        fresh.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"The new key in {fresh} cannot be put into its place: {error.strerror}.",
            advice="Run the command again: the dataset has this key already.",
        ) from error
    return kept


def _changed(directory: Path, manifest: Manifest, what: str, **more: str) -> None:
    if output().json:
        result = {"id": manifest.id, "path": str(directory), "version": manifest.version}
        output().result({**result, "manifest_sha256": manifest.sha256, **more})
        return
    output().say(f"{what}: {manifest.id} is now version {manifest.version}, {files_text(manifest)}.")
    output().say(f"Next: sealroom dataset register {directory}")
