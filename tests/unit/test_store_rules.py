# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.jobs import JobState
from airflow_workpools.core.pools import WorkPool, WorkQueue
from airflow_workpools.core.slots import WaitingJob
from airflow_workpools.core.templates import BaseJobTemplate
from airflow_workpools.errors import InvalidInput
from airflow_workpools.store import rules
from airflow_workpools.store.records import Report

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
    assert rules.heads(pool(None, a=None), paused=(), held={}, most=7) == {"a": rules.Head(None, 7)}


def test_free_slots_beyond_the_room_are_looked_at_too_since_they_may_be_kept() -> None:
    found = rules.heads(pool(20, a=None, b=5), paused=(), held={"a": 4, "b": 2}, most=7)
    assert found == {"a": rules.Head(20, 14), "b": rules.Head(5, 7)}


def test_lines_that_cannot_move_are_not_looked_at() -> None:
    assert rules.heads(pool(9, a=3, b=None, c=None), paused={"b"}, held={"a": 3}, most=7) == {
        "c": rules.Head(9, 7)
    }
    assert rules.heads(pool(3, a=None), paused=(), held={"a": 1, "gone": 2}, most=7) == {}
    assert rules.heads(pool(0, a=None), paused=(), held={}, most=7) == {}


def test_a_look_into_a_line_is_bounded() -> None:
    assert rules.heads(pool(99_999, a=None), paused=(), held={}, most=1)["a"].length == rules.MAX_LOOKAHEAD
    assert rules.heads(pool(99_999, a=None), paused=(), held={}, most=5000)["a"].length == 5000


JOBS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([1, 1, 1, 2, 5]),
        st.integers(0, 9),
    ),
    max_size=25,
)


@given(
    jobs=JOBS,
    limit=st.none() | st.integers(0, 12),
    limits=st.tuples(*[st.none() | st.integers(0, 6)] * 3),
    held=st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    room=st.integers(1, 12),
    most=st.integers(1, 6),
    overdue=st.booleans(),
)
def test_a_short_look_that_is_enough_takes_what_a_long_one_takes(
    jobs: list[tuple[str, int, int]],
    limit: int | None,
    limits: tuple[int | None, int | None, int | None],
    held: dict[str, int],
    room: int,
    most: int,
    overdue: bool,
) -> None:
    etl = pool(limit, **dict(zip("abc", limits, strict=True)))
    waiting = [job(f"{queue}{n}", slots=slots, age=age) for n, (queue, slots, age) in enumerate(jobs)]
    heads = rules.heads(etl, paused=(), held=held, most=most)

    def take(look: dict[str, rules.Head]) -> tuple[list[WaitingJob], Counter[str]]:
        seen = [one for queue, head in look.items() for one in _seen(waiting, queue, head, room, most)]
        since = NOW if overdue else None
        chosen = rules.choose_from(etl, seen, paused=(), held=held, room=room, overdue_since=since)
        return chosen, Counter(one.queue for one in seen)

    chosen, found = take({queue: head.shortened(most) for queue, head in heads.items()})
    if rules.is_enough(etl, chosen, heads=heads, found=found, most=most):
        assert rules.take_turns([chosen], room=room, most=most) == rules.take_turns(
            [take(heads)[0]], room=room, most=most
        )


def _seen(waiting: list[WaitingJob], queue: str, head: rules.Head, room: int, most: int) -> list[WaitingJob]:
    """Return what the statement finds in a line."""
    line = sorted(
        (one for one in waiting if one.queue == queue), key=lambda one: (one.handed_over_at, one.id)
    )
    able = [one for one in line if head.largest is None or one.slots <= head.largest]
    fit = [one for one in able if one.slots <= room][:most]
    return list(dict.fromkeys([*able[: head.length], *fit]))


def test_a_short_look_is_enough_unless_what_is_behind_it_could_keep_slots_from_lower_queues() -> None:
    etl = pool(20, a=None, b=None)
    heads = rules.heads(etl, paused=(), held={}, most=2)
    taken = {"heads": heads, "most": 2}
    assert rules.is_enough(etl, [job("a1"), job("a2")], found={"a": 2, "b": 2}, **taken)
    assert rules.is_enough(etl, [job("a1"), job("b1")], found={"a": 1, "b": 2}, **taken)
    assert not rules.is_enough(etl, [job("a1"), job("b1")], found={"a": 2, "b": 2}, **taken)


# -- turns ----------------------------------------------------------------------------------------------------


def test_pools_take_turns_and_who_has_waited_longest_begins() -> None:
    lines = [[job("a1", age=5), job("a2"), job("a3")], [], [job("b1", age=9)], [job("c1", age=1), job("c2")]]
    assert rules.take_turns(lines, room=5, most=9) == [
        job("b1", age=9),
        job("a1", age=5),
        job("c1", age=1),
        job("a2"),
        job("c2"),
    ]


def test_a_line_whose_next_job_does_not_fit_is_done() -> None:
    lines = [[job("a1", age=2), job("a2", slots=3), job("a3")], [job("b1", age=1), job("b2")]]
    assert rules.take_turns(lines, room=3, most=9) == [job("a1", age=2), job("b1", age=1), job("b2")]


# -- small things ---------------------------------------------------------------------------------------------


def test_the_last_of_several_reports_counts() -> None:
    first, last = Report(job_id=JOB, state=JobState.RUNNING), Report(job_id=JOB, state=JobState.FAILED)
    assert rules.last_reports([first, last]) == {JOB: last}


def test_all_reports_of_waiting_are_refused_together() -> None:
    reports = [Report(job_id=uuid.uuid4(), state=JobState.PENDING) for _ in range(2)]
    with pytest.raises(InvalidInput) as caught:
        rules.last_reports(reports)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("reported", "state", "desired", "accepted"),
    [
        (JobState.RUNNING, JobState.RUNNING, None, True),
        (JobState.RUNNING, JobState.SUCCEEDED, None, False),
        (JobState.CANCELLED, JobState.CANCELLED, JobState.CANCELLED, True),
        (JobState.CANCELLED, JobState.FAILED, JobState.FAILED, True),
        (JobState.CANCELLED, JobState.FAILED, JobState.CANCELLED, False),
        (JobState.CANCELLED, JobState.FAILED, None, False),
        (JobState.CANCELLED, JobState.RUNNING, JobState.FAILED, False),
        (JobState.FAILED, None, None, False),
    ],
)
def test_a_report_is_accepted_if_the_job_is_what_was_reported_or_what_was_wished(
    reported: JobState, state: JobState | None, desired: JobState | None, accepted: bool
) -> None:
    assert rules.outcome(Report(job_id=JOB, state=reported), state, desired) == (JOB, accepted, state)


def test_a_start_timeout_reads_well() -> None:
    assert (
        rules.start_timeout_reason("gpu", 600.0)
        == "did not start within 600 s (start timeout of work pool 'gpu')"
    )
    assert rules.start_timeout_reason("gpu", 0.5).startswith("did not start within 0.5 s")
