# SPDX-License-Identifier: Apache-2.0
"""Which workers are dead for certain."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import pytest

from airflow_workpools.worker.roster import Roster


@pytest.fixture
def roster(tmp_path: Path) -> Roster:
    return Roster(tmp_path / "workers")


def enter_and_die(roster: Roster) -> uuid.UUID:
    worker_id = uuid.uuid4()
    pid = os.fork()
    if pid == 0:
        try:
            roster.enter(worker_id)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    return worker_id


def test_a_worker_that_lives_is_not_dead(roster):
    roster.enter(uuid.uuid4())
    assert list(roster.dead()) == []


def test_a_worker_whose_process_is_gone_is_dead_until_it_is_forgotten(roster):
    worker_id = enter_and_die(roster)
    assert list(roster.dead()) == [worker_id]
    roster.leave(worker_id)
    assert list(roster.dead()) == []


def test_a_pid_that_another_process_has_by_now_does_not_hide_the_dead(roster):
    worker_id = enter_and_die(roster)
    file = roster.folder / f"{worker_id}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": os.getpid()}))
    assert list(roster.dead()) == [worker_id]


def test_workers_of_another_machine_or_container_are_not_judged(roster):
    worker_id = enter_and_die(roster)
    file = roster.folder / f"{worker_id}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "realm": "elsewhere"}))
    assert list(roster.dead()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_file_that_says_nothing_is_passed_over(roster, text):
    roster.folder.mkdir()
    (roster.folder / f"{uuid.uuid4()}.json").write_text(text)
    assert list(roster.dead()) == []


def test_a_worker_works_though_it_cannot_be_entered(tmp_path):
    (tmp_path / "workers").write_text("no folder can be made here; a full disk says the same")
    roster = Roster(tmp_path / "workers")
    worker_id = uuid.uuid4()
    roster.enter(worker_id)
    assert list(roster.dead()) == []
    roster.leave(worker_id)
