# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from sealroom.errors import ProtocolError
from sealroom.kbs.calls import ReleaseRequest, ReleaseResponse
from sealroom.kbs.messages import (
    AttestRequest,
    AttestResponse,
    AuthRequest,
    Challenge,
    KbsError,
    parse,
)

ATTEST = {
    "init-data": None,
    "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": {"kty": "EC"}},
    "tee-evidence": {"primary_evidence": {"svn": "1"}, "additional_evidence": ""},
}


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def test_our_auth_request_is_what_trustee_takes() -> None:
    assert json.loads(AuthRequest.for_tee("snp").to_json()) == {
        "version": "0.4.0",
        "tee": "snp",
        "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]},
    }


def test_a_message_reads_back_as_it_was_written() -> None:
    request = parse(AttestRequest, written(ATTEST))
    assert json.loads(request.to_json()) == ATTEST
    assert b": " not in request.to_json()


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    assert parse(AttestRequest, written({**ATTEST, "new": 1})) == parse(AttestRequest, written(ATTEST))


def test_initdata_is_toml() -> None:
    init_data = {"format": "toml", "body": "x = 1"}
    request = parse(AttestRequest, written({**ATTEST, "init-data": init_data}))
    assert request.init_data is not None
    assert request.init_data.body == "x = 1"


@pytest.mark.parametrize(
    "change",
    [
        {"init-data": {"format": "json", "body": "{}"}},
        {"runtime-data": {"nonce": "bm9uY2U="}},
        {"runtime-data": {"nonce": "x" * 2000, "tee-pubkey": {}}},
        {"runtime-data": {"nonce": "x", "tee-pubkey": {"kty": 1}}},
        {"runtime-data": {"nonce": 1, "tee-pubkey": {}}},
        {"tee-evidence": {"additional_evidence": ""}},
        {"tee-evidence": {"primary_evidence": {}, "additional_evidence": {}}},
        {"tee-evidence": None},
    ],
    ids=[
        "initdata-format",
        "no-key",
        "long-nonce",
        "number-in-key",
        "number-as-nonce",
        "no-evidence",
        "devices-not-text",
        "null",
    ],
)
def test_a_wrong_attest_request_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="not a AttestRequest"):
        parse(AttestRequest, written({**ATTEST, **change}))


def test_an_error_quotes_no_value() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(ReleaseResponse, written({"headers": {"a": 1}, "dataset": "topsecret", "grant": 7}))
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"null", b'"x"', b"{" * 1000])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(AuthRequest, body)


def test_a_message_that_is_too_long_is_refused() -> None:
    body = AuthRequest.for_tee("snp").to_json()
    parse(AuthRequest, body, limit=len(body))
    with pytest.raises(ProtocolError, match="longer"):
        parse(AuthRequest, body, limit=len(body) - 1)


@pytest.mark.parametrize(
    "model", [AuthRequest, Challenge, AttestRequest, AttestResponse, KbsError, ReleaseRequest]
)
@given(body=st.binary() | st.text().map(str.encode) | st.dictionaries(st.text(), st.text()).map(written))
def test_nothing_but_our_error_leaves_parse(model: type[BaseModel], body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse(model, body)


@pytest.mark.parametrize("version", ["0.1.1", "0.4", "0.4.1", "1.0.0", ""])
def test_another_protocol_version_is_refused(version: str) -> None:
    AuthRequest(tee="snp").check_version()
    with pytest.raises(ProtocolError, match=r"expect =0\.4\.0"):
        AuthRequest(tee="snp", version=version).check_version()


def test_a_guest_without_a_list_of_algorithms_has_the_default() -> None:
    assert AuthRequest(tee="snp").hash_algorithms == ("sha384",)
    assert AuthRequest(tee="snp", extra_params={"supported-hash-algorithms": "sha256"}).hash_algorithms == (
        "sha384",
    )


def test_only_algorithms_that_we_have_are_offered() -> None:
    offer = AuthRequest(tee="snp", extra_params={"supported-hash-algorithms": ["sm3", "SHA512", "sha256", 7]})
    assert offer.hash_algorithms == ("sha256", "sha512")


def test_a_challenge_names_only_another_algorithm_than_the_default() -> None:
    assert json.loads(Challenge.with_nonce(b"\0" * 32).to_json()) == {
        "nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "extra-params": "",
    }
    challenge = Challenge.with_nonce(b"\1" * 32, "sha512")
    assert challenge.algorithm == "sha512"
    assert challenge.nonce_bytes() == b"\1" * 32


@pytest.mark.parametrize("selected", ["sm3", 3, None])
def test_an_algorithm_that_we_do_not_have_is_refused(selected: str | int | None) -> None:
    challenge = Challenge(nonce="bm9uY2U=", extra_params={"selected-hash-algorithm": selected})
    with pytest.raises(ProtocolError):
        _ = challenge.algorithm


def test_a_nonce_that_is_no_base64_is_refused() -> None:
    with pytest.raises(ProtocolError, match="base64"):
        Challenge(nonce="!").nonce_bytes()


def test_errors_are_named() -> None:
    error = KbsError.named("AttestationError", "no")
    assert error.type == "https://github.com/confidential-containers/kbs/errors/AttestationError"
    assert error.name == "AttestationError"


def test_a_token_is_not_printed() -> None:
    assert "secret" not in repr(AttestResponse(token="secret"))
