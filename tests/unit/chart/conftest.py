# SPDX-License-Identifier: BSD-3-Clause
"""The chart, rendered once under each set of values."""

from __future__ import annotations

from typing import Any

import pytest
from support.chart import SETS, KubernetesSchema
from support.helm import HELM, KUBE_SCORE, UnavailableError, objects, openapi, template


@pytest.fixture(scope="session")
def helm_program() -> str:
    """Helm; skips, with the reason, where it cannot be built."""
    try:
        return str(HELM.path())
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kube_score() -> str:
    """kube-score; skips, with the reason, where it cannot be built."""
    try:
        return str(KUBE_SCORE.path())
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kubernetes() -> KubernetesSchema:
    """Kubernetes' own schema; skips, with the reason, where it cannot be had."""
    try:
        return KubernetesSchema(openapi())
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=sorted(SETS))
def chosen(request: pytest.FixtureRequest) -> str:
    """The name of a set of values."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def rendered(helm_program: str, chosen: str) -> str:
    """The chart under that set, as YAML."""
    return template(*SETS[chosen])


@pytest.fixture(scope="session")
def made(rendered: str) -> list[dict[str, Any]]:
    """The same as objects."""
    return objects(rendered)
