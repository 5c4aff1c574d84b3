# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom env`: make, sign, show and compare environment manifests."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sealroom import environments
from sealroom.cli.common import EXIT_REFUSED, json_option, output
from sealroom.environments import Environment
from sealroom.errors import ConfigurationError, StorageError

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Build, sign, show and compare environment manifests."""


@command.command()
@click.argument("template", type=FILE, required=False)
@click.option("--simulated", is_flag=True, help="Make the environment of the embedded default instead.")
@click.option("--dataset", "datasets", multiple=True, help="A dataset that it may open (with --simulated).")
@click.option("--output", "-o", "path", type=FILE, required=True, help="Where to write the manifest.")
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@json_option
def build(template: Path | None, simulated: bool, datasets: tuple[str, ...], path: Path, force: bool) -> None:
    """Complete TEMPLATE to a manifest: HOST_DATA of the initdata and simulated measurements are computed."""
    if simulated == (template is not None):
        raise click.UsageError("Give a TEMPLATE or --simulated, and not both.")
    environment = (
        environments.build(_read(template)) if template else environments.simulated_cpu(datasets=datasets)
    )
    _write(path, environment.raw, force=force)
    _done(
        {"manifest": str(path), "digest": environment.digest},
        f"{path}: {environment.title}, version {environment.version}, {environment.digest}",
    )


@command.command()
@click.option(
    "--output",
    "-o",
    "path",
    type=FILE,
    required=True,
    help="Where to write the private key (PEM, mode 0600).",
)
@json_option
def keygen(path: Path) -> None:
    """Make a publisher key; the public half is written beside it with the ending .pub.pem."""
    key = environments.generate_key()
    public = path.with_name(path.name.removesuffix(".pem") + ".pub.pem")
    _write(path, environments.private_pem(key), mode=0o600)
    _write(public, environments.public_pem(key))
    key_id = environments.key_id(key.public_key())
    _done(
        {"private": str(path), "public": str(public), "key_id": key_id},
        f"{path}: private key, keep it secret",
        f"{public}: public key {key_id}, for those who approve environments",
    )


@command.command()
@click.argument("manifest", type=FILE)
@click.option("--key", type=FILE, required=True, help="The publisher's private key.")
@json_option
def sign(manifest: Path, key: Path) -> None:
    """Sign MANIFEST; the signature (one line of base64) is written beside it with the ending .sig."""
    signature = environments.sign(_read(manifest), environments.load_private_key(_read(key)))
    path = manifest.with_name(manifest.name + ".sig")
    _write(path, signature, force=True)
    _done({"signature": str(path)}, f"{path}: signature of {manifest.name}")


@command.command()
@click.argument("manifest", type=FILE)
@click.option(
    "--key", "keys", type=FILE, multiple=True, help="A publisher's public key; the signature is checked."
)
@json_option
def show(manifest: Path, keys: tuple[Path, ...]) -> None:
    """Show MANIFEST, after checking its signature if a publisher's key is given."""
    if keys:
        trusted = [environments.load_public_key(_read(path)) for path in keys]
        environment = environments.load(manifest, trusted)
    else:
        environment = Environment.from_toml(_read(manifest))
    if output().json:
        content = environment.model_dump(mode="json", exclude_none=True)
        output().result({"digest": environment.digest, "signature_checked": bool(keys), **content})
        return
    _print(environment, signed=bool(keys))


@command.command()
@click.argument("old", type=FILE)
@click.argument("new", type=FILE)
@json_option
def diff(old: Path, new: Path) -> None:
    """Say in what the manifests OLD and NEW differ; exit status 1 if they do."""
    differences = environments.diff(Environment.from_toml(_read(old)), Environment.from_toml(_read(new)))
    if output().json:
        rows = [{"field": item.field, "old": item.old, "new": item.new} for item in differences]
        output().result({"differences": rows})
    for item in differences:
        output().say(item.field)
        if item.old is not None:
            output().say(f"  - {item.old}")
        if item.new is not None:
            output().say(f"  + {item.new}")
    if differences:
        click.get_current_context().exit(EXIT_REFUSED)
    output().say("No difference.")


def _done(result: dict[str, str], *sentences: str) -> None:
    if output().json:
        output().result(result)
    for sentence in sentences:
        output().say(sentence)


def _print(environment: Environment, *, signed: bool) -> None:
    kind = {"snp": "AMD SEV-SNP", "simulated": "simulated; protects nothing"}[environment.tee]
    rows = [
        ("name", f"{environment.name}, version {environment.version}"),
        ("title", environment.title),
        ("digest", environment.digest),
        ("signature", "checked" if signed else "not checked (no --key given)"),
        ("processor", kind),
        ("guest policy", hex(environment.guest_policy)),
        ("HOST_DATA", environment.host_data.hex()),
        ("datasets", ", ".join(environment.datasets) or "none named"),
    ]
    rows += [("image", f"{image.name}: {image.reference} {image.digest}") for image in environment.images]
    for shape in environment.shapes:
        size = f"{shape.vcpus} vCPUs, {shape.memory_mib} MiB, {shape.gpus} GPUs"
        rows.append(("shape", f"{shape.name}: {size}"))
        rows += [("measurement", value) for value in shape.measurements]
    rows += [
        ("minimum TCB", f"{line}: {levels.as_tcb()}") for line, levels in environment.minimum_tcb.items()
    ]
    for name, value in rows:
        click.echo(f"{name:<13}{value}")
    if environment.description:
        click.echo(f"\n{environment.description}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from error


def _write(path: Path, data: bytes, *, mode: int = 0o644, force: bool = False) -> None:
    # Written aside and renamed, so that a reader never sees half a file.
    if path.exists() and not force:
        raise ConfigurationError(f"{path} exists.", advice="Name another file, or remove it first.")
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error
