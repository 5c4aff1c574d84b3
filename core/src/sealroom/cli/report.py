# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom report show`: every field of a report with its meaning. It verifies nothing, and says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from sealroom.cli._evidence import DeviceEvidence, Evidence, read_file, recognise
from sealroom.cli.common import json_option, output
from sealroom.errors import FormatError
from sealroom.kbs.devices import NO_UUID, Device, decode_devices
from sealroom.nvidia import DeviceReport, OpaqueType
from sealroom.nvidia.opaque import zero_terminated
from sealroom.snp import VMPL_HOST, GuestPolicy, KeyInfo, PlatformInfo, Report, TcbVersion

_FIELDS: Final = (
    ("version", "VERSION", 0x000, "layout of the report"),
    ("guest_svn", "GUEST_SVN", 0x004, "the guest's own security version, from the ID block"),
    ("policy", "POLICY", 0x008, "what the guest owner allowed at launch"),
    ("family_id", "FAMILY_ID", 0x010, "family of the guest image, from the ID block"),
    ("image_id", "IMAGE_ID", 0x020, "the guest image, from the ID block"),
    ("vmpl", "VMPL", 0x030, "privilege level inside the guest that asked for the report"),
    ("signature_algo", "SIGNATURE_ALGO", 0x034, "1 is ECDSA P-384 with SHA-384"),
    ("current_tcb", "CURRENT_TCB", 0x038, "firmware that runs now"),
    ("platform_info", "PLATFORM_INFO", 0x040, "how the platform runs"),
    ("key_info", "KEY_INFO", 0x048, "which key signed, and what is masked"),
    ("report_data", "REPORT_DATA", 0x050, "what the guest put in, usually a digest that answers a nonce"),
    ("measurement", "MEASUREMENT", 0x090, "digest of everything that the guest was launched with"),
    ("host_data", "HOST_DATA", 0x0C0, "what the host put in at launch, usually the configuration's digest"),
    ("id_key_digest", "ID_KEY_DIGEST", 0x0E0, "digest of the key that signed the ID block; zero without one"),
    ("author_key_digest", "AUTHOR_KEY_DIGEST", 0x110, "digest of the ID key's certifier; zero without one"),
    ("report_id", "REPORT_ID", 0x140, "names this guest until it ends"),
    ("report_id_ma", "REPORT_ID_MA", 0x160, "names the migration agent; all ff without one"),
    ("reported_tcb", "REPORTED_TCB", 0x180, "firmware that the endorsement certificate vouches for"),
    ("cpuid_fam_id", "CPUID_FAM_ID", 0x188, "processor family; zero before version 3"),
    ("cpuid_mod_id", "CPUID_MOD_ID", 0x189, "processor model; zero before version 3"),
    ("cpuid_step", "CPUID_STEP", 0x18A, "processor stepping; zero before version 3"),
    ("chip_id", "CHIP_ID", 0x1A0, "names the chip; zero where the platform masks it"),
    ("committed_tcb", "COMMITTED_TCB", 0x1E0, "firmware below which the platform cannot go back"),
    ("current_build", "CURRENT_BUILD", 0x1E8, "build of the firmware that runs"),
    ("current_minor", "CURRENT_MINOR", 0x1E9, "minor version of the firmware that runs"),
    ("current_major", "CURRENT_MAJOR", 0x1EA, "major version of the firmware that runs"),
    ("committed_build", "COMMITTED_BUILD", 0x1EC, "build of the committed firmware"),
    ("committed_minor", "COMMITTED_MINOR", 0x1ED, "minor version of the committed firmware"),
    ("committed_major", "COMMITTED_MAJOR", 0x1EE, "major version of the committed firmware"),
    ("launch_tcb", "LAUNCH_TCB", 0x1F0, "firmware at the time the guest was launched"),
    ("launch_mit_vector", "LAUNCH_MIT_VECTOR", 0x1F8, "mitigations at launch; zero before version 5"),
    ("current_mit_vector", "CURRENT_MIT_VECTOR", 0x200, "mitigations now; zero before version 5"),
    ("signature_r", "SIGNATURE R", 0x2A0, "first number of the signature"),
    ("signature_s", "SIGNATURE S", 0x2E8, "second number of the signature"),
)
"""(attribute, name in the specification, offset, meaning), in the order of the report."""

_BITS: Final = {
    "policy": (
        ("smt", "simultaneous multithreading allowed"),
        ("migrate_ma", "migration agent allowed"),
        ("debug", "DEBUGGING ALLOWED"),
        ("single_socket", "one socket only"),
        ("cxl_allow", "CXL allowed"),
        ("mem_aes_256_xts", "AES-256-XTS demanded"),
        ("rapl_dis", "RAPL must be off"),
        ("ciphertext_hiding_dram", "ciphertext hiding demanded"),
        ("page_swap_disable", "page swapping forbidden"),
    ),
    "platform_info": (
        ("smt_en", "simultaneous multithreading on"),
        ("tsme_en", "transparent memory encryption on"),
        ("ecc_en", "memory with error correction"),
        ("rapl_dis", "RAPL off"),
        ("ciphertext_hiding_dram_en", "ciphertext hiding on"),
        ("alias_check_complete", "memory checked for aliases"),
        ("tio_en", "trusted I/O on"),
    ),
    "key_info": (
        ("author_key_en", "author key given"),
        ("mask_chip_key", "chip key masked"),
    ),
}


@click.group("report")
def command() -> None:
    """Look at reports of processors and GPUs."""


@command.command("show")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
def show(file: Path) -> None:
    """Print every field of the report in FILE with its meaning. Nothing is verified.

    FILE is anything that `sealroom verify` takes but a token or a reference manifest.
    """
    found = recognise(read_file(file))
    if isinstance(found, DeviceEvidence):
        _show_devices(found.devices)
    elif isinstance(found, Evidence):
        _show_report(found)
    else:
        raise FormatError("This file holds no report.", advice="Use `sealroom verify`.")


def _show_report(found: Evidence) -> None:
    """Print every field of a processor's report, and of the devices' reports with it."""
    report = Report.from_bytes(found.report)
    devices = decode_devices(found.devices)
    out = output()
    if out.json:
        fields = {name: _plain(getattr(report, name)) for name, *_ in _FIELDS} | {"line": report.line}
        out.result(fields | ({"devices": _devices_as_json(devices)} if devices else {}))
        return
    rows = [
        (f"{offset:#05x}", name, _text(attribute, getattr(report, attribute)), meaning)
        for attribute, name, offset, meaning in _FIELDS
    ]
    line = report.line or "not said in version 2"
    title = f"{found.kind.capitalize()}, product line: {line}"
    out.table(title, ("Offset", "Field", "Value", "Meaning"), rows)
    out.say(f"Certificates with it: {', '.join(found.certificates) or 'none'}.")
    if devices:
        _show_devices(devices)
        return
    out.say(_UNVERIFIED)


_UNVERIFIED: Final = "Nothing was verified: anybody can write such a report. `sealroom verify` checks it."


def _show_devices(devices: Sequence[Device]) -> None:
    """Print every field of the reports of devices."""
    out = output()
    if out.json:
        out.result({"devices": _devices_as_json(devices)})
        return
    for number, (device, report) in enumerate(
        [(one, DeviceReport.from_bytes(one.report)) for one in devices]
    ):
        kind = device.arch or ("NVSwitch" if report.is_switch else "NVIDIA GPU")
        named = "" if device.uuid == NO_UUID else f", {device.uuid}"
        rows = [(name, value, meaning) for name, value, meaning in _device_rows(report)]
        out.table(f"Device {number}: {kind}{named}", ("Field", "Value", "Meaning"), rows)
    out.say("Measurement i is block i + 1 of a report; it is compared with index i of a reference manifest.")
    out.say(_UNVERIFIED)


def _device_rows(report: DeviceReport) -> Iterator[tuple[str, str, str]]:
    yield "request nonce", report.requester_nonce.hex(), "the verifier's nonce"
    yield "slot", str(report.slot), "certificate chain that was asked for"
    for index, value in enumerate(report.measurements):
        yield f"measurement {index}", _text("", value), f"block {index + 1}"
    yield "response nonce", report.responder_nonce.hex(), "the device's own nonce; not compared"
    for kind, value in report.opaque.items():
        name = OpaqueType(kind).name if kind in set(OpaqueType) else "unknown"
        yield f"{name} ({kind})", _opaque_text(report, kind, value), _OPAQUE.get(kind, "not known here")
    yield "signature", report.signature.hex(), "ECDSA P-384: r, then s"
    yield "trailing", report.trailing.hex() or "none", "bytes after the signature, covered by nothing"


def _opaque_text(report: DeviceReport, kind: int, value: bytes) -> str:
    if kind == OpaqueType.VBIOS_VERSION:
        return report.vbios_version
    if kind == OpaqueType.FEATURE_FLAG:
        return report.feature or f"unknown ({value.hex()})"
    if kind in (OpaqueType.NVDEC0_STATUS, OpaqueType.PROTECTED_PCIE_STATUS):
        return {b"\xaa": "aa: on", b"\x55": "55: off"}.get(value, value.hex())
    if kind == OpaqueType.MSRSCNT and len(value) % 4 == 0:
        return " ".join(str(int.from_bytes(value[at : at + 4], "little")) for at in range(0, len(value), 4))
    try:
        text = zero_terminated(value)
    except ValueError:
        text = ""
    return text or _text("", value)


_OPAQUE: Final[dict[int, str]] = {
    OpaqueType.GPU_INFO: "the GPU's own flags",
    OpaqueType.MSRSCNT: "how often each index was measured",
    OpaqueType.CPRINFO: "protected region of the memory",
    OpaqueType.BOARD_ID: "number of the board",
    OpaqueType.CHIP_SKU_MOD: "modification of the chip",
    OpaqueType.PROJECT_SKU_MOD: "modification of the board",
    OpaqueType.FLOORSWEPT_PORTS: "ports of the switch that are off",
    OpaqueType.POSITION_ID: "place of the switch",
    OpaqueType.LOCK_SWITCH_STATUS: "whether the switch is locked",
    OpaqueType.GPU_LINK_CONN: "GPUs at the links of the switch",
    OpaqueType.SYS_ENABLE_STATUS: "which parts are enabled",
    OpaqueType.OPAQUE_DATA_VERSION: "layout of these fields",
    OpaqueType.DRIVER_VERSION: "version of the driver",
    OpaqueType.VBIOS_VERSION: "version of the VBIOS",
    OpaqueType.NVDEC0_STATUS: "video decoder 0; while it is off index 35 is not measured",
    OpaqueType.PROJECT: "board, part of the VBIOS manifest's id",
    OpaqueType.PROJECT_SKU: "board, part of the VBIOS manifest's id",
    OpaqueType.CHIP_SKU: "chip, part of the VBIOS manifest's id",
    OpaqueType.FWID: "digest of the firmware that the device's certificate also names",
    OpaqueType.PROTECTED_PCIE_STATUS: "protected PCIe mode",
    OpaqueType.SWITCH_PDI: "switches at the links, or the switch itself",
    OpaqueType.CHIP_INFO: "name of the chip, part of the driver manifest's id",
    OpaqueType.FEATURE_FLAG: "SPT one GPU, MPT several, PPCIE protected PCIe",
}
"""What an opaque field means, for those that a person would ask about."""


def _devices_as_json(devices: Sequence[Device]) -> list[dict[str, object]]:
    return [
        {"arch": device.arch, "uuid": device.uuid} | _device_fields(DeviceReport.from_bytes(device.report))
        for device in devices
    ]


def _device_fields(report: DeviceReport) -> dict[str, object]:
    return {
        "requester_nonce": report.requester_nonce.hex(),
        "slot": report.slot,
        "driver_version": report.driver_version,
        "vbios_version": report.vbios_version,
        "feature": report.feature,
        "measurements": [value.hex() for value in report.measurements],
        "responder_nonce": report.responder_nonce.hex(),
        "opaque": {str(kind): value.hex() for kind, value in report.opaque.items()},
        "signature": report.signature.hex(),
        "trailing": report.trailing.hex(),
    }


def _text(attribute: str, value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, bytes):
        return value.hex() if any(value) else f"zero ({len(value)} bytes)"
    if attribute == "vmpl" and value == VMPL_HOST:
        return "0xffffffff: the host asked, not the guest"
    if attribute in ("signature_r", "signature_s") and isinstance(value, int):
        return f"{value:096x}"
    if isinstance(value, GuestPolicy):
        return f"{value:#x}: ABI {value.abi_major}.{value.abi_minor}{_bits(attribute, value)}"
    if isinstance(value, PlatformInfo):
        return f"{value:#x}{_bits(attribute, value)}"
    if isinstance(value, KeyInfo):
        return f"{value:#x}: signed with {value.signing_key_name}{_bits(attribute, value)}"
    if attribute.startswith("cpuid_") or attribute.endswith("_mit_vector"):
        return f"{value:#x}"
    return str(value)


def _bits(attribute: str, value: object) -> str:
    return "".join(f", {words}" for name, words in _BITS[attribute] if getattr(value, name))


def _plain(value: object) -> object:
    """Return a value as JSON takes it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, TcbVersion):
        return value.components()
    if isinstance(value, int) and value.bit_length() > 53:
        return hex(value)
    return int(value) if isinstance(value, int) else value
