# SPDX-License-Identifier: Apache-2.0
"""A Job that Kueue holds back, admits and preempts, as its watch tells of it.

Clusters before 1.21 have no suspended Jobs, and Kueue is on none that tests have: what the watch says is made up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.infrastructure.kubernetes.manifest import KUEUE_LABEL
from airflow_workpools.infrastructure.kubernetes.namespace import Entry, NamespaceWatch

NAME = "wp-1"
QUEUED = "suspended: it waits in the Kueue queue gpus"


class Told:
    """A watch of one Job that was just created, and what it tells."""

    def __init__(self) -> None:
        self.changes = 0
        self.leaving: list[str] = []
        self.watch = NamespaceWatch(
            None,  # type: ignore[arg-type]  # nothing is asked
            "jobs",
            on_change=self._on_change,
            on_leaving=self.leaving.append,
            on_state=lambda: None,
        )
        self.watch._jobs.listed_at = self.watch._pods.listed_at = 0.0
        self.entry: Entry = self.watch.put(job(suspend=True))

    def _on_change(self) -> None:
        self.changes += 1

    def hears(self, tell: Callable[..., None], thing: Any, type_: str = "MODIFIED") -> Observation:
        """Hear of a change; return what is seen of the job then."""
        tell(type_, thing)
        return self.seen()

    def seen(self) -> Observation:
        return self.entry.observe(asyncio.get_running_loop().time())


def job(*, suspend: bool) -> dict[str, Any]:
    metadata = {"name": NAME, "namespace": "jobs", "uid": "u1", "labels": {KUEUE_LABEL: "gpus"}}
    return {"metadata": metadata, "spec": {"suspend": suspend}, "status": {}}


def pod(state: str | None = None, **metadata: Any) -> dict[str, Any]:
    statuses = [{"name": "job", "state": {state: {}}}] if state else []
    return {
        "metadata": {
            "name": f"{NAME}-x",
            "uid": "p1",
            "ownerReferences": [{"kind": "Job", "name": NAME}],
            **metadata,
        },
        "spec": {"containers": [{"name": "job"}], "nodeName": "n1"},
        "status": {"phase": "Running" if state == "running" else "Pending", "containerStatuses": statuses},
    }


def test_a_job_is_queued_until_kueue_admits_it_and_then_starts_like_any_other() -> None:
    async def scenario() -> None:
        told = Told()
        assert (told.seen().phase, told.seen().reason) == (Phase.QUEUED, QUEUED)
        assert told.hears(told.watch._on_job, job(suspend=True)).phase is Phase.QUEUED
        changes = told.changes
        assert told.hears(told.watch._on_job, job(suspend=False)).phase is Phase.WAITING
        assert told.changes > changes, "its start timeout begins to run"
        assert told.hears(told.watch._on_pod, pod("waiting"), "ADDED").phase is Phase.WAITING
        assert told.hears(told.watch._on_pod, pod("running")).phase is Phase.RUNNING

    asyncio.run(scenario())


def test_a_job_that_waits_is_given_up_no_sooner_for_having_waited_long() -> None:
    async def scenario() -> None:
        told = Told()
        later = asyncio.get_running_loop().time() + 1_000_000
        assert told.entry.observe(later).phase is Phase.QUEUED
        assert told.entry.due is None

    asyncio.run(scenario())


def test_a_job_that_is_suspended_again_while_it_runs_was_preempted_and_makes_no_other_pod() -> None:
    async def scenario() -> None:
        told = Told()
        told.watch._on_job("MODIFIED", job(suspend=False))
        told.watch._on_pod("ADDED", pod("running"))
        told.watch._on_job("MODIFIED", job(suspend=True))
        told.watch._on_pod("MODIFIED", pod("running", deletionTimestamp="2026-01-01T00:00:00Z"))
        assert told.leaving == [NAME]
        told.watch._on_pod("DELETED", pod("running", deletionTimestamp="2026-01-01T00:00:00Z"))
        assert not told.seen().ended, "its Job may have more to say"
        assert told.entry.due is not None
        seen = told.entry.observe(told.entry.due)
        assert seen.ended
        assert not seen.never_started
        assert str(seen.reason).startswith("preempted: its Job was suspended while it ran")

    asyncio.run(scenario())
