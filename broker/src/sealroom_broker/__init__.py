# SPDX-License-Identifier: BSD-3-Clause
"""Key broker: releases dataset keys to attested notebook servers of named people, and keeps the record.

What it is: a server of the KBS protocol 0.4.0 on `/kbs/v0` with Sealroom's own calls beside it, a pure
decision (`decide`), and an append-only log. What it is not: a place that sees data; guests send it headers
only.

Invariants:

- No key leaves before the entry that records it is durable.
- AMD's roots and a development root are two trust sets that are tried one after the other, never merged; the
  second exists only in mode `development`.
- "Could not check" (the hub, the clock, the store) is an error of its own and never a yes.
"""

from importlib.metadata import version

__version__ = version("sealroom-broker")
