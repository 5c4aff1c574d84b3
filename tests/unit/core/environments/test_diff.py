# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from sealroom import testing
from sealroom.environments import Difference, build, diff


def test_same_manifests_do_not_differ() -> None:
    assert diff(testing.environment(), testing.environment()) == []


def test_each_difference_names_its_field() -> None:
    old, new = testing.environment(), testing.environment(version="2", datasets=("heartbeats", "chest-xray"))
    found = {item.field: item for item in diff(old, new)}
    assert found["version"] == Difference("version", "1", "2")
    assert found["datasets"] == Difference("datasets", "heartbeats", "heartbeats, chest-xray")
    assert set(found) == {"version", "datasets", "shapes[default].measurements"}


def test_added_shape_and_removed_line_are_seen() -> None:
    old = testing.environment()
    more = b'\n[[shapes]]\nname = "large"\nvcpus = 8\nmemory_mib = 65536\n'
    found = {item.field: item for item in diff(old, build(old.raw + more))}
    assert found["shapes[large].vcpus"] == Difference("shapes[large].vcpus", None, "8")
    back = {item.field: item for item in diff(build(old.raw + more), old)}
    assert back["shapes[large].vcpus"] == Difference("shapes[large].vcpus", "8", None)


def test_guest_policy_is_shown_in_hex() -> None:
    old = testing.environment()
    new = build(old.raw.replace(b"guest_policy = 196608", b"guest_policy = 0xb0000"))
    assert diff(old, new) == [Difference("guest_policy", "0x30000", "0xb0000")]
