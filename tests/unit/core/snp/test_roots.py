# SPDX-License-Identifier: BSD-3-Clause
"""Which roots are trusted: AMD's as they were released, others only by name, never both."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import pytest
from sealroom import testing
from sealroom.errors import ChainError, ConfigurationError, FormatError, SignatureError
from sealroom.simulated.root import make
from sealroom.snp import ProductLine, Roots, load_certificates
from sealroom.snp import roots as module
from sealroom.snp.roots import AMD_SHA256
from support.snp import replace_once, resign

FOLDER = files("sealroom.snp") / "roots"


@pytest.mark.parametrize("name", AMD_SHA256)
def test_packaged_certificate_has_its_digest(name: str) -> None:
    assert hashlib.sha256((FOLDER / f"{name}.der").read_bytes()).hexdigest() == AMD_SHA256[name]


def test_nothing_else_is_packaged() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.der" for name in AMD_SHA256} | {
        "PROVENANCE.md"
    }


def test_provenance_names_every_digest() -> None:
    text = (FOLDER / "PROVENANCE.md").read_text(encoding="utf-8")

    assert dict(re.findall(r"`(\w+-\w+)\.der` \| \d+ \| `([0-9a-f]{64})`", text)) == AMD_SHA256


def test_amds_roots() -> None:
    roots = Roots.amd()

    assert not roots.simulated
    assert {ark.line for ark in roots.arks} == set(ProductLine)
    assert {(one.role, one.line) for one in roots.intermediates} == {
        (role, line) for role in ("ASK", "ASVK") for line in ProductLine
    }
    assert {ark.name: ark.certificate.serial for ark in roots.arks} == {
        "ARK-Milan": 0x010000,
        "ARK-Genoa": 0x020000,
        "ARK-Turin": 0x030000,
    }
    assert Roots.amd() is roots


def test_a_changed_file_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AMD_SHA256, "ark-milan", "0" * 64)

    with pytest.raises(ConfigurationError):
        module._amd.__wrapped__()


def test_development_roots() -> None:
    chain = testing.chain()

    roots = Roots.development(chain.pem)

    assert roots.simulated
    assert roots.ark(ProductLine.GENOA) is roots.arks[0]
    assert roots.ark(ProductLine.MILAN) is None
    assert roots.intermediates == ()
    assert len(Roots.development(chain.chain_pem).intermediates) == 1


def test_development_roots_in_der() -> None:
    assert Roots.development(testing.chain().ark.der) == Roots.development(testing.chain().pem)


def test_several_lines_in_one_file() -> None:
    roots = Roots.development(testing.chain().pem + testing.chain(ProductLine.TURIN).pem)

    assert {ark.line for ark in roots.arks} == {ProductLine.GENOA, ProductLine.TURIN}


def pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_a_root_of_amds_is_no_development_root() -> None:
    with pytest.raises(ConfigurationError):
        Roots.development(testing.chain().pem + pem(Roots.amd().arks[0].certificate.der))


def test_amds_root_given_as_a_file_is_amds() -> None:
    assert Roots.from_pem(pem(Roots.amd().arks[0].certificate.der)) is Roots.amd()
    assert Roots.from_pem(testing.chain().pem).simulated


def test_two_roots_of_one_line_are_refused() -> None:
    other = make(ProductLine.GENOA, at=testing.EPOCH, keys=(testing.rsa_key("other"), testing.rsa_key("ask")))

    with pytest.raises(ChainError) as caught:
        Roots.development(testing.chain().pem + other.pem)

    assert caught.value.check == "snp.ark.pinned"


def test_an_intermediate_is_no_root() -> None:
    with pytest.raises(ChainError) as caught:
        Roots.development(testing.chain().ask.pem)

    assert caught.value.check == "snp.ark.pinned"


def test_a_root_that_is_not_signed_by_itself_is_refused() -> None:
    der = resign(testing.chain().ark.der, testing.rsa_key("ask"), lambda content: content)

    with pytest.raises(SignatureError) as caught:
        Roots.development(der)

    assert caught.value.check == "snp.ark.self_signed"


def test_an_intermediate_of_another_root_is_refused() -> None:
    other = make(ProductLine.GENOA, at=testing.EPOCH, keys=(testing.rsa_key("other"), testing.rsa_key("ask")))

    with pytest.raises(SignatureError) as caught:
        Roots.development(testing.chain().pem + other.ask.pem)

    assert caught.value.check == "snp.ask.signature"


def test_a_root_with_another_name_is_refused() -> None:
    der = resign(
        testing.chain().ark.der,
        testing.rsa_key("ark"),
        lambda content: content.replace(b"ARK-Genoa", b"ARK-Paris"),
    )

    with pytest.raises(ChainError):
        Roots.development(der)


def test_a_root_of_2048_bits_is_refused() -> None:
    with pytest.raises(FormatError):
        Roots.development(
            resign(
                testing.chain().ark.der,
                testing.rsa_key("ark"),
                replace_once(b"\x02\x82\x02\x01\x00", b"\x02\x82\x02\x01\x01"),
            )
        )


def test_fingerprints_name_sets_of_roots() -> None:
    chain = testing.chain()

    assert Roots.development(chain.pem).fingerprint != Roots.development(chain.chain_pem).fingerprint
    assert Roots.development(chain.pem * 2).fingerprint == Roots.development(chain.pem).fingerprint
    assert Roots.amd().fingerprint != Roots.development(chain.pem).fingerprint


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no certificate",
        b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----" * 65,
    ],
    ids=["empty", "a sentence", "other characters", "length", "too many"],
)
def test_files_without_certificates_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        load_certificates(data)
