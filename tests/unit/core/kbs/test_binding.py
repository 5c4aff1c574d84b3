# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
import json

import pytest
from sealroom.errors import BindingError, ProtocolError
from sealroom.kbs.binding import (
    HASH_ALGORITHMS,
    HashAlgorithm,
    check_report_data,
    cpu_digest,
    cpu_report_data,
    device_nonce,
    hash_algorithm,
)

NONCE = "bm9uY2U="
KEY = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "eA", "y": "eQ"}


def test_the_digest_covers_the_canonical_json_of_nonce_key_and_devices() -> None:
    covered = (
        '{"additional-evidence":"dev","nonce":"bm9uY2U=","tee-pubkey":'
        '{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"eA","y":"eQ"}}'
    )
    assert cpu_digest(NONCE, KEY, "dev") == hashlib.sha384(covered.encode()).digest()


def test_a_devices_nonce_covers_nonce_and_key_alone() -> None:
    covered = json.dumps({"nonce": NONCE, "tee-pubkey": KEY}, sort_keys=True, separators=(",", ":")).encode()
    assert device_nonce(NONCE, KEY, "sha256") == hashlib.sha256(covered).digest()
    assert device_nonce(NONCE, KEY, size=32) == hashlib.sha384(covered).digest()[:32]


@pytest.mark.parametrize("algorithm", HASH_ALGORITHMS)
def test_report_data_is_the_digest_with_zeros_after_it(algorithm: HashAlgorithm) -> None:
    digest = cpu_digest(NONCE, KEY, "", algorithm)
    assert cpu_report_data(NONCE, KEY, "", algorithm) == digest + bytes(64 - len(digest))


@pytest.mark.parametrize(
    ("nonce", "key", "devices", "algorithm"),
    [
        ("b3RoZXI=", KEY, "dev", "sha384"),
        (NONCE, {**KEY, "x": "eB"}, "dev", "sha384"),
        (NONCE, KEY, "", "sha384"),
        (NONCE, KEY, "dev", "sha512"),
    ],
    ids=["nonce", "key", "devices", "algorithm"],
)
def test_another_part_is_another_binding(
    nonce: str, key: dict[str, str], devices: str, algorithm: HashAlgorithm
) -> None:
    report_data = cpu_report_data(NONCE, KEY, "dev", "sha384")
    check_report_data(report_data, NONCE, KEY, "dev", "sha384")
    with pytest.raises(BindingError):
        check_report_data(report_data, nonce, key, devices, algorithm)


def test_the_digest_alone_without_its_zeros_is_refused() -> None:
    with pytest.raises(BindingError):
        check_report_data(cpu_digest(NONCE, KEY), NONCE, KEY)


def test_algorithms_are_named_in_any_case() -> None:
    assert hash_algorithm("SHA384") == "sha384"


@pytest.mark.parametrize("name", ["sm3", "md5", "", "sha384 "])
def test_an_unknown_algorithm_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="hash algorithm"):
        hash_algorithm(name)
