# SPDX-License-Identifier: Apache-2.0
"""Workloads that are not of tasks, made as Airflow's scheduler makes them, and what they leave in their logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.executors import workloads

from airflow_workpools import airflow_private
from airflow_workpools.errors import NotFound

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

CALLBACKS_TELL_THAT_THEY_RUN = hasattr(workloads.ExecuteCallback, "token_scope")
"""From Airflow 3.4 on, a callback tells the API server that it runs, which must find it ``queued``, and exchanges
the token of its workload for one that opens connections and variables."""
WORKLOAD_TYPES: frozenset[Any] | None = (
    frozenset(workloads.WorkloadType) if hasattr(workloads, "WorkloadType") else None
)
"""What an executor of Airflow 3.4 says that it supports; None before."""

_TAIL = 1 << 16


class MadeWorkload(NamedTuple):
    """A workload as JSON, and what is to be known of it."""

    text: str
    log_path: str | None = None
    timeout_seconds: float | None = None


def callback_workload(session: Session, callback_id: UUID) -> MadeWorkload:
    """Make the workload of a callback, with a fresh token.

    :raises NotFound: if the callback or its DAG run is gone.
    """
    from airflow.models.callback import Callback
    from airflow.models.dagrun import DagRun

    callback = session.get(Callback, callback_id)
    if callback is None:
        raise NotFound(f"callback {callback_id} was deleted")
    run = session.get(DagRun, int(callback.data["dag_run_id"]))
    if run is None:
        raise NotFound(f"the DAG run of callback {callback_id} was deleted")
    workload = workloads.ExecuteCallback.make(
        callback=callback, dag_run=run, generator=airflow_private.jwt_generator()
    )
    if not CALLBACKS_TELL_THAT_THEY_RUN:
        # Nothing exchanges the token that Airflow 3.3 makes, which opens nothing: with it a callback could read
        # no connection and no variable. Every answer of the API server renews this one.
        workload.token = airflow_private.jwt_generator().generate(
            extras={"sub": str(callback_id), "scope": "execution"}
        )
    values = json.loads(workload.model_copy(update={"callback": _empty(workload)}).model_dump_json())
    values["callback"]["data"] = _packed(workload.callback.data)
    return MadeWorkload(json.dumps(values), workload.log_path)


def _empty(workload: Any) -> Any:
    return workload.callback.model_copy(update={"data": {}})


def _packed(data: Any) -> Any:
    """Make JSON of a callback's data so that times come out as times: LocalExecutor passes objects."""
    from airflow.serialization.serialized_objects import BaseSerialization

    return BaseSerialization.serialize(data)


def unpack(workload: Any) -> Any:
    """Undo, in a workload that was read from JSON, what :func:`callback_workload` packed."""
    if isinstance(workload, workloads.ExecuteCallback) and "__var" in workload.callback.data:
        from airflow.serialization.serialized_objects import BaseSerialization

        workload.callback.data = BaseSerialization.deserialize(workload.callback.data)
    return workload


def connection_test_workload(session: Session, test_id: UUID) -> MadeWorkload:
    """Make the workload of a connection test, with a fresh token.

    :raises NotFound: if the test is gone.
    """
    from airflow.configuration import conf
    from airflow.models.connection_test import ConnectionTestRequest

    test = session.get(ConnectionTestRequest, test_id)
    if test is None:
        raise NotFound(f"connection test {test_id} was deleted")
    timeout = conf.getint("connection_test", "timeout", fallback=60)
    known = {"team_name": test.team_name} if "team_name" in workloads.TestConnection.model_fields else {}
    workload = workloads.TestConnection.make(
        connection_test_id=test.id,
        connection_id=test.connection_id,
        timeout=timeout,
        queue=test.queue,
        generator=airflow_private.jwt_generator(),
        **known,
    )
    return MadeWorkload(workload.model_dump_json(), timeout_seconds=timeout)


def error_in_log(log_path: str) -> str | None:
    """Return what a callback's log says of its failure, or None if it says nothing."""
    from airflow.configuration import conf

    try:
        with Path(str(conf.get("logging", "base_log_folder")), log_path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        error = isinstance(values, dict) and (values.get("error_msg") or values.get("error"))
        if isinstance(error, str):
            return error
    return None
