# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools db …``: looking after the tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import writes
from airflow_workpools.core.wording import counted
from airflow_workpools.store.records import Purged

if TYPE_CHECKING:
    from argparse import Namespace
    from datetime import datetime

    from airflow_workpools.store.protocol import RunTimeStore

MAX_PURGED = 1000
"""Most jobs, and most workers, whose rows one transaction deletes: it must not stand in the scheduler's way."""


@writes("workpools_db_purge")
def purge(args: Namespace) -> None:
    """Delete rows of jobs that ended long ago, and of workers that are gone."""
    with opened() as context:
        before = context.now - timedelta(days=args.older_than)
        purged = context.store.purgeable(before=before) if args.dry_run else _purge(context.store, before)
    what = f"{counted(purged.jobs, 'finished job')} and {counted(purged.workers, 'worker')}"
    verb = "Would be purged" if args.dry_run else "Purged"
    print(f"{verb}: {what} older than {counted(args.older_than, 'day')}")


def _purge(store: RunTimeStore, before: datetime) -> Purged:
    jobs = workers = 0
    while (some := store.purge(before=before, limit=MAX_PURGED)).total:
        jobs, workers = jobs + some.jobs, workers + some.workers
    return Purged(jobs, workers)
