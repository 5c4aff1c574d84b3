# SPDX-License-Identifier: BSD-3-Clause
"""The firmware id in a certificate: read strictly, one thing wrong at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.errors import BindingError, FormatError
from sealroom.nvidia import Certificate, load_chain
from sealroom.nvidia.dice import COMPOSITE_DEVICE_ID, TCB_INFO, certified_fwid
from sealroom.simulated.gpu_certificates import der
from support.gpu_vectors import read, real
from support.nvidia import error_of, refused, reissue

GPU = testing.gpu()
DIGEST = hashlib.sha384(b"firmware").digest()
SHA384 = bytes.fromhex("0609608648016503040202")
SHA256 = bytes.fromhex("0609608648016503040201")
KEY = der(0x30, b"\x05\x00")


def fwid(digest: bytes = DIGEST, algorithm: bytes = SHA384) -> bytes:
    return der(0x30, algorithm, der(0x04, digest))


def composite(*parts: bytes) -> bytes:
    return der(0x30, *(parts or (der(0x02, b"\1"), KEY, fwid())))


def tcb_info(*parts: bytes) -> bytes:
    return der(0x30, *(parts or (der(0x80, b"NVIDIA"), der(0xA6, fwid()), der(0x87, b"\0"))))


def leaf(values: Mapping[str, bytes]) -> Certificate:
    """Return a signer's certificate with these DICE extensions."""
    extensions = [
        (x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False)
        for oid, value in values.items()
    ]
    made = reissue(GPU.chain[0], GPU.chain[1], drop=[COMPOSITE_DEVICE_ID, TCB_INFO], add=extensions)
    return Certificate.of(made.certificate)


@pytest.mark.parametrize("name", real("hopper_535.86.09", "hopper_590.12_0", "blackwell_575.32"))
def test_certificate_of_a_real_device(name: str) -> None:
    signer = Certificate.from_der(load_chain(read(f"{name}.chain.pem"))[0], "signer")
    found = certified_fwid(signer)
    assert found is not None
    assert len(found) == 48


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({COMPOSITE_DEVICE_ID: composite()}, id="composite device id"),
        pytest.param({TCB_INFO: tcb_info()}, id="TCB info"),
        pytest.param({TCB_INFO: tcb_info(der(0xA6, fwid()))}, id="TCB info with nothing else"),
        pytest.param({TCB_INFO: tcb_info(der(0xA6, fwid(), fwid(bytes(48))))}, id="the first of two"),
        pytest.param({TCB_INFO: tcb_info(der(0xA6, *[fwid()] * 6))}, id="a list with a long length"),
        pytest.param({COMPOSITE_DEVICE_ID: composite(), TCB_INFO: tcb_info()}, id="both the same"),
    ],
)
def test_firmware_id_is_read(values: Mapping[str, bytes]) -> None:
    assert certified_fwid(leaf(values)) == DIGEST


def test_certificate_without_one() -> None:
    assert certified_fwid(leaf({})) is None


def test_two_that_differ() -> None:
    both = leaf({COMPOSITE_DEVICE_ID: composite(), TCB_INFO: tcb_info(der(0xA6, fwid(bytes(48))))})
    refused(BindingError, "nvidia.report.fwid", lambda: certified_fwid(both))


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        pytest.param(COMPOSITE_DEVICE_ID, b"", id="nothing"),
        pytest.param(COMPOSITE_DEVICE_ID, b"\x05\x00", id="no sequence"),
        pytest.param(COMPOSITE_DEVICE_ID, composite() + b"\0", id="a byte after it"),
        pytest.param(COMPOSITE_DEVICE_ID, composite()[:-1], id="cut short"),
        pytest.param(COMPOSITE_DEVICE_ID, b"\x30\x80" + composite()[2:] + b"\0\0", id="indefinite length"),
        pytest.param(COMPOSITE_DEVICE_ID, composite(der(0x02, b"\1"), fwid()), id="no key"),
        pytest.param(COMPOSITE_DEVICE_ID, composite(der(0x02, b"\1"), fwid(), KEY), id="another order"),
        pytest.param(
            COMPOSITE_DEVICE_ID, composite(der(0x02, b"\1"), KEY, fwid(DIGEST[:32])), id="a short digest"
        ),
        pytest.param(
            COMPOSITE_DEVICE_ID, composite(der(0x02, b"\1"), KEY, fwid(algorithm=SHA256)), id="another hash"
        ),
        pytest.param(COMPOSITE_DEVICE_ID, composite(der(0x02, b"\1"), KEY, KEY), id="no firmware id"),
        pytest.param(TCB_INFO, tcb_info(der(0x80, b"NVIDIA")), id="no list"),
        pytest.param(TCB_INFO, tcb_info(der(0xA6)), id="an empty list"),
        pytest.param(TCB_INFO, tcb_info(der(0xA6, der(0x04, fwid()))), id="a list of something else"),
        pytest.param(TCB_INFO, tcb_info(der(0x86, fwid())), id="a list that is no list"),
        pytest.param(TCB_INFO, tcb_info(der(0xA6, fwid()), der(0xA6, fwid())), id="two lists"),
        pytest.param(TCB_INFO, tcb_info(der(0x87, b"\0"), der(0xA6, fwid())), id="another order of fields"),
        pytest.param(TCB_INFO, tcb_info(der(0x8F, b"\0"), der(0xA6, fwid())), id="an unknown field"),
        pytest.param(TCB_INFO, tcb_info(der(0x80, fwid())), id="a firmware id inside of a text"),
        pytest.param(TCB_INFO, composite(), id="the other structure"),
    ],
)
def test_extension_that_is_malformed(oid: str, value: bytes) -> None:
    error = refused(FormatError, "nvidia.report.fwid", lambda: certified_fwid(leaf({oid: value})))
    assert oid in error.message


@given(st.sampled_from([COMPOSITE_DEVICE_ID, TCB_INFO]), st.binary(max_size=80), st.integers(0, 80))
def test_no_bytes_raise_anything_else(oid: str, data: bytes, at: int) -> None:
    good = composite() if oid == COMPOSITE_DEVICE_ID else tcb_info()
    for value in (data, good[:at] + data, good[:at] + data + good[at + len(data) :]):
        error = error_of(partial(certified_fwid, leaf({oid: value})))
        assert error is None or error.check == "nvidia.report.fwid"
