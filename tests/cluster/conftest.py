# SPDX-License-Identifier: BSD-3-Clause
"""Tests on a real Kubernetes share one cluster, and look at its logs where one fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from support.cluster.cluster import Cluster
from support.cluster.fixture import cluster, namespace


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the ends of the cluster's logs to the report of a failure."""
    report = yield
    running = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(running, Cluster):
        report.sections.append(("cluster", running.why()))
    return report


__all__ = ["cluster", "namespace"]
