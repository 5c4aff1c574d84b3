# SPDX-License-Identifier: BSD-3-Clause
"""What machines that watch the broker ask."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, Field

from sealroom_broker import health
from sealroom_broker.api.operations import Operation, Success
from sealroom_broker.metrics import CONTENT_TYPE

TAG: Final = "Watching"
_CHECKS: Final = {"stopping": "ok", "database": "ok", "log": "ok", "kek": "ok", "disk": "ok"}


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Readiness(BaseModel):
    """Whether the broker can do its work."""

    status: Literal["ready", "not ready"]
    checks: dict[str, Literal["ok", "failed"]]
    """What was looked at."""
    ends: dict[str, datetime] = Field(default_factory=dict, exclude_if=lambda ends: not ends)
    """When the permission to use something ends, where it does: `kek` for a token of Vault."""


OPERATIONS: Sequence[Operation] = (
    Operation(
        endpoint=health.healthz,
        tag=TAG,
        security="none",
        success=(
            Success(description="It does.", model=Health, example={"status": "ok", "version": "0.1.0"}),
        ),
        refusals={503: "It is about to end."},
    ),
    Operation(
        endpoint=health.readyz,
        tag=TAG,
        security="none",
        success=(
            Success(description="It can.", model=Readiness, example={"status": "ready", "checks": _CHECKS}),
            Success(
                status=503,
                description="It cannot; what is `failed` says why, the log has the cause.",
                model=Readiness,
                example={"status": "not ready", "checks": {**_CHECKS, "database": "failed"}},
            ),
        ),
    ),
    Operation(
        endpoint=health.metrics,
        tag=TAG,
        security="metrics",
        success=(Success(description="The counts, in Prometheus's text format.", media=CONTENT_TYPE),),
        refusals={404: "This broker has no token for metrics."},
    ),
)
