# SPDX-License-Identifier: Apache-2.0
"""Priority weights of tasks in work queues: the queue's priority first, then the weight the task has anyway.

One strategy for each of Airflow's weight rules. Airflow asks for the weight when it creates a task instance
and when it clears one, in scheduler or API server. When a queue's priority changes, the executor moves the
tasks that wait.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from airflow.task.priority_strategy import PriorityWeightStrategy

from airflow_workpools import airflow_private
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.core.weights import combined_weight
from airflow_workpools.settings import Settings

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger(__name__)


class _WorkQueueStrategy(PriorityWeightStrategy):
    rule: ClassVar[str]
    """Airflow's weight rule for the task's own weight."""

    def get_weight(self, ti: TaskInstance) -> int:
        own = airflow_private.weight_strategy(self.rule).get_weight(ti)
        return combined_weight(queue_priority(ti.queue), own)


class WorkQueueDownstream(_WorkQueueStrategy):
    """Within its queue, a task weighs as much as it and all tasks downstream of it together."""

    rule = "downstream"


class WorkQueueUpstream(_WorkQueueStrategy):
    """Within its queue, a task weighs as much as it and all tasks upstream of it together."""

    rule = "upstream"


class WorkQueueAbsolute(_WorkQueueStrategy):
    """Within its queue, a task weighs what its ``priority_weight`` says."""

    rule = "absolute"


STRATEGIES: tuple[type[PriorityWeightStrategy], ...] = (
    WorkQueueDownstream,
    WorkQueueUpstream,
    WorkQueueAbsolute,
)
"""What the plugin registers. Serialized DAGs hold these classes' full names, so they must not move."""


def queue_priority(queue: str) -> int | None:
    """Return the priority of the work queue ``"pool/queue"``, or None if there is none such.

    The scheduler asks while it creates task instances: whatever is wrong with work pools must not stop it.
    """
    try:
        from airflow_workpools.core.pools import WorkPool
        from airflow_workpools.store.pools import work_pools

        ref = WorkQueueRef.parse(queue)
        pool = work_pools(_settings()).get(ref.pool)
        found = pool.find_queue(ref.queue) if isinstance(pool, WorkPool) else None
    except Exception as error:
        log.warning("The priority of work queue %r cannot be told; its tasks wait last: %r", queue, error)
        return None
    return found.priority if found else None


@cache
def _settings() -> Settings:
    return Settings.from_airflow()
