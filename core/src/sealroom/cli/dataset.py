# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom dataset`: seal a directory, show and check the result, register it with the broker."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from sealroom.cli.common import (
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNCHECKED,
    Owner,
    exit_code,
    json_option,
    load_owner,
    output,
    owner_option,
    short,
    size_text,
)
from sealroom.crypt4gh import SecretKey, read_secret_key, write_secret_key
from sealroom.datasets.check import check_file
from sealroom.datasets.manifest import Manifest, check_id
from sealroom.datasets.seal import Description, list_files, seal_directory
from sealroom.datasets.store import DatasetDirectory
from sealroom.errors import ConfigurationError, Error

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)

_Advance = Callable[[str, int], None]


@click.group(name="dataset")
def command() -> None:
    """Seal, show, check and register datasets."""


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
    "--out", required=True, type=_DIRECTORY, help="Where the sealed dataset is made; must not exist."
)
@click.option(
    "--settings", type=_FILE, help="The owner's settings, owner.toml; found as by the other commands."
)
@json_option
def seal(directory: Path, dataset: str, out: Path, settings: Path | None, **texts: str) -> None:
    """Seal the files of DIRECTORY as a new dataset; they are only read."""
    owner = load_owner(settings)
    check_id(dataset)
    signing_key = _signing_key(owner)
    files = list_files(directory)
    size = sum(file.size for file in files)
    started = time.monotonic()
    with _dataset_key(owner, dataset) as secret, _progress("Sealing", size) as advance:
        manifest = seal_directory(
            directory,
            out,
            description=_description(dataset, texts),
            dataset_key=secret.public,
            signing_key=signing_key,
            progress=advance,
        )
    seconds = max(time.monotonic() - started, 1e-3)
    key_file = _key_file(owner, dataset)
    if output().json:
        result = {"id": dataset, "path": str(out), "files": len(manifest.files), "size": manifest.size}
        output().result({**result, "manifest_sha256": manifest.sha256, "key_file": str(key_file)})
        return
    rate = size_text(int(manifest.size / seconds))
    output().say(f"Sealed {_files(manifest)} into {out} in {seconds:.1f} s ({rate}/s).")
    output().say(f"The dataset's secret key is {key_file}: keep a copy of it in a safe place.")
    output().say(f"The clear files in {directory} were left as they are.")
    output().say(f"Next: sealroom dataset register {out}")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@json_option
def show(directory: Path) -> None:
    """Show what the manifest in DIRECTORY says; this checks nothing."""
    manifest = Manifest.from_bytes(DatasetDirectory(directory).read_manifest().data)
    if output().json:
        output().result(manifest.model_dump(mode="json"))
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
        ("Sealed", manifest.created.strftime("%Y-%m-%d %H:%M:%S UTC")),
        ("Manifest", f"sha256:{manifest.sha256}"),
    ]
    output().table("Dataset", ("", ""), [row for row in rows if row[1]])
    entries = [(e.name, size_text(e.size), e.media_type, short(e.cipher_sha256)) for e in manifest.files]
    output().table(_files(manifest), ("file", "size", "type", "SHA-256 of the sealed bytes"), entries)
    output().say("Nothing was checked: `sealroom dataset verify` does.")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--key", type=_FILE, help="The data owner's public key (PEM, Ed25519); your own by default.")
@click.option("--decrypt", is_flag=True, help="Decrypt every segment too, in memory, with the dataset's key.")
@owner_option
@json_option
def verify(directory: Path, key: Path | None, decrypt: bool, owner: Path | None) -> int:
    """Check that DIRECTORY holds what the data owner sealed: all of it, in order, unchanged."""
    place = DatasetDirectory(directory)
    settings = load_owner(owner) if key is None or decrypt else None
    owner_key = _public_key(key) if key is not None else _own_public_key(settings)
    manifest = place.read_manifest().verify(owner_key)
    secret = _read_dataset_key(settings, manifest.id) if settings is not None and decrypt else None
    wrong: dict[str, Error] = {}
    with _progress("Checking", sum(entry.cipher_size for entry in manifest.files)) as advance:
        for entry in manifest.files:
            try:
                check_file(
                    place,
                    manifest,
                    entry,
                    secret=secret,
                    progress=lambda size, name=entry.name: advance(name, size),  # type: ignore[misc]
                )
            except Error as error:
                wrong[entry.name] = error
    return _report(manifest, wrong)


@command.command()
@click.argument("directory", type=_DIRECTORY)
@owner_option
@json_option
def register(directory: Path, owner: Path | None) -> None:
    """Give the broker the manifest and the secret key of the dataset in DIRECTORY. No data are sent."""
    from sealroom.kbs.calls import DatasetRegistration

    settings = load_owner(owner)
    owner_key = _own_public_key(settings)
    signed = DatasetDirectory(directory).read_manifest()
    manifest = signed.verify(owner_key)
    secret = _read_dataset_key(settings, manifest.id)
    if secret.public.to_base64() != manifest.dataset_key:
        raise ConfigurationError(
            f"The key {_key_file(settings, manifest.id)} is not the one that this dataset is sealed to.",
            advice="Put the key that was made when it was sealed into its place.",
        )
    registration = DatasetRegistration(
        manifest=_base64(signed.data),
        signature=_base64(signed.signature),
        owner_key=_base64(owner_key),
        secret_key=_base64(secret.reveal()),
    )
    with settings.client() as client:
        registered = client.register_dataset(registration)
    if output().json:
        output().result(registered.model_dump(mode="json"))
        return
    output().say(f"Registered {registered.id} with the broker at {settings.broker}. Nobody may use it yet.")
    output().say(f"Next: sealroom grant add {registered.id} --user NAME")


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
            output().say(f"{manifest.id} is what the data owner sealed: {_files(manifest)}.")
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


def _files(manifest: Manifest) -> str:
    count = len(manifest.files)
    return f"{count} file{'' if count == 1 else 's'}, {size_text(manifest.size)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- keys ---


def _key_file(owner: Owner, dataset: str) -> Path:
    return owner.keys / f"{dataset}.sec"


@contextlib.contextmanager
def _dataset_key(owner: Owner, dataset: str) -> Iterator[SecretKey]:
    """Give the dataset's key; a new one is stored first, and removed again if sealing fails."""
    path = _key_file(owner, dataset)
    if path.exists():
        output().note(f"Sealing to the key that is there already: {path}.")
        yield _read_dataset_key(owner, dataset)
        return
    secret = SecretKey.generate()
    try:
        owner.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(write_secret_key(secret, comment=f"dataset {dataset}".encode()))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigurationError(
            f"The dataset's key cannot be stored in {owner.keys}: {error.strerror}."
        ) from error
    try:
        yield secret
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _read_dataset_key(owner: Owner, dataset: str) -> SecretKey:
    return read_secret_key(_read_private(_key_file(owner, dataset), f"the key of {dataset}"))


def _signing_key(owner: Owner) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_read_private(owner.signing_key, "the owner's signing key"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(f"{owner.signing_key} is not a private key in PEM form.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{owner.signing_key} is not an Ed25519 key.")
    return key


def _own_public_key(owner: Owner | None) -> bytes:
    if owner is None:
        raise RuntimeError("the owner's settings were not loaded")
    return _signing_key(owner).public_key().public_bytes_raw()


def _public_key(path: Path) -> bytes:
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:
        raise ConfigurationError(f"{path} is not a public key in PEM form.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is not an Ed25519 key.")
    return key.public_bytes_raw()


def _read_private(path: Path, what: str) -> bytes:
    try:
        mode, data = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The file of {what}, {path}, cannot be read: {error.strerror}.") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigurationError(
            f"The file of {what}, {path}, may be read by others.", advice=f"Run `chmod 600 {path}`."
        )
    return data


# --- progress ---


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[_Advance]:
    """Show a bar with rate and time left on standard error, if that is a terminal."""
    if output().json or not sys.stderr.isatty():
        yield lambda _name, _size: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as SpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def advance(name: str, size: int) -> None:
            bar.update(task, advance=size, description=escape(f"{what} {name[-40:]}"))

        yield advance
