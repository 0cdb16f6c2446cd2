# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING

from airflow_workpools.core.jobs import JobState
from airflow_workpools.store.records import Report
from tests.store.rigs import NOW, Rig, later, new_job

if TYPE_CHECKING:
    from uuid import UUID


def test_an_airflow_is_the_same_for_everybody_who_asks(rig: Rig) -> None:
    answers: list[UUID] = []
    threads = [threading.Thread(target=lambda: answers.append(rig.store.installation())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert set(answers) == {rig.store.installation()}


def test_jobs_that_ended_some_time_ago_and_unknown_ones_are_over_and_no_other(rig: Rig) -> None:
    worker = rig.worker()
    ended_long_ago, ended_lately, running = rig.claimed(new_job(), new_job(), new_job(), worker=worker)
    [waiting] = rig.hand_over(new_job())
    rig.store.report(worker, [Report(job_id=running, state=JobState.RUNNING)], now=NOW)
    for job, at in ((ended_long_ago, later(1)), (ended_lately, later(11))):
        rig.store.report(worker, [Report(job_id=job, state=JobState.SUCCEEDED, exit_code=0)], now=at)
    unknown = uuid.uuid4()
    asked = [ended_long_ago, ended_lately, running, waiting, unknown]
    assert rig.store.over(asked, before=later(10)) == {ended_long_ago, unknown}
    assert rig.store.over([], before=later(10)) == set()


def test_any_number_of_jobs_may_be_asked_for(rig: Rig) -> None:
    unknown = {uuid.uuid4() for _ in range(1200)}
    [waiting] = rig.hand_over(new_job())
    assert rig.store.over([*unknown, waiting], before=later(10)) == unknown
