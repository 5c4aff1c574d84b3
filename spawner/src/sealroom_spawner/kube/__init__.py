# SPDX-License-Identifier: BSD-3-Clause
"""Start attested notebook servers as pods of Kubernetes.

`spawner` has the spawner, `rules` the check that every pod passes before it is created and while it runs.
What stands in `rules`, `waiting`, `expectation` and `provenance` is pure and needs neither a cluster nor
KubeSpawner: `SealedKubeSpawner` is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealroom_spawner.kube.spawner import SealedKubeSpawner

__all__ = ["SealedKubeSpawner"]


def __getattr__(name: str) -> Any:
    if name == "SealedKubeSpawner":
        from sealroom_spawner.kube.spawner import SealedKubeSpawner as Spawner

        return Spawner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
