# SPDX-License-Identifier: BSD-3-Clause
"""The bounded memory of verified things."""

from __future__ import annotations

from sealroom.remember import Memory


def test_the_least_recently_used_goes_first() -> None:
    memory: Memory[str, int] = Memory(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (1, None, 3)


def test_nothing_is_known_after_it_was_cleared() -> None:
    memory: Memory[str, int] = Memory(2)
    memory.put("a", 1)
    memory.clear()
    assert memory.get("a") is None
