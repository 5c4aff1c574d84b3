# SPDX-License-Identifier: BSD-3-Clause
"""Data use terms: the part of the Data Use Ontology (DUO) that manifests name."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from sealroom.errors import FormatError

LABELS = {
    "DUO:0000004": "no restriction",
    "DUO:0000006": "health or medical or biomedical research",
    "DUO:0000007": "disease specific research",
    "DUO:0000011": "population origins or ancestry research only",
    "DUO:0000012": "research specific restrictions",
    "DUO:0000015": "no general methods research",
    "DUO:0000016": "genetic studies only",
    "DUO:0000018": "not for profit, non commercial use only",
    "DUO:0000019": "publication required",
    "DUO:0000020": "collaboration required",
    "DUO:0000021": "ethics approval required",
    "DUO:0000022": "geographical restriction",
    "DUO:0000024": "publication moratorium",
    "DUO:0000025": "time limit on use",
    "DUO:0000026": "user specific restriction",
    "DUO:0000027": "project specific restriction",
    "DUO:0000028": "institution specific restriction",
    "DUO:0000029": "return to database or resource",
    "DUO:0000042": "general research use",
    "DUO:0000043": "clinical care use",
    "DUO:0000044": "population origins or ancestry research prohibited",
    "DUO:0000045": "not for profit organisation use only",
    "DUO:0000046": "non-commercial use only",
}
"""Code -> label in the ontology's words."""


class Term(BaseModel):
    """A Data Use Ontology term."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Annotated[str, StringConstraints(pattern=r"^DUO:[0-9]{7}$")]
    label: Annotated[str, StringConstraints(min_length=1, max_length=200)]

    def __str__(self) -> str:
        return f"{self.label} ({self.code})"


def term(code: str) -> Term:
    """Return the term of a code.

    Raises:
        FormatError: The code is not one that manifests may name.
    """
    label = LABELS.get(code)
    if label is None:
        raise FormatError(
            f"{code!r} is not a known data use term.", advice="Use one of " + ", ".join(sorted(LABELS)) + "."
        )
    return Term(code=code, label=label)
