# SPDX-License-Identifier: BSD-3-Clause
"""A simulated GPU or NVSwitch: a chip with keys of its own, its reports, and the references for them.

```python
root = GpuRoot.make(at=now)
gpu = SimulatedGpu(root)                          # Hopper in single-GPU mode
report = gpu.report(nonce)                        # signed, 32 bytes of nonce
gpu.chain_pem, gpu.driver_rim, gpu.vbios_rim, gpu.ocsp(at=now)
```

Everything is right unless a mistake is asked for. The reference values are digests of texts that say
SIMULATED; no real driver has them.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import Final, Literal

from cryptography import x509

from sealroom.simulated import gpu_certificates as make
from sealroom.simulated import gpu_ocsp, gpu_reports
from sealroom.simulated.gpu_certificates import EcAuthority, Key, Life
from sealroom.simulated.gpu_models import MODELS, Architecture, Model, reference, references
from sealroom.simulated.gpu_ocsp import Status
from sealroom.simulated.gpu_reports import GpuReportFields, Opaque, sign_gpu_report, text
from sealroom.simulated.gpu_rim import RimKind, Values, sign_rim, unsigned_rim
from sealroom.simulated.gpu_root import SIGNER_LIFE, GpuRoot, derive_key

Feature = Literal["SPT", "MPT", "PPCIE"]
DEFAULT: Final = "as the driver has it"
NVDEC0_INDEX: Final = 35
"""0-based index that is not measured while NVDEC0 is off."""


class SimulatedGpu:
    """A simulated GPU (Hopper, Blackwell) or NVSwitch (LS10).

    Args:
        root: Endorses the chip and signs its reference values.
        architecture: HOPPER, BLACKWELL or LS10.
        driver_version: Decides also which opaque fields a report has; a switch has none.
        vbios_version: By default the model's.
        feature: Mode that a report names: one GPU, several, or protected PCIe; None leaves the field out.
        nvdec0: Whether the video decoder 0 is on.
        certified_fwid: Firmware id in the certificate: None leaves its extension out.
        reported_fwid: Firmware id in reports: None leaves the field out.
        switches: Switches that a GPU in protected PCIe mode is connected to.
        gpus: GPUs that a switch is connected to.
        seed: 32 bytes that the chip's keys are derived from; random without it.
    """

    def __init__(
        self,
        root: GpuRoot,
        architecture: Architecture = "HOPPER",
        *,
        driver_version: str = "580.95.05",
        vbios_version: str = "",
        feature: Feature | None = "SPT",
        nvdec0: bool = False,
        certified_fwid: bytes | str | None = DEFAULT,
        reported_fwid: bytes | str | None = DEFAULT,
        switches: Sequence[SimulatedGpu] = (),
        gpus: Sequence[SimulatedGpu] = (),
        seed: bytes | None = None,
    ) -> None:
        self.root = root
        self.architecture: Architecture = architecture
        self.model: Model = MODELS[architecture]
        self.driver_version = driver_version if self.model.is_gpu else ""
        self.vbios_version = vbios_version or self.model.vbios_version
        self._feature, self._nvdec0 = feature, nvdec0
        self._neighbours = tuple(switches or gpus)
        self._fwids = tuple(self._fwid(value) for value in (certified_fwid, reported_fwid))
        seed = secrets.token_bytes(32) if seed is None else seed
        self._key: Key = derive_key(seed, "leaf")
        self._brom_key: Key = derive_key(seed, "brom")
        self.chain = self._chain()
        """Leaf, boot ROM, provisioner, identity, root."""

    def __repr__(self) -> str:
        return f"SimulatedGpu({self.architecture}, {self.uuid})"

    # --- what it is ---

    @property
    def serial(self) -> int:
        """Serial number of the chip, which is the one of its boot ROM's certificate."""
        return make.chip_serial(self._brom_key)

    @property
    def uuid(self) -> str:
        """Name of the device as NVML gives it."""
        digest = hashlib.sha256(self.serial.to_bytes(9, "big")).digest()
        return f"{'GPU' if self.model.is_gpu else 'SWX'}-{uuid.UUID(bytes=digest[:16])}"

    @property
    def pdi(self) -> bytes:
        """Per-device id by which GPUs and switches name each other, 8 bytes."""
        return self.serial.to_bytes(9, "big")[1:]

    @property
    def chain_der(self) -> list[bytes]:
        """The five certificates in DER, leaf first."""
        return [authority.der for authority in self.chain]

    @property
    def chain_pem(self) -> bytes:
        """The five certificates in PEM, leaf first, as NVML gives them."""
        return b"".join(authority.pem for authority in self.chain)

    @property
    def driver_rim_id(self) -> str:
        """Id of the driver's manifest at the service; empty for a switch."""
        if not self.model.is_gpu:
            return ""
        prefix = "NV_GPU_DRIVER" if self.architecture == "HOPPER" else "NV_GPU_CC_DRIVER"
        return f"{prefix}_{self.model.chip}_{self.driver_version}"

    @property
    def vbios_rim_id(self) -> str:
        """Id of the VBIOS's manifest at the service."""
        model, version = self.model, self.vbios_version.replace(".", "").upper()
        prefix = "NV_GPU_VBIOS" if model.is_gpu else "NV_SWITCH_BIOS"
        return f"{prefix}_{model.project}_{model.project_sku}_{model.chip_sku}_{version}"

    # --- reports ---

    def fields(self, nonce: bytes) -> GpuReportFields:
        """Return the parts of a report for a nonce of 32 bytes."""
        return GpuReportFields(
            nonce=nonce,
            responder_nonce=hashlib.sha256(b"responder" + self.pdi + nonce).digest(),
            measurements=self.measurements,
            opaque=self._opaque(),
        )

    def report(
        self,
        nonce: bytes,
        *,
        measurements: Mapping[int, bytes] | None = None,
        opaque: Mapping[int, bytes | None] | None = None,
        key: Key | None = None,
        **changes: object,
    ) -> bytes:
        """Return a signed report.

        Args:
            nonce: The verifier's nonce, 32 bytes.
            measurements: Other values by 0-based index.
            opaque: Other opaque fields by type; None leaves one out.
            key: Another key to sign with.
            changes: Other parts of `GpuReportFields`.
        """
        fields = self.fields(nonce)
        values = list(fields.measurements)
        for index, value in (measurements or {}).items():
            values[index] = value
        fields = replace(fields, measurements=tuple(values))
        for kind, content in (opaque or {}).items():
            fields = fields.with_field(kind, content)
        return sign_gpu_report(replace(fields, **changes).signed_part(), key or self._key)  # type: ignore[arg-type]

    @property
    def measurements(self) -> tuple[bytes, ...]:
        """What the device measures, by 0-based index, 48 bytes each."""
        measured = [bytes(gpu_reports.MEASUREMENT_SIZE)] * self.model.blocks
        for kind in self._kinds():
            version = self._version(kind)
            for index in self.model.active(kind):
                measured[index] = reference(self.model, kind, version, index)
        if self.model.is_gpu and not self._nvdec0:
            measured[NVDEC0_INDEX] = hashlib.sha384(b"SIMULATED NVDEC0 off").digest()
        return tuple(measured)

    # --- reference values and revocation ---

    @cached_property
    def driver_rim(self) -> bytes:
        """The driver's manifest."""
        return self.rim("driver")

    @cached_property
    def vbios_rim(self) -> bytes:
        """The VBIOS's manifest."""
        return self.rim("vbios")

    @property
    def rims(self) -> list[bytes]:
        """The manifests that the device needs."""
        return [self.driver_rim, self.vbios_rim] if self.model.is_gpu else [self.vbios_rim]

    def rim(
        self,
        kind: RimKind,
        *,
        version: str = "",
        values: Values | None = None,
        reissued: bool = False,
        signer_life: Life | None = None,
        issuer: EcAuthority | None = None,
        digest: str = "sha384",
    ) -> bytes:
        """Return a signed manifest.

        Args:
            kind: `driver` or `vbios`.
            version: Version that it names, by default this device's.
            values: Other reference values by 0-based index, beside the device's; none removes one.
            reissued: Whether it is one that was issued again under the same version: index 9 differs.
            signer_life: When the signer is valid; by default two years from the root's time.
            issuer: Another issuer of the signer.
            digest: Hash algorithm of the signature.
        """
        chip = self.model.certified_as
        life = signer_life or Life(self.root.at, self.root.at + SIGNER_LIFE)
        wanted = dict(references(self.model, kind, self._version(kind)))
        if reissued:
            wanted[9] = (hashlib.sha384(b"SIMULATED reissue of index 9").digest(),)
        for index, alternatives in (values or {}).items():
            wanted[index] = tuple(alternatives)
        document = unsigned_rim(
            self.model.chip,
            version or self._version(kind),
            {index: alternatives for index, alternatives in wanted.items() if alternatives},
            blocks=self.model.blocks,
            edition="GPU" if self.model.is_gpu else "SWITCH",
        )
        signer = self.root.signer(chip, life)
        if issuer is not None:
            signer = make.signer(signer.certificate.subject, signer.key, issuer, life)
        return sign_rim(document, signer, self._rim_issuers(), digest=digest)

    def ocsp(
        self,
        *,
        at: datetime,
        statuses: Mapping[int, Status] | None = None,
        nonce: bytes | None = None,
        usage: bool = True,
    ) -> list[bytes]:
        """Return OCSP answers about boot ROM, provisioner and identity.

        Args:
            at: When the answers are made; each holds for 24 hours.
            statuses: Other statuses than `good`, by place in the chain (1, 2, 3).
            nonce: Nonce that the answers repeat.
            usage: Whether the responders' certificates allow to sign answers.
        """
        pairs = {place: (self.chain[place].certificate, self.chain[place + 1]) for place in (1, 2, 3)}
        return self._answers(pairs, at, statuses or {}, nonce, usage=usage)

    def rim_ocsp(
        self, *, at: datetime, statuses: Mapping[int, Status] | None = None, nonce: bytes | None = None
    ) -> list[bytes]:
        """Return OCSP answers about signer, issuer and authority of the reference values (0, 1, 2)."""
        signer = self.root.signer(self.model.certified_as, Life(self.root.at, self.root.at + SIGNER_LIFE))
        chain = [signer, *self._rim_issuers()]
        pairs = {place: (chain[place].certificate, chain[place + 1]) for place in (0, 1, 2)}
        return self._answers(pairs, at, statuses or {}, nonce)

    # --- parts ---

    def _answers(
        self,
        pairs: Mapping[int, tuple[x509.Certificate, EcAuthority]],
        at: datetime,
        statuses: Mapping[int, Status],
        nonce: bytes | None,
        *,
        usage: bool = True,
    ) -> list[bytes]:
        return [
            gpu_ocsp.answer(
                certificate,
                issuer,
                self.root.responder(issuer, usage=usage),
                at=at,
                status=statuses.get(place, "good"),
                nonce=nonce,
            )
            for place, (certificate, issuer) in pairs.items()
        ]

    def _rim_issuers(self) -> list[EcAuthority]:
        chip = self.model.certified_as
        return [self.root.rim_issuers[chip], self.root.rim_authorities[chip], self.root.rim]

    def _chain(self) -> list[EcAuthority]:
        chip, engine = self.model.certified_as, self.model.engine
        provisioner, identity = self.root.provisioners[chip], self.root.identities[chip]
        life = Life(self.root.at)
        brom = make.brom(chip, engine, self._brom_key, provisioner, life)
        leaf = make.leaf(chip, engine, self._key, brom, life, fwid=self._fwids[0])
        return [leaf, brom, provisioner, identity, self.root.device]

    def _fwid(self, value: bytes | str | None) -> bytes | None:
        if not isinstance(value, str):
            return value
        return hashlib.sha384(f"SIMULATED firmware {self.model.chip} {self.driver_version}".encode()).digest()

    def _kinds(self) -> tuple[RimKind, ...]:
        return ("driver", "vbios") if self.model.is_gpu else ("vbios",)

    def _version(self, kind: RimKind) -> str:
        return self.driver_version if kind == "driver" else self.vbios_version

    def _opaque(self) -> Opaque:
        return self._gpu_opaque() if self.model.is_gpu else self._switch_opaque()

    def _gpu_opaque(self) -> Opaque:
        """The fields in the order of real reports, as many as a driver of this version has."""
        f, model = gpu_reports, self.model
        major = int(self.driver_version.split(".")[0])
        blackwell = self.architecture == "BLACKWELL"
        old = major < 550
        fields: list[tuple[int, bytes]] = [
            (f.VBIOS_VERSION, f.vbios_field(self.vbios_version)),
            (f.BOARD_ID, model.board.to_bytes(4, "little")),
            (f.CHIP_SKU, text(model.chip_sku, 0 if old else 9)),
            (f.CHIP_SKU_MOD, text("0", 0 if old else 5)),
            (f.PROJECT, text(model.project)),
            (f.PROJECT_SKU, text(model.project_sku)),
            (f.PROJECT_SKU_MOD, text("0" if blackwell else "", 2)),
            (f.DRIVER_VERSION, text(self.driver_version)),
            (f.GPU_INFO, model.info.to_bytes(8, "little")),
            (f.MEASUREMENT_COUNTS, model.counts),
            (f.CPR_INFO, model.cpr.to_bytes(4, "little")),
            (f.NVDEC0_STATUS, f.ON if self._nvdec0 else f.OFF),
        ]
        if self._fwids[1] is not None and not old:
            fields.append((f.FWID, self._fwids[1]))
        if not blackwell and not old:
            fields.append((f.PROTECTED_PCIE, f.ON if self._feature == "PPCIE" else f.OFF))
        if self._feature == "PPCIE":
            fields.append((f.SWITCH_PDIS, self._switch_pdis()))
        if blackwell:
            fields.append((f.SYSTEM_ENABLE, b"\7\7"))
        if blackwell and major >= 580:
            fields.append((f.CHIP_INFO, text(model.chip)))
        if major >= 575:
            fields.append((f.OPAQUE_VERSION, (1 if major >= 580 else 0).to_bytes(2, "little")))
        if major >= 580 and self._feature is not None:
            fields.append((f.FEATURE, f.FEATURES[self._feature].to_bytes(2, "little")))
        return tuple(fields)

    def _switch_pdis(self) -> bytes:
        # Eighteen links; each names the switch at its other end, little-endian.
        pdis = [switch.pdi[::-1] for switch in self._neighbours] or [bytes(8)]
        return b"".join(pdis[link % len(pdis)] for link in range(18))

    def _switch_opaque(self) -> Opaque:
        f = gpu_reports
        pdis = b"".join(gpu.pdi for gpu in self._neighbours).ljust(96, b"\xff")
        links = bytes(link % max(len(self._neighbours), 1) for link in range(27)).ljust(32, b"\xff")
        return (
            (f.VBIOS_VERSION, self.vbios_version.encode()),
            (f.SWITCH_PDIS, self.pdi),
            (f.MEASUREMENT_COUNTS, self.model.counts),
            (f.GPU_PDIS, pdis + links),
            (f.FLOORSWEPT_PORTS, b"\xec\0"),
            (f.POSITION_ID, b"\0\0"),
            (f.LOCK_STATUS, b"\1\0"),
        )
