# SPDX-License-Identifier: BSD-3-Clause
"""Sealed datasets: a signed manifest over Crypt4GH files, and how a notebook reads them.

`import sealroom` re-exports what a notebook needs. This package is also callable: `sealroom.datasets()`
lists the datasets on offer, though `sealroom.datasets` is the package that holds `manifest`, `seal`,
`reader`, `torch` and the rest.

Invariants:

- Plaintext is never written to disk, and only authenticated plaintext reaches a caller.
- Keys stay in the notebook server's process (`vault`); kernels ask it for ranges over a Unix socket
  (`agent`).
- A cut, swapped, duplicated, injected or changed segment is refused with file, segment and what to do.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sealroom.datasets.messages import DatasetInfo


class _CallablePackage(ModuleType):
    """Lets `sealroom.datasets` be the package and the function at once."""

    def __call__(self) -> tuple[DatasetInfo, ...]:
        """List the datasets that the broker offers, each with its state for you."""
        from sealroom.datasets.api import list_datasets

        return list_datasets()


sys.modules[__name__].__class__ = _CallablePackage
