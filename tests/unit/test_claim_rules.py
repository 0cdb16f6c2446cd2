# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.pools import WorkPool, WorkQueue
from airflow_workpools.core.slots import WaitingJob
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.store import claim_rules

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
JOB = uuid.uuid4()


def pool(limit: int | None, **queues: int | None) -> WorkPool:
    return WorkPool(
        name="etl",
        type="process",
        concurrency_limit=limit,
        queues=tuple(
            WorkQueue(name=name, priority=priority, concurrency_limit=most)
            for priority, (name, most) in enumerate(queues.items(), 1)
        ),
        base_job_template=BaseJobTemplate(variables={}, job_configuration={}),
    )


def job(name: str, *, slots: int = 1, age: float = 0) -> WaitingJob:
    return WaitingJob(
        id=uuid.uuid5(JOB, name),
        queue=name[0],
        priority_weight=1,
        slots=slots,
        handed_over_at=NOW - timedelta(seconds=age),
    )


# -- how far into a line to look ------------------------------------------------------------------------------


def test_without_limits_a_line_is_looked_at_as_far_as_there_is_room() -> None:
    assert claim_rules.heads(pool(None, a=None), paused=(), held={}, most=7) == {
        "a": claim_rules.Head(None, 7)
    }


def test_free_slots_beyond_the_room_are_looked_at_too_since_they_may_be_kept() -> None:
    found = claim_rules.heads(pool(20, a=None, b=5), paused=(), held={"a": 4, "b": 2}, most=7)
    assert found == {"a": claim_rules.Head(20, 14), "b": claim_rules.Head(5, 7)}


def test_lines_that_cannot_move_are_not_looked_at() -> None:
    assert claim_rules.heads(pool(9, a=3, b=None, c=None), paused={"b"}, held={"a": 3}, most=7) == {
        "c": claim_rules.Head(9, 7)
    }
    assert claim_rules.heads(pool(3, a=None), paused=(), held={"a": 1, "gone": 2}, most=7) == {}
    assert claim_rules.heads(pool(0, a=None), paused=(), held={}, most=7) == {}


def test_a_look_into_a_line_is_bounded() -> None:
    assert (
        claim_rules.heads(pool(99_999, a=None), paused=(), held={}, most=1)["a"].length
        == claim_rules.MAX_LOOKAHEAD
    )
    assert claim_rules.heads(pool(99_999, a=None), paused=(), held={}, most=5000)["a"].length == 5000


QUEUES = "abcdef"
JOBS = st.lists(
    st.tuples(
        st.sampled_from(QUEUES),
        st.sampled_from([1, 1, 1, 2, 5]),
        st.integers(0, 9),
    ),
    max_size=25,
)


@given(
    jobs=JOBS,
    limit=st.none() | st.integers(0, 12),
    limits=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=len(QUEUES)),
    paused=st.sets(st.sampled_from(QUEUES), max_size=2),
    held=st.dictionaries(st.sampled_from(QUEUES), st.integers(0, 3)),
    takes_from=st.none() | st.sets(st.sampled_from(QUEUES), min_size=1),
    room=st.integers(1, 12),
    most=st.integers(1, 6),
    overdue=st.booleans(),
)
def test_a_short_look_that_is_enough_takes_what_a_long_one_takes(
    jobs: list[tuple[str, int, int]],
    limit: int | None,
    limits: list[int | None],
    paused: set[str],
    held: dict[str, int],
    takes_from: set[str] | None,
    room: int,
    most: int,
    overdue: bool,
) -> None:
    etl = pool(limit, **dict(zip(QUEUES, limits, strict=False)))
    waiting = [job(f"{queue}{n}", slots=slots, age=age) for n, (queue, slots, age) in enumerate(jobs)]
    heads = claim_rules.heads(etl, paused=paused, held=held, most=most)

    def take(look: dict[str, claim_rules.Head]) -> tuple[list[WaitingJob], Counter[str]]:
        seen = [one for queue, head in look.items() for one in _seen(waiting, queue, head, room, most)]
        chosen = claim_rules.choose_from(
            etl,
            seen,
            paused=paused,
            held=held,
            room=room,
            overdue_since=NOW if overdue else None,
            takes_from=takes_from,
        )
        return chosen, Counter(one.queue for one in seen)

    *short_looks, longest = claim_rules.looks(etl, heads, most=most)
    assert longest == heads
    for look in short_looks:
        chosen, found = take(look)
        if claim_rules.is_enough(etl, chosen, heads=heads, look=look, found=found, most=most):
            assert claim_rules.take_turns([chosen], room=room, most=most) == claim_rules.take_turns(
                [take(heads)[0]], room=room, most=most
            )


def test_of_many_lines_those_of_the_first_queues_are_looked_at_first() -> None:
    def looks(queues: str) -> list[list[str]]:
        etl = pool(None, **dict.fromkeys(queues))
        heads = claim_rules.heads(etl, paused={"a"}, held={}, most=2)
        return [list(look) for look in claim_rules.looks(etl, heads, most=2)]

    assert looks("abcdef") == [list("bc"), list("bcdef"), list("bcdef")]
    assert looks("abcde") == [list("bcde"), list("bcde")]


def test_a_line_that_was_not_looked_at_may_have_what_is_wanted() -> None:
    etl = pool(None, a=None, b=None, c=None, d=None, e=None)
    heads = claim_rules.heads(etl, paused=(), held={}, most=2)
    first = claim_rules.looks(etl, heads, most=2)[0]
    taken = {"heads": heads, "look": first, "most": 2}
    assert not claim_rules.is_enough(etl, [job("b1")], found={"b": 1}, **taken)
    assert claim_rules.is_enough(etl, [job("a1"), job("b1")], found={"a": 1, "b": 1}, **taken)


def _seen(
    waiting: list[WaitingJob], queue: str, head: claim_rules.Head, room: int, most: int
) -> list[WaitingJob]:
    """Return what the statement finds in a line."""
    line = sorted(
        (one for one in waiting if one.queue == queue), key=lambda one: (one.handed_over_at, one.id)
    )
    able = [one for one in line if head.largest is None or one.slots <= head.largest]
    fit = [one for one in able if one.slots <= room][:most]
    return list(dict.fromkeys([*able[: head.length], *fit]))


def test_a_short_look_is_enough_unless_what_is_behind_it_could_keep_slots_from_lower_queues() -> None:
    etl = pool(20, a=None, b=None)
    heads = claim_rules.heads(etl, paused=(), held={}, most=2)
    taken = {"heads": heads, "look": heads, "most": 2}
    assert claim_rules.is_enough(etl, [job("a1"), job("a2")], found={"a": 2, "b": 2}, **taken)
    assert claim_rules.is_enough(etl, [job("a1"), job("b1")], found={"a": 1, "b": 2}, **taken)
    assert not claim_rules.is_enough(etl, [job("a1"), job("b1")], found={"a": 2, "b": 2}, **taken)


# -- turns ----------------------------------------------------------------------------------------------------


def test_pools_take_turns_and_who_has_waited_longest_begins() -> None:
    lines = [[job("a1", age=5), job("a2"), job("a3")], [], [job("b1", age=9)], [job("c1", age=1), job("c2")]]
    assert claim_rules.take_turns(lines, room=5, most=9) == [
        job("b1", age=9),
        job("a1", age=5),
        job("c1", age=1),
        job("a2"),
        job("c2"),
    ]


def test_a_line_whose_next_job_does_not_fit_is_done() -> None:
    lines = [[job("a1", age=2), job("a2", slots=3), job("a3")], [job("b1", age=1), job("b2")]]
    assert claim_rules.take_turns(lines, room=3, most=9) == [job("a1", age=2), job("b1", age=1), job("b2")]
