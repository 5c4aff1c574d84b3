# SPDX-License-Identifier: BSD-3-Clause
"""What a manifest says, in words: groups of facts for a page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sealroom.environments import Environment
from sealroom.snp.fields import GuestPolicy

_POLICY: Final = (
    ("debug", "Debugging is allowed: the host can read and change the guest's memory", "No debugging"),
    (
        "migrate_ma",
        "A migration agent is allowed: it can move the guest to another machine",
        "No migration agent",
    ),
    ("smt", "Simultaneous multithreading is allowed", "No simultaneous multithreading"),
    ("single_socket", "One socket only", ""),
    ("cxl_allow", "CXL devices and memory are allowed", ""),
    ("mem_aes_256_xts", "Memory encryption with AES-256-XTS is demanded", ""),
    ("rapl_dis", "The power meter must be off", ""),
    ("ciphertext_hiding_dram", "Ciphertext hiding is demanded", ""),
    ("page_swap_disable", "The host may not move pages", ""),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a manifest says."""

    label: str
    value: str
    kind: str = "text"
    """`text`, `digest` for what is shortened, or `code`."""


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that belong together."""

    title: str
    facts: Sequence[Fact]
    note: str = ""


def facts(environment: Environment) -> list[Group]:
    """Return what a manifest says but for its shapes and its initdata, which a page shows in full."""
    groups = [
        Group("What it is", tuple(_identity(environment))),
        Group("What runs in it", tuple(_images(environment)), "Container images, each by its digest."),
        Group("What the processor must say", tuple(_processor(environment))),
        Group("Which GPUs", tuple(_gpu(environment))),
        Group(
            "What the measurements were computed from",
            tuple(_artifacts(environment)),
            "Whoever has these files can compute them again, with sealroom env check --artifacts.",
        ),
        Group("Packages", tuple(_packages(environment))),
    ]
    return [group for group in groups if group.facts]


def policy_words(value: int) -> str:
    """Say what a guest policy allows and demands."""
    policy = GuestPolicy(value)
    words = [yes if getattr(policy, name) else no for name, yes, no in _POLICY]
    return "; ".join(word for word in words if word)


def _identity(environment: Environment) -> Iterator[Fact]:
    yield Fact("Name", environment.name, "code")
    yield Fact("Version", environment.version)
    yield Fact("Digest", environment.digest, "digest")
    kinds: Mapping[str, str] = {
        "snp": "AMD SEV-SNP",
        "simulated": "Simulated: its operator can see everything in it",
    }
    yield Fact("Kind of protection", kinds[environment.tee])
    if environment.runtime_class:
        yield Fact("Runtime class", environment.runtime_class, "code")
    if environment.datasets:
        yield Fact("Meant for the datasets", ", ".join(environment.datasets))


def _images(environment: Environment) -> Iterator[Fact]:
    for image in environment.images:
        yield Fact(image.name, image.reference, "code")
        yield Fact(f"{image.name}, digest", image.digest, "digest")


def _processor(environment: Environment) -> Iterator[Fact]:
    yield Fact("Guest policy", f"{environment.guest_policy:#x}", "code")
    yield Fact("In words", policy_words(environment.guest_policy))
    for line, levels in sorted(environment.minimum_tcb.items()):
        values = levels.model_dump(exclude_none=True)
        yield Fact(
            f"Oldest firmware on {line}",
            ", ".join(f"{name} {value}" for name, value in values.items()),
        )
    for name, value in (
        ("ID key", environment.id_key_digest),
        ("Author key", environment.author_key_digest),
    ):
        if value:
            yield Fact(name, value, "digest")


def _gpu(environment: Environment) -> Iterator[Fact]:
    if environment.gpu is None:
        return
    for name, values in environment.gpu.model_dump(mode="json").items():
        if values:
            yield Fact(name.replace("_", " ").capitalize(), ", ".join(map(str, values)))


def _artifacts(environment: Environment) -> Iterator[Fact]:
    artifacts = environment.artifacts
    if artifacts is None:
        return
    for kind, file in artifacts.files():
        yield Fact(kind, file.name, "code")
        yield Fact(f"{kind}, SHA-256", file.sha256, "digest")
    if artifacts.append:
        yield Fact("Kernel command line", artifacts.append, "code")
    if artifacts.cpu_types:
        yield Fact("CPU types", ", ".join(artifacts.cpu_types))
    yield Fact("Hypervisor", artifacts.vmm_type.value)


def _packages(environment: Environment) -> Iterator[Fact]:
    # Where manifests name the packages of the notebook image.
    packages = getattr(environment, "packages", None)
    if isinstance(packages, Mapping):
        for name, version in sorted(packages.items()):
            yield Fact(str(name), str(version))
    elif packages:
        yield Fact("Packages", ", ".join(map(str, packages)))
