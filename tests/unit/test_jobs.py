# SPDX-License-Identifier: Apache-2.0
"""The life of a job: what the table of transitions promises to everything that derives from it."""

from __future__ import annotations

import itertools
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.jobs import (
    ACTIVE,
    ENDED,
    OCCUPYING,
    TRANSITIONS,
    JobState,
    job_id_for,
    sources_of,
)

states = st.sampled_from(JobState)


@st.composite
def lives(draw: st.DrawFn, *, most_steps: int = 30) -> list[JobState]:
    """A way through the table, from the hand-over until it ends or is long enough."""
    life = [JobState.PENDING]
    while len(life) <= most_steps and TRANSITIONS[life[-1]]:
        life.append(draw(st.sampled_from(sorted(TRANSITIONS[life[-1]]))))
    return life


def reachable(start: JobState) -> set[JobState]:
    seen, front = set(), [start]
    while front:
        state = front.pop()
        front += TRANSITIONS[state] - seen
        seen |= TRANSITIONS[state]
    return seen


def test_every_state_has_a_row():
    assert set(TRANSITIONS) == set(JobState)


@given(states, states)
def test_the_guard_of_a_change_and_the_table_say_the_same(source, target):
    assert (source in sources_of(target)) == (target in TRANSITIONS[source])


@given(states)
def test_no_state_follows_itself(state):
    assert state not in TRANSITIONS[state]


def test_nothing_follows_an_end():
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == ENDED
    assert not any(TRANSITIONS[state] for state in ENDED)


def test_a_job_is_active_until_it_has_ended():
    assert set(JobState) == ACTIVE | ENDED
    assert not ACTIVE & ENDED


def test_a_job_holds_slots_from_its_claim_to_its_end():
    assert ACTIVE - {JobState.PENDING} == OCCUPYING


@given(lives())
def test_a_job_runs_only_after_a_claim_and_waits_again_only_if_it_never_ran(life):
    for before, after in itertools.pairwise(life):
        if after in OCCUPYING:
            assert JobState.CLAIMED in life
        if after is JobState.PENDING:
            assert before in (JobState.CLAIMED, JobState.SUBMITTED)
    if JobState.RUNNING in life:
        assert JobState.PENDING not in life[life.index(JobState.RUNNING) :]


@given(lives())
def test_only_the_last_state_of_a_life_is_an_end(life):
    assert not ENDED.intersection(life[:-1])


@given(lives())
def test_a_job_succeeds_only_if_it_was_claimed(life):
    if life[-1] is JobState.SUCCEEDED:
        assert life[-2] in OCCUPYING


@given(st.sampled_from(sorted(ACTIVE)))
def test_from_wherever_a_job_stands_it_can_fail_and_be_cancelled_at_once(state):
    assert {JobState.FAILED, JobState.CANCELLED} <= TRANSITIONS[state]


def test_every_state_can_be_reached_from_the_first():
    assert reachable(JobState.PENDING) == set(JobState)


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        TRANSITIONS[JobState.FAILED] = frozenset()  # type: ignore[index]


@given(states)
def test_a_state_reads_as_what_the_database_holds(state):
    assert str(state) == f"{state}" == state.value
    assert JobState(str(state)) is state


@given(st.uuids())
def test_the_first_round_of_a_try_has_the_task_instances_id(task_instance_id):
    assert job_id_for(task_instance_id, 0) == task_instance_id


@given(st.uuids(), st.lists(st.integers(0, 50), min_size=2, unique=True))
def test_every_round_has_an_id_of_its_own_that_can_be_derived_again(task_instance_id, rounds):
    ids = [job_id_for(task_instance_id, round_) for round_ in rounds]
    assert len(set(ids)) == len(ids)
    assert ids == [job_id_for(task_instance_id, round_) for round_ in rounds]


def test_how_ids_of_rounds_are_derived_stays_as_it_is_because_infrastructure_is_named_after_them():
    task_instance_id = UUID("0199c0de-0000-7000-8000-000000000001")
    assert job_id_for(task_instance_id, 2) == uuid5(task_instance_id, "round-2")
