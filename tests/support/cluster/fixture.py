# SPDX-License-Identifier: BSD-3-Clause
"""The fixtures: one cluster for a run of tests, and a namespace for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.cluster.build import UnavailableError, programs
from support.cluster.cluster import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster for the whole run; skips, with the reason, where there can be none."""
    try:
        found = programs()
    except UnavailableError as error:
        pytest.skip(f"no real Kubernetes: {error}")
    with Cluster(found) as made:
        print("cluster:", ", ".join(f"{step} {seconds} s" for step, seconds in made.times.items()))
        yield made


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, removed with all that is in it."""
    name = cluster.namespace()
    yield name
    cluster.drop(name)


__all__ = ["cluster", "namespace"]
