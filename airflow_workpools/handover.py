# SPDX-License-Identifier: Apache-2.0
"""The moment a task is handed over: which work queue it goes to, and whether it may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.pools import InvalidPool, WorkPool
from airflow_workpools.core.teams import may_use, to_team
from airflow_workpools.core.templates import check_variables
from airflow_workpools.errors import InvalidInput, InvalidJobVariables, WorkpoolsError
from airflow_workpools.infrastructure.registry import variable_checks
from airflow_workpools.store.records import NewJob

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.executors.workloads import ExecuteTask

    from airflow_workpools.core.pools import WorkQueue

Pools = Mapping[str, "WorkPool | InvalidPool"]


class Refusal(WorkpoolsError):
    """A task that can't go where it wants to; the message is the reason that its author reads.

    :param ref: the queue it is filed under.
    """

    def __init__(self, reason: str, ref: WorkQueueRef) -> None:
        self.ref = ref
        super().__init__(reason)


class NotNow(Refusal):
    """A task whose work pool can't be used now, but may be as soon as somebody mends its definition."""


def examine(
    workload: ExecuteTask,
    pools: Pools,
    *,
    default: WorkQueueRef,
    team_of_dag: Callable[[], str | None] = lambda: None,
) -> tuple[WorkQueueRef, WorkPool]:
    """Find the work queue of a task and check its job variables.

    :param default: the queue of tasks that name none.
    :param team_of_dag: says which team the task's DAG belongs to. Asked only where pools belong to teams.
    :raises Refusal: if the pool or queue doesn't exist, or is another team's, or the variables don't fit the pool's
        template.
    :raises NotNow: if the pool's definition is not valid.
    """
    ref = queue_of(workload.ti.queue, default)
    pool = pools.get(ref.pool)
    if pool is None:
        raise Refusal(
            f"Work pool '{ref.pool}' of work queue '{ref}' does not exist. Create it with "
            f"`airflow workpools create {ref.pool}`, or use one of: {_usable(pools, team_of_dag)}.",
            ref,
        )
    if pool.team_name is not None and not may_use(team := team_of_dag(), owner=pool.team_name):
        raise Refusal(
            f"Work pool '{ref.pool}' belongs to team '{pool.team_name}', and DAG '{workload.ti.dag_id}' "
            f"{to_team(team)}. A task may use its own team's work pools and those of no team: "
            f"{_usable(pools, team_of_dag)}.",
            ref,
        )
    if isinstance(pool, InvalidPool):
        raise NotNow(f"The definition of work pool '{ref.pool}' is not valid: {pool.reason}", ref)
    queue = pool.find_queue(ref.queue)
    if queue is None:
        known = ", ".join(queue.name for queue in pool.queues)
        raise Refusal(
            f"Work pool '{ref.pool}' has no work queue '{ref.queue}'. Create it with "
            f"`airflow workpools queue create {ref}`, or use one of: {known}.",
            ref,
        )
    try:
        _check_job_variables(pool, queue, workload.ti.executor_config or {})
    except InvalidJobVariables as error:
        raise Refusal(f"The job variables don't fit work pool '{pool.name}': {error}", ref) from error
    return ref, pool


def _check_job_variables(pool: WorkPool, queue: WorkQueue, given: Mapping[str, Any]) -> None:
    """Check what a task's job would be rendered with.

    :raises InvalidJobVariables: if no job of this work pool could be launched with it.
    """
    variables = check_variables(pool.base_job_template, pool.job_variables, queue.job_variables, given)
    check = variable_checks().get(pool.type)
    if check and (problems := check(pool.base_job_template.job_configuration, variables)):
        raise InvalidJobVariables(problems)


def _usable(pools: Pools, team_of_dag: Callable[[], str | None]) -> str:
    """Return the names of the work pools that a task may use."""
    if any(pool.team_name for pool in pools.values()):
        team = team_of_dag()
        pools = {name: pool for name, pool in pools.items() if may_use(team, owner=pool.team_name)}
    return ", ".join(sorted(pools)) or "none"


def queue_of(text: str | None, default: WorkQueueRef) -> WorkQueueRef:
    """Read a task's ``queue``. One without a slash is Airflow's own kind of queue, which names no work queue.

    :raises Refusal: if it is no name of a work queue.
    """
    if not text or "/" not in text:
        return default
    try:
        return WorkQueueRef.parse(text)
    except InvalidInput as error:
        raise Refusal(str(error), default) from error


def new_job(
    workload: ExecuteTask,
    ref: WorkQueueRef,
    *,
    scheduler_job_id: int | None,
    start_timeout_seconds: float,
    team_name: str | None = None,
) -> NewJob:
    """Make the store's record of a hand-over. The token stays out of it: a fresh one is minted at the claim.

    :param team_name: the executor's team.
    """
    job = refused_job(workload, ref, scheduler_job_id=scheduler_job_id, team_name=team_name)
    text = workload.model_copy(update={"token": ""}).model_dump_json()
    return replace(job, workload=text, start_timeout_seconds=start_timeout_seconds)


def refused_job(
    workload: ExecuteTask,
    ref: WorkQueueRef,
    *,
    scheduler_job_id: int | None,
    team_name: str | None = None,
) -> NewJob:
    """Make the store's record of a task that will never run: of its workload, only where its log stands."""
    ti = workload.ti
    variables = ti.executor_config if isinstance(ti.executor_config, dict) else {}
    return NewJob(
        task_instance_id=ti.id,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index if ti.map_index is not None else -1,
        try_number=ti.try_number,
        ref=ref,
        pool_slots=ti.pool_slots,
        priority_weight=ti.priority_weight,
        workload=json.dumps({"log_path": workload.log_path}),
        job_variables=variables,
        scheduler_job_id=scheduler_job_id,
        start_timeout_seconds=0,
        team_name=team_name,
    )
