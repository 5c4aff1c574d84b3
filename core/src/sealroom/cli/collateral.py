# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom collateral`: fetch, show, carry and refresh what evidence is verified with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from sealroom.cli._evidence import DeviceEvidence, Evidence, read_file, recognise
from sealroom.cli.common import EXIT_REFUSED, EXIT_UNCHECKED, json_option, output, short
from sealroom.collateral import layout
from sealroom.collateral._listing import Row, listing
from sealroom.collateral.check import Checker
from sealroom.collateral.kds import INTERVAL, KDS_URL, SKEW, KdsFetcher
from sealroom.collateral.layout import Entry, Kind, parse_tcb
from sealroom.collateral.nvidia import OCSP_URL, RIM_URL, OcspFetcher, RimFetcher
from sealroom.collateral.resolver import EndorsementSource, RevocationPolicy
from sealroom.collateral.store import Store
from sealroom.errors import ConfigurationError, Error, NetworkError, StorageError
from sealroom.nvidia import NvidiaRoots, load_chain, rim_ids, verify_device
from sealroom.snp import ProductLine, Roots, VekKind

if TYPE_CHECKING:
    from sealroom.kbs.devices import Device

FILE: Final = click.Path(dir_okay=False, path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Fetch, show, carry and refresh what evidence is verified with.

    A store holds AMD's endorsement certificates and revocation lists and NVIDIA's reference manifests and
    OCSP answers. Everything in it was verified to the makers' pinned roots.
    """


# --- what the commands share ---


def _default_store() -> Path:
    """Return the store that is used if none is named."""
    named = os.environ.get("SEALROOM_COLLATERAL")
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    return base / "sealroom" / "collateral"


@dataclass(frozen=True, slots=True)
class _Trust:
    """Whose signatures count: the makers', and development roots that were named."""

    roots: tuple[Roots, ...]
    nvidia: tuple[NvidiaRoots, ...]

    @classmethod
    def of(cls, root: Path | None, gpu_root: Path | None) -> _Trust:
        amd, nvidia = [Roots.amd()], [NvidiaRoots.nvidia()]
        if root is not None:
            amd.append(Roots.from_pem(_given(root)))
        if gpu_root is not None:
            pem = [_given(gpu_root / name) for name in ("gpu-device-root.pem", "gpu-rim-root.pem")]
            nvidia.append(NvidiaRoots.development(*pem))
        return cls(tuple(amd), tuple(nvidia))

    def checker(self, store: Store) -> Checker:
        return Checker(store, self.roots, self.nvidia)


@dataclass(frozen=True, slots=True)
class _Services:
    """Where things are fetched from."""

    kds: KdsFetcher
    rims: RimFetcher
    ocsp: OcspFetcher

    @classmethod
    @contextmanager
    def open(cls, store: Store, kds: str, rim: str, ocsp: str, pace: float) -> Iterator[_Services]:
        note, progress = output().note, output().note
        made = cls(
            KdsFetcher(store, kds, interval=pace, progress=progress, note=note),
            RimFetcher(store, rim, progress=progress, note=note),
            OcspFetcher(store, ocsp, progress=progress, note=note),
        )
        try:
            yield made
        finally:
            for one in (made.kds, made.rims, made.ocsp):
                one.close()


def _store_option(command: F) -> F:
    return click.option(
        "--store",
        "path",
        type=click.Path(file_okay=False, path_type=Path),
        help="The store; $SEALROOM_COLLATERAL without it, then your data directory.",
    )(command)


def _root_options(command: F) -> F:
    command = click.option(
        "--gpu-root",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder with the development roots of simulated GPUs.",
    )(command)
    return click.option("--root", type=FILE, help="Development root of simulated processors, PEM or DER.")(
        command
    )


def _service_options(command: F) -> F:
    for option in (
        click.option(
            "--pace",
            type=click.FloatRange(min=0),
            default=INTERVAL,
            show_default=True,
            help="Seconds between requests to AMD's service; a relay of yours may take more.",
        ),
        click.option("--ocsp-url", default=OCSP_URL, show_default=True, help="NVIDIA's OCSP responder."),
        click.option("--rim-url", default=RIM_URL, show_default=True, help="NVIDIA's RIM service."),
        click.option("--kds-url", default=KDS_URL, show_default=True, help="AMD's key distribution service."),
    ):
        command = option(command)
    return command


def _open(path: Path | None) -> Store:
    return Store(path or _default_store())


def _given(path: Path) -> bytes:
    try:
        return read_file(path)
    except StorageError as error:
        raise ConfigurationError(error.message) from error


# --- fetch ---


@command.command()
@click.option("--report", "reports", type=FILE, multiple=True, help="Evidence: fetch what it needs.")
@click.option(
    "--line",
    type=click.Choice([line.value for line in ProductLine], case_sensitive=False),
    help="Product line: fetch its revocation list, and a VCEK with --chip-id and --tcb.",
)
@click.option("--chip-id", metavar="HEX", help="CHIP_ID: 128 digits; 16 for Turin.")
@click.option("--tcb", metavar="TCB", help="TCB such as bl3-tee0-snp8-ucode115 (Turin: fmc0- before it).")
@click.option("--rim", "rim_list", metavar="ID", multiple=True, help="Id of an NVIDIA reference manifest.")
@_service_options
@_root_options
@_store_option
@json_option
def fetch(
    reports: tuple[Path, ...],
    line: str | None,
    chip_id: str | None,
    tcb: str | None,
    rim_list: tuple[str, ...],
    kds_url: str,
    rim_url: str,
    ocsp_url: str,
    pace: float,
    root: Path | None,
    gpu_root: Path | None,
    path: Path | None,
) -> None:
    """Fetch into the store what evidence, a chip or a device needs."""
    if (chip_id is None) != (tcb is None) or (chip_id is not None and line is None):
        raise click.UsageError("A VCEK is named by --line, --chip-id and --tcb together.")
    if not (reports or line or rim_list):
        raise click.UsageError("Say what to fetch: --report, --line or --rim.")
    store, trust = _open(path), _Trust.of(root, gpu_root)
    before = _digests(store)
    # The last roots are the development ones, if any were named.
    roots, nvidia = trust.roots[-1], trust.nvidia[-1]
    with _Services.open(store, kds_url, rim_url, ocsp_url, pace) as services:
        for report in reports:
            _fetch_for(report, store, services, roots, nvidia)
        if line is not None:
            wanted = ProductLine(line.capitalize())
            if chip_id is not None and tcb is not None:
                services.kds.vcek(wanted, _chip_id(chip_id, wanted), parse_tcb(tcb), roots=roots)
            services.kds.crl(wanted, VekKind.VCEK, roots=roots)
        for rim_id in rim_list:
            _fetch_rim(rim_id, services, nvidia)
    _tell_changes(store, before)


def _chip_id(text: str, line: ProductLine) -> bytes:
    try:
        chip_id = bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError("--chip-id is no hexadecimal string.") from error
    size = line.chip_id_size
    # CHIP_ID as a report of Turin has it: 8 bytes, then 56 zeros.
    if len(chip_id) == 64 and not any(chip_id[size:]):
        return chip_id[:size]
    if len(chip_id) != size:
        raise click.UsageError(f"A chip id of {line} has {2 * size} digits, not {len(text)}.")
    return chip_id


def _fetch_for(path: Path, store: Store, services: _Services, roots: Roots, nvidia: NvidiaRoots) -> None:
    found = recognise(_given(path))
    if isinstance(found, Evidence):
        source = EndorsementSource(
            store, fetcher=services.kds, crl=RevocationPolicy.REQUIRED, note=output().note
        )
        # AMD issues a certificate when it is asked for: it is not valid yet at a time before that.
        source.resolve(found.report, found.certificates, roots=roots, at=datetime.now(UTC) + SKEW)
        devices = _devices(found.devices)
    elif isinstance(found, DeviceEvidence):
        devices = found.devices
    else:
        raise ConfigurationError(f"{path} is no evidence that something could be fetched for.")
    for device in devices:
        _fetch_for_device(device, services, nvidia)


def _devices(text: str) -> tuple[Device, ...]:
    from sealroom.kbs.devices import decode_devices

    return decode_devices(text) if text else ()


def _fetch_for_device(device: Device, services: _Services, roots: NvidiaRoots) -> None:
    chain = load_chain(device.chain_pem)
    verified = verify_device(device.report, chain, roots=roots, at=datetime.now(UTC))
    for rim_id in rim_ids(verified):
        if rim_id:
            _fetch_rim(rim_id, services, roots)
    services.ocsp.answers([one.der for one in verified.chain], roots=roots, first=1)


def _fetch_rim(rim_id: str, services: _Services, roots: NvidiaRoots) -> None:
    """Fetch a manifest and the answers about those who signed it."""
    from sealroom.collateral.check import check_rim

    xml = services.rims.rim(rim_id, roots=roots, force=True)
    rim = check_rim(xml, roots=roots, rim_id=rim_id)
    services.ocsp.answers([one.der for one in rim.chain], roots=roots)


def _digests(store: Store) -> dict[str, bytes | None]:
    return {name: store.read(name) for name in store.names()}


def _tell_changes(store: Store, before: dict[str, bytes | None]) -> None:
    changed = [name for name, data in _digests(store).items() if before.get(name) != data]
    if output().json:
        output().result({"store": str(store.path), "stored": changed})
    for name in changed:
        output().say(f"stored  {_short(name)}")
    output().say(f"{len(changed)} entries are new or newer in {store.path}.")


def _short(name: str) -> str:
    return "/".join(short(part, 16) if len(part) > 100 else part for part in name.split("/"))


# --- show ---


@command.command()
@_root_options
@_store_option
@json_option
def show(root: Path | None, gpu_root: Path | None, path: Path | None) -> int:
    """Show what is in the store, after checking every entry; exit status 1 if one is damaged."""
    store, trust = _open(path), _Trust.of(root, gpu_root)
    rows = listing(store, trust.checker(store), datetime.now(UTC))
    if output().json:
        output().result({"store": str(store.path), "entries": [row.as_json() for row in rows]})
    else:
        _show_table(store, rows)
    return EXIT_REFUSED if any(row.state == "damaged" for row in rows) else 0


def _show_table(store: Store, rows: list[Row]) -> None:
    if not rows:
        output().say(f"There is nothing in {store.path}.")
        return
    columns = ("State", "What", "For", "Until", "Name")
    cells = [(row.state, row.what, row.about, row.until_text, _short(row.name)) for row in rows]
    output().table(f"Collateral in {store.path}", columns, cells)
    for row in rows:
        if row.problem:
            output().say(f"{_short(row.name)}: {row.problem}")


# --- export and import ---


@command.command(name="export")
@click.argument("file", type=FILE)
@_root_options
@_store_option
@json_option
def export_(file: Path, root: Path | None, gpu_root: Path | None, path: Path | None) -> int:
    """Write the store to FILE, a bundle for machines without a network; damaged entries are left out."""
    from sealroom.collateral.bundle import export_bundle

    store, trust = _open(path), _Trust.of(root, gpu_root)
    names = store.names()
    if not names:
        raise ConfigurationError(f"There is nothing in {store.path} to export.")
    with _written_aside(file) as part, part.open("wb") as stream:
        left_out = export_bundle(store, stream, checker=trust.checker(store))
    if output().json:
        output().result({"bundle": str(file), "entries": len(names) - len(left_out), "left_out": left_out})
    for line in left_out:
        output().note(f"left out: {line}")
    output().say(f"{file}: {len(names) - len(left_out)} entries.")
    return EXIT_UNCHECKED if left_out else 0


@contextmanager
def _written_aside(file: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the file's place at the end."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.fchmod(descriptor, 0o644)
        os.close(descriptor)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}.") from error
    part = Path(name)
    try:
        yield part
        part.replace(file)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)


@command.command(name="import")
@click.argument("file", type=FILE)
@_root_options
@_store_option
@json_option
def import_(file: Path, root: Path | None, gpu_root: Path | None, path: Path | None) -> None:
    """Check every entry of FILE, a bundle, and put them into the store; one that is bad refuses it."""
    from sealroom.collateral.bundle import import_bundle

    store, trust = _open(path), _Trust.of(root, gpu_root)
    done = import_bundle(store, file, roots=trust.roots, nvidia=trust.nvidia, at=datetime.now(UTC))
    if output().json:
        output().result({"store": str(store.path), "added": list(done.added), "kept": list(done.kept)})
    output().say(
        f"{len(done.added)} entries are new or newer in {store.path}; {len(done.kept)} were there already."
    )


# --- refresh ---


@command.command()
@click.option(
    "--within",
    type=click.FloatRange(min=0),
    default=168.0,
    show_default=True,
    help="Fetch revocation lists anew that end within so many hours.",
)
@click.option("--all", "everything", is_flag=True, help="Fetch anew whatever its age.")
@_service_options
@_root_options
@_store_option
@json_option
def refresh(
    within: float,
    everything: bool,
    kds_url: str,
    rim_url: str,
    ocsp_url: str,
    pace: float,
    root: Path | None,
    gpu_root: Path | None,
    path: Path | None,
) -> int:
    """Fetch anew what grows old: revocation lists, reference manifests, OCSP answers about their signers.

    Exit status 2 if something could not be fetched; what was there before is kept.
    """
    store, trust = _open(path), _Trust.of(root, gpu_root)
    before, failed = _digests(store), 0
    limit = timedelta(hours=within)
    with _Services.open(store, kds_url, rim_url, ocsp_url, pace) as services:
        for entry in [Entry.parse(name) for name in store.names()]:
            try:
                _refresh(entry, store, services, trust, limit, everything=everything)
            except (NetworkError, Error) as error:
                failed += 1
                output().note(f"{_short(entry.name)}: {error.diagnostics()}")
    _tell_changes(store, before)
    return EXIT_UNCHECKED if failed else 0


def _refresh(
    entry: Entry, store: Store, services: _Services, trust: _Trust, limit: timedelta, *, everything: bool
) -> None:
    here = f"development/{entry.fingerprint}/" if entry.fingerprint else ""
    if entry.kind is Kind.CRL and entry.line is not None:
        roots = next((one for one in trust.roots if layout.area(one) == here), None)
        if roots is not None:
            kind = VekKind.VLEK if entry.vlek else VekKind.VCEK
            soon = _ends_within(store, entry, limit)
            services.kds.crl(entry.line, kind, roots=roots, force=everything or soon)
    elif entry.kind is Kind.RIM_CURRENT:
        nvidia = next((one for one in trust.nvidia if layout.area(one) == here), None)
        if nvidia is not None:
            _refresh_rim(entry.rim_id, services, nvidia, everything=everything)


def _refresh_rim(rim_id: str, services: _Services, roots: NvidiaRoots, *, everything: bool) -> None:
    from sealroom.collateral.check import check_rim

    rim = check_rim(services.rims.rim(rim_id, roots=roots, force=everything), roots=roots, rim_id=rim_id)
    services.ocsp.answers([one.der for one in rim.chain], roots=roots, force=everything)


def _ends_within(store: Store, entry: Entry, limit: timedelta) -> bool:
    from sealroom.snp import RevocationList

    data = store.read(entry.name)
    return data is not None and RevocationList.from_der(data).next_update < datetime.now(UTC) + limit
