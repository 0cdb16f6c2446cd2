# SPDX-License-Identifier: Apache-2.0
"""Tasks that write logs: for as long as a test wants, in several rounds, to a bad end."""

from __future__ import annotations

import logging
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, Context, task
from airflow.sdk.log import mask_secret

log = logging.getLogger("my.own")

with DAG("talks", schedule=None):

    @task.python(queue="boxes/default")
    def until_told(params: dict[str, str] | None = None) -> None:
        """Write a line with its number and the time, until a file is there."""
        mask_secret("open sesame")
        log.info("the password is open sesame")
        stop = Path(os.environ["WORKPOOLS_TEST_TRACE"] + ".stop")
        number = 0
        while not stop.exists():
            log.info("line %d at %.3f", number, time.time())
            number += 1
            time.sleep(0.2)
        print("printed at the end")

    until_told()

with DAG("fails_then_succeeds", schedule=None):

    @task.python(queue="boxes/default", retries=1, retry_delay=timedelta(seconds=0))
    def twice(ti=None) -> None:  # type: ignore[no-untyped-def]
        log.info("this is try %d", ti.try_number)
        if ti.try_number == 1:
            raise RuntimeError("not yet")

    twice()

with DAG("crashes", schedule=None):

    @task.python(queue="boxes/default")
    def kills_its_supervisor() -> None:
        log.info("going to crash")
        time.sleep(0.5)
        os.kill(os.getppid(), signal.SIGKILL)

    kills_its_supervisor()

with DAG("never_starts", schedule=None):

    @task.python(queue="boxes/default", executor_config={"rejected": "there is no such image"})
    def refused() -> None:
        raise AssertionError

    refused()


class TwoRounds(BaseSensorOperator):
    """Comes back once."""

    def poke(self, context: Context) -> bool:
        self.log.info("poke")
        stamp = Path(os.environ["WORKPOOLS_TEST_TRACE"] + f".{context['run_id'].replace(':', '-')}")
        there = stamp.exists()
        stamp.touch()
        return there


with DAG("comes_back", schedule=None):
    TwoRounds(task_id="sensor", queue="boxes/default", mode="reschedule", poke_interval=1)

with DAG("as_process", schedule=None):

    class Says(BaseOperator):
        def execute(self, context: Context) -> None:
            self.log.info("written into the log folder")

    Says(task_id="says")
