# SPDX-License-Identifier: BSD-3-Clause
"""The header of a `.npy` file, read strictly: plain numbers in C order, and as many bytes as it says.

Source: NumPy, `numpy.lib.format`, "Format Version 1.0" to "3.0" (NEP 1).

Invariants:

- Nothing is unpickled or evaluated; whatever the bytes, the outcome is a header or `FormatError`.
- The file ends where its last number ends.
"""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sealroom.errors import FormatError

_MAGIC = b"\x93NUMPY"
# Bytes of the number that says how long the header is; and the longest header, as numpy.load reads it.
_LENGTH = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
_MOST = 10_000
# Kinds that torch has: bool, integers, floating and complex numbers of its sizes.
_NUMBER = re.compile(r"(?:[<>|=])?(?:b1|[iu][1248]|f[248]|c8|c16)\Z")
_DIMENSIONS = 32

_WHOLE = "Read it whole with numpy.load(sealroom.open(...))."


class Readable(Protocol):
    """What is read: a sealed file, or anything else with positions and a size."""

    @property
    def name(self) -> str:
        """Dataset and file."""

    @property
    def size(self) -> int:
        """Bytes."""

    def pread_buffer(self, offset: int, length: int) -> memoryview:
        """Return a range, shorter only at the file's end."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    """Where the numbers begin, in bytes."""


def read_header(file: Readable) -> Header:
    """Read a file's header.

    Raises:
        FormatError: It is not a `.npy` file of plain numbers in C order with at least one axis, or it is
            shorter or longer than it says.
        AccessDeniedError: The dataset is locked, or access to it has ended.
    """
    front = bytes(file.pread_buffer(0, min(file.size, _MOST + 12)))
    size = _LENGTH.get((front[6], front[7])) if len(front) >= 8 and front.startswith(_MAGIC) else None
    if size is None or len(front) < 8 + size:
        raise FormatError(f"{file.name} is not a .npy file of a known version.", field="magic")
    length, start = int.from_bytes(front[8 : 8 + size], "little"), 8 + size
    if length > _MOST or len(front) < start + length:
        raise FormatError(f"{file.name}: its .npy header does not end within {_MOST} bytes.", field="length")
    said = _dictionary(file.name, front[start : start + length])
    dtype, shape = _dtype(file.name, said["descr"]), _shape(file.name, said["shape"])
    if not shape:
        raise FormatError(f"{file.name} is a single number and has no rows.", field="shape", advice=_WHOLE)
    if said["fortran_order"] is not False and (said["fortran_order"] is not True or len(shape) > 1):
        raise FormatError(
            f"{file.name} is in Fortran order: its rows do not lie together.",
            field="fortran_order",
            advice=_WHOLE,
        )
    missing = start + length + dtype.itemsize * math.prod(shape) - file.size
    if missing:
        how = f"ends {missing} bytes before its last number" if missing > 0 else f"has {-missing} bytes more"
        raise FormatError(f"{file.name} {how}: it is not the size that its header says.", field="shape")
    return Header(shape, dtype, start + length)


def _dictionary(name: str, text: bytes) -> dict[str, Any]:
    try:
        said = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        said = None
    if not isinstance(said, dict) or set(said) != {"descr", "fortran_order", "shape"}:
        raise FormatError(f"{name}: its .npy header is not the dictionary that it must be.", field="header")
    return said


def _dtype(name: str, descr: object) -> np.dtype[Any]:
    if isinstance(descr, str) and _NUMBER.match(descr):
        return np.dtype(descr)
    objects = isinstance(descr, str) and "O" in descr
    what = "Python objects, which are never unpickled" if objects else f"{str(descr)[:60]}, no plain numbers"
    raise FormatError(f"{name} holds {what}.", field="descr", advice="Ask the data owner for plain numbers.")


def _shape(name: str, shape: object) -> tuple[int, ...]:
    # bool is an int to isinstance.
    if (
        isinstance(shape, tuple)
        and len(shape) <= _DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape)
    ):
        return shape
    raise FormatError(f"{name}: its .npy header holds no shape.", field="shape")
