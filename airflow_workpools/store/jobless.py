# SPDX-License-Identifier: Apache-2.0
"""Tasks that were handed over, but whose job somebody has deleted from the table before they started."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_workpools.store import airflow_statements as statements
from airflow_workpools.store.sessions import chunks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)

MAX_NAMED = 5
"""Most tasks that are named in the message."""


def schedule_again(
    session: Session,
    executors: Sequence[str],
    *,
    ours_is_default: bool,
    scheduler_job_id: int,
    queued_before: datetime,
) -> int:
    """Let such tasks be handed over again; return how many.

    Nothing else would: the executor alone looks after what is queued.

    :param executors: names under which tasks name this executor.
    """
    found = session.execute(
        statements.jobless_tasks(
            executors,
            ours_is_default=ours_is_default,
            scheduler_job_id=scheduler_job_id,
            queued_before=queued_before,
        )
    ).all()
    if not found:
        return 0
    for some in chunks(found):
        session.execute(statements.schedule_again([row.id for row in some]))
    shown = [f"{row.dag_id}.{row.task_id} ({row.run_id}, map index {row.map_index})" for row in found]
    log.error(
        "%d queued task%s no job any more: rows of workpool_job were deleted. They are handed over again: %s",
        len(found),
        " has" if len(found) == 1 else "s have",
        ", ".join([*shown[:MAX_NAMED], *(["…"] if len(shown) > MAX_NAMED else [])]),
    )
    return len(found)
