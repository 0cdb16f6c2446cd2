# SPDX-License-Identifier: Apache-2.0
"""What is made of Jobs and pods in whatever order they are heard of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_workpools.infrastructure.kubernetes import status
from airflow_workpools.infrastructure.kubernetes.namespace import NamespaceWatch

JOB = {
    "metadata": {"name": "wp-1", "uid": "a-job"},
    "spec": {},
    "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]},
}
POD = {
    "metadata": {
        "name": "wp-1-abcde",
        "uid": "a-pod",
        "ownerReferences": [{"kind": "Job", "name": "wp-1"}],
    },
    "spec": {"containers": [{"name": "job"}], "nodeName": "node-1"},
    "status": {
        "phase": "Failed",
        "containerStatuses": [{"name": "job", "state": {"terminated": {"exitCode": 3}}}],
    },
}


@pytest.mark.parametrize("first", ["jobs", "pods"])
def test_a_job_that_failed_before_anybody_looked_ended_as_its_pod_says(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(status, "SETTLE_SECONDS", 0.0)

    async def scenario() -> int | None:
        changes: list[None] = []
        watch = NamespaceWatch(
            None,  # type: ignore[arg-type]  # nothing is asked here
            "jobs",
            on_change=lambda: changes.append(None),
            on_leaving=lambda _: None,
            on_state=lambda: None,
        )
        lists: dict[str, Any] = {
            "jobs": lambda: (watch._on_jobs([JOB], 0.0), setattr(watch._jobs, "listed_at", 1.0)),
            "pods": lambda: (watch._on_pods([POD], 0.0), setattr(watch._pods, "listed_at", 1.0)),
        }
        lists.pop(first)()
        for rest in lists.values():
            rest()
        entry = watch.get("wp-1")
        assert entry is not None
        return entry.observe(asyncio.get_running_loop().time()).exit_code

    assert asyncio.run(scenario()) == 3
