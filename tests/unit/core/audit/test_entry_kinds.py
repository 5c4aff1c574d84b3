# SPDX-License-Identifier: BSD-3-Clause
"""Kinds of entries and the project, which entries of older programs do not have."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from sealroom.audit.entry import AuditEntry, Decision
from sealroom.errors import FormatError

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def entry(kind: str = "grant", **fields: str) -> AuditEntry:
    return AuditEntry.model_validate({"time": NOW, "kind": kind, "decision": Decision(allowed=True)} | fields)


@pytest.mark.parametrize("kind", ["change", "halt", "resume", "destruction"])
def test_kind_goes_there_and_back(kind: str) -> None:
    made = entry(kind, project="vroni", detail="Why")
    assert AuditEntry.from_bytes(made.to_bytes()) == made
    assert json.loads(made.to_bytes())["project"] == "vroni"


def test_entry_without_a_project_is_spelt_as_before() -> None:
    assert b"project" not in entry().to_bytes()
    assert AuditEntry.from_bytes(entry().to_bytes()).project == ""


def test_entry_that_names_an_empty_project_has_another_spelling() -> None:
    fields = json.loads(entry().to_bytes()) | {"project": ""}
    with pytest.raises(FormatError, match="canonical"):
        AuditEntry.from_bytes(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())


def test_kind_that_nobody_knows() -> None:
    data = entry().to_bytes().replace(b'"kind":"grant"', b'"kind":"gift"')
    assert b"gift" in data
    with pytest.raises(FormatError):
        AuditEntry.from_bytes(data)
