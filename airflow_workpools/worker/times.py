# SPDX-License-Identifier: Apache-2.0
"""How often a worker does what."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_workpools.worker.log_shipper import LogTimes


@dataclass(frozen=True, kw_only=True)
class WorkerTimes:
    """How often a worker does what, in seconds."""

    heartbeat: float = 10.0
    heartbeats_per_take_over: int = 1
    """It looks for jobs that dead workers have left with its first heartbeat, and after each so many of them."""
    claim: float = 1.0
    """At the latest after this time it looks for work, even when nobody called :meth:`Worker.look_now`."""
    observe: float = 5.0
    """At the latest after this time it looks at its jobs, even when the infrastructure told of no change."""
    wishes: float = 1.0
    """At the latest after this time it asks which jobs shall be cancelled, even when nobody told of a wish."""
    stops: float = 1.0
    """After this time it tries again to stop what could not be stopped."""
    launch_patience: float = 5.0
    """A launch that is under way, of a job that is not wanted any more, may still take so long."""
    renewal: float = 1.0
    connections: float = 30.0
    """So often it looks whether connections of infrastructures have changed."""
    sweep: float = 300.0
    sweep_grace: float = 900.0
    """So long after its end nobody but its worker removes a job: longer than its log may take to be fetched."""
    settle: float = 1.0
    """So long it waits for its infrastructures before it comes online without those that are not there yet."""
    last_cleanup: float = 5.0
    drain_look: float = 0.1
    """So often a worker that drains looks whether its jobs are gone."""
    report_delay: float = 0.05
    """Ends of jobs are collected this long and told together: slots wait for them."""
    progress_delay: float = 0.5
    """What else there is to tell may wait this long for an end to be told with; a job that ends sooner is written once.
    """
    max_retry: float = 30.0
    logs: LogTimes = field(default_factory=LogTimes)
