# SPDX-License-Identifier: BSD-3-Clause
"""Says what a request for keys, or for access, lets others see, before it is sent. Pure."""

from __future__ import annotations

from sealroom.datasets.manifest import Manifest
from sealroom.kbs.calls import Person

from sealroom_jupyter.messages import DatasetView, PreviewItem, Status


def preview_items(dataset: DatasetView, manifest: Manifest | None, status: Status) -> tuple[PreviewItem, ...]:
    """Return one line for each thing that is sent, in the order of interest to a person."""
    person = status.person
    who = "not known to the broker yet" if person is None else f"{person.name} ({person.issuer})"
    return (
        _item("To", f"{status.broker}, the key broker; {dataset.owner} sees the request in its audit log"),
        _item("Dataset", f"{dataset.title} ({dataset.id}), manifest sha256:{dataset.manifest_sha256}"),
        _item("Who", who),
        _item("Purpose", "the one that you choose"),
        _item("Proof of this server", _proof(status)),
        _item("Public key", "made for this request; its private half stays in this server"),
        _item("File headers", _headers(manifest)),
        _item("Not sent", "the data, your notebooks, your outputs"),
    )


def asking_items(dataset: DatasetView, person: Person | None, status: Status) -> tuple[PreviewItem, ...]:
    """Return what the owner sees of a request for access, beside the person's own words."""
    environment = "not an environment that the broker knows"
    if status.environment is not None:
        known = status.environment
        environment = f"{known.title or known.name} {known.version}, {known.digest}".strip()
    devices = ", ".join(f"{device.title or device.device}: {device.tier}" for device in status.devices)
    return (
        _item("Who reads it", f"{dataset.owner}, who owns the data, through {status.broker}"),
        _item("You", _person(person)),
        _item("This server", _proof_alone(status)),
        _item("Environment", environment),
        _item("Devices", devices or "none has proven itself"),
        _item(
            "Evidence", "what this server proved last; the broker keeps it, and auditors can check it again"
        ),
        _item("Your words", "dataset, purpose, reason and wanted end, as you write them here"),
        _item("Not shown", "your notebooks, your outputs, your login"),
    )


def _person(person: Person | None) -> str:
    if person is None:
        return "not known to the broker yet"
    words = f"{person.name} ({person.subject} of {person.issuer})"
    if person.email:
        words += f", {person.email}"
    return f"{words}, groups: {', '.join(person.groups)}" if person.groups else words


def _proof_alone(status: Status) -> str:
    if status.proven_at is None:
        return "it has not proven itself"
    return f"{status.title} ({status.tier}), proven {status.proven_at:%Y-%m-%d %H:%M} UTC"


def _proof(status: Status) -> str:
    if status.proven_at is None:
        return "none: this server has not proven itself"
    environment = ""
    if status.environment is not None:
        environment = f", environment {status.environment.title} {status.environment.version}"
    return f"{status.title}{environment}, proven {status.proven_at:%Y-%m-%d %H:%M} UTC"


def _headers(manifest: Manifest | None) -> str:
    if manifest is None:
        return "none: the sealed files are not on this machine"
    size = sum(entry.header_size for entry in manifest.files)
    files = "1 file" if len(manifest.files) == 1 else f"{len(manifest.files)} files"
    return f"the encrypted headers of {files}, {size} bytes together"


def _item(label: str, value: str) -> PreviewItem:
    return PreviewItem(label=label, value=value)
