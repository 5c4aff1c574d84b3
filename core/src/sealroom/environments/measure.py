# SPDX-License-Identifier: BSD-3-Clause
"""Expected launch measurements: what MEASUREMENT will be for given firmware, kernel and pod shape.

What this is: a typed layer over the package `sev-snp-measure`, which knows how the pages of a guest are
measured. What this is not: a check of a report; appraisal compares MEASUREMENT with the table made here.

How a launch digest is made (AMD 56860 rev 1.58, SNP_LAUNCH_UPDATE, PAGE_INFO): a chain of SHA-384 over the
firmware's pages, the pages that its metadata names (one of them holds the SHA-256 of kernel, initrd and
command line), and one VMSA page for each vCPU. So everything but the VMSA pages is computed once, and a
table of many shapes costs one hash for each vCPU.

Invariants:

- Nothing but `Error` leaves this module, whatever the firmware's bytes are.
- Firmware whose tables are not whole is refused: no digest is made from a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sevsnpmeasure import guest as sev_guest
from sevsnpmeasure.gctx import GCTX
from sevsnpmeasure.ovmf import SectionType
from sevsnpmeasure.sev_hashes import SevHashes
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA

from sealroom.environments._firmware import FOREIGN, load_firmware, why
from sealroom.errors import ConfigurationError, FormatError, StorageError

MEASUREMENT_SIZE: Final = 48
"""Bytes of a launch digest (SHA-384)."""
MAX_VCPUS: Final = 512
MAX_PAYLOAD: Final = 4 << 30
"""Longest kernel or initrd in bytes."""
MAX_APPEND: Final = 4096
"""Longest kernel command line in bytes; the x86 kernel takes 2048."""
KATA_CPU_TYPE: Final = "EPYC-v4"
"""The CPU model with which Kata launches SEV-SNP guests under QEMU."""
CPU_SIGNATURES: Final[Mapping[str, int]] = MappingProxyType(dict(CPU_SIGS))
"""CPUID Fn0000_0001_EAX of QEMU's CPU models by name."""

_CHUNK: Final = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the digests that are done and their number."""


class VmmType(StrEnum):
    """The hypervisor, which sets the vCPUs' first registers."""

    QEMU = "QEMU"
    EC2 = "ec2"
    GCE = "gce"


@dataclass(frozen=True, slots=True)
class LaunchArtifacts:
    """What a guest is launched with, but for its number and type of vCPUs."""

    ovmf: Path
    """The firmware image."""
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    """The kernel's command line, exactly."""
    vmm_type: VmmType = VmmType.QEMU
    guest_features: int = 1
    """SEV_FEATURES of the vCPUs: 0x1, with debug swap 0x21 (AMD 24593, SEV_FEATURES)."""
    ovmf_hash: bytes | None = None
    """Digest after the firmware's pages, 48 bytes, if it is known; then only the firmware's tables are read,
    so the file may be the end of the image."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """An expected launch measurement."""

    vcpus: int
    cpu_type: str
    """Name or signature as it was asked for; empty where the hypervisor does not measure it."""
    digest: bytes
    """MEASUREMENT, 48 bytes."""


@dataclass(frozen=True, slots=True)
class PreparedLaunch:
    """Everything of a launch that does not depend on the vCPUs. Made by `prepare`."""

    ovmf_sha256: bytes
    kernel_sha256: bytes | None
    initrd_sha256: bytes | None
    ovmf_hash: bytes
    """Digest after the firmware's pages, 48 bytes."""
    vmm_type: VmmType
    guest_features: int
    _seed: bytes
    _reset_eip: int

    def digest(self, vcpus: int, cpu: str | int | None = None) -> bytes:
        """Return the launch digest of one shape, 48 bytes; arguments and errors as of `launch_digest`."""
        return self.table([vcpus], [] if cpu is None else [cpu])[0].digest

    def table(
        self, vcpus: Iterable[int], cpus: Iterable[str | int] = (), progress: Progress | None = None
    ) -> tuple[Measurement, ...]:
        """Return the digests of shapes and CPU types; arguments and errors as of `measurement_table`."""
        counts = _counts(vcpus)
        names = _cpus(cpus, self.vmm_type)
        if counts[-1] > 1 and not self._reset_eip:
            raise FormatError(
                "The firmware names no entry point for a second vCPU.", field="SEV_ES_RESET_BLOCK"
            )
        total, found = len(counts) * len(names), dict[tuple[int, str], Measurement]()
        for name, signature in names.items():
            for count, digest in self._after_vcpus(signature, counts):
                found[count, name] = Measurement(count, name, digest)
                if progress is not None:
                    progress(len(found), total)
        return tuple(found[count, name] for count in counts for name in names)

    def _after_vcpus(self, signature: int, counts: list[int]) -> Iterator[tuple[int, bytes]]:
        """Yield (vCPUs, digest) for the counts, which are sorted: each goes on where the last one ended."""
        context = GCTX(seed=self._seed)
        vmm = VMMType[self.vmm_type.value]
        vmsa = VMSA(SevMode.SEV_SNP, self._reset_eip, signature, self.guest_features, vmm)
        wanted = set(counts)
        for done, page in enumerate(vmsa.pages(counts[-1]), start=1):
            context.update_vmsa_page(page)
            if done in wanted:
                yield done, bytes(context.ld())


def prepare(artifacts: LaunchArtifacts) -> PreparedLaunch:
    """Read the artifacts and measure everything that does not depend on the vCPUs.

    Raises:
        StorageError: A file cannot be read.
        FormatError: The firmware's tables are missing or malformed.
        ConfigurationError: The artifacts do not fit together, or a value is out of range.
    """
    _check_values(artifacts)
    firmware = load_firmware(artifacts.ovmf, whole=artifacts.ovmf_hash is None)
    hashes = _hashes(artifacts)
    has_page = firmware.has_metadata_section(SectionType.SNP_KERNEL_HASHES)
    if hashes is not None and not has_page:
        raise ConfigurationError(
            f"{artifacts.ovmf.name} has no SNP_KERNEL_HASHES section, so it cannot measure a kernel.",
            advice="Take the AmdSev build of OVMF, or give no kernel.",
        )
    if hashes is not None and not firmware.is_sev_hashes_table_supported():
        raise FormatError(
            f"{artifacts.ovmf.name} has no place for the kernel's hashes.", field="SEV_HASH_TABLE_RV"
        )
    try:
        context = GCTX(seed=artifacts.ovmf_hash) if artifacts.ovmf_hash else GCTX()
        if not artifacts.ovmf_hash:
            context.update_normal_pages(firmware.gpa(), firmware.data())
        ovmf_hash = bytes(context.ld())
        vmm = VMMType[artifacts.vmm_type.value]
        sev_guest.snp_update_metadata_pages(context, firmware, hashes, vmm)
        reset_eip = firmware.sev_es_reset_eip()
    except FOREIGN as error:
        raise FormatError(
            f"{artifacts.ovmf.name} cannot be measured: {str(error) or 'malformed'}."
        ) from error
    return PreparedLaunch(
        ovmf_sha256=hashlib.sha256(firmware.data()).digest(),
        kernel_sha256=hashes.kernel_hash if hashes is not None else None,
        initrd_sha256=hashes.initrd_hash if hashes is not None and artifacts.initrd is not None else None,
        ovmf_hash=ovmf_hash,
        vmm_type=artifacts.vmm_type,
        guest_features=artifacts.guest_features,
        _seed=bytes(context.ld()),
        _reset_eip=reset_eip,
    )


def launch_digest(artifacts: LaunchArtifacts, vcpus: int, cpu: str | int | None = None) -> bytes:
    """Return the expected launch digest, 48 bytes.

    Args:
        artifacts: What the guest is launched with.
        vcpus: Number of vCPUs, 1 to 512.
        cpu: CPU type by its QEMU name, or its CPUID signature. Needed with QEMU; EC2 and GCE do not measure
            it.

    Raises:
        StorageError: A file cannot be read.
        FormatError: The firmware's tables are missing or malformed.
        ConfigurationError: The CPU type is not known, or something does not fit together.
    """
    return prepare(artifacts).digest(vcpus, cpu)


def measurement_table(
    artifacts: LaunchArtifacts,
    vcpus: Iterable[int],
    cpus: Iterable[str | int] = (),
    progress: Progress | None = None,
) -> tuple[Measurement, ...]:
    """Return the expected digests of every number of vCPUs with every CPU type.

    Args:
        artifacts: What the guests are launched with; they are read and hashed once.
        vcpus: Numbers of vCPUs, 1 to 512; in the result sorted and each once.
        cpus: CPU types as in `launch_digest`.
        progress: Called after each digest.

    Raises:
        StorageError: A file cannot be read.
        FormatError: The firmware's tables are missing or malformed.
        ConfigurationError: A CPU type is not known, or something does not fit together.
    """
    return prepare(artifacts).table(vcpus, cpus, progress)


def cpu_signature(cpu: str | int) -> int:
    """Return the CPUID signature of a CPU type: a name, or the number itself (as text, `0x800f12`).

    Raises:
        ConfigurationError: The name is not known, or the number has more than 32 bits.
    """
    known = CPU_SIGNATURES.get(cpu) if isinstance(cpu, str) else cpu
    if known is None:
        try:
            known = int(str(cpu), 0)
        except ValueError:
            names = ", ".join(CPU_SIGNATURES)
            raise ConfigurationError(f"There is no CPU type {cpu}.", advice=f"Known are: {names}.") from None
    if not 0 < known < 1 << 32:
        raise ConfigurationError(f"A CPU signature is a number of 32 bits, and {cpu} is none.")
    return int(known)


def kata_vcpus(cpu_limit_millicores: int, default_vcpus: float = 1) -> int:
    """Return the vCPUs that Kata gives a pod whose size it sets at launch (`static_sandbox_resource_mgmt`).

    Kata adds the pod's CPU limits to `default_vcpus` of its configuration and rounds up; without limits
    `default_vcpus` is the number.

    Args:
        cpu_limit_millicores: Sum of the CPU limits of the pod's containers, in thousandths; 0 without any.
        default_vcpus: `default_vcpus` of Kata's configuration.

    Raises:
        ConfigurationError: A value is negative, or the result is not 1 to 512.
    """
    if cpu_limit_millicores < 0 or not 0 <= default_vcpus <= MAX_VCPUS:
        raise ConfigurationError("A pod's CPU limit and Kata's default_vcpus are not negative.")
    thousandths = round(default_vcpus * 1000) + cpu_limit_millicores
    return _counts([-(-thousandths // 1000)])[0]


# --- what is asked for


def _counts(vcpus: Iterable[int]) -> list[int]:
    counts = sorted(set(vcpus))
    if not counts:
        raise ConfigurationError("No number of vCPUs is named.")
    for count in (counts[0], counts[-1]):
        if not 1 <= count <= MAX_VCPUS:
            raise ConfigurationError(f"A guest has 1 to {MAX_VCPUS} vCPUs, not {count}.")
    return counts


def _cpus(cpus: Iterable[str | int], vmm_type: VmmType) -> dict[str, int]:
    """Return signatures by the name as asked for."""
    names = {cpu if isinstance(cpu, str) else f"{cpu:#x}": cpu_signature(cpu) for cpu in cpus}
    if vmm_type is not VmmType.QEMU:
        return {"": 0}
    if not names:
        raise ConfigurationError("With QEMU the CPU type is measured, and none is named.")
    return names


def _check_values(artifacts: LaunchArtifacts) -> None:
    append = (artifacts.append or "").encode("utf-8", "surrogatepass")
    if artifacts.kernel is None and (artifacts.initrd is not None or append):
        raise ConfigurationError("An initrd or a command line is measured only together with a kernel.")
    if len(append) > MAX_APPEND or any(byte < 0x20 or byte == 0x7F for byte in append):
        raise ConfigurationError(
            f"A kernel command line is one line of at most {MAX_APPEND} bytes without control characters."
        )
    if not 0 < artifacts.guest_features < 1 << 64 or not artifacts.guest_features & 1:
        raise ConfigurationError(
            f"Guest features {artifacts.guest_features:#x} are no 64-bit word with bit 0 (SEV-SNP) set."
        )
    if artifacts.ovmf_hash is not None and len(artifacts.ovmf_hash) != MEASUREMENT_SIZE:
        raise ConfigurationError(
            f"A firmware digest has {MEASUREMENT_SIZE} bytes, not {len(artifacts.ovmf_hash)}."
        )


# --- the files


def _hashes(artifacts: LaunchArtifacts) -> Any:
    """Return the digests that go into the page of kernel hashes, or None without a kernel."""
    if artifacts.kernel is None:
        return None
    # The package's constructor takes files into memory whole; here they are read in pieces.
    hashes = SevHashes.__new__(SevHashes)
    hashes.kernel_hash = file_sha256(artifacts.kernel)
    hashes.initrd_hash = (
        hashlib.sha256().digest() if artifacts.initrd is None else file_sha256(artifacts.initrd)
    )
    hashes.cmdline_hash = hashlib.sha256((artifacts.append or "").encode() + b"\0").digest()
    return hashes


def file_sha256(path: Path) -> bytes:
    """Return the SHA-256 of a kernel or initrd, 32 bytes.

    Raises:
        StorageError: The file cannot be read or is endless.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if size > MAX_PAYLOAD:
                    raise StorageError(f"{path} is longer than {MAX_PAYLOAD} bytes.")
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {why(error)}.") from error
    return digest.digest()
