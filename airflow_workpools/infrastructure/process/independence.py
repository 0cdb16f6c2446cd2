# SPDX-License-Identifier: Apache-2.0
"""How a process that was forked from a worker, or from a scheduler, becomes one that jobs can be forked from.

It cuts its ties to the process that it comes from, and settles its memory, so that jobs share that.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from pathlib import Path

from airflow_workpools.infrastructure.process.job import reset_signals

log = logging.getLogger(__name__)


def settle_memory() -> None:
    """What is in memory now stays, and is shared with every job until one of them writes to it.

    Frozen, it is left alone by the garbage collector: no collection in a job touches its pages, or ends an
    object that a forked worker had left here. That is all that could be gained; jobs that ran without any
    collection were no cheaper, so it stays switched on for tasks, with Python's own thresholds.

    Huge pages (``MADV_COLLAPSE``) would make a fork cheaper, and a task's CPU time 3 % less, but the runner's memory
    would be its own then: 80 MB more while nothing runs.
    """
    gc.collect()
    gc.freeze()
    if (threads := _threads_that_stay()) > 1:
        log.warning(
            "The process runner has %d threads, though a process that forks should have one: something that it "
            "imports starts them (a plugin?). Jobs may hang.",
            threads,
        )


def _threads_that_stay() -> int:
    """Count this process's threads; one that has ended for Python may need a moment more to be gone."""
    until = time.monotonic() + 1.0
    while (count := len(list(Path("/proc/self/task").iterdir()))) > 1 and time.monotonic() < until:
        time.sleep(0.01)
    return count


def become_independent(*, keep: int) -> None:
    """Cut the ties to the process that this one was forked from, except for one descriptor."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        os.setsid()
    reset_signals()
    _neutralise_descriptors(keep=keep)
    # Airflow puts this into the environment of its servers; a task that saw it would use the database.
    os.environ.pop("_AIRFLOW_PROCESS_CONTEXT", None)
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle("airflow_workpools: process runner")


def _neutralise_descriptors(*, keep: int) -> None:
    """Let every inherited descriptor, except standard output and error, mean ``/dev/null``.

    They must go: a job may run for days and would keep the scheduler's listening sockets and database
    connections open. They are not closed: objects in this memory still believe to own their numbers, and one
    that is finalised later would close, or write to, what had been given its number since.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if descriptor not in (1, 2, keep, null):
            with contextlib.suppress(OSError):  # the one that listed the directory
                os.fstat(descriptor)
                os.dup2(null, descriptor, inheritable=descriptor == 0)
    os.close(null)
