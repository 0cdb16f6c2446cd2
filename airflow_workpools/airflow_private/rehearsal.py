# SPDX-License-Identifier: Apache-2.0
"""Rehearsals of what each job does, so that jobs which are forked afterwards do nothing for the first time.

Code that runs for the first time is slow: Python has not specialised it, libraries fill their caches, and every
page that is written to for this is copied in each forked process. Counted with a task that does nothing: a supervisor
that was rehearsed once takes some 700 of 4,400 page faults less, and a task for which a DAG file was read before some
300 less.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.api import client as api_client

if TYPE_CHECKING:
    from collections.abc import Iterator

# What Airflow's client is made with: since 3.4, HTTPX's successor.
httpx: Any = import_module("httpx2" if hasattr(api_client, "httpx2") else "httpx")
httpcore: Any = import_module(httpx.__name__.replace("httpx", "httpcore"))

SECONDS = 20
"""How long a rehearsal may take: it must never keep jobs from running."""

WORKLOAD = """{
    "type": "ExecuteTask", "token": "", "dag_rel_path": "rehearsal.py", "log_path": null,
    "bundle_info": {"name": "rehearsal", "version": null},
    "ti": {
        "id": "00000000-0000-0000-0000-000000000000", "dag_version_id": "00000000-0000-0000-0000-000000000000",
        "dag_id": "rehearsal", "task_id": "rehearsal", "run_id": "rehearsal", "try_number": 1, "map_index": -1,
        "pool_slots": 1, "priority_weight": 1, "queue": "default"
    }
}"""
"""What is rehearsed."""

_RUN = b"""{
    "dag_run": {
        "dag_id": "rehearsal", "run_id": "rehearsal", "run_type": "manual", "state": "running",
        "logical_date": "2025-01-01T00:00:00Z", "run_after": "2025-01-01T00:00:00Z",
        "start_date": "2025-01-01T00:00:00Z", "end_date": null,
        "data_interval_start": null, "data_interval_end": null,
        "clear_number": 0, "conf": {}, "consumed_asset_events": [], "partition_key": null
    },
    "max_tries": 0, "should_retry": false, "task_reschedule_count": 0, "upstream_map_indexes": {},
    "variables": [], "connections": [], "xcom_keys_to_clear": []
}"""


def rehearse(workload: Any) -> None:
    """Supervise, once, a process that asks what every task asks, with answers that are made up here.

    Nothing of it leaves this process and that one: no request, no log, no listener hears of it.

    :param workload: :data:`WORKLOAD`, parsed.
    :raises TimeoutError: if it takes too long.
    :raises RuntimeError: if it does not end as a task does that succeeds.
    """
    from airflow.sdk.execution_time import supervisor

    class Rehearsed(supervisor.ActivitySubprocess):
        def _upload_logs(self) -> None:
            """Leave remote storage alone."""

    made_up = api_client.Client(base_url=None, dry_run=True, token="", transport=_MadeUpAnswers())
    with _alone(), made_up as client:
        process = Rehearsed.start(
            what=workload.ti,
            dag_rel_path=workload.dag_rel_path,
            bundle_info=workload.bundle_info,
            client=client,
            target=_ask_what_tasks_ask,
        )
        try:
            code = process.wait()
        except BaseException:
            process.kill(signal.SIGKILL)
            raise
    if code != 0 or process.final_state != "success":
        raise RuntimeError(f"the rehearsal ended with exit code {code}, state {process.final_state}")


DAG_FILE = """
from airflow.sdk import dag, task

@dag(schedule=None)
def rehearsal():
    @task
    def first():
        return [1, 2]

    @task
    def second(number):
        pass

    second.expand(number=first())

rehearsal()
"""
"""What is read."""


def rehearse_reading() -> None:
    """Read, once, a DAG file as each task does that looks for itself in its own.

    Nobody hears of the DAG but the cluster's policies, which hear of every DAG that is read.

    :raises TimeoutError: if it takes too long.
    :raises RuntimeError: if the DAG is not found in the file.
    """
    from airflow.dag_processing.dagbag import BundleDagBag

    modules = set(sys.modules)
    with tempfile.TemporaryDirectory(prefix="workpools-rehearsal-") as folder, _alone():
        file = Path(folder, "rehearsal.py")
        file.write_text(DAG_FILE)
        bag = BundleDagBag(
            dag_folder=str(file),
            safe_mode=False,
            load_op_links=False,
            bundle_path=Path(folder),
            bundle_name="rehearsal",
        )
    for name in set(sys.modules) - modules:
        if name.endswith("_rehearsal"):  # Airflow makes up a module for each DAG file
            del sys.modules[name]
    if "rehearsal" not in bag.dags:
        raise RuntimeError(f"the DAG of the rehearsal could not be read: {bag.import_errors}")


class _MadeUpAnswers(httpx.BaseTransport):
    """Goes the whole way of a request, up to a network that isn't there."""

    def handle_request(self, request: Any) -> Any:
        body = _RUN if request.url.path.endswith("/run") else b"{}"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        network = httpcore.MockBackend([head.encode(), body])
        with httpcore.ConnectionPool(network_backend=network) as pool:
            answer = pool.request(
                request.method,
                httpcore.URL(scheme="http", host="localhost", port=None, target=request.url.raw_path),
                headers=request.headers.raw,
                content=request.read(),
            )
        return httpx.Response(answer.status, headers=answer.headers, content=answer.content)


def _ask_what_tasks_ask() -> None:
    """Be the task: hear what is to be done, tell the rendered fields and the success."""
    from airflow.sdk.execution_time import comms

    channel: Any = comms.CommsDecoder()
    channel._get_response()
    channel.send(comms.SetRenderedFields(rendered_fields={"op_args": [], "op_kwargs": {}}))
    channel.send(comms.SucceedTask(end_date=datetime.now(timezone.utc), task_outlets=[], outlet_events=[]))


@contextmanager
def _alone() -> Iterator[None]:
    """Be quiet, and end by an exception what takes too long."""

    def give_up(_number: int, _frame: object) -> None:
        raise TimeoutError(f"the rehearsal took more than {SECONDS} seconds")

    null = os.open(os.devnull, os.O_WRONLY)
    kept = {standard: os.dup(standard) for standard in (1, 2)}
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        for standard in kept:
            os.dup2(null, standard)
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        for standard, descriptor in kept.items():
            os.dup2(descriptor, standard)
            os.close(descriptor)
        os.close(null)
