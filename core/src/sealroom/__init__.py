# SPDX-License-Identifier: BSD-3-Clause
"""Sealroom: verify what a confidential notebook server can prove, and read the sealed datasets it was given.

In a notebook:

- `sealroom.status()`: what this server can prove about itself.
- `sealroom.datasets()`: the datasets on offer, and their state for you.
- `sealroom.unlock("heartbeats")`: have one released to this server.
- `sealroom.open("heartbeats/ecg.npy")`: read a file of it, decrypted in memory; `sealed://heartbeats/ecg.npy`
  is the same for pandas, pyarrow, zarr and whatever else speaks fsspec.
- `sealroom.create("workspace/model.pt")`: save a result, sealed before it reaches the disk.
- `sealroom.record("heartbeats")`: what was proven, by whom, on which dataset.
- `sealroom.explain("heartbeats")`: what the broker would decide now, rule by rule.
- `sealroom.request("heartbeats", reason="…")`: ask the owner for access; `sealroom.requests()` lists yours.

Importing this package loads nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealroom import datasets, errors
    from sealroom.datasets.api import (
        explain,
        open,  # noqa: A004 - meant to be sealroom.open
        record,
        request,
        requests,
        status,
        unlock,
    )
    from sealroom.datasets.writer import create

    __version__: str

__all__ = [
    "__version__",
    "create",
    "datasets",
    "errors",
    "explain",
    "open",
    "record",
    "request",
    "requests",
    "status",
    "unlock",
]

_FROM_API = ("explain", "open", "record", "request", "requests", "status", "unlock")


def __getattr__(name: str) -> Any:
    if name in _FROM_API:
        from sealroom.datasets import api

        return getattr(api, name)
    if name == "create":
        from sealroom.datasets.writer import create

        return create
    if name in ("datasets", "errors"):
        # `datasets` is a package that can be called: `sealroom.datasets()` works before and after its import.
        import importlib

        return importlib.import_module(f"sealroom.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("sealroom")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
