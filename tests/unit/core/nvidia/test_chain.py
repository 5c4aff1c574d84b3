# SPDX-License-Identifier: BSD-3-Clause
"""From the signer to the pinned root: one thing wrong at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.checks import Outcome
from sealroom.errors import ChainError, Error, ExpiredError, FormatError, NotYetValidError, SignatureError
from sealroom.nvidia import (
    Architecture,
    Certificate,
    NvidiaRoots,
    load_chain,
    rim_ids,
    verify_device,
    verify_rim,
)
from sealroom.nvidia import roots as roots_module
from sealroom.nvidia.certificates import MAX_CERTIFICATE, MAX_CERTIFICATES
from sealroom.simulated.gpu import SimulatedGpu
from sealroom.simulated.gpu_certificates import EcAuthority, Life, leaf, name_of, new_key
from support.nvidia import NONCE, detail, development, error_of, outcome, refused, reissue, verify

BASIC, USAGE = "2.5.29.19", "2.5.29.15"
GPU = testing.gpu()
CHAIN = GPU.chain_der


def with_leaf(gpu: SimulatedGpu, made: EcAuthority) -> list[bytes]:
    return [made.der, *gpu.chain_der[1:]]


def altered_leaf(gpu: SimulatedGpu = GPU, **changes: Any) -> list[bytes]:
    return with_leaf(gpu, reissue(gpu.chain[0], gpu.chain[1], **changes))


def altered_at(place: int, **changes: Any) -> list[bytes]:
    """Return the chain with a certificate issued anew; those below it are signed by the same keys."""
    chain = list(CHAIN)
    chain[place] = reissue(GPU.chain[place], GPU.chain[place + 1], **changes).der
    return chain


# --- good chains


@pytest.mark.parametrize("architecture", ["HOPPER", "BLACKWELL", "LS10"])
def test_chain_of_each_architecture(architecture: Any) -> None:
    gpu = testing.gpu(architecture)
    verified = verify(gpu)

    assert verified.architecture == Architecture(architecture)
    assert verified.is_switch is (architecture == "LS10")
    assert verified.chip == gpu.model.chip
    assert verified.ueid == str(gpu.serial)
    assert verified.simulated
    assert [one.der for one in verified.chain] == gpu.chain_der


def test_root_may_be_left_out() -> None:
    assert [one.der for one in verify(chain=CHAIN[:-1]).chain] == CHAIN


def test_chain_in_pem_is_the_same() -> None:
    assert load_chain(GPU.chain_pem) == CHAIN
    assert load_chain(b"".join(CHAIN)) == CHAIN
    assert load_chain(b"Subject: leaf\n" + GPU.chain_pem + b"\n\n") == CHAIN


# --- certificates that are missing or too many


@pytest.mark.parametrize(
    ("chain", "kind", "check"),
    [
        pytest.param([], ChainError, "nvidia.chain.present", id="none"),
        pytest.param(CHAIN[-1:], ChainError, "nvidia.chain.present", id="only the root"),
        pytest.param(CHAIN[:1], ChainError, "nvidia.chain.present", id="only the signer"),
        pytest.param(CHAIN[1:], ChainError, "nvidia.chain.authority", id="missing signer"),
        pytest.param([CHAIN[0], *CHAIN[2:]], ChainError, "nvidia.chain.links", id="missing boot ROM"),
        pytest.param([*CHAIN[:2], *CHAIN[3:]], ChainError, "nvidia.chain.links", id="missing provisioner"),
        pytest.param([*CHAIN[:3], CHAIN[4]], ChainError, "nvidia.chain.links", id="missing identity"),
        pytest.param(CHAIN[:3], ChainError, "nvidia.chain.root", id="missing identity and root"),
        pytest.param(CHAIN[::-1], ChainError, "nvidia.chain.root", id="root first"),
        pytest.param([*CHAIN[:1], *CHAIN], ChainError, "nvidia.chain.links", id="signer twice"),
        pytest.param(CHAIN * 2, FormatError, "nvidia.chain.format", id="too many"),
        pytest.param(
            [*CHAIN[:4], bytes(MAX_CERTIFICATE + 1)], FormatError, "nvidia.chain.format", id="too long"
        ),
        pytest.param([*CHAIN[:4], b""], FormatError, "nvidia.chain.format", id="an empty one"),
        pytest.param(
            [CHAIN[0] + b"\0", *CHAIN[1:]], FormatError, "nvidia.chain.format", id="a byte after it"
        ),
        pytest.param([CHAIN[0][:-1], *CHAIN[1:]], FormatError, "nvidia.chain.format", id="one cut short"),
    ],
)
def test_chain_that_is_not_complete(chain: Sequence[bytes], kind: type[Error], check: str) -> None:
    refused(kind, check, lambda: verify(chain=chain))


def test_root_that_stands_twice_changes_nothing() -> None:
    """It signed itself, so the chain holds together, and the device is still the same."""
    assert verify(chain=[*CHAIN, CHAIN[-1]]).ueid == str(GPU.serial)


def test_two_certificates_lack_a_boot_rom() -> None:
    root = testing.gpu_root().device
    made = leaf("GH100", "GSP", new_key(), root, Life(testing.NOW), fwid=bytes(48))
    refused(ChainError, "nvidia.chain.present", lambda: verify(chain=[made.der, root.der]))
    refused(ChainError, "nvidia.chain.present", lambda: verify(chain=[made.der, root.der, root.der]))


# --- other roots


def test_chain_of_another_root() -> None:
    other = testing.gpu_root("another")
    stranger = testing.gpu(root=other)
    error = refused(ChainError, "nvidia.chain.root", lambda: verify(stranger, report=stranger.report(NONCE)))
    assert "NVIDIA Device Identity CA" in error.message


def test_simulated_chain_is_refused_under_nvidias_roots() -> None:
    refused(ChainError, "nvidia.chain.root", lambda: verify(roots=NvidiaRoots.nvidia()))


def test_pinned_root_at_the_end_of_a_strange_chain() -> None:
    stranger = testing.gpu(root=testing.gpu_root("another"))
    chain = [*stranger.chain_der[:4], CHAIN[4]]
    refused(ChainError, "nvidia.chain.links", lambda: verify(stranger, chain=chain))


def test_root_with_the_same_name_and_another_key() -> None:
    root = testing.gpu_root().device
    twin = EcAuthority(root.certificate, new_key())
    fake = reissue(EcAuthority(root.certificate, twin.key), twin, name=root.certificate.subject)
    refused(ChainError, "nvidia.chain.root", lambda: verify(chain=[*CHAIN[:4], fake.der]))


def test_root_that_was_changed_outside_of_its_signed_part() -> None:
    root = bytearray(CHAIN[4])
    certificate = x509.load_der_x509_certificate(CHAIN[4])
    root[len(root) - len(certificate.signature) - 1] ^= 1
    with pytest.raises(Error):
        verify(chain=[*CHAIN[:4], bytes(root)])


# --- what certificates say


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("without", [BASIC, USAGE])
def test_issuer_that_may_not_issue(place: int, without: str) -> None:
    refused(ChainError, "nvidia.chain.authority", lambda: verify(chain=altered_at(place, drop=[without])))


def test_issuer_whose_path_length_is_exceeded() -> None:
    limited = x509.BasicConstraints(ca=True, path_length=0)
    chain = altered_at(3, drop=[BASIC], add=[(limited, True)])
    error = refused(ChainError, "nvidia.chain.authority", lambda: verify(chain=chain))
    assert "allows 0" in error.message


def test_signer_that_is_an_authority() -> None:
    usage = GPU.chain[1].certificate.extensions.get_extension_for_class(x509.KeyUsage)
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    chain = altered_leaf(drop=[USAGE], add=[(usage.value, True), (constraints, True)])
    refused(ChainError, "nvidia.chain.authority", lambda: verify(chain=chain))


def test_signer_whose_key_is_not_for_signatures() -> None:
    usage = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
    chain = altered_leaf(drop=[USAGE], add=[(usage, True)])
    refused(ChainError, "nvidia.chain.authority", lambda: verify(chain=chain))


def test_signer_that_is_an_ocsp_responder() -> None:
    chain = altered_leaf(add=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)])
    error = refused(ChainError, "nvidia.chain.authority", lambda: verify(chain=chain))
    assert "another use" in error.message


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_critical_extension_that_is_not_known(place: int) -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    made = altered_leaf(add=[(strange, True)]) if place == 0 else altered_at(place, add=[(strange, True)])
    error = refused(FormatError, "nvidia.chain.format", lambda: verify(chain=made))
    assert "critical" in error.message


def test_other_extension_that_is_not_known_is_passed_over() -> None:
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    assert verify(chain=altered_leaf(add=[(strange, False)])).simulated


@pytest.mark.parametrize("name", ["CX7 A01 LF", "NVIDIA OCSP Responder", "XGH100", "GH", "", "AMD GH100"])
def test_signer_that_is_no_gpu(name: str) -> None:
    chain = altered_leaf(name=name_of(name or "-", country=True))
    refused(ChainError, "nvidia.chain.device", lambda: verify(chain=chain))


def test_gpu_whose_report_names_no_driver() -> None:
    report = GPU.report(NONCE, opaque={3: None})
    refused(ChainError, "nvidia.chain.device", lambda: verify(report=report))


def test_switch_stays_a_switch_whatever_its_report_names() -> None:
    switch = testing.gpu("LS10")
    verified = verify(switch, report=switch.report(NONCE, opaque={3: b"580.95.05\0"}))
    assert verified.is_switch
    assert rim_ids(verified)[0] == ""


def bare_leaf(key: ec.EllipticCurvePrivateKey, algorithm: SHA256 | SHA384) -> list[bytes]:
    """Return the chain with a signer's certificate without extensions, signed by the boot ROM."""
    old = GPU.chain[0].certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(key.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    return [builder.sign(GPU.chain[1].key, algorithm).public_bytes(Encoding.DER), *CHAIN[1:]]


def test_key_on_another_curve() -> None:
    chain = bare_leaf(ec.generate_private_key(ec.SECP256R1()), SHA384())
    error = refused(FormatError, "nvidia.chain.format", lambda: verify(chain=chain))
    assert "the key is not on P-384" in error.message


def test_certificate_signed_with_another_hash() -> None:
    chain = bare_leaf(GPU.chain[0].key, SHA256())
    error = refused(FormatError, "nvidia.chain.format", lambda: verify(chain=chain))
    assert "not signed with SHA-384" in error.message


# --- time


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_certificate_that_has_ended(place: int) -> None:
    life = Life(testing.NOW - timedelta(days=9), testing.NOW - timedelta(days=1))
    chain = altered_leaf(life=life) if place == 0 else altered_at(place, life=life)
    refused(ExpiredError, "nvidia.chain.validity", lambda: verify(chain=chain))


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_certificate_that_has_not_begun(place: int) -> None:
    life = Life(testing.NOW + timedelta(days=1))
    chain = altered_leaf(life=life) if place == 0 else altered_at(place, life=life)
    refused(NotYetValidError, "nvidia.chain.validity", lambda: verify(chain=chain))


def test_a_chain_that_is_remembered_ends_all_the_same() -> None:
    life = Life(testing.NOW - timedelta(days=1), testing.NOW + timedelta(days=1))
    chain, report = altered_leaf(life=life), GPU.report(NONCE)

    assert verify_device(report, chain, roots=development(), at=testing.NOW).simulated
    with pytest.raises(ExpiredError):
        verify_device(report, chain, roots=development(), at=testing.NOW + timedelta(days=2))
    with pytest.raises(ChainError):
        verify_device(report, chain, roots=NvidiaRoots.nvidia(), at=testing.NOW)


# --- files


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="a text"),
        pytest.param(b"\x30", id="one byte of DER"),
        pytest.param(b"\x30\x82\xff\xff", id="a length beyond the end"),
        pytest.param(b"".join(CHAIN) + b"\0", id="a byte after DER"),
        pytest.param(GPU.chain_pem * 2, id="too many"),
        pytest.param(b"".join(CHAIN * 2), id="too many in DER"),
        pytest.param(GPU.chain_pem.replace(b"MII", b"!II", 1), id="PEM that does not decode"),
        pytest.param(GPU.chain_pem + b"-----BEGIN CERTIFICATE-----\n", id="a block without an end"),
        pytest.param(
            GPU.chain_pem + b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
            id="a key",
        ),
        pytest.param(GPU.chain_pem + bytes(MAX_CERTIFICATE + 1), id="a long rest"),
    ],
)
def test_file_that_is_no_chain(data: bytes) -> None:
    refused(FormatError, "nvidia.chain.format", lambda: load_chain(data))


def test_limits_fit_a_chain_of_five() -> None:
    assert len(CHAIN) == 5 < MAX_CERTIFICATES


@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for raw in (
        data,
        b"\x30\x82" + data,
        b"-----BEGIN CERTIFICATE-----" + data + b"-----END CERTIFICATE-----",
    ):
        error = error_of(partial(load_chain, raw))
        assert error is None or error.check == "nvidia.chain.format"
    with pytest.raises(FormatError):
        Certificate.from_der(data, "certificate")


# --- roots


def test_nvidias_roots_are_pinned_by_their_digests() -> None:
    roots = NvidiaRoots.nvidia()
    assert roots.rim is not None
    text = files("sealroom.nvidia").joinpath("data", "PROVENANCE.md").read_text(encoding="utf-8")
    assert roots.device.fingerprint in text
    assert roots.rim.fingerprint in text
    assert roots is NvidiaRoots.nvidia()
    assert not roots.simulated


def test_installed_root_that_was_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots_module, "_DEVICE_ROOT", "0" * 64)
    with pytest.raises(RuntimeError, match="not the certificate that is pinned"):
        roots_module._pinned.__wrapped__()


def test_sets_of_roots_have_different_names() -> None:
    root = testing.gpu_root()
    sets = [
        NvidiaRoots.nvidia(),
        NvidiaRoots.development(root.device_pem),
        NvidiaRoots.development(root.device_pem, root.rim_pem),
        NvidiaRoots.development(testing.gpu_root("another").device_pem),
    ]
    assert len({one.fingerprint for one in sets}) == 4
    assert "development" in repr(sets[1])
    assert root.device_pem.decode() not in repr(sets[1])


@pytest.mark.parametrize("which", ["device", "rim"])
def test_nvidias_own_root_is_no_development_root(which: str) -> None:
    pem = files("sealroom.nvidia").joinpath("data", f"{which}_root.pem").read_bytes()
    with pytest.raises(FormatError, match="own roots"):
        NvidiaRoots.development(pem)
    with pytest.raises(FormatError, match="own roots"):
        NvidiaRoots.development(testing.gpu_root().device_pem, pem)


def test_development_root_that_is_none() -> None:
    with pytest.raises(FormatError, match="not signed with its own key"):
        NvidiaRoots.development(CHAIN[3])
    with pytest.raises(FormatError, match="not one"):
        NvidiaRoots.development(GPU.chain_pem)


def test_without_a_rim_root_no_manifest_is_authentic() -> None:
    roots = NvidiaRoots.development(testing.gpu_root().device_pem)
    error = refused(
        ChainError, "nvidia.rim.root", lambda: verify_rim(GPU.driver_rim, roots=roots, at=testing.NOW)
    )
    assert "No root was given" in error.message


def test_results_of_a_chain_are_said_in_words() -> None:
    checks = verify().checks
    assert outcome(checks, "nvidia.chain.root") is Outcome.PASSED
    assert detail(checks, "nvidia.chain.links").count(" <- ") == 4


def test_report_of_another_device_with_this_chain() -> None:
    report = testing.gpu("HOPPER", nvdec0=True).report(NONCE)
    refused(SignatureError, "nvidia.report.signature", lambda: verify(report=report))
