# SPDX-License-Identifier: Apache-2.0
"""The priority of a queue and the weight of a task as one number."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_workpools.core.weights import LOWEST_PRIORITY, MAX_OWN_WEIGHT, combined_weight, own_weight

INT32_MAX = 2**31 - 1
priorities = st.integers(min_value=1, max_value=10**9)
weights = st.integers(min_value=-(2**31), max_value=INT32_MAX)


def test_the_numbers_are_those_in_the_documentation():
    assert combined_weight(1, 1) == 999_900_001
    assert combined_weight(10_000, 7) == 7
    assert own_weight(999_900_001) == 1


@given(priorities, priorities, weights, weights)
def test_a_task_of_a_more_urgent_queue_goes_first_whatever_the_tasks_weigh(urgent, other, light, heavy):
    assume(urgent < other and urgent < LOWEST_PRIORITY)
    assert combined_weight(urgent, light) > combined_weight(other, heavy)


@given(priorities, weights, weights)
def test_within_a_queue_the_tasks_own_weights_keep_their_order(priority, light, heavy):
    assume(0 <= light <= heavy <= MAX_OWN_WEIGHT)
    assert combined_weight(priority, light) <= combined_weight(priority, heavy)
    assert (light == heavy) == (combined_weight(priority, light) == combined_weight(priority, heavy))


@given(st.none() | priorities, weights)
def test_every_weight_fits_the_database_and_gives_back_the_tasks_own_part(priority, own):
    combined = combined_weight(priority, own)
    assert 0 <= combined <= INT32_MAX
    assert own_weight(combined) == min(max(own, 0), MAX_OWN_WEIGHT)


@given(priorities, weights)
def test_a_task_of_an_unknown_queue_goes_last(priority, own):
    assume(priority < LOWEST_PRIORITY)
    assert combined_weight(None, own) < combined_weight(priority, own)


@given(weights)
def test_a_weight_that_was_never_combined_is_its_own(own):
    assume(own <= MAX_OWN_WEIGHT)
    assert own_weight(own) == max(own, 0)
