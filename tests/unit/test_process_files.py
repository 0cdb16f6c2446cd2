# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
import stat
import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.infrastructure.process.files import (
    JobDirectories,
    JobDirectory,
    JobExit,
    JobProcess,
    write_exit,
)
from airflow_workpools.infrastructure.process.proc import ProcessIdentity

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(timezone.utc)
LATER = NOW + timedelta(days=2)
A_DAY = timedelta(days=1)
ENDED = JobExit(exit_code=3, ended_at=NOW.isoformat())


def this_process() -> JobProcess:
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return JobProcess(identity=identity, stop_grace_seconds=5, labels={"task_id": "t"})


def dead(process: JobProcess) -> JobProcess:
    return replace(process, identity=replace(process.identity, start_time=1))


@pytest.fixture
def directory(tmp_path: Path) -> JobDirectory:
    directory = JobDirectories(tmp_path).of(uuid.uuid4())
    directory.create()
    return directory


def test_only_the_owner_may_look_into_a_jobs_directory(directory: JobDirectory) -> None:
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    directory.claim(this_process())
    os.close(directory.open_exit())
    os.close(directory.open_output())
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.path.iterdir()} == {0o600}


def test_making_a_directory_that_exists_is_fine(directory: JobDirectory) -> None:
    directory.create()


def test_who_claims_first_has_the_job(directory: JobDirectory) -> None:
    assert directory.process() is None
    assert directory.claim(this_process())
    other = dead(this_process())
    assert not directory.claim(other)
    assert directory.process() == this_process()


def test_a_claim_leaves_nothing_but_the_pid_file(directory: JobDirectory) -> None:
    directory.claim(this_process())
    directory.claim(this_process())
    assert [file.name for file in directory.path.iterdir()] == ["pid"]


def test_what_a_claim_left_that_died_half_way_does_not_matter(directory: JobDirectory) -> None:
    half = directory.path / f"pid.{os.getpid()}"
    half.write_text('{"process": {"pi')
    assert directory.process() is None
    assert directory.claim(this_process())
    assert directory.process() == this_process()


def test_of_many_processes_one_claims(directory: JobDirectory) -> None:
    go_read, go_write = os.pipe()
    children = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os.close(go_write)
            os.read(go_read, 1)  # all start at once, when the pipe is closed
            os._exit(0 if directory.claim(this_process()) else 1)
        children.append(pid)
    os.close(go_write)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    os.close(go_read)
    assert sorted(codes) == [0] + [1] * 19
    claimed = directory.process()
    assert claimed is not None
    assert claimed.identity.pid == children[codes.index(0)]


def test_an_exit_that_was_opened_but_not_written_is_none(directory: JobDirectory) -> None:
    descriptor = directory.open_exit()
    assert directory.exit() is None
    write_exit(descriptor, ENDED)
    os.close(descriptor)
    assert directory.exit() == ENDED


def test_a_half_written_exit_is_none(directory: JobDirectory) -> None:
    directory.path.joinpath("exit").write_text(ENDED.to_json()[:20])
    assert directory.exit() is None


def test_a_jobs_own_word_about_its_end_stands(directory: JobDirectory) -> None:
    directory.record_exit(ENDED)
    directory.record_exit(replace(ENDED, exit_code=-9))
    assert directory.exit() == ENDED


def test_an_exit_is_recorded_in_place_of_the_empty_one(directory: JobDirectory) -> None:
    os.close(directory.open_exit())
    directory.record_exit(ENDED)
    assert directory.exit() == ENDED
    assert [file.name for file in directory.path.iterdir()] == ["exit"]


def test_removing_is_complete_and_may_be_repeated(directory: JobDirectory) -> None:
    directory.claim(this_process())
    directory.remove()
    directory.remove()
    assert list(directory.path.parent.iterdir()) == []


# -- sweeping -----------------------------------------------------------------------------------------------


def sweep(directory: JobDirectory, *known: uuid.UUID, now: datetime = LATER) -> bool:
    """Sweep, and say whether the directory went."""
    home = directory.path.parent.parent
    removed = JobDirectories(home).sweep(known, older_than=A_DAY, now=now)
    assert removed == (not directory.path.exists())
    return bool(removed)


def test_an_old_directory_of_an_ended_job_is_swept(directory: JobDirectory) -> None:
    directory.claim(this_process())
    directory.record_exit(ENDED)
    assert sweep(directory)


def test_a_directory_that_nobody_claimed_is_swept_when_it_is_old(directory: JobDirectory) -> None:
    assert not sweep(directory, now=NOW)
    assert sweep(directory)


def test_a_directory_of_a_known_job_is_kept(directory: JobDirectory) -> None:
    assert not sweep(directory, uuid.UUID(directory.path.name))


def test_a_directory_whose_process_lives_is_kept(directory: JobDirectory) -> None:
    directory.claim(this_process())
    assert not sweep(directory)


def test_a_directory_whose_process_died_without_a_word_is_swept(directory: JobDirectory) -> None:
    directory.claim(dead(this_process()))
    assert sweep(directory)


def test_a_directory_from_before_a_restart_of_this_host_is_swept(directory: JobDirectory) -> None:
    process = this_process()
    directory.claim(replace(process, identity=replace(process.identity, realm="an earlier boot")))
    assert sweep(directory)


def test_a_directory_of_another_host_is_kept_until_it_has_ended(directory: JobDirectory) -> None:
    process = this_process()
    elsewhere = replace(process, identity=replace(process.identity, realm="elsewhere"), host="another")
    assert elsewhere.host != socket.gethostname()
    directory.claim(elsewhere)
    assert not sweep(directory)
    directory.record_exit(ENDED)
    assert sweep(directory)


def test_what_an_interrupted_removal_left_is_swept(directory: JobDirectory) -> None:
    directory.path.rename(directory.path.with_name(".removed-half"))
    directories = JobDirectories(directory.path.parent.parent)
    directories.sweep([], older_than=A_DAY, now=LATER)
    assert list(directories.path.iterdir()) == []


def test_what_is_no_jobs_directory_is_left_alone(directory: JobDirectory) -> None:
    readme = directory.path.with_name("README")
    readme.write_text("")
    sweep(directory)
    assert readme.exists()


def test_sweeping_a_home_that_was_never_used_is_fine(tmp_path: Path) -> None:
    assert JobDirectories(tmp_path / "new").sweep([], older_than=A_DAY, now=LATER) == 0
