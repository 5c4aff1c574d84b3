# SPDX-License-Identifier: BSD-3-Clause
"""Every check of the catalogue can fail: an input for each, that fails for this and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import jwt
import pytest
from sealroom import testing
from sealroom.appraisal import ear
from sealroom.checks import CheckResult, Outcome
from sealroom.nvidia import CHECKS, NvidiaRoots, OcspPolicy, VerifiedRim, clear_rim_cache, compare, verify_rim
from sealroom.nvidia.nras import ISSUER, verify_token
from sealroom.simulated.gpu_certificates import Life, name_of, new_key
from sealroom.simulated.gpu_reports import sign_gpu_report
from sealroom.simulated.gpu_rim import sign_rim, unsigned_rim
from sealroom.simulated.gpu_root import SIGNER_LIFE
from support.nvidia import NONCE, development, error_of, reissue, rims, verify

GPU, ROOT, AT = testing.gpu(), testing.gpu_root(), testing.NOW
REPORT, CHAIN = GPU.report(NONCE), GPU.chain_der
STRANGER = testing.gpu(root=testing.gpu_root("another"))
OTHER = b"\xee" * 48
SIGNER = ROOT.signer("GH100", Life(ROOT.at, ROOT.at + SIGNER_LIFE))
ISSUERS = [ROOT.rim_issuers["GH100"], ROOT.rim_authorities["GH100"], ROOT.rim]
KEY = new_key()
Call = Callable[[], object]


def patched(offset: int, data: bytes) -> Call:
    return lambda: verify(report=REPORT[:offset] + data + REPORT[offset + len(data) :])


def with_leaf(**changes: Any) -> Call:
    return lambda: verify(chain=[reissue(GPU.chain[0], GPU.chain[1], **changes).der, *CHAIN[1:]])


def rim(xml: bytes, **options: Any) -> VerifiedRim:
    clear_rim_cache()
    return verify_rim(xml, **{"roots": development(), "at": AT, **options})


def token(claims: Mapping[str, Any]) -> str:
    payload = json.dumps(claims).encode()
    return jwt.PyJWS().encode(payload, KEY, algorithm="ES384", headers={"kid": "ours"})


def nras(*, key: Any = KEY, **changes: Any) -> Call:
    """Return an answer of the service about one device, but for some claims of the overall token."""
    issued = int(AT.timestamp())
    claims = {
        "iss": ISSUER,
        "iat": issued,
        "exp": issued + 60,
        "eat_nonce": NONCE.hex(),
        "measres": "success",
    }
    device = token(claims)
    digest = hashlib.sha256(device.encode()).hexdigest()
    submods = {"GPU-0": ["DIGEST", ["SHA-256", digest]]}
    overall = token({**claims, "x-nvidia-overall-att-result": True, "submods": submods, **changes})
    data = json.dumps([["JWT", overall], {"GPU-0": device}]).encode()
    return lambda: verify_token(data, jwks=ear.jwks({"ours": key}), at=AT, nonce=NONCE)


RAISED: Mapping[str, Call] = {
    "nvidia.report.request": patched(0, b"\x12"),
    "nvidia.report.response": patched(37, b"\x12"),
    "nvidia.report.length": lambda: verify(report=REPORT[:-1]),
    "nvidia.report.trailing": lambda: verify(report=REPORT + bytes(2)),
    "nvidia.report.blocks": patched(45, b"\0"),
    "nvidia.report.opaque": lambda: verify(report=GPU.report(NONCE, opaque={20: bytes(32)})),
    "nvidia.chain.present": lambda: verify(chain=[]),
    "nvidia.chain.format": lambda: verify(chain=[CHAIN[0][:-1], *CHAIN[1:]]),
    "nvidia.chain.root": lambda: verify(chain=STRANGER.chain_der),
    "nvidia.chain.links": lambda: verify(chain=[CHAIN[0], *CHAIN[2:]]),
    "nvidia.chain.authority": lambda: verify(chain=CHAIN[1:]),
    "nvidia.chain.validity": with_leaf(life=Life(AT + timedelta(days=1))),
    "nvidia.chain.device": with_leaf(name=name_of("TPU")),
    "nvidia.chain.ocsp": lambda: verify(ocsp_policy=OcspPolicy.REQUIRED),
    "nvidia.ocsp.format": lambda: verify(ocsp=[b"x"], ocsp_policy=OcspPolicy.SOFT),
    "nvidia.report.signature": lambda: verify(report=GPU.report(NONCE, key=new_key())),
    "nvidia.report.fwid": lambda: verify(report=GPU.report(NONCE, opaque={20: OTHER})),
    "nvidia.report.nonce": lambda: verify(nonce=bytes(32)),
    "nvidia.rim.format": lambda: rim(b"<a/>"),
    "nvidia.rim.root": lambda: rim(STRANGER.driver_rim),
    "nvidia.rim.links": lambda: rim(sign_rim(unsigned_rim("GH100", "580.95.05", {}), SIGNER, ISSUERS[1:])),
    "nvidia.rim.authority": lambda: rim(
        sign_rim(unsigned_rim("GH100", "580.95.05", {}), ISSUERS[0], ISSUERS[1:])
    ),
    "nvidia.rim.validity": lambda: rim(GPU.driver_rim, at=AT + timedelta(days=3000)),
    "nvidia.rim.signature": lambda: rim(GPU.driver_rim.replace(b'index="63"', b'index="62"')),
    "nvidia.rim.content": lambda: rim(sign_rim(unsigned_rim("GH100", "580.95.05", {}), SIGNER, ISSUERS)),
    "nvidia.rim.ocsp": lambda: rim(GPU.driver_rim, ocsp_policy=OcspPolicy.REQUIRED),
    "nvidia.nras.token": nras(key=new_key()),
    "nvidia.nras.submods": nras(submods={}),
    "nvidia.nras.nonce": nras(eat_nonce="00" * 32),
    "nvidia.nras.result": nras(**{"x-nvidia-overall-att-result": False}),
}


def altered(kind: Any, **changes: Any) -> VerifiedRim:
    return rim(GPU.rim(kind, **changes))


def short_report() -> bytes:
    fields = replace(GPU.fields(NONCE), measurements=GPU.measurements[:30])
    return sign_gpu_report(fields.signed_part(), GPU.chain[0].key)


def as_if_real(manifest: VerifiedRim) -> VerifiedRim:
    """Return a manifest that says of itself that it is not simulated."""
    roots = NvidiaRoots(manifest.roots.device, manifest.roots.rim, simulated=False)
    return rim(GPU.driver_rim if manifest.kind == "driver" else GPU.vbios_rim, roots=roots)


COMPARED: Mapping[str, Callable[[], Sequence[CheckResult]]] = {
    "nvidia.rim.present": lambda: compare(verify(), rims()[:1]),
    "nvidia.rim.version": lambda: compare(verify(), [*rims(), altered("driver", version="580.95.06")]),
    "nvidia.rim.roots": lambda: compare(verify(), [rims()[0], as_if_real(rims()[1])]),
    "nvidia.rim.collision": lambda: compare(verify(), [altered("driver", values={3: (OTHER,)}), rims()[1]]),
    "nvidia.measurement.count": lambda: compare(verify(report=short_report()), rims()),
    "nvidia.measurement.values": lambda: compare(
        verify(report=GPU.report(NONCE, measurements={0: OTHER})), rims()
    ),
    "nvidia.measurement.reissued": lambda: compare(verify(), [rims()[0], altered("vbios", reissued=True)]),
}
TOGETHER = {"nvidia.measurement.reissued": {"nvidia.measurement.values"}}
"""What fails besides, where one mistake is two failures."""


def test_there_is_an_input_for_every_check() -> None:
    assert {*RAISED, *COMPARED} == set(CHECKS)
    assert not RAISED.keys() & COMPARED.keys()


@pytest.mark.parametrize("check", RAISED)
def test_check_that_refuses(check: str) -> None:
    error = error_of(RAISED[check])
    assert error is not None
    assert error.check == check


@pytest.mark.parametrize("check", COMPARED)
def test_check_that_fails_in_a_comparison(check: str) -> None:
    failed = {result.id for result in COMPARED[check]() if result.outcome is Outcome.FAILED}
    assert failed == {check} | TOGETHER.get(check, set())


def test_what_the_mistakes_are_made_in_is_good() -> None:
    assert not [one for one in compare(verify(), rims()) if one.outcome is not Outcome.PASSED]
    assert error_of(nras()) is None
