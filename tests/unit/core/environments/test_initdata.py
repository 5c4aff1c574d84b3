# SPDX-License-Identifier: BSD-3-Clause
"""Initdata: its digest in HOST_DATA, and the annotation that carries it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom.environments import initdata_annotation, initdata_from_annotation
from sealroom.environments.initdata import MAX_INITDATA, check_initdata, initdata_host_data
from sealroom.errors import Error, FormatError

BODY = """algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = "url = 'http://127.0.0.1:8080'"
"policy.rego" = \'\'\'
package agent_policy
\'\'\'
"""
TEXT = 'algorithm = "{}"\nversion = "0.1.0"\n[data]\n'


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_host_data_is_the_first_32_bytes_of_the_digest(algorithm: str) -> None:
    body = TEXT.format(algorithm)
    digest = hashlib.new(algorithm, body.encode()).digest()
    assert check_initdata(body) == initdata_host_data(body) == digest[:32]
    assert len(initdata_host_data(body)) == 32


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("sha256", "251fa8cb4284adc7a40a26b2c4ba5cc8c967da2a81598d042f7d9ada810921c1"),
        ("sha384", "27be2b4efccf8a952d6a80f62e75306829f29289bf60b26f725ada6f5a106985"),
        ("sha512", "a2973e5a76270de749481fb21dca8da6a5f24911beb60de5eba36c07f5a18e69"),
    ],
)
def test_host_data_is_what_the_sum_commands_say(algorithm: str, expected: str) -> None:
    assert initdata_host_data(TEXT.format(algorithm)).hex() == expected


def test_one_space_more_is_another_host_data() -> None:
    assert initdata_host_data(BODY + " ") != initdata_host_data(BODY)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"sha384"', '"sha1"', "no known algorithm"),
        (
            '"sha384"',
            '"27be2b4efccf8a952d6a80f62e75306829f29289bf60b26f725ada6f5a106985"',
            "no known algorithm",
        ),
        ('"sha384"', "384", "no known algorithm"),
        ('algorithm = "sha384"\n', "", "no known algorithm"),
        ('"0.1.0"', '"0.2.0"', "no version"),
        ('version = "0.1.0"\n', "", "no version"),
        ("[data]", "[other]", r"no \[data\]"),
        ("[data]", "[data.more]", r"no \[data\]"),
        ("\"url = 'http://127.0.0.1:8080'\"", "1", r"no \[data\]"),
        ("[data]", "[data", "."),
    ],
)
def test_text_that_guests_do_not_take_is_refused(old: str, new: str, reason: str) -> None:
    assert old in BODY
    with pytest.raises(ValueError, match=reason):
        check_initdata(BODY.replace(old, new))


def test_too_long_text_is_refused() -> None:
    body = BODY + "#" * MAX_INITDATA
    with pytest.raises(ValueError, match="longer than"):
        check_initdata(body)
    with pytest.raises(FormatError, match="longer than"):
        initdata_annotation(body)


# --- the annotation


@given(st.text(max_size=400))
def test_text_comes_back_exactly(body: str) -> None:
    with contextlib.suppress(FormatError):  # lone surrogates are no UTF-8
        assert initdata_from_annotation(initdata_annotation(body)) == body


def test_annotation_is_base64_of_gzip_that_anyone_can_read() -> None:
    assert gzip.decompress(base64.b64decode(initdata_annotation(BODY))).decode() == BODY


def test_annotation_holds_neither_time_nor_file_name() -> None:
    packed = base64.b64decode(initdata_annotation(BODY))
    assert packed[:10] == b"\x1f\x8b\x08\x00" + bytes(4) + b"\x02\xff"
    assert initdata_annotation(BODY) == initdata_annotation(BODY)


def test_annotation_of_another_compressor_is_read() -> None:
    for level in (1, 6, 9):
        packed = gzip.compress(BODY.encode(), level, mtime=1)
        assert initdata_from_annotation(base64.b64encode(packed).decode()) == BODY


def test_line_endings_are_kept() -> None:
    body = BODY.replace("\n", "\r\n")
    assert initdata_from_annotation(initdata_annotation(body)) == body


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PACKED = gzip.compress(BODY.encode())
REFUSED = {
    "empty": "",
    "no base64": "!!!!",
    "base64 with a line break": b64(PACKED)[:60] + "\n" + b64(PACKED)[60:],
    "not ASCII": "é" * 40,
    "no gzip": b64(BODY.encode()),
    "cut": b64(PACKED[:-1]),
    "without its trailer": b64(PACKED[:-8]),
    "wrong checksum": b64(PACKED[:-8] + bytes(4) + PACKED[-4:]),
    "wrong length": b64(PACKED[:-4] + bytes(4)),
    "two members": b64(PACKED + PACKED),
    "bytes after it": b64(PACKED + b"\0"),
    "no UTF-8": b64(gzip.compress(b"\xff")),
    "bomb": b64(gzip.compress(bytes(100 << 20))),
    "one byte too much": b64(gzip.compress(bytes(MAX_INITDATA + 1))),
    "too many characters": "A" * (MAX_INITDATA + 4),
}


@pytest.mark.parametrize("name", REFUSED)
def test_annotation_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(FormatError) as caught:
        initdata_from_annotation(REFUSED[name])
    assert caught.value.field == "initdata"


def test_longest_text_is_read() -> None:
    body = "#" * MAX_INITDATA
    assert initdata_from_annotation(initdata_annotation(body)) == body


@given(st.binary(max_size=300))
def test_no_annotation_raises_anything_but_our_error(data: bytes) -> None:
    for value in (b64(data), data.decode("latin-1"), b64(PACKED[:12] + data)):
        with contextlib.suppress(Error):
            initdata_from_annotation(value)
