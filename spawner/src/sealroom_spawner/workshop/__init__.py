# SPDX-License-Identifier: BSD-3-Clause
"""A workshop: some seats, one environment, one group for the data owners' grants, and a deadline.

Invariants:

- Nobody gets a seat beyond the number of seats, and a seat that was taken stays its person's.
- After the deadline nobody of the workshop logs in, no server of it starts, and those that run are stopped.
- Taking part opens no data: the owner grants the workshop's group what it may read.
"""

from __future__ import annotations

from sealroom_spawner.workshop.admission import Admission
from sealroom_spawner.workshop.settings import Lti, Workshop, WorkshopFile, load

__all__ = ["Admission", "Lti", "Workshop", "WorkshopFile", "load"]
