# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import shutil
import subprocess
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from sealroom import testing
from sealroom.simulated import certificates
from sealroom.simulated.certificates import OID, der_ia5, der_integer
from sealroom.snp import ProductLine, Roots, TcbVersion, Vek, verify_vek

LINES = list(ProductLine)


def load(der: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_der_x509_certificate(der)


@pytest.mark.parametrize("line", LINES)
def test_names_say_simulated_and_keep_amds_common_names(line: ProductLine) -> None:
    root = testing.chain(line, vlek=True)
    assert root.asvk is not None
    for authority, name in (
        (root.ark, f"ARK-{line}"),
        (root.ask, f"SEV-{line}"),
        (root.asvk, f"SEV-VLEK-{line}"),
    ):
        subject = authority.certificate.subject.rfc4514_string()
        assert f"CN={name}" in subject
        assert "SIMULATED" in subject
        assert "not AMD" in subject


def test_revocation_points_lead_nowhere() -> None:
    assert b"kdsintf.amd.com" not in testing.chain().ark.der + testing.chain().ask.der


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
def test_vek_verifies_to_its_root(line: ProductLine, kind: Literal["VCEK", "VLEK"]) -> None:
    chip = testing.chip(line, kind=kind)
    roots = Roots.development(chip.root.pem)
    chain = verify_vek(chip.vek, roots=roots, at=testing.NOW, intermediates=chip.intermediates)
    assert chain.vek.line is line
    assert chain.vek.kind == kind
    assert chain.vek.tcb == chip.tcb


def test_vek_has_serial_zero_as_amds() -> None:
    with pytest.warns(CryptographyDeprecationWarning):
        assert x509.load_der_x509_certificate(testing.vek()).serial_number == 0


def test_turin_has_fmc_and_lacks_spl4() -> None:
    suffixes = [
        item.oid.dotted_string.removeprefix(OID) for item in load(testing.vek(ProductLine.TURIN)).extensions
    ]
    assert suffixes == ["1", "2", "3.9", "3.1", "3.2", "3.3", "3.5", "3.6", "3.7", "3.8", "4"]


def test_genoa_extensions_stand_in_amds_order() -> None:
    suffixes = [item.oid.dotted_string.removeprefix(OID) for item in load(testing.vek()).extensions]
    assert suffixes == ["1", "2", "3.1", "3.2", "3.4", "3.5", "3.6", "3.7", "3.3", "3.8", "4"]


def test_hwid_is_raw_bytes_even_where_they_look_like_der() -> None:
    chip_id = b"\x04\x3e" + bytes(range(62))
    assert Vek.from_der(testing.vek(chip_id=chip_id)).hwid == chip_id


@pytest.mark.parametrize(
    ("value", "der"), [(0, "020100"), (127, "02017f"), (128, "02020080"), (219, "020200db")]
)
def test_security_patch_levels_are_der_integers(value: int, der: str) -> None:
    assert der_integer(value).hex() == der


def test_product_name_is_an_ia5_string() -> None:
    assert der_ia5("Milan-B0").hex() == "16084d696c616e2d4230"


def test_lives_are_amds() -> None:
    vcek, vlek = load(testing.vek()), load(testing.vek(kind="VLEK"))
    assert vcek.not_valid_after_utc - vcek.not_valid_before_utc > timedelta(days=7 * 365)
    assert vlek.not_valid_after_utc - vlek.not_valid_before_utc == timedelta(days=365)


def test_organisation_texts_can_be_amds_for_verifiers_that_compare_them() -> None:
    root = testing.chain(names=testing.AMD_LIKE_NAMES)
    assert root.ark.certificate.subject.rfc4514_string().startswith(
        "CN=ARK-Genoa,O=Advanced Micro Devices,ST=CA"
    )


def test_authority_does_not_print_its_key() -> None:
    assert "key=" not in repr(testing.chain().ark)


def test_length_is_that_of_a_real_certificate(vectors: Path) -> None:
    """AMD's names and fields, so the same structure gives the same number of bytes."""
    tcb = TcbVersion(fmc=None, bootloader=4, tee=0, snp=24, microcode=219)
    names = testing.AMD_LIKE_NAMES
    root = testing.chain(ProductLine.MILAN, names=names)
    made = testing.vek(ProductLine.MILAN, root=root, tcb=tcb)
    assert len(made) == len((vectors / "snp/ms-tee/milan_vcek.der").read_bytes())


def test_openssl_accepts_the_chain(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on this machine")
    chip = testing.chip()
    (tmp_path / "ark.pem").write_bytes(chip.root.ark.pem)
    (tmp_path / "ask.pem").write_bytes(chip.root.ask.pem)
    (tmp_path / "vek.pem").write_bytes(load(chip.vek).public_bytes(Encoding.PEM))
    seconds = str(int(testing.NOW.timestamp()))
    command = [
        openssl,
        "verify",
        "-attime",
        seconds,
        "-CAfile",
        "ark.pem",
        "-untrusted",
        "ask.pem",
        "vek.pem",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ark_must_be_on_a_known_line() -> None:
    assert set(certificates.SERIALS) == set(ProductLine)
