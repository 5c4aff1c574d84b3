# SPDX-License-Identifier: BSD-3-Clause
"""What `sealroom verify` is given: its options, and the files beside the evidence.

A file that was given beside the evidence and cannot be used is a mistake of the command line. It refuses
nothing: evidence is refused for what is wrong with it, or with what it was compared with.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sealroom.cli._devices import Given
from sealroom.cli._evidence import read_file
from sealroom.cli._roots import TrustedRoots, sort_roots
from sealroom.cli.common import sentence_of
from sealroom.errors import ConfigurationError, Error, FormatError, StorageError
from sealroom.nvidia import NvidiaRoots, OcspPolicy, load_chain
from sealroom.snp import load_certificates
from sealroom.snp.bundle import NONCE_SIZES

if TYPE_CHECKING:
    from sealroom.appraisal import NoExpectation, Policy
    from sealroom.environments import Environment

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)


def _hex(sizes: range) -> Callable[[click.Context, click.Parameter, str | None], bytes | None]:
    """Return the callback of an option that takes bytes of some lengths in hexadecimal."""

    def convert(context: click.Context, parameter: click.Parameter, value: str | None) -> bytes | None:
        if value is None:
            return None
        try:
            data = bytes.fromhex(value)
        except ValueError as error:
            raise click.BadParameter("This is no hexadecimal string.", context, parameter) from error
        if len(data) not in sizes:
            wanted = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
            raise click.BadParameter(f"These are {len(data)} bytes, not {wanted}.", context, parameter)
        return data

    return convert


def _time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime:
    """Return a time in ISO 8601, which is in UTC without a zone; the present if there is none."""
    if value is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(value)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is no time in ISO 8601.", context, parameter) from error


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the command line asks for beside authenticity."""

    nonce: bytes | None = None
    report_data: bytes | None = None
    host_data: bytes | None = None
    environment: Path | None = None
    policy: Path | None = None

    @property
    def appraises(self) -> bool:
        """Whether the evidence is appraised, too."""
        return self.environment is not None or self.policy is not None

    def load_policy(self) -> Policy:
        """Return the policy to appraise under: the strict one if none was given."""
        from sealroom.appraisal import Policy

        if self.policy is None:
            return Policy.strict()
        with beside(self.policy):
            return Policy.from_toml(read_file(self.policy))

    def load_environment(self) -> Environment | NoExpectation:
        """Return what to appraise against: nothing if no environment was given."""
        from sealroom.appraisal import NO_EXPECTATION

        return environment_of(self.environment) if self.environment else NO_EXPECTATION


@dataclass(frozen=True, slots=True)
class Files:
    """The files that the command line names beside the evidence."""

    vek: Path | None = None
    chain: Path | None = None
    root: tuple[Path, ...] = ()
    crl: tuple[Path, ...] = ()
    rim: tuple[Path, ...] = ()
    ocsp: tuple[Path, ...] = ()
    ocsp_policy: str | None = None
    collateral: Path | None = None
    jwks: Path | None = None

    def roots(self) -> TrustedRoots:
        """Return the roots to verify with."""
        contents = []
        for path in self.root:
            with beside(path):
                contents.append(read_file(path))
                load_certificates(contents[-1])
        try:
            return sort_roots(contents)
        except FormatError as error:
            named = ", ".join(str(path) for path in self.root)
            raise ConfigurationError(f"The roots in {named} cannot be used: {error.message}") from error

    def devices(self, roots: NvidiaRoots, at: datetime, policy: Policy | None = None) -> Given:
        """Return what devices are verified with.

        Args:
            roots: The roots.
            at: The reference time.
            policy: What is going to appraise them, if anything.
        """
        rims = {_one_manifest(path): f"manifest {path}" for path in self.rim}
        answers = tuple(_one_answer(path) for path in self.ocsp)
        store = None
        if self.collateral is not None:
            from sealroom.collateral.devices import DeviceSource
            from sealroom.collateral.store import Store

            store = DeviceSource(Store(self.collateral), note=quiet)
        return Given(
            roots,
            at,
            (),
            rims,
            answers,
            self._revocation(policy),
            store,
            allow_missing_rim=policy is not None and policy.allow_missing_rim,
            allow_expired_rim=policy is not None and policy.allow_expired_rim,
        )

    def device_chain(self) -> tuple[bytes, ...]:
        """Return the certificates of a device."""
        return () if self.chain is None else tuple(load_chain(read_file(self.chain)))

    def _revocation(self, policy: Policy | None) -> OcspPolicy:
        if self.ocsp_policy is not None:
            return OcspPolicy(self.ocsp_policy)
        if policy is not None:
            # Softly, also where the policy requires answers: then the appraisal refuses, and says why.
            return OcspPolicy.OFF if policy.gpu_ocsp == "off" else OcspPolicy.SOFT
        # Answers that were given are meant to be looked at.
        return OcspPolicy.SOFT if self.ocsp or self.collateral else OcspPolicy.OFF


def quiet(_: str) -> None:
    """Take what a search left undone; the checks say what was missing."""


_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS: Final[tuple[Callable[[Any], Any], ...]] = (
    click.argument("evidence", type=_FILE),
    click.option("--vek", type=_FILE, help="VCEK or VLEK certificate, PEM or DER."),
    click.option("--chain", type=_FILE, help="ASK or ASVK certificate, or a device's chain, PEM or DER."),
    click.option(
        "--root",
        type=_FILE,
        multiple=True,
        help="Development root of a simulated processor or GPU, PEM or DER.",
    ),
    click.option("--crl", type=_FILE, multiple=True, help="Revocation list of the root, PEM or DER."),
    click.option(
        "--rim", type=_FILE, multiple=True, help="Reference integrity manifest of a GPU's driver or VBIOS."
    ),
    click.option("--ocsp", type=_FILE, multiple=True, help="Stored OCSP answer, DER or base64."),
    click.option(
        "--ocsp-policy",
        type=click.Choice([str(one) for one in OcspPolicy]),
        help="What a missing OCSP answer means; soft if there are answers, else off.",
    ),
    click.option(
        "--collateral",
        type=click.Path(file_okay=False, path_type=Path),
        help="Store with certificates, revocation lists and reference manifests.",
    ),
    click.option(
        "--nonce", metavar="HEX", callback=_hex(NONCE_SIZES), help="The nonce that you chose, in hex."
    ),
    click.option(
        "--report-data",
        metavar="HEX",
        callback=_hex(range(64, 65)),
        help="All 64 bytes of REPORT_DATA, in hex.",
    ),
    click.option(
        "--host-data", metavar="HEX", callback=_hex(range(32, 33)), help="All 32 bytes of HOST_DATA, in hex."
    ),
    click.option("--environment", type=_FILE, help="Environment manifest to appraise against."),
    click.option("--policy", type=_FILE, help="Appraisal policy; strict without it."),
    click.option(
        "--jwks", type=_FILE, help="Public keys of the broker, or of NVIDIA's service, for a token."
    ),
    click.option(
        "--at", metavar="ISO8601", callback=_time, help="Reference time; now without it, UTC without a zone."
    ),
)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@contextmanager
def beside(path: Path) -> Iterator[None]:
    """Turn the error of a file beside the evidence into one of the command line: it refuses nothing."""
    try:
        yield
    except StorageError:
        raise
    except Error as error:
        raise ConfigurationError(
            f"{path} cannot be used: {sentence_of(error)}", advice=error.advice
        ) from error


def one_certificate(path: Path) -> bytes:
    with beside(path):
        certificates = load_certificates(read_file(path))
        if len(certificates) != 1:
            raise FormatError(f"It holds {len(certificates)} certificates, not one.")
        return certificates[0]


def revocation_list(path: Path) -> bytes:
    with beside(path):
        data = read_file(path)
        if data[:1] == b"\x30":
            return data
        blocks = _CRL.findall(data)
        if len(blocks) != 1:
            raise FormatError(f"It holds {len(blocks)} revocation lists in PEM form, not one.")
        try:
            return base64.b64decode(b"".join(blocks[0].split()), validate=True)
        except binascii.Error as error:
            raise FormatError("The revocation list in PEM form does not decode.") from error


def environment_of(path: Path) -> Environment:
    from sealroom.environments import Environment

    with beside(path):
        return Environment.from_toml(read_file(path))


def _one_manifest(path: Path) -> bytes:
    """Return a manifest; whether it is authentic is a matter of its verification."""
    with beside(path):
        data = read_file(path)
        if data.lstrip()[:1] != b"<":
            raise FormatError("It is no XML document.", offset=0)
        return data


def _one_answer(path: Path) -> bytes:
    """Return an OCSP answer in DER; some tools save it in base64."""
    with beside(path):
        data = read_file(path)
        if data[:1] == b"\x30":
            return data
        try:
            return base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error as error:
            raise FormatError("It is no OCSP answer.") from error


def json_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError("It is no JSON document.") from error
    if not isinstance(document, dict):
        raise FormatError("It is no JSON object.")
    return document
