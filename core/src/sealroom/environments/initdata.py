# SPDX-License-Identifier: BSD-3-Clause
"""Initdata: the configuration that a guest gets at launch, its digest in HOST_DATA, and its annotation.

What this is: the form that Confidential Containers give initdata (version 0.1.0). What this is not: a
reader of what the guest's components find in it.

The digest is over the exact text, by the algorithm that the text names. HOST_DATA has 32 bytes: a SHA-384 or
SHA-512 is cut to its first 32 bytes, as the runtime does it. None of the algorithms gives less, so nothing is
ever padded. Sources: Trustee, kbs/docs/initdata.md; Kata Containers, src/libs/kata-types/src/initdata.rs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tomllib
import zlib
from typing import Final

from sealroom.errors import FormatError

HOST_DATA_SIZE: Final = 32
"""Bytes of HOST_DATA (AMD 56860 rev 1.58, SNP_LAUNCH_FINISH)."""
INITDATA_VERSION: Final = "0.1.0"
"""The one version that guests take."""
INITDATA_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
INITDATA_ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
"""The pod annotation that carries it."""
MAX_INITDATA: Final = 1 << 18
"""Longest text in bytes; Kubernetes takes 256 KiB of annotations for a pod."""
MAX_ANNOTATION: Final = 1 << 18
"""Longest annotation in characters."""

# RFC 1952, section 2.3: deflate, no flags, no time, best compression, system not known.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def initdata_host_data(body: str) -> bytes:
    """Return HOST_DATA for an initdata text, 32 bytes: its digest by the algorithm that it names itself.

    Raises:
        ValueError: The text is not TOML or names no known algorithm.
    """
    return _digest(body, tomllib.loads(body).get("algorithm"))


def check_initdata(body: str) -> bytes:
    """Check that guests will take an initdata text, and return its HOST_DATA, 32 bytes.

    Raises:
        ValueError: The text is not TOML, or its `version`, `algorithm` or `[data]` is not what guests take.
    """
    if len(body.encode("utf-8")) > MAX_INITDATA:
        raise ValueError(f"initdata is longer than {MAX_INITDATA} bytes")
    content = tomllib.loads(body)
    digest = _digest(body, content.get("algorithm"))
    if content.get("version") != INITDATA_VERSION:
        raise ValueError(f'initdata has no version = "{INITDATA_VERSION}"')
    data = content.get("data")
    if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
        raise ValueError("initdata has no [data] of texts by name")
    return digest


def _digest(body: str, algorithm: object) -> bytes:
    if algorithm not in INITDATA_ALGORITHMS:
        raise ValueError(f"initdata names no known algorithm ({', '.join(INITDATA_ALGORITHMS)})")
    return hashlib.new(str(algorithm), body.encode("utf-8")).digest()[:HOST_DATA_SIZE]


def initdata_annotation(body: str) -> str:
    """Return the value of the pod annotation for an initdata text: base64 of gzip of it.

    The same text gives the same value: no time and no file name is in it. HOST_DATA does not depend on how
    it is compressed.

    Raises:
        FormatError: The text is too long, or no text.
    """
    try:
        data = body.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("Initdata is not text that UTF-8 can hold.", field="initdata") from error
    if len(data) > MAX_INITDATA:
        raise FormatError(f"Initdata of {len(data)} bytes is longer than {MAX_INITDATA}.", field="initdata")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflate.compress(data) + deflate.flush()
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    value = base64.b64encode(_GZIP_HEADER + packed + trailer).decode("ascii")
    if len(value) > MAX_ANNOTATION:
        raise FormatError(f"Initdata fills {len(value)} characters of {MAX_ANNOTATION}.", field="initdata")
    return value


def initdata_from_annotation(value: str) -> str:
    """Return the exact initdata text of a pod annotation.

    Raises:
        FormatError: It is not base64 of one gzip member of UTF-8, or it unpacks to more than 256 KiB.
    """
    if len(value) > MAX_ANNOTATION:
        raise FormatError(
            f"An initdata annotation has at most {MAX_ANNOTATION} characters, not {len(value)}.",
            field="initdata",
        )
    try:
        packed = base64.b64decode(value, validate=True)
        inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        # No more is unpacked than is accepted, whatever the length that the member claims.
        data = inflate.decompress(packed, MAX_INITDATA + 1)
        if len(data) > MAX_INITDATA:
            raise FormatError(f"Initdata unpacks to more than {MAX_INITDATA} bytes.", field="initdata")
        if not inflate.eof or inflate.unused_data:
            raise FormatError("The initdata annotation is not exactly one gzip member.", field="initdata")
        return data.decode("utf-8")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise FormatError(
            f"The initdata annotation cannot be unpacked: {error}.", field="initdata"
        ) from error
