# SPDX-License-Identifier: BSD-3-Clause
"""Attestation results as EAR tokens: JWT with Trustee's claim names, and Sealroom's beside them.

The form is that of draft-fv-rats-ear.

| claim | content |
|---|---|
| `eat_profile`, `iat`, `exp`, `iss`, `ear.verifier-id`, `submods` | as Trustee's tokens have them |
| `ear.*` of a submodule | status, trustworthiness vector, appraisal policy id, annotated evidence |
| `sealroom.tier`, `sealroom.checks` of a submodule | tier; every check as `[id, outcome, sentence]` |
| `sealroom.tier`, `.simulated`, `.environment`, `.policy`, `.at` | of the whole result |

- A key in the token's own header is never used: the kid has to be in the set that the caller trusts.
- The algorithm follows from the key, not from the token.
- The sentence of a check is left out where it is the catalogue's own, to keep the token small.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sealroom.appraisal import keys
from sealroom.appraisal.claims import default_sentence
from sealroom.appraisal.evidence import VerifiedEvidence, VerifiedGpu
from sealroom.appraisal.result import (
    AttestationResult,
    Claim,
    ClaimOutcome,
    DeviceResult,
    EnvironmentReference,
    PolicyReference,
    Tier,
    Trustworthiness,
)
from sealroom.errors import FormatError, FreshnessError, ProtocolError, SignatureError
from sealroom.snp import Report

PROFILE: Final = "tag:github.com,2024:confidential-containers/Trustee"
ALGORITHMS: Final = frozenset(keys.ALGORITHMS.values())
MAX_TOKEN: Final = 256 * 1024
CLOCK_SKEW: Final = timedelta(seconds=60)
"""How far the verifier's clock may be ahead of the relying party's."""

jwks = keys.jwks


@dataclass(frozen=True, slots=True)
class EarToken:
    """A verified token."""

    result: AttestationResult
    nonce: str
    """The nonce of the handshake, as the protocol spells it."""
    tee_pubkey: Mapping[str, Any]
    """Public JWK that answers are encrypted to."""
    issuer: str
    kid: str
    issued: datetime
    expires: datetime
    token: str = field(repr=False)


def issue(
    result: AttestationResult,
    *,
    key: ec.EllipticCurvePrivateKey,
    kid: str,
    issuer: str,
    nonce: str,
    tee_pubkey: Mapping[str, Any],
    lifetime: timedelta,
    at: datetime,
    evidence: VerifiedEvidence | None = None,
) -> str:
    """Return a signed EAR token for a result.

    Args:
        result: What the appraisal said.
        key: Signing key on P-256 (ES256) or P-384 (ES384).
        kid: Id of the key in the published set.
        issuer: Who signs, usually the broker's URL.
        nonce: The nonce of the handshake.
        tee_pubkey: The attested public key, a JWK.
        lifetime: How long the token is good.
        at: The present.
        evidence: Adds the report's main fields as annotated evidence.
    """
    runtime = {"nonce": nonce, "tee-pubkey": dict(tee_pubkey)}
    claims: dict[str, Any] = {
        "eat_profile": PROFILE,
        "iat": _seconds(at),
        "exp": _seconds(at + lifetime),
        "iss": issuer,
        "ear.verifier-id": {"developer": "Sealroom", "build": f"sealroom {_version()}"},
        "submods": {
            device.device: _submodule(device, result.policy, runtime, evidence) for device in result.devices
        },
        "sealroom.tier": result.tier.value,
        "sealroom.simulated": result.simulated,
        "sealroom.at": _seconds(result.at),
        "sealroom.policy": _policy_claim(result.policy),
    }
    if result.environment is not None:
        reference = result.environment
        claims["sealroom.environment"] = {
            "name": reference.name,
            "version": reference.version,
            "title": reference.title,
            "digest": reference.digest,
        }
    return jwt.encode(claims, key, algorithm=keys.algorithm(key), headers={"kid": kid})


def verify(token: str, *, jwks: Mapping[str, Any], at: datetime, nonce: str | None = None) -> EarToken:
    """Verify a token and return what it says.

    Args:
        token: The JWT in compact form.
        jwks: JWK set of the verifier that the caller trusts.
        at: The present.
        nonce: The nonce that the token has to answer, if the caller chose one.

    Raises:
        FormatError: It is not a token.
        SignatureError: Its key is unknown, its algorithm not allowed, or its signature wrong.
        FreshnessError: It is expired, not valid yet, or answers another nonce.
        ProtocolError: It is signed and says something else than an attestation result.
    """
    kid, payload = _check_signature(token, jwks)
    try:
        claims = _Claims.model_validate_json(payload)
        result = claims.to_result()
        issued, expires = (datetime.fromtimestamp(value, UTC) for value in (claims.iat, claims.exp))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ProtocolError(
            f"The token is signed but is no attestation result: {place}: {first['msg']}."
        ) from None
    except (ValueError, OverflowError, OSError) as error:
        raise ProtocolError(f"The token is signed but is no attestation result: {error}.") from error
    if at >= expires:
        raise FreshnessError("The attestation result is too old.", advice="Prove again.")
    if issued > at + CLOCK_SKEW:
        raise FreshnessError("The attestation result is from the future.", advice="Check the clocks.")
    runtime = claims.runtime
    if nonce is not None and runtime.nonce != nonce:
        raise FreshnessError("The attestation result answers another nonce.", advice="Prove again.")
    return EarToken(result, runtime.nonce, runtime.tee_pubkey, claims.iss, kid, issued, expires, token)


def _check_signature(token: str, jwks: Mapping[str, Any]) -> tuple[str, bytes]:
    if len(token) > MAX_TOKEN:
        raise FormatError("This is not a token of an attestation result.")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise FormatError("This is not a token of an attestation result.") from error
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise SignatureError(f"The token's algorithm {algorithm!r} is not allowed.")
    if "crit" in header or "b64" in header:
        raise SignatureError("The token asks for an extension that is not known here.")
    key = keys.find_key(jwks, kid) if isinstance(kid, str) else None
    if key is None:
        raise SignatureError(
            "The token is signed with a key that is not the verifier's.",
            advice="Fetch the verifier's keys again; if that does not help, do not trust the token.",
        )
    try:
        payload = jwt.PyJWS().decode(token, key, algorithms=[keys.algorithm(key)])
    except (jwt.PyJWTError, ValueError) as error:
        raise SignatureError("The token's signature does not verify.") from error
    return str(kid), payload


@functools.cache
def _version() -> str:
    return metadata.version("sealroom")


def _submodule(
    device: DeviceResult,
    policy: PolicyReference,
    runtime: Mapping[str, Any],
    evidence: VerifiedEvidence | None,
) -> dict[str, Any]:
    annotated: dict[str, Any] = {"runtime_data_claims": dict(runtime)}
    if evidence is not None and device.device == "cpu0":
        annotated |= _annotate(evidence.cpu.report)
    elif evidence is not None and device.device in (named := evidence.named_devices()):
        annotated |= _annotate_device(named[device.device])
    return {
        "ear.status": device.status.value,
        "ear.trustworthiness-vector": device.vector.as_claims(),
        "ear.appraisal-policy-id": policy.digest,
        "ear.veraison.annotated-evidence": annotated,
        "sealroom.tier": device.tier.value,
        "sealroom.checks": [_check_claim(claim) for claim in device.claims],
    }


def _annotate(report: Report) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "version": report.version,
        "measurement": report.measurement.hex(),
        "vmpl": report.vmpl,
        "guest_svn": report.guest_svn,
        "policy_debug_allowed": report.policy.debug,
        "policy_migrate_ma": report.policy.migrate_ma,
        "policy_smt_allowed": report.policy.smt,
        "policy_single_socket": report.policy.single_socket,
        "policy_abi_major": report.policy.abi_major,
        "policy_abi_minor": report.policy.abi_minor,
        "platform_smt_enabled": report.platform_info.smt_en,
        "platform_tsme_enabled": report.platform_info.tsme_en,
        "chip_id": report.chip_id.hex(),
    }
    fields |= {f"reported_tcb_{name}": value for name, value in report.reported_tcb.components().items()}
    return {"snp": fields, "report_data": report.report_data.hex(), "init_data": report.host_data.hex()}


def _annotate_device(gpu: VerifiedGpu) -> dict[str, Any]:
    report, device = gpu.device.report, gpu.device
    fields = {
        "arch": str(device.architecture).capitalize(),
        "config": {
            "driver_version": report.driver_version,
            "vbios_version": report.vbios_version.lower(),
            "project": report.project,
            "project_sku": report.project_sku,
            "chip_sku": report.chip_sku,
            "fwid": report.fwid.hex() if report.fwid else "",
            "feature": report.feature or "",
        },
        "ueid": device.ueid,
        "uuid": gpu.uuid,
        "references": [
            {"kind": used.kind, "id": used.rim_id, "sha256": used.sha256} for used in gpu.references
        ],
    }
    return {"nvidia": fields, "report_data": report.requester_nonce.hex()}


def _check_claim(claim: Claim) -> list[str]:
    short = [claim.check, claim.outcome.value]
    return (
        short if claim.sentence == default_sentence(claim.check, claim.outcome) else [*short, claim.sentence]
    )


def _policy_claim(policy: PolicyReference) -> dict[str, Any]:
    return {
        "name": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "relaxations": list(policy.relaxations),
    }


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


class _Tolerant(BaseModel):
    # A newer verifier may say more (draft-fv-rats-ear allows further claims), so unknown ones are ignored.
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Runtime(_Tolerant):
    nonce: str
    tee_pubkey: dict[str, Any] = Field(alias="tee-pubkey")


class _Annotated(_Tolerant):
    runtime_data_claims: _Runtime


class _Vector(_Tolerant):
    instance_identity: int = Field(0, alias="instance-identity")
    configuration: int = 0
    executables: int = 0
    file_system: int = Field(0, alias="file-system")
    hardware: int = 0
    runtime_opaque: int = Field(0, alias="runtime-opaque")
    storage_opaque: int = Field(0, alias="storage-opaque")
    sourced_data: int = Field(0, alias="sourced-data")


class _Submodule(_Tolerant):
    status: str = Field(alias="ear.status")
    vector: _Vector = Field(alias="ear.trustworthiness-vector")
    annotated: _Annotated = Field(alias="ear.veraison.annotated-evidence")
    tier: Tier = Field(alias="sealroom.tier")
    checks: list[list[str]] = Field(alias="sealroom.checks")

    def to_device(self, name: str) -> DeviceResult:
        claims = tuple(_claim(item) for item in self.checks)
        device = DeviceResult(name, self.tier, Trustworthiness(**self.vector.model_dump()), claims)
        if device.status.value != self.status:
            raise ValueError(f"{name} has the status {self.status}, which does not go with its tier")
        return device


class _Environment(_Tolerant):
    name: str
    version: str
    title: str
    digest: str


class _Policy(_Tolerant):
    name: str
    version: str
    digest: str
    relaxations: tuple[str, ...]


class _Claims(_Tolerant):
    iat: int
    exp: int
    iss: str
    profile: str = Field(alias="eat_profile")
    submods: dict[str, _Submodule] = Field(min_length=1)
    tier: Tier = Field(alias="sealroom.tier")
    simulated: bool = Field(alias="sealroom.simulated")
    at: int = Field(alias="sealroom.at")
    policy: _Policy = Field(alias="sealroom.policy")
    environment: _Environment | None = Field(None, alias="sealroom.environment")

    @property
    def runtime(self) -> _Runtime:
        device = self.submods.get("cpu0") or next(iter(self.submods.values()))
        return device.annotated.runtime_data_claims

    def to_result(self) -> AttestationResult:
        if self.profile != PROFILE:
            raise ValueError(f"its profile is {self.profile!r}")
        result = AttestationResult(
            devices=tuple(item.to_device(name) for name, item in self.submods.items()),
            environment=EnvironmentReference(**self.environment.model_dump()) if self.environment else None,
            policy=PolicyReference(**self.policy.model_dump()),
            at=datetime.fromtimestamp(self.at, UTC),
            simulated=self.simulated,
        )
        believed = any(device.tier in (Tier.AFFIRMING, Tier.WARNING) for device in result.devices)
        if result.tier is not self.tier or (self.simulated and believed):
            raise ValueError("its tier does not follow from its devices")
        return result


def _claim(item: list[str]) -> Claim:
    if len(item) not in (2, 3):
        raise ValueError("a check is an id, an outcome and a sentence")
    outcome = ClaimOutcome(item[1])
    return Claim(item[0], outcome, item[2] if len(item) == 3 else default_sentence(item[0], outcome))
