# SPDX-License-Identifier: BSD-3-Clause
"""What fuzzing found, and one thing that reading found beside it; each is refused with our error now."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from fuzz.engine import judge
from fuzz.targets import TARGETS
from sealroom import testing
from sealroom.simulated.gpu_ocsp import answer
from sealroom.testing.gpus import gpu

X448_OF_32_BYTES = (
    b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VvBCIEIIRBGTlVfyoX/NYQbQkDEVrxPtTResAHt14x+QYxmOBt\n"
    b"-----END PRIVATE KEY-----\n"
)
"""A key whose algorithm has longer ones: the library that reads it answers with an internal error."""

SHA384_OID = b"\x60\x86\x48\x01\x65\x03\x04\x02\x02"


def replaced(target: str, old: bytes, new: bytes) -> bytes:
    seed = TARGETS[target].seeds()[0]
    assert old in seed
    return seed.replace(old, new, 1)


def certificate_of_version_49() -> bytes:
    # [0] { INTEGER 2 } is version 3.
    der = gpu().chain_der[0]
    assert b"\xa0\x03\x02\x01\x02" in der
    return der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x30", 1)


def answer_with_an_unknown_hash() -> bytes:
    # The last byte of SHA-384's object identifier in CertID, which comes first.
    return replaced("nvidia-ocsp", SHA384_OID, SHA384_OID[:-1] + b"\x7f")


def answer_by_a_certificate_that_may_not_answer() -> bytes:
    # The leaf's issuer signs the answer about it in the name of a certificate without extended key usage.
    chain = gpu().chain
    return answer(chain[1].certificate, chain[2], chain[1], at=testing.NOW)


def claims_with_half_a_character() -> bytes:
    claims = json.loads(TARGETS["nvidia-nras-claims"].seeds()[0])
    return json.dumps({**claims, "eat_nonce": "\ud800"}).encode()


@pytest.mark.parametrize(
    ("target", "make"),
    [
        ("publisher-key", lambda: X448_OF_32_BYTES),
        ("tee-key", lambda: X448_OF_32_BYTES),
        ("id-key", lambda: X448_OF_32_BYTES),
        ("crypt4gh-keys", lambda: replaced("crypt4gh-keys", b"PUBLIC", b"P\x1bBLIC")),
        ("snp-bundle", lambda: replaced("snp-bundle", b'"report"', b'"re\\u001b[2Jport"')),
        ("snp-json", lambda: replaced("snp-json", b'"vmpl"', b'"vm\\ud800pl"')),
        ("evidence-file", lambda: replaced("evidence-file", b'"report"', b'"' + b"r" * 9000 + b'"')),
        ("nvidia-leaf", certificate_of_version_49),
        ("nvidia-ocsp", answer_with_an_unknown_hash),
        ("nvidia-ocsp", answer_by_a_certificate_that_may_not_answer),
        ("nvidia-nras-claims", claims_with_half_a_character),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_input_is_refused_with_our_error(target: str, make: Callable[[], bytes]) -> None:
    assert not judge(TARGETS[target], make())
