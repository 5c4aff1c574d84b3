# SPDX-License-Identifier: BSD-3-Clause
"""Fuzz targets: policies, manifests, tokens, and what goes over the wire."""

from __future__ import annotations

import functools
import inspect
import json
import struct
import tempfile
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fuzz.engine import Target
from fuzz.targets_snp import parse_json, recorded
from pydantic import BaseModel
from sealroom import testing
from sealroom.appraisal import Policy, appraise, ear
from sealroom.collateral.store import Fetched
from sealroom.environments import Environment, manifest, sign, signing
from sealroom.environments._firmware import load_firmware
from sealroom.errors import ConfigurationError, FormatError, ProtocolError
from sealroom.kbs import calls, messages
from sealroom.kbs.devices import Device, decode_devices, encode_devices
from sealroom.kbs.jwe import TeeKey, check_public_jwk, encrypt
from sealroom.kbs.token import check_token
from sealroom.snp import idblock
from sevsnpmeasure.ovmf import OVMF, SectionType
from support.vectors import VECTORS

TEE_KEY = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "eA", "y": "eQ"}


@functools.cache
def _token() -> str:
    environment = testing.environment()
    evidence = testing.verified_evidence(b"n" * 64, environment)
    return ear.issue(
        appraise(evidence, environment=environment, policy=Policy.strict()),
        key=_signing_key(),
        kid="one",
        issuer="https://broker.example",
        nonce="bm9uY2U=",
        tee_pubkey=TEE_KEY,
        lifetime=timedelta(minutes=5),
        at=testing.NOW,
        evidence=evidence,
    )


@functools.cache
def _signing_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def _jwks() -> dict[str, object]:
    return dict(ear.jwks({"one": _signing_key()}))


def _check_ear(data: bytes) -> None:
    ear.verify(data.decode("latin-1"), jwks=_jwks(), at=testing.NOW)


def _check_claims(data: bytes) -> None:
    # Signed again, so that the signature is no barrier to the claims.
    token = jwt.PyJWS().encode(data, _signing_key(), algorithm="ES256", headers={"kid": "one"})
    ear.verify(token, jwks=_jwks(), at=testing.NOW)
    check_token(token, "bm9uY2U=", TEE_KEY)


def _claims() -> list[bytes]:
    return [jwt.PyJWS().decode(_token(), options={"verify_signature": False})]


def _jwk_set(data: bytes) -> None:
    keys = parse_json(data)
    if not isinstance(keys, dict):
        raise FormatError("The target takes an object.")
    ear.verify(_token(), jwks=keys, at=testing.NOW)


def _check_policy(data: bytes) -> None:
    policy = Policy.from_toml(data)
    assert policy.digest
    assert isinstance(policy.relaxations, tuple)


def _policies() -> list[bytes]:
    tcb = b"[minimum_tcb.Genoa]\nbootloader = 9\ntee = 0\nsnp = 23\nmicrocode = 72\n"
    return [
        Policy.strict().raw,
        Policy.strict().raw + b"allow_debug_policy = true\nallowed_vmpl = [0, 1]\n" + tcb,
    ]


def _check_environment(data: bytes) -> None:
    environment = Environment.from_toml(data)
    assert environment.reference_values.digest == environment.digest


def _simulated_environment(data: bytes) -> None:
    # The measurement of a simulated environment covers all the rest: without this nothing else could change.
    kept = manifest.simulated_measurement
    manifest.simulated_measurement = lambda content, shape: bytes(48)
    try:
        _check_environment(data)
    finally:
        manifest.simulated_measurement = kept


def _environments() -> list[bytes]:
    raw = testing.environment().raw
    measurement = testing.environment().shape().measurement_bytes[0].hex().encode()
    return [raw.replace(measurement, b"0" * 96), raw]


def _signed_environment(data: bytes) -> None:
    signing.verify(testing.environment().raw, data, [_publisher().public_key()])


@functools.cache
def _publisher() -> Ed25519PrivateKey:
    return signing.generate_key()


def _publisher_keys(data: bytes) -> None:
    # Whichever it is, the other reader refuses it.
    try:
        signing.load_public_key(data)
    except ConfigurationError:
        signing.load_private_key(data)


def _tee_key_file(data: bytes) -> None:
    assert TeeKey.from_pem(data).public_jwk()


def _tee_key_files() -> list[bytes]:
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1())
    return [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys]


def _id_keys(data: bytes) -> None:
    idblock.load_key(data)


def _id_key_files() -> list[bytes]:
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return [key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), private]


def _models() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for module in (messages, calls):
        for _, model in sorted(inspect.getmembers(module, inspect.isclass)):
            if issubclass(model, BaseModel) and model.__module__ == module.__name__ and model.model_fields:
                found.append(model)
    return found


def _message(data: bytes) -> None:
    # The first byte chooses the message.
    models = _models_cached()
    model = models[data[0] % len(models)] if data else models[0]
    parsed = messages.parse(model, data[1:])
    if isinstance(parsed, messages.AuthRequest):
        assert isinstance(parsed.hash_algorithms, tuple)
        parsed.check_version()
    elif isinstance(parsed, messages.Challenge):
        assert parsed.algorithm
        parsed.nonce_bytes()


_models_cached = functools.cache(_models)


def _messages() -> list[bytes]:
    bodies: dict[type[BaseModel], list[object]] = {
        messages.AuthRequest: [messages.AuthRequest.for_tee("snp").model_dump(by_alias=True)],
        messages.Challenge: [messages.Challenge.with_nonce(b"n" * 32, "sha512").model_dump(by_alias=True)],
        messages.AttestRequest: [
            {
                "init-data": {"format": "toml", "body": ""},
                "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": TEE_KEY},
                "tee-evidence": {"primary_evidence": {"svn": "1"}, "additional_evidence": ""},
            }
        ],
        messages.AttestResponse: [{"token": "a.b.c"}],
        messages.KbsError: [{"type": messages.ERROR_BASE + "PolicyDeny", "detail": "no"}],
        calls.Refusal: [{"detail": "no", "reasons": [{"code": "grant.none", "sentence": "No."}]}],
        calls.IdentityRequest: [{"provider": "oidc", "token": "t"}],
        calls.ReleaseRequest: [{"purpose": "DUO:0000042"}],
    }
    models = _models_cached()
    return [
        bytes((models.index(model),)) + json.dumps(body).encode()
        for model, found in bodies.items()
        for body in found
    ]


@functools.cache
def _tee_keys() -> tuple[TeeKey, ...]:
    return tuple(TeeKey.generate(kind) for kind in ("P-256", "P-521", "RSA"))


def _jwe(data: bytes) -> None:
    key = _tee_keys()[data[0] % 3] if data else _tee_keys()[0]
    document = parse_json(data[1:])
    if not isinstance(document, dict):
        raise ProtocolError("The target takes an object.")
    key.decrypt(document)


def _jwes() -> list[bytes]:
    return [
        bytes((number,)) + json.dumps(encrypt(b"secret", key.public_jwk())).encode()
        for number, key in enumerate(_tee_keys())
    ]


def _jwk(data: bytes) -> None:
    document = parse_json(data)
    if not isinstance(document, dict):
        raise ProtocolError("The target takes an object.")
    check_public_jwk(document)


def _devices(data: bytes) -> None:
    encoding = "utf-8" if _is_text(data) else "latin-1"
    found = decode_devices(data.decode(encoding, "surrogatepass"))
    assert decode_devices(encode_devices(found)) == found


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _device_texts() -> list[bytes]:
    one = Device("HOPPER", "GPU-1", b"\x11\xe0" + bytes(40), b"-----BEGIN CERTIFICATE-----\n")
    two = Device("LS10", "SWX-1", b"\x11\xe0" + bytes(40), b"")
    made = [encode_devices([one]), encode_devices([one, two]), ""]
    return [text.encode() for text in made]


def _firmware(data: bytes) -> None:
    # The reader takes a path; memory serves as the disk where there is such a place.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.NamedTemporaryFile(dir=place, prefix="sealroom-fuzz-", suffix=".fd") as file:
        file.write(data)
        file.flush()
        load_firmware(Path(file.name), whole=False)


def _firmwares() -> list[bytes]:
    """Return a firmware image with the tables that are needed, and the recorded ones."""
    guid = OVMF.OVMF_TABLE_FOOTER_GUID, OVMF.SEV_ES_RESET_BLOCK_GUID, OVMF.OVMF_SEV_META_DATA_GUID
    footer, reset, meta = (uuid.UUID(text).bytes_le for text in guid)
    kinds = (SectionType.SNP_SECRETS, SectionType.CPUID, SectionType.SNP_KERNEL_HASHES)
    sections = b"".join(
        struct.pack("<III", 0x80D000 + n * 4096, 4096, kind.value) for n, kind in enumerate(kinds)
    )
    metadata = b"ASEV" + struct.pack("<III", 16 + len(sections), 1, len(kinds)) + sections
    table = struct.pack("<IH", 256, 22) + meta + struct.pack("<IH", 0x80B004, 22) + reset
    table += struct.pack("<H", len(table) + 18) + footer
    body = bytearray(4096)
    body[-256 : -256 + len(metadata)] = metadata
    body[-32 - len(table) : -32] = table
    return [bytes(body), *recorded("snp/measurement/*.bin", "snp/measurement/*.fd")]


def _recorded_jwes() -> list[bytes]:
    found = []
    for path in sorted(VECTORS.glob("kbs/server_*.json")):
        for exchange in json.loads(path.read_text()).get("exchange", []):
            body = exchange.get("response", {}).get("body")
            if isinstance(body, dict) and "ciphertext" in body:
                found.append(b"\0" + json.dumps(body).encode())
    return found


def _both(*makers: Callable[[], list[bytes]]) -> Callable[[], list[bytes]]:
    return functools.cache(lambda: [one for make in makers for one in make()])


def _fetched(data: bytes) -> None:
    found = Fetched.from_json(data)
    assert Fetched.from_json(found.to_json()) == found


TARGETS = {
    "ear-token": Target(_check_ear, lambda: [_token().encode()], 16384),
    "ear-claims": Target(_check_claims, _claims, 8192),
    "ear-keys": Target(_jwk_set, lambda: [json.dumps(_jwks()).encode()], 2048),
    "policy": Target(_check_policy, _policies, 4096),
    "environment": Target(_simulated_environment, _environments, 8192),
    "environment-signature": Target(
        _signed_environment, lambda: [sign(testing.environment().raw, _publisher())], 256
    ),
    "publisher-key": Target(
        _publisher_keys, lambda: [signing.public_pem(_publisher()), signing.private_pem(_publisher())], 1024
    ),
    "kbs-messages": Target(_message, _messages, 4096),
    "kbs-devices": Target(_devices, _device_texts, 8192),
    "tee-key": Target(_tee_key_file, _tee_key_files, 1024),
    "id-key": Target(_id_keys, _id_key_files, 1024),
    "jwe": Target(_jwe, _both(_jwes, _recorded_jwes), 4096),
    "jwk": Target(_jwk, lambda: [json.dumps(key.public_jwk()).encode() for key in _tee_keys()], 2048),
    "collateral-fetched": Target(
        _fetched, lambda: [Fetched.of(b"certificate", testing.NOW, '"1"').to_json()], 512
    ),
    "firmware": Target(_firmware, _firmwares, 8192),
}
"""Targets by name."""
