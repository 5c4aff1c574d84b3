# SPDX-License-Identifier: BSD-3-Clause
"""Fuzz targets: what reads evidence of NVIDIA devices, reference manifests, OCSP answers and NRAS tokens."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.engine import Target
from fuzz.targets_snp import parse_json, recorded
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.errors import FormatError
from sealroom.nvidia import (
    DeviceReport,
    NvidiaRoots,
    OcspPolicy,
    VerifiedRim,
    clear_device_cache,
    clear_rim_cache,
    compare,
    examine_device,
    load_chain,
    rim,
    rim_ids,
    verify_device,
    verify_rim,
)
from sealroom.nvidia.nras import ISSUER, verify_token
from sealroom.nvidia.ocsp import Answer
from sealroom.simulated.gpu_reports import sign_gpu_report
from sealroom.testing.gpus import gpu, gpu_root

NONCE = b"n" * 32
SIGNATURE = 96


@functools.cache
def _roots() -> NvidiaRoots:
    return NvidiaRoots.development(gpu_root().device_pem, gpu_root().rim_pem)


def _reports() -> list[bytes]:
    made = [gpu("HOPPER").report(NONCE), gpu("BLACKWELL").report(NONCE), gpu("LS10").report(NONCE)]
    return [*made, *recorded("nvidia/hopper_550.*.report.bin", "nvidia/blackwell*.report.bin")]


def _report(data: bytes) -> None:
    report = DeviceReport.from_bytes(data)
    assert report.raw == data


def _device(data: bytes) -> None:
    chain = gpu().chain_der
    examined = examine_device(data, chain, roots=_roots(), at=testing.NOW, nonce=NONCE)
    assert all(check.detail.isprintable() for check in examined.checks)
    verify_device(data, chain, roots=_roots(), at=testing.NOW, nonce=NONCE)


def _signed_device(data: bytes) -> None:
    # Signed again, so that the signature is no barrier to what is checked beside it.
    if len(data) > 6144:
        raise FormatError("The target takes the signed part.")
    report = sign_gpu_report(data, gpu().chain[0].key)
    device = verify_device(report, gpu().chain_der, roots=_roots(), at=testing.NOW)
    rim_ids(device)
    results = compare(device, _rims())
    assert all(result.detail.isprintable() for result in results)


@functools.cache
def _rims() -> Sequence[VerifiedRim]:
    return [verify_rim(xml, roots=_roots(), at=testing.NOW) for xml in gpu().rims]


def _chains() -> list[bytes]:
    made = [gpu("HOPPER").chain_pem, gpu("BLACKWELL").chain_pem, gpu("LS10").chain_pem]
    return [*made, b"".join(gpu().chain_der), *recorded("nvidia/hopper_550.*.chain.pem")]


def _chain(data: bytes) -> None:
    clear_device_cache()
    verify_device(gpu().report(NONCE), load_chain(data), roots=_roots(), at=testing.NOW)


def _leaf(data: bytes) -> None:
    clear_device_cache()
    verify_device(gpu().report(NONCE), [data, *gpu().chain_der[1:]], roots=_roots(), at=testing.NOW)


def _root(data: bytes) -> None:
    NvidiaRoots.development(data, gpu_root().rim_pem)


def _rim(data: bytes) -> None:
    clear_rim_cache()
    verify_rim(data, roots=_roots(), at=testing.NOW)


def _rim_content(data: bytes) -> None:
    # As if the signature covered it, so that it is no barrier to the content.
    clear_rim_cache()
    kept = rim._signed
    rim._signed = lambda root, signer: root
    try:
        verified = verify_rim(data, roots=_roots(), at=testing.NOW)
    finally:
        rim._signed = kept
        clear_rim_cache()
    assert all(len(value) == 48 for values in verified.measurements.values() for value in values)


def _manifests() -> list[bytes]:
    return [*gpu().rims, *recorded("nvidia/rim_vbios_96009F0001.xml")]


@functools.cache
def _answers() -> list[bytes]:
    return [*gpu().ocsp(at=testing.NOW), *recorded("nvidia/ocsp_gpu_certificate_l*.der")]


def _ocsp(data: bytes) -> None:
    Answer.from_der(data)
    verify_device(
        gpu().report(NONCE),
        gpu().chain_der,
        roots=_roots(),
        at=testing.NOW,
        ocsp=[*_answers()[1:], data],
        ocsp_policy=OcspPolicy.REQUIRED,
    )


@functools.cache
def _service() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@functools.cache
def _jwks() -> dict[str, object]:
    return dict(ear.jwks({"one": _service()}))


def _token(claims: object) -> str:
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, _service(), algorithm="ES384", headers={"kid": "one"})


def _claims(submods: dict[str, object]) -> dict[str, object]:
    now = int(testing.NOW.timestamp())
    return {
        "iss": ISSUER, "iat": now - 10, "nbf": now - 10, "exp": now + 3600, "eat_nonce": NONCE.hex(),
        "x-nvidia-overall-att-result": True, "submods": submods,
    }  # fmt: skip


def _device_claims() -> dict[str, object]:
    return {**_claims({}), "measres": "success"}


def _answer(device: str) -> bytes:
    digest = hashlib.sha256(device.encode()).hexdigest()
    overall = _claims({"GPU-0": ["DIGEST", ["SHA-256", digest]]})
    return json.dumps([["JWT", _token(overall)], {"GPU-0": device}]).encode()


def _nras(data: bytes) -> None:
    verify_token(data, jwks=_jwks(), at=testing.NOW, nonce=NONCE)


def _nras_keys(data: bytes) -> None:
    keys = parse_json(data)
    if not isinstance(keys, dict):
        raise FormatError("The target takes an object.")
    verify_token(_answer(_token(_device_claims())), jwks=keys, at=testing.NOW, nonce=NONCE)


def _nras_device(data: bytes) -> None:
    # Signed here, so that the signature is no barrier to the claims.
    verify_token(_answer(_token(data)), jwks=_jwks(), at=testing.NOW, nonce=NONCE)


TARGETS = {
    "nvidia-report": Target(_report, _reports, 6144),
    "nvidia-device": Target(_device, _reports, 6144),
    "nvidia-device-signed": Target(_signed_device, lambda: [one[:-SIGNATURE] for one in _reports()], 6144),
    "nvidia-chain": Target(_chain, _chains, 8192),
    "nvidia-leaf": Target(_leaf, lambda: [gpu().chain_der[0], *gpu("BLACKWELL").chain_der[:1]], 2048),
    "nvidia-root": Target(_root, lambda: [gpu_root().device_pem], 2048),
    "nvidia-rim": Target(_rim, _manifests, 40_000),
    "nvidia-rim-content": Target(_rim_content, _manifests, 40_000),
    "nvidia-ocsp": Target(_ocsp, _answers, 4096),
    "nvidia-nras": Target(
        _nras, lambda: [_answer(_token(_device_claims())), *recorded("nvidia/nras_*_eat.json")], 8192
    ),
    "nvidia-nras-keys": Target(_nras_keys, lambda: [json.dumps(_jwks()).encode()], 2048),
    "nvidia-nras-claims": Target(_nras_device, lambda: [json.dumps(_device_claims()).encode()], 2048),
}
"""Targets by name."""
