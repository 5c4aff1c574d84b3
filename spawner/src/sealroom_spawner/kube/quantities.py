# SPDX-License-Identifier: BSD-3-Clause
"""Kubernetes' quantities (`500m`, `4Gi`, `1e3`) as exact numbers.

Source: k8s.io/apimachinery, pkg/api/resource/quantity.go: a number, then one suffix or a decimal exponent.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

_FORM = re.compile(
    r"([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))(?:([eE][+-]?\d{1,2})|([numkMGTPE]|[KMGTPE]i)?)"
)
_SUFFIXES = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(2**10), "Mi": Fraction(2**20), "Gi": Fraction(2**30), "Ti": Fraction(2**40),
    "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip


def quantity(value: object) -> Fraction | None:
    """Return a quantity as a number; None if it is none.

    Args:
        value: A text or a number, as it stands in a manifest.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    match = _FORM.fullmatch(str(value))
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    if exponent:
        return Fraction(Decimal(number)) * Fraction(10) ** int(exponent[1:])
    return Fraction(Decimal(number)) * _SUFFIXES[suffix or ""]
