# SPDX-License-Identifier: BSD-3-Clause
"""Change any byte of what was verified: it is refused, or the byte is shown to be outside of what is signed.

Of simulated evidence every byte is changed, of real evidence every fifth, of the long manifests every 41st.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pytest
from sealroom import testing
from sealroom.errors import Error
from sealroom.nvidia import (
    NvidiaRoots,
    OcspPolicy,
    clear_device_cache,
    clear_rim_cache,
    load_chain,
    verify_device,
    verify_rim,
)
from support.gpu_vectors import FOLDER, read
from support.nvidia import NONCE, development, error_of
from support.vectors import ABSENT

REAL_NONCE = bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb")


@dataclass(frozen=True)
class Evidence:
    """A device's evidence and whom to trust."""

    report: bytes
    chain: Sequence[bytes]
    nonce: bytes
    rim: bytes
    ocsp: Sequence[bytes]
    roots: NvidiaRoots
    at: datetime
    step: int
    """One byte of so many is changed."""


@pytest.fixture(
    scope="module",
    params=[
        "simulated",
        pytest.param("real", marks=pytest.mark.skipif(not FOLDER.is_dir(), reason=ABSENT)),
    ],
)
def evidence(request: pytest.FixtureRequest) -> Evidence:
    if request.param == "simulated":
        gpu = testing.gpu()
        answers = gpu.ocsp(at=testing.NOW)
        return Evidence(
            gpu.report(NONCE), gpu.chain_der, NONCE, gpu.vbios_rim, answers, development(), testing.NOW, 1
        )
    return Evidence(
        read("hopper_550.90.07.report.bin"),
        load_chain(read("hopper_550.90.07.chain.pem")),
        REAL_NONCE,
        read("rim_vbios_96009F0001.xml"),
        [read(f"ocsp_gpu_certificate_l{level}.der") for level in (2, 3, 4)],
        NvidiaRoots.nvidia(),
        datetime(2025, 8, 21, 20, tzinfo=UTC),
        5,
    )


def flipped(data: bytes, step: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes with one changed, of each another bit."""
    for offset in range(0, len(data), step):
        changed = bytearray(data)
        changed[offset] ^= 1 << (offset // step) % 8
        yield offset, bytes(changed)


def accepted(data: bytes, call: Callable[[bytes], object], step: int) -> list[int]:
    """Return the offsets at which a change was accepted; nothing but our own error is raised."""
    found = []
    for offset, changed in flipped(data, step):
        error = error_of(partial(call, changed))
        assert error is None or error.check
        if error is None:
            found.append(offset)
    return found


def test_every_byte_of_a_report(evidence: Evidence) -> None:
    def verify(report: bytes) -> object:
        return verify_device(
            report, evidence.chain, roots=evidence.roots, at=evidence.at, nonce=evidence.nonce
        )

    assert verify(evidence.report)
    assert accepted(evidence.report, verify, evidence.step) == []


@pytest.mark.parametrize("place", range(5), ids=["leaf", "boot ROM", "provisioner", "identity", "root"])
def test_every_byte_of_a_certificate(evidence: Evidence, place: int) -> None:
    def verify(der: bytes) -> object:
        clear_device_cache()
        chain = [*evidence.chain[:place], der, *evidence.chain[place + 1 :]]
        return verify_device(evidence.report, chain, roots=evidence.roots, at=evidence.at)

    assert verify(evidence.chain[place])
    assert accepted(evidence.chain[place], verify, evidence.step) == []


@pytest.mark.parametrize("place", range(3), ids=["boot ROM", "provisioner", "identity"])
def test_every_byte_of_an_ocsp_answer(evidence: Evidence, place: int) -> None:
    def verify(der: bytes) -> object:
        answers = [*evidence.ocsp[:place], der, *evidence.ocsp[place + 1 :]]
        return verify_device(
            evidence.report,
            evidence.chain,
            roots=evidence.roots,
            at=evidence.at,
            ocsp=answers,
            ocsp_policy=OcspPolicy.REQUIRED,
        )

    assert verify(evidence.ocsp[place])
    assert accepted(evidence.ocsp[place], verify, evidence.step) == []


def test_bytes_of_a_manifest(evidence: Evidence) -> None:
    xml = evidence.rim
    good = verify_rim(xml, roots=evidence.roots, at=evidence.at)

    def verify(changed: bytes) -> object:
        clear_rim_cache()
        found = verify_rim(changed, roots=evidence.roots, at=evidence.at)
        assert found.measurements == good.measurements
        assert found.chain == good.chain
        return found

    for offset in accepted(xml, verify, 41):
        assert outside(xml, offset), (offset, xml[offset - 20 : offset + 20])


def outside(xml: bytes, offset: int) -> bool:
    """Return whether a byte is outside of what the signature of a manifest covers, and means nothing.

    That is white space in the signature beside its SignedInfo, and white space in base64.
    """
    info_end, end = xml.rindex(b"SignedInfo>"), xml.rindex(b"Signature>")
    return info_end < offset < end and xml[offset : offset + 1].isspace()


def test_text_of_a_pem_chain_is_not_covered_and_means_nothing(evidence: Evidence) -> None:
    """The armour is outside of every signature: what counts are the certificates that it holds."""
    pem = b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
        for der in evidence.chain
    )
    wide = pem.replace(b"\n", b"\r\n")
    spaced = b"a note\n" + pem.replace(b"-----\n-----", b"-----\n\nanother note\n-----")

    for form in (pem, wide, spaced):
        assert load_chain(form) == list(evidence.chain)


class SameError(Error):
    """The certificates are the ones from before."""


def test_bytes_of_a_pem_chain() -> None:
    pem, report = testing.gpu().chain_pem, testing.gpu().report(NONCE)
    chain = load_chain(pem)

    def verify(changed: bytes) -> object:
        clear_device_cache()
        found = load_chain(changed)
        if found == chain:
            raise SameError("A change of white space left the certificates the same.", check="same")
        return verify_device(report, found, roots=development(), at=testing.NOW)

    assert accepted(pem, verify, 5) == []


def test_numbers_of_a_signature_have_a_second_pair_that_proves_the_same(evidence: Evidence) -> None:
    """ECDSA: (r, n - s) verifies where (r, s) does. It signs the same bytes, so nothing follows from it."""
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
    )
    s = int.from_bytes(evidence.report[-48:], "big")
    twin = evidence.report[:-48] + (order - s).to_bytes(48, "big")

    first, second = (
        verify_device(report, evidence.chain, roots=evidence.roots, at=evidence.at, nonce=evidence.nonce)
        for report in (evidence.report, twin)
    )

    assert first.report.signed == second.report.signed
    assert first.ueid == second.ueid
