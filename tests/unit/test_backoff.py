# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.backoff import Backoff


@given(st.integers(1, 2000), st.floats(0, 1))
def test_delays_grow_and_stay_within_half_and_the_whole_of_the_ceiling(failures, draw):
    backoff = Backoff(initial=0.5, maximum=30, draw=lambda: draw)
    delays = [backoff.next() for _ in range(failures)]
    assert delays == sorted(delays)
    assert all(0.25 <= delay <= 30 for delay in delays)


def test_success_makes_the_next_delay_short_again():
    backoff = Backoff(draw=lambda: 1.0)
    assert [backoff.next(), backoff.next(), backoff.next()] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next() == 0.5
