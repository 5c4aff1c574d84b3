# SPDX-License-Identifier: BSD-3-Clause
"""What the OpenAPI document says of each call, one module for each kind of caller.

`OPERATIONS` of each module names the function that serves a call; path and method come from the routes, so
that they are written once. A test compares both ways: every route has an operation, and every operation is
served.
"""

from __future__ import annotations

from collections.abc import Sequence

from sealroom_broker.api import kbs, owner, requests, session, watch
from sealroom_broker.api.operations import Operation

OPERATIONS: Sequence[Operation] = (
    *kbs.OPERATIONS,
    *session.OPERATIONS,
    *requests.OPERATIONS,
    *owner.OPERATIONS,
    *requests.OWNER_OPERATIONS,
    *watch.OPERATIONS,
)
"""All of them, in the order of the document."""
