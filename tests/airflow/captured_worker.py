# SPDX-License-Identifier: Apache-2.0
"""A worker for jobs of the kind ``captured``."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from datetime import datetime, timezone

from airflow_workpools.airflow_private import mint_workload_token
from airflow_workpools.settings import Settings
from airflow_workpools.store.jobs import SqlStore
from airflow_workpools.store.pools import work_pools
from airflow_workpools.store.records import WorkerKind, WorkerRecord
from airflow_workpools.worker.client import SqlClient
from airflow_workpools.worker.loop import Worker
from tests.airflow.captured import CapturedInfrastructure


def main() -> None:
    settings = Settings.from_airflow()
    now = datetime.now(timezone.utc)
    worker = Worker(
        record=WorkerRecord(
            id=uuid.uuid4(),
            name="captured",
            hostname=socket.gethostname(),
            kind=WorkerKind.STANDALONE,
            started_at=now,
            last_heartbeat_at=now,
            heartbeat_seconds=10,
            version="test",
        ),
        client=SqlClient(
            store=SqlStore(max_log_bytes=settings.max_log_bytes),
            all_pools=lambda: work_pools(settings),
            mint_token=mint_workload_token,
            kinds=frozenset({"captured"}),
        ),
        infrastructures={"captured": CapturedInfrastructure(home=settings.home)},
        clock=lambda: datetime.now(timezone.utc),
        environ=dict(os.environ),
    )
    asyncio.run(worker.run())


if __name__ == "__main__":
    main()
