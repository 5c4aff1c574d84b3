# SPDX-License-Identifier: BSD-3-Clause
"""`sealroom verify` and `sealroom report show`, as an auditor runs them."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from sealroom import testing
from sealroom.appraisal import NO_EXPECTATION, Policy, appraise, ear
from sealroom.cli import cli, run
from sealroom.cli.common import EXIT_OK, EXIT_REFUSED, EXIT_UNCHECKED, EXIT_USAGE
from sealroom.kbs.evidence import snp_to_json
from sealroom.snp import CHECKS, REPORT_CHECKS, ProductLine
from sealroom.snp.bundle import EvidenceBundle, report_data_for
from sealroom.snp.table import build_certificate_table
from support.snp import make_crl, utc

NONCE = bytes(range(32))
AT = ["--at", "2026-06-01"]
GUEST = testing.environment()
Saves = Callable[[str, bytes], str]


@pytest.fixture
def saved(tmp_path: Path) -> Saves:
    """Save some bytes and return the path."""

    def save(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return save


@pytest.fixture
def root(saved: Saves) -> list[str]:
    return ["--root", saved("ark.pem", testing.chip().root.pem)]


def bundle(report_data: bytes | None = None, nonce: bytes = NONCE, **fields: Any) -> bytes:
    """Return a bundle of a server that runs the environment of the embedded default."""
    gathered = testing.evidence(report_data or report_data_for(nonce), GUEST, **fields)
    return EvidenceBundle(nonce, gathered.report, gathered.certificates, provider="simulated").to_json()


def hcl() -> bytes:
    runtime = b'{"keys":[]}'
    report = testing.chip().report(report_data=hashlib.sha256(runtime).digest().ljust(64, b"\0"))
    header = struct.pack("<4sIIII12x", b"HCLA", 1, 2346, 2, 0)
    return (
        header + report + struct.pack("<IIIII", 20 + len(runtime), 1, 2, 1, len(runtime)) + runtime + bytes(9)
    )


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run `sealroom verify` and return exit status and everything that was printed."""
    status = run(["verify", *arguments])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def verify_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = run(["verify", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def outcomes(result: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["outcome"] for check in result["checks"]}


# --- what is recognised ---


def test_a_report_with_its_certificates_in_files(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chip = testing.chip()
    files = [saved("report.bin", chip.report()), "--vek", saved("vcek.der", chip.vek)]
    files += ["--chain", saved("chain.pem", chip.root.chain_pem)]

    status, result = verify_json(capsys, *files, *root, *AT)

    assert status == EXIT_OK
    assert result["verdict"] == "accepted"
    assert result["kind"] == "report"
    assert result["line"] == "Genoa"
    assert set(outcomes(result)) >= REPORT_CHECKS
    assert outcomes(result)["snp.report.signature"] == "passed"


KINDS: dict[str, Callable[[], bytes]] = {
    "evidence bundle": bundle,
    "report with a certificate table": lambda: (
        testing.chip().report() + build_certificate_table(testing.chip().certificates)
    ),
    "report in JSON": lambda: json.dumps(
        snp_to_json(testing.chip().report(), testing.chip().certificates)
    ).encode(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_that_brings_its_certificates(
    kind: str, saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = verify_json(capsys, saved("evidence", KINDS[kind]()), *root, *AT)

    assert status == EXIT_OK
    assert result["kind"] == kind
    assert result["simulated"] is True


def test_an_azure_report(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    chip = testing.chip()
    files = [saved("hcl.bin", hcl()), "--vek", saved("vcek.der", chip.vek)]
    files += ["--chain", saved("ask.pem", chip.root.ask.pem)]

    status, result = verify_json(capsys, *files, *root, *AT)

    assert status == EXIT_OK
    assert outcomes(result)["snp.hcl.runtime_data"] == "passed"


def test_a_recorded_report_under_amds_roots(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = vectors / "snp" / "ms-tee"

    status, printed = verify(
        capsys,
        str(folder / "genoa_report.bin"),
        "--vek",
        str(folder / "genoa_vcek.der"),
        "--at",
        "2026-03-01T00:00:00+01:00",
    )

    assert status == EXIT_OK
    assert "ACCEPTED: an AMD Genoa processor signed this report" in printed
    assert "2026-02-28 23:00:00 UTC" in printed
    assert "SIMULATED" not in printed


def test_the_certificate_that_the_report_names_is_taken(
    saved: Saves, capsys: pytest.CaptureFixture[str]
) -> None:
    vlek = testing.chip(kind="VLEK")
    certificates = testing.chip().certificates | vlek.certificates
    data = vlek.report() + build_certificate_table(certificates)
    trusted = ["--root", saved("ark.pem", vlek.root.pem)]

    assert verify(capsys, saved("extended.bin", data), *trusted, *AT)[0] == EXIT_OK


NO_EVIDENCE = {
    "empty file": b"",
    "one byte missing": testing.chip().report()[:-1],
    "one byte more": testing.chip().report() + b"\n",
    "a sentence": b"This is no evidence.",
    "broken JSON": b'{"format": ',
    "unknown JSON": b'{"hello": 1}',
    "another bundle": b'{"format": "sealroom-evidence/9"}',
    "broken JSON report": b'{"attestation_report": {}}',
    "azure report cut": hcl()[:1000],
    "broken table": testing.chip().report() + b"\1" * 30,
}


@pytest.mark.parametrize("name", NO_EVIDENCE)
def test_what_is_no_evidence_is_refused_in_a_sentence(
    name: str, saved: Saves, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = verify(capsys, saved("evidence", NO_EVIDENCE[name]), *AT)

    assert status == EXIT_REFUSED
    assert "REFUSED: " in printed
    assert "Traceback" not in printed


# --- verdicts ---


def test_a_development_root_is_called_simulated(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = verify(capsys, saved("evidence.json", bundle()), *root, *AT)

    assert status == EXIT_OK
    assert "SIMULATED: the root is a development root." in printed
    assert "an AMD" not in printed.split("SIMULATED", 1)[1].split("ACCEPTED", 1)[1]


def test_simulated_evidence_is_refused_without_its_root(
    saved: Saves, capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = verify(capsys, saved("evidence.json", bundle()), *AT)

    assert status == EXIT_REFUSED
    assert "FAILED" in printed
    assert "not the pinned one of AMD's roots" in printed


def test_every_check_stands_in_the_table(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, printed = verify(capsys, saved("evidence.json", bundle()), *root, *AT)

    for check in REPORT_CHECKS:
        assert check in printed
        assert CHECKS[check].title in printed


def test_the_failed_check_is_marked_and_the_rest_is_not_asked(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = json.loads(bundle())
    report = bytearray(base64.b64decode(changed["report"]))
    report[0x90] ^= 1
    changed["report"] = base64.b64encode(report).decode()

    status, result = verify_json(capsys, saved("evidence.json", json.dumps(changed).encode()), *root, *AT)

    assert status == EXIT_REFUSED
    assert result["verdict"] == "refused"
    assert [one for one, outcome in outcomes(result).items() if outcome == "failed"] == [
        "snp.report.signature"
    ]
    assert result["error"]["check"] == "snp.report.signature"


def test_a_report_without_certificates_could_not_be_checked(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = verify(capsys, saved("report.bin", testing.chip().report()), *root, *AT)

    assert status == EXIT_UNCHECKED
    assert "COULD NOT BE CHECKED" in printed
    assert "ACCEPTED" not in printed


def test_without_the_intermediate_it_could_not_be_checked(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chip = testing.chip()
    files = [saved("report.bin", chip.report()), "--vek", saved("vcek.der", chip.vek)]

    assert verify(capsys, *files, *root, *AT)[0] == EXIT_UNCHECKED


def test_expired_at_another_time(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, result = verify_json(
        capsys, saved("evidence.json", bundle()), *root, "--at", "2040-01-01T00:00:00Z"
    )

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "expired"


def crl(**changes: Any) -> bytes:
    values = {"issued": utc(2026, 5, 20)} | changes
    return make_crl(testing.chip().root.ark.certificate.subject, testing.rsa_key("ark"), **values)


def test_a_revocation_list_in_pem(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pem = b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(crl()) + b"-----END X509 CRL-----\n"

    status, result = verify_json(
        capsys, saved("evidence.json", bundle()), *root, *AT, "--crl", saved("crl.pem", pem)
    )

    assert status == EXIT_OK
    assert outcomes(result)["snp.crl.not_stale"] == "passed"


def test_a_revoked_intermediate(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--crl", saved("crl.der", crl(revoked=[0x020001]))]

    status, result = verify_json(capsys, saved("evidence.json", bundle()), *root, *AT, *given)

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "revoked"


def test_a_stale_revocation_list_could_not_be_checked(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--crl", saved("crl.der", crl(issued=utc(2025)))]

    status, printed = verify(capsys, saved("evidence.json", bundle()), *root, *AT, *given)

    assert status == EXIT_UNCHECKED
    assert "stale" in printed


# --- expectations ---


def test_the_nonce_that_was_chosen(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, result = verify_json(capsys, saved("evidence.json", bundle()), *root, *AT, "--nonce", NONCE.hex())

    assert status == EXIT_OK
    assert outcomes(result)["snp.expected.nonce"] == "passed"


def test_another_nonce_is_a_replay(saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, result = verify_json(
        capsys, saved("evidence.json", bundle()), *root, *AT, "--nonce", bytes(32).hex()
    )

    assert status == EXIT_REFUSED
    assert (result["error"]["code"], result["error"]["check"]) == ("freshness", "snp.expected.nonce")


def test_a_bundle_that_claims_another_nonce_than_its_report(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = verify_json(capsys, saved("evidence.json", bundle(report_data=bytes(64))), *root, *AT)

    assert status == EXIT_REFUSED
    assert outcomes(result)["snp.expected.nonce"] == "failed"


def test_a_bundles_own_nonce_is_no_proof_of_freshness(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, result = verify_json(capsys, saved("evidence.json", bundle()), *root, *AT)

    assert outcomes(result)["snp.expected.nonce"] == "not_asked"


@pytest.mark.parametrize(
    ("option", "field", "size"), [("report-data", "report_data", 64), ("host-data", "host_data", 32)]
)
def test_expected_bytes(
    option: str, field: str, size: int, saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    chip = testing.chip()
    changes: dict[str, Any] = {field: b"x" * size}
    report = chip.report(**changes)
    evidence = saved("extended.bin", report + build_certificate_table(chip.certificates))

    right = verify_json(capsys, evidence, *root, *AT, f"--{option}", (b"x" * size).hex())
    wrong = verify_json(capsys, evidence, *root, *AT, f"--{option}", (b"y" * size).hex())

    assert right[0] == EXIT_OK
    assert outcomes(right[1])[f"snp.expected.{field}"] == "passed"
    assert wrong[0] == EXIT_REFUSED
    assert wrong[1]["error"]["code"] == "binding"


# --- appraisal ---


def test_the_environment_that_runs_there(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, printed = verify(
        capsys,
        saved("evidence.json", bundle()),
        *root,
        *AT,
        "--environment",
        saved("environment.toml", GUEST.raw),
    )

    assert status == EXIT_OK
    assert "Appraisal: simulated under policy strict 1" in printed
    assert GUEST.title in printed
    assert "appraisal.measurement" in printed


def test_another_measurement_is_genuine_and_refused(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = verify_json(
        capsys,
        saved("evidence.json", bundle(measurement=bytes(48))),
        *root,
        *AT,
        "--environment",
        saved("environment.toml", GUEST.raw),
    )

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "appraisal"
    assert result["error"]["check"] == "appraisal.measurement"
    assert result["appraisal"]["tier"] == "contraindicated"


def test_debugging_is_judged_by_the_policy(
    saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    evidence = saved("evidence.json", bundle(policy=GUEST.guest_policy | 1 << 19))
    head = b'format = "sealroom-policy/1"\nname = "p"\nversion = "1"\n'

    strict = verify(capsys, evidence, *root, *AT, "--policy", saved("strict.toml", head))
    relaxed = verify(
        capsys, evidence, *root, *AT, "--policy", saved("debug.toml", head + b"allow_debug_policy = true\n")
    )

    assert strict[0] == EXIT_REFUSED
    assert relaxed[0] == EXIT_OK


# --- tokens ---

KEY = ec.generate_private_key(ec.SECP256R1())


def token(at: datetime = testing.NOW, **fields: Any) -> bytes:
    result = appraise(
        testing.verified_evidence(expected=GUEST, **fields),
        environment=GUEST,
        policy=Policy.strict(),
    )
    text = ear.issue(
        result,
        key=KEY,
        kid="k",
        issuer="broker",
        nonce="bm9uY2U=",
        tee_pubkey={"kty": "EC"},
        lifetime=timedelta(minutes=5),
        at=at,
    )
    return text.encode() + b"\n"


@pytest.fixture
def jwks(saved: Saves) -> list[str]:
    return ["--jwks", saved("jwks.json", json.dumps(ear.jwks({"k": KEY.public_key()})).encode())]


def test_a_token(saved: Saves, jwks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = verify(capsys, saved("token.jwt", token()), *jwks, *AT)

    assert status == EXIT_OK
    assert "SIMULATED" in printed
    assert "ACCEPTED: the broker signed this result" in printed


def test_a_token_about_the_environment_that_was_expected(
    saved: Saves, jwks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    other = testing.environment(version="99")

    same = verify(
        capsys, saved("token.jwt", token()), *jwks, *AT, "--environment", saved("same.toml", GUEST.raw)
    )
    wrong = verify(
        capsys, saved("token.jwt", token()), *jwks, *AT, "--environment", saved("other.toml", other.raw)
    )

    assert same[0] == EXIT_OK
    assert wrong[0] == EXIT_REFUSED


def test_a_token_of_a_refusal_is_refused(
    saved: Saves, jwks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, result = verify_json(capsys, saved("token.jwt", token(measurement=bytes(48))), *jwks, *AT)

    assert status == EXIT_REFUSED
    assert result["appraisal"]["tier"] == "contraindicated"


def test_a_token_of_another_key_is_refused(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    keys = json.dumps(ear.jwks({"k": stranger.public_key()})).encode()

    status, result = verify_json(capsys, saved("token.jwt", token()), "--jwks", saved("jwks.json", keys), *AT)

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "signature"


def test_an_old_token_is_refused(saved: Saves, jwks: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, result = verify_json(
        capsys, saved("token.jwt", token(at=testing.NOW - timedelta(hours=1))), *jwks, *AT
    )

    assert status == EXIT_REFUSED
    assert result["error"]["code"] == "freshness"


# --- wrong usage ---


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nonce", "00"],
        ["--nonce", "xyz"],
        ["--report-data", "00" * 63],
        ["--host-data", "00" * 33],
        ["--at", "yesterday"],
        ["--at", "0001-01-01T00:00:00+14:00"],
        ["--tea", "snp"],
    ],
    ids=lambda wrong: " ".join(wrong)[:30],
)
def test_wrong_options(
    wrong: list[str], saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(capsys, saved("evidence.json", bundle()), *root, *wrong)[0] == EXIT_USAGE


@pytest.mark.parametrize("option", ["--root", "--chain", "--vek", "--crl", "--policy", "--environment"])
def test_a_file_beside_the_evidence_that_is_not_what_it_should_be(
    option: str, saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [saved("evidence.json", bundle()), *root, *AT, option, saved("wrong", b"wrong = [")]

    status, printed = verify(capsys, *arguments)

    assert status == EXIT_USAGE
    assert "wrong cannot be used" in printed
    assert "ACCEPTED" not in printed


@pytest.mark.parametrize("option", ["--root", "--vek", "--policy"])
def test_a_file_that_is_not_there_could_not_be_checked(
    option: str, saved: Saves, root: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [saved("evidence.json", bundle()), *root, *AT, option, "/nowhere/file"]

    assert verify(capsys, *arguments)[0] == EXIT_UNCHECKED


def test_evidence_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, "/nowhere/evidence")[0] == EXIT_UNCHECKED


def test_a_token_without_keys(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = verify(capsys, saved("token.jwt", token()))

    assert status == EXIT_USAGE
    assert "--jwks" in printed


def test_keys_that_are_no_keys(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"[]", b"{"):
        arguments = [saved("token.jwt", token()), "--jwks", saved("jwks.json", content)]
        assert verify(capsys, *arguments)[0] == EXIT_USAGE


def test_a_token_is_not_compared_with_a_nonce(
    saved: Saves, jwks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(capsys, saved("token.jwt", token()), *jwks, "--nonce", NONCE.hex())[0] == EXIT_USAGE


def test_no_expectation_is_not_strict_about_what_runs_there() -> None:
    # A policy without an environment judges the policy alone; NO_EXPECTATION is named explicitly for that.
    result = appraise(testing.verified_evidence(), environment=NO_EXPECTATION, policy=Policy.strict())

    assert not result.failures


# --- report show ---


def test_every_field_is_shown(saved: Saves) -> None:
    chip = testing.chip(ProductLine.TURIN)
    report = chip.report(report_data=b"d" * 64, policy=0xB0000, vmpl=0xFFFFFFFF)

    shown = CliRunner().invoke(cli, ["report", "show", saved("report.bin", report)])

    assert shown.exit_code == 0
    for text in ("REPORT_DATA", (b"d" * 20).hex(), "DEBUGGING ALLOWED", "Turin", "the host asked", "fmc 1"):
        assert text in shown.output
    assert "Nothing was verified" in shown.output


def test_fields_as_json(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "show", "--json", saved("evidence.json", bundle())]) == EXIT_OK

    fields = json.loads(capsys.readouterr().out)
    assert fields["line"] == "Genoa"
    assert fields["report_data"] == report_data_for(NONCE).hex()
    assert fields["reported_tcb"]["bootloader"] == testing.chip().tcb.bootloader
    assert fields["policy"] == GUEST.guest_policy


def test_a_version_2_report_does_not_say_its_line(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "show", saved("report.bin", testing.chip().report(2))]) == EXIT_OK
    assert "not said in version 2" in capsys.readouterr().out


def test_a_broken_report_is_refused_with_its_offset(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    report = testing.chip().report(patches={0x4C: b"\1"})

    assert run(["report", "show", saved("report.bin", report)]) == EXIT_REFUSED
    assert "0x4c" in capsys.readouterr().err


def test_a_token_holds_no_report(saved: Saves, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "show", saved("token.jwt", token())]) == EXIT_REFUSED
    assert "holds no report" in capsys.readouterr().err
