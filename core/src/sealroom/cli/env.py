# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom env`: make, sign, show and compare environment manifests."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import click

from sealroom import environments
from sealroom.cli.common import EXIT_REFUSED, json_option, output
from sealroom.environments import Environment
from sealroom.environments.diff import SEPARATOR
from sealroom.errors import ConfigurationError, StorageError

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Build, sign, show, check and compare environment manifests."""


@command.command()
@click.argument("template", type=FILE, required=False)
@click.option("--simulated", is_flag=True, help="Make the environment of the embedded default instead.")
@click.option("--dataset", "datasets", multiple=True, help="A dataset that it may open (with --simulated).")
@click.option("--output", "-o", "path", type=FILE, required=True, help="Where to write the manifest.")
@click.option("--force", is_flag=True, help="Replace an existing manifest.")
@json_option
def build(template: Path | None, simulated: bool, datasets: tuple[str, ...], path: Path, force: bool) -> None:
    """Complete TEMPLATE to a manifest.

    HOST_DATA of the initdata is computed, and the measurements: of a simulated guest from the manifest, of a
    guest on hardware from the files that [artifacts] names, whose paths start at TEMPLATE's folder.
    """
    if simulated == (template is not None):
        raise click.UsageError("Give a TEMPLATE or --simulated, and not both.")
    environment = (
        environments.build(_read(template), directory=template.parent)
        if template
        else environments.simulated_cpu(datasets=datasets)
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
    environment = _load(manifest, keys)
    if output().json:
        content = environment.model_dump(mode="json", exclude_none=True)
        output().result({"digest": environment.digest, "signature_checked": bool(keys), **content})
        return
    _print(environment, signed=bool(keys))


@command.command()
@click.argument("manifest", type=FILE)
@click.option(
    "--artifacts",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder with the files that the manifest names.",
)
@click.option(
    "--key", "keys", type=FILE, multiple=True, help="A publisher's public key; the signature is checked."
)
@json_option
def check(manifest: Path, directory: Path, keys: tuple[Path, ...]) -> None:
    """Compute the measurements of MANIFEST again from its artifacts; exit status 1 if they are others."""
    rows = environments.recompute(_load(manifest, keys), directory)
    same = all(row.same for row in rows)
    if output().json:
        cells = [
            {"what": row.what, "same": row.same, "recorded": row.recorded, "computed": row.computed}
            for row in rows
        ]
        output().result({"same": same, "signature_checked": bool(keys), "checked": cells})
    for row in rows:
        output().say(f"{row.what}: {'as recorded' if row.same else 'NOT as recorded'}")
        if not row.same:
            for sign_, values in (("-", row.recorded), ("+", row.computed)):
                for value in values:
                    output().say(f"  {sign_} {value}")
    if not same:
        click.get_current_context().exit(EXIT_REFUSED)
    output().say("All measurements follow from these files.")


@command.command("key-digest")
@click.argument("key", type=FILE)
@json_option
def key_digest(key: Path) -> None:
    """Print the digest by which a report names the ID key or author key KEY (P-384, PEM)."""
    from sealroom.snp import idblock

    digest = idblock.key_digest(idblock.load_key(_read(key))).hex()
    _done({"key": str(key), "digest": digest}, digest)


@command.command("id-block")
@click.argument("manifest", type=FILE)
@click.option("--shape", "shape_name", help="The shape; the first one by default.")
@click.option("--measurement", metavar="HEX", help="One of the shape's measurements, if it has several.")
@click.option("--id-key", type=FILE, required=True, help="The private ID key (P-384, PEM).")
@click.option("--author-key", type=FILE, help="The private author key (P-384, PEM).")
@click.option("--svn", type=click.IntRange(0, (1 << 32) - 1), default=0, help="GUEST_SVN for the report.")
@json_option
def id_block(
    manifest: Path,
    shape_name: str | None,
    measurement: str | None,
    id_key: Path,
    author_key: Path | None,
    svn: int,
) -> None:
    """Sign an ID block for a shape of MANIFEST; prints what QEMU's sev-snp-guest object takes."""
    from sealroom.snp import GuestPolicy, idblock

    environment = Environment.from_toml(_read(manifest))
    digest = _one_measurement(environment, shape_name, measurement)
    block = idblock.IdBlock(digest, GuestPolicy(environment.guest_policy), guest_svn=svn)
    author = idblock.load_private_key(_read(author_key)) if author_key else None
    auth = idblock.sign_id_block(block, idblock.load_private_key(_read(id_key)), author)
    verified = idblock.verify_id_block(block.to_bytes(), auth.to_bytes())
    result = {
        "id-block": base64.b64encode(block.to_bytes()).decode("ascii"),
        "id-auth": base64.b64encode(auth.to_bytes()).decode("ascii"),
        "author-key-enabled": "on" if author else "off",
        "id_key_digest": verified.id_key_digest.hex(),
    }
    if verified.author_key_digest is not None:
        result["author_key_digest"] = verified.author_key_digest.hex()
    _done(result, *(f"{name}={value}" for name, value in result.items()))


@command.command()
@click.argument("manifest", type=FILE)
@json_option
def annotation(manifest: Path) -> None:
    """Print the pod annotation that carries the initdata of MANIFEST."""
    environment = Environment.from_toml(_read(manifest))
    if environment.initdata is None:
        raise ConfigurationError(f"The environment {environment.name} has no initdata.")
    value = environments.initdata_annotation(environment.initdata.body)
    _done({environments.INITDATA_ANNOTATION: value}, f"{environments.INITDATA_ANNOTATION}: {value}")


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
        for mark, value in (("-", item.old), ("+", item.new)):
            for line in _lines(item.field, value):
                output().say(f"  {mark} {line}")
    if differences:
        click.get_current_context().exit(EXIT_REFUSED)
    output().say("No difference.")


def _load(manifest: Path, keys: tuple[Path, ...]) -> Environment:
    """Return a manifest, after checking its signature if publishers' keys are given."""
    if not keys:
        return Environment.from_toml(_read(manifest))
    return environments.load(manifest, [environments.load_public_key(_read(path)) for path in keys])


def _one_measurement(environment: Environment, shape_name: str | None, given: str | None) -> bytes:
    shape = environment.shape(shape_name)
    if given is None and len(shape.measurements) == 1:
        return shape.measurement_bytes[0]
    if given is None or given.lower() not in shape.measurements:
        raise ConfigurationError(
            f"An ID block is for one measurement, and shape {shape.name} has {len(shape.measurements)}.",
            advice="Name one of them with --measurement.",
        )
    return bytes.fromhex(given)


def _lines(field: str, value: str | None) -> list[str]:
    """Return the lines that show a side of a difference: a measurement fills one by itself."""
    if value is None:
        return []
    return value.split(SEPARATOR) if field.endswith(".measurements") else [value]


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
    rows += [*_artifacts(environment), *_keys(environment)]
    rows += [
        ("minimum TCB", f"{line}: {levels.as_tcb()}") for line, levels in environment.minimum_tcb.items()
    ]
    for name, value in rows:
        click.echo(f"{name:<13}{value}")
    if environment.description:
        click.echo(f"\n{environment.description}")


def _artifacts(environment: Environment) -> list[tuple[str, str]]:
    artifacts = environment.artifacts
    if artifacts is None:
        return []
    rows = [(kind, f"{file.name} sha256:{file.sha256}") for kind, file in artifacts.files()]
    if artifacts.append is not None:
        rows.append(("command line", artifacts.append))
    cpus = ", ".join(artifacts.cpu_types) or "any CPU"
    rows.append(("launched by", f"{artifacts.vmm_type}, {cpus}, features {artifacts.guest_features:#x}"))
    return rows


def _keys(environment: Environment) -> list[tuple[str, str]]:
    keys = (("ID key", environment.id_key_digest), ("author key", environment.author_key_digest))
    return [(name, digest) for name, digest in keys if digest is not None]


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
