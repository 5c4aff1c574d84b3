# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import pytest
from sealroom.errors import MAX_MESSAGE, Error, FormatError


def test_sentence_stays_as_it_is() -> None:
    error = FormatError("Größe 5 is wrong: 'a\\n'.", advice="Ask the owner.")
    assert error.message == str(error) == "Größe 5 is wrong: 'a\\n'."
    assert error.diagnostics() == "Größe 5 is wrong: 'a\\n'. Ask the owner."


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("two\nlines", "two\\nlines"),
        ("\x1b[2Jcleared", "\\x1b[2Jcleared"),
        ("half \ud800", "half \\ud800"),
        ("turned \u202e round", "turned \\u202e round"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(quoted: str, shown: str) -> None:
    error = Error(f"Member {quoted}.", advice=quoted)
    assert error.message == str(error) == f"Member {shown}."
    assert error.advice == shown
    assert error.diagnostics().encode().decode().isprintable()


def test_sentence_that_quotes_a_whole_file_is_cut() -> None:
    error = Error("x" * (MAX_MESSAGE + 1))
    assert len(error.message) == MAX_MESSAGE
    assert error.message.endswith("x\N{HORIZONTAL ELLIPSIS}")
    assert Error("x" * MAX_MESSAGE).message == "x" * MAX_MESSAGE
