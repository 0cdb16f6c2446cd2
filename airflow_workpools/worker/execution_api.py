# SPDX-License-Identifier: Apache-2.0
"""The Execution API as workers need it: awake, and the right one."""

from __future__ import annotations

import asyncio
import logging
import os
import urllib.request
from http import HTTPStatus
from http.client import HTTPException

log = logging.getLogger(__name__)

_OF_WORKERS = "AIRFLOW__WORKERS__"


def use_execution_api_of(team_name: str | None) -> None:
    """Let this process and its jobs use the Execution API that was configured for a team, if one was."""
    from airflow.executors.base_executor import ExecutorConf

    section, option = "core", "execution_api_server_url"
    url = ExecutorConf(team_name).get(section, option, fallback=None) if team_name else None
    if url:
        os.environ[f"AIRFLOW__{section}__{option}".upper()] = url


def use_execution_api_under(url: str) -> None:
    """Let this process and its jobs use the Execution API of the API server at this address.

    Where Airflow's configuration names another, that is used: jobs may reach it under another name than their worker.
    """
    from airflow.configuration import conf

    section, option = "core", "execution_api_server_url"
    if not conf.get(section, option, fallback=None):
        os.environ[f"AIRFLOW__{section}__{option}".upper()] = f"{url.rstrip('/')}/execution/"


RETRY_WAIT_SECONDS = 10.0
"""Longest time between two tries of a task to reach the API server; on average it is a little more than half."""


def wait_for_execution_api() -> None:
    """Let containers of this process's jobs wait for an API server that is away as long as Airflow waits for tasks.

    Airflow's own settings let a task end itself half a minute after the API server has gone, and fail if it ends
    meanwhile. After ``[scheduler] task_instance_heartbeat_timeout`` its next try may begin, so it must not go on for
    longer, also where no connection is refused, but all take as long as they may. What somebody has set stays.
    """
    from airflow.configuration import conf

    patience = conf.getfloat("scheduler", "task_instance_heartbeat_timeout")
    one_try = conf.getfloat("workers", "execution_api_timeout") + (1.0 + RETRY_WAIT_SECONDS) / 2
    wanted = {
        "execution_api_retries": str(
            max(conf.getint("workers", "execution_api_retries"), int(patience / one_try))
        ),
        "execution_api_retry_wait_max": str(RETRY_WAIT_SECONDS),
        # One that failed was tried for so long.
        "max_failed_heartbeats": "1",
    }
    if all(conf.get("workers", option) == conf.get_default_value("workers", option) for option in wanted):
        os.environ.update({f"{_OF_WORKERS}{option.upper()}": value for option, value in wanted.items()})


async def keep_waking_execution_api(*, attempts: int = 60, pause: float = 2.0) -> bool:
    """Wake the Execution API, which may be started after the scheduler; return whether it answered at last."""
    for _ in range(attempts):
        if await asyncio.to_thread(wake_execution_api):
            return True
        await asyncio.sleep(pause)
    log.info("The Execution API has not answered yet; the first task will wake it")
    return False


def wake_execution_api(seconds: float = 30.0) -> bool:
    """Ask the Execution API how it is, so that it is ready when the first task asks it; return whether it answered.

    An API server builds it at the first request, which was measured to take 4.7 s of CPU: the first task would
    wait for that. Whether it answers matters to nobody else; tasks find out for themselves.
    """
    from airflow.executors.base_executor import get_execution_api_server_url

    url = f"{get_execution_api_server_url().rstrip('/')}/health"
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, ValueError, HTTPException) as error:
        log.debug("The Execution API does not answer yet at %s: %s", url, error)
        return False
