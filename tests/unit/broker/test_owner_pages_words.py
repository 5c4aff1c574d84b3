# SPDX-License-Identifier: BSD-3-Clause
"""What the owner's pages are made of: words, sentences, forms, differences and the search. No broker runs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealroom import testing
from sealroom.audit.entry import AuditEntry, AuditPerson, Decision
from sealroom.environments import Environment
from sealroom.kbs.calls import Grant
from sealroom_broker.owner_pages import terms, words
from sealroom_broker.owner_pages.comparing import compare, line_diff
from sealroom_broker.owner_pages.environment_view import policy_words
from sealroom_broker.owner_pages.forms import Form, local
from sealroom_broker.owner_pages.paging import paged
from sealroom_broker.owner_pages.search import Search, search
from sealroom_broker.owner_pages.sentences import grant_state, meaning
from support.brokers import GENERAL

NOW = testing.NOW
HEALTH = "DUO:0000006"


# --- words


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        (timedelta(0), "just now"),
        (timedelta(seconds=-59), "just now"),
        (timedelta(seconds=59), "in less than a minute"),
        (timedelta(minutes=-1), "1 minute ago"),
        (timedelta(minutes=90), "in 1 hour"),
        (timedelta(days=-2), "2 days ago"),
        (timedelta(days=61), "in 2 months"),
        (timedelta(days=-800), "2 years ago"),
    ],
)
def test_how_far_a_time_is(delta: timedelta, said: str) -> None:
    assert words.relative(NOW + delta, NOW) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (70_000, "70.0 kB"), (5 * 10**15, "5.0 PB")],
)
def test_size(count: int, said: str) -> None:
    assert words.size(count) == said


def test_digest_keeps_its_algorithm() -> None:
    assert words.short("sha256:" + "ab" * 32) == "sha256:abababababab\N{HORIZONTAL ELLIPSIS}"
    assert words.short("short") == "short"


def test_tier_that_nobody_knows_proves_nothing() -> None:
    assert words.tier("excellent").title == "Nothing proven"
    assert words.tier("simulated").css != words.tier("affirming").css


# --- sentences


def grant(**changes: Any) -> Grant:
    fields = {"id": "g1", "created": NOW, "dataset": "d", "subject": "anna", "issuer": "hub"} | changes
    return Grant.model_validate(fields)


def say(one: Grant, **changes: Any) -> str:
    fields: dict[str, Any] = {"title": "Hearts", "names": {}, "environments": {}} | changes
    return meaning(one, NOW, **fields)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"until": NOW + timedelta(days=7)},
            (
                "anna may read Hearts for general research use until 2026-06-08 00:00 UTC, on verified "
                "servers of every approved environment. Results may not leave."
            ),
        ),
        (
            {"group": "cardio", "subject": "", "purposes": (GENERAL, HEALTH), "servers": 1, "outputs": True},
            (
                "Everybody in the group cardio of hub may read Hearts for general research use and health or "
                "medical or biomedical research without an end, on verified servers of every approved "
                "environment, one at a time. Results may leave."
            ),
        ),
        (
            {
                "visa": "https://d.example",
                "subject": "",
                "issuer": "",
                "gpu": True,
                "minimum": "simulated",
                "environments": ("sha256:" + "a" * 64,),
                "project": "vroni",
                "dataset_key": True,
            },
            (
                "Everybody with a visa for https://d.example may read Hearts for general research use "
                "without an end, on verified or simulated servers with a GPU in confidential mode of the "
                "environment Simulated (version 1). Results may not leave. The dataset's key itself may "
                "leave to a guest that asks for it. It belongs to the project vroni."
            ),
        ),
        (
            {"starts": NOW + timedelta(days=1)},
            (
                "anna may read Hearts for general research use from 2026-06-02 00:00 UTC without an end, on "
                "verified servers of every approved environment. Results may not leave."
            ),
        ),
        (
            {"until": NOW},
            (
                "anna could read Hearts for general research use, on verified servers of every approved "
                "environment; it ended on 2026-06-01 00:00 UTC."
            ),
        ),
    ],
)
def test_what_a_grant_means(changes: dict[str, Any], sentence: str) -> None:
    titles = {"sha256:" + "a" * 64: "Simulated (version 1)"}
    assert say(grant(**changes), environments=titles) == sentence


def test_environment_that_is_not_approved_is_said_so() -> None:
    assert "which is not approved" in say(grant(environments=("sha256:" + "b" * 64,)))


def test_name_is_known_at_its_issuer_only() -> None:
    names = {("hub", "anna"): "Anna A.", ("other", "anna"): "Eve"}
    assert say(grant(), names=names).startswith("Anna A. (anna) may read")


@given(st.datetimes(), st.datetimes(), st.datetimes(), st.booleans(), st.booleans())
def test_state_of_a_grant_is_one_that_opens_or_not(
    now: datetime, starts: datetime, until: datetime, withdrawn: bool, halted: bool
) -> None:
    now, starts, until = (one.replace(tzinfo=UTC) for one in (now, starts, until))
    one = grant(starts=starts, until=until, withdrawn=now if withdrawn else None, project="p")
    state = grant_state(one, now, {"p"} if halted else ())
    opens = not withdrawn and not halted and starts <= now < until
    assert (state in ("active", "ends_soon")) == opens


# --- forms


@given(st.dictionaries(st.sampled_from([*terms.FIELDS, "who", "name", "gpu", "forever"]), st.text()))
def test_forms_take_whatever_is_sent(fields: dict[str, str]) -> None:
    for read in (terms.new_grant, terms.answer_grant):
        form = Form(fields)
        made = read(form, NOW)
        assert (made is None) == bool(form.errors)
    form = Form(fields)
    assert (terms.change(form, grant(), NOW) is None) == bool(form.errors)


@given(st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_time_goes_through_a_field(moment: datetime) -> None:
    form = Form({"until": local(moment)})
    assert form.moment("until") == moment.replace(second=0, microsecond=0)


def test_form_of_a_grant_changes_nothing() -> None:
    one = grant(until=NOW + timedelta(days=3, seconds=7), servers=2, environments=("sha256:" + "a" * 64,))
    form = terms.filled(one)
    changed = terms.change(form, one, NOW)
    assert changed is not None
    assert terms.is_empty(changed)


def test_form_offers_what_is_ticked_whatever_it_is() -> None:
    form = Form({"environment:sha256:" + "c" * 64: "on", f"purpose:{HEALTH}": "on"})
    offered = terms.choices(form, {})
    assert offered["environments"] == [("sha256:" + "c" * 64, "sha256:cccccccccccc…, which is not approved")]
    assert offered["purposes"][0][0] == HEALTH


def test_long_list_has_pages() -> None:
    items = list(range(101))
    assert [paged(items, str(number)).items[0] for number in (1, 2, 3)] == [0, 50, 100]
    assert (paged(items, "3").pages, paged(items, "9").number, paged([], "2").number) == (3, 3, 1)


# --- differences


def test_difference_of_environments() -> None:
    old = testing.environment()
    new = testing.environment(name="simulated-large", vcpus=8)
    found = compare(old, new)
    changed = {one.field: (one.how, list(one.old), list(one.new)) for one in found.changes}
    assert changed["name"] == ("changed", ["simulated-cpu"], ["simulated-large"])
    assert changed["shapes[default].vcpus"] == ("changed", ["2"], ["8"])
    assert "initdata.body" not in changed
    assert {one.how for one in found.lines} >= {"removed", "added", "same"}
    assert compare(old, old).same


def test_field_that_only_one_side_has() -> None:
    old = testing.environment()
    key = f'version = "1"\nid_key_digest = "{"a" * 96}"'.encode()
    new = Environment.from_toml(old.raw.replace(b'version = "1"', key, 1))
    (added,), (removed,) = compare(old, new).changes, compare(new, old).changes
    assert (added.how, added.label, list(added.old), list(added.new)) == ("added", "ID key", [], ["a" * 96])
    assert (removed.how, list(removed.old), list(removed.new)) == ("removed", ["a" * 96], [])


def test_lines_have_their_numbers() -> None:
    before = [f"line {number}" for number in range(20)]
    after = [*before[:10], "new", *before[11:]]
    lines = line_diff(before, after)
    assert [(one.how, one.old, one.new, one.text) for one in lines if one.how in ("added", "removed")] == [
        ("removed", 11, None, "line 10"),
        ("added", None, 11, "new"),
    ]
    assert lines[0].how == "gap"
    assert line_diff([], ["a"])[0].how == "added"


def test_policy_that_allows_debugging_says_what_that_means() -> None:
    assert "the host can read and change the guest's memory" in policy_words(0xB0000)
    assert "No debugging" in policy_words(0x30000)


# --- search


class Log:
    """A log in memory."""

    def __init__(self, entries: list[bytes]) -> None:
        self._entries = entries
        self.read = 0

    @property
    def size(self) -> int:
        return len(self._entries)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        for index in range(start, self.size if stop is None else stop):
            self.read += 1
            yield index, self._entries[index]


def entry(number: int, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "time": NOW + timedelta(days=number),
        "kind": "refusal" if number % 2 else "release",
        "person": AuditPerson(subject=f"p{number}", name=f"Ärztin {number}", issuer="hub"),
        "dataset": "a" if number % 3 else "b",
        "decision": Decision(allowed=True),
    }
    return AuditEntry.model_validate(fields | changes).to_bytes()


def find(log: Any, **query: str) -> list[int]:
    return [one.index for one in search(log, Search.of(query)).entries]


def test_search_finds_what_fits_newest_first() -> None:
    log = Log([entry(number) for number in range(12)])
    assert find(log) == list(range(11, -1, -1))
    assert find(log, kind="refusal") == [11, 9, 7, 5, 3, 1]
    assert find(log, dataset="b") == [9, 6, 3, 0]
    assert find(log, dataset="b", kind="refusal") == [9, 3]
    assert find(log, person="ÄRZTIN 1") == [11, 10, 1]
    assert find(log, person="p3") == [3]
    assert find(log, text="MANIFEST_sha256") == list(range(11, -1, -1))
    assert find(log, since="2026-06-03", until="2026-06-04") == [3, 2]
    assert find(log, before="3") == [2, 1, 0]
    assert find(log, before="0") == []
    assert find(log, text="nowhere") == []


def test_kind_stands_in_its_field_and_not_in_a_text() -> None:
    log = Log([entry(0, detail="a withdrawal"), entry(0, kind="withdrawal", actor="owner")])
    assert find(log, kind="withdrawal") == [1]


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"since": "yesterday"}, "since"),
        ({"until": "9999-12-31"}, "until"),
        ({"until": "2026-13-01"}, "until"),
        ({"kind": "everything"}, "kind"),
        ({"before": "-1"}, "before"),
        ({"before": "²"}, "before"),
    ],
)
def test_search_that_cannot_be_says_why(query: dict[str, str], wrong: str) -> None:
    assert list(Search.of(query).errors) == [wrong]


@given(
    st.dictionaries(
        st.sampled_from(["person", "dataset", "kind", "text", "since", "until", "before"]), st.text()
    )
)
def test_search_takes_whatever_is_asked(query: dict[str, str]) -> None:
    found = search(Log([entry(number) for number in range(5)]), Search.of(query))  # type: ignore[arg-type]
    assert found.looked <= 5


def test_search_goes_on_where_it_stopped() -> None:
    log: Any = Log([entry(number) for number in range(700)])
    seen: list[int] = []
    before: int | None = None
    for _ in range(20):
        found = search(log, Search(kind="refusal", before=before), limit=40, budget=300)
        seen += [one.index for one in found.entries]
        before = found.older
        if before is None:
            break
    assert seen == list(range(699, 0, -2))


def test_search_looks_at_a_bounded_number_of_entries() -> None:
    log: Any = Log([entry(number) for number in range(1000)])
    found = search(log, Search(text="nowhere"), budget=300)
    assert (found.entries, found.looked, found.older) == ((), 300, 700)
    assert log.read <= 300 + 256
