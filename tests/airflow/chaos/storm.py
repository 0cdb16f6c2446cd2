# SPDX-License-Identifier: Apache-2.0
"""The faults, their random order, and the run of tasks that goes through them."""

from __future__ import annotations

import heapq
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import sqlalchemy.exc

from airflow_workpools.cli.local_airflow import API_SERVER, DAG_PROCESSOR, LocalAirflowError
from airflow_workpools.infrastructure.process.proc import ProcessIdentity, read_stat
from tests.airflow.chaos.components import SCHEDULERS, Components
from tests.airflow.chaos.disk import SmallDisk
from tests.airflow.harness import AirflowInstance, Execution
from tests.postgres import PostgresServer

STALLED_SECONDS = 240
"""Without a sign of life of any task for so long, something is lost."""


@dataclass(kw_only=True)
class Leases:
    """After how many seconds of silence a process is given up."""

    worker: float
    scheduler: float
    task: float


class Timeline:
    """What was done when, in a file that is complete also if this process is killed."""

    def __init__(self, path: Path, title: str) -> None:
        self.path = path
        self._began = time.monotonic()
        self.note(f"{title}; to repeat its order of faults: WORKPOOLS_CHAOS_SEED={title.split()[-1]}")

    def note(self, text: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{time.time():.3f} +{time.monotonic() - self._began:6.1f} s  {text}\n")

    def __str__(self) -> str:
        return self.path.read_text()


@dataclass
class Storm:
    """Breaks one thing after the other while tasks run, in an order that the seed decides."""

    airflow: AirflowInstance
    server: PostgresServer
    disk: SmallDisk | None
    components: Components
    leases: Leases
    timeline: Timeline
    order: random.Random
    _run_id: str = ""
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    # -- the run --------------------------------------------------------------------------------------------

    def rage(self, run_id: str, *, tasks: int, faults_of_each: int) -> None:
        """Break things until all faults have happened, then wait until the run is over.

        The next fault comes when so many more tasks are done, so that all of them happen under load on any machine.
        """
        self._run_id = run_id
        faults = [fault for fault in self._kinds() for _ in range(faults_of_each)]
        self.order.shuffle(faults)
        due = [tasks * (number + 0.5) / (len(faults) + 1) for number in range(len(faults))]
        watch = _Watch()
        while faults or self._later:
            self._step()
            done = watch.ended(self.airflow.executions(run_id))
            if faults and done >= due[-len(faults)]:
                faults.pop(0)()
            time.sleep(0.2)
        self.timeline.note("all faults have happened")
        while not (state := self._run_state()):
            self._step()
            watch.ended(self.airflow.executions(run_id))
            time.sleep(0.5)
        self.timeline.note(f"the run is over: {state}")

    def _step(self) -> None:
        self.components.supervise()
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()

    def until(self, condition: Callable[[], object], *, seconds: float, what: str) -> None:
        """Wait for something while components are looked after."""
        deadline = time.monotonic() + seconds
        while not self.holds(condition):
            if time.monotonic() > deadline:
                raise LocalAirflowError(f"waited {seconds:g} s in vain for {what}")
            self._step()
            time.sleep(0.2)

    @staticmethod
    def holds(condition: Callable[[], object]) -> bool:
        """Say whether something is so; what can't be asked just now is not."""
        try:
            return bool(condition())
        except (sqlalchemy.exc.DBAPIError, OSError):
            return False

    def _run_state(self) -> str | None:
        """Return how the run ended; None if it has not, or can't be asked."""
        try:
            state = self.airflow.records.run_state("storm", self._run_id)
        except sqlalchemy.exc.DBAPIError:
            return None
        return state if state in ("success", "failed") else None

    def _in(self, seconds: float, what: str, do: Callable[[], object]) -> None:
        def noted() -> None:
            do()
            self.timeline.note(what)

        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), noted))

    # -- the faults -----------------------------------------------------------------------------------------

    def _kinds(self) -> list[Callable[[], None]]:
        kinds = [
            self._kill_scheduler,
            self._kill_scheduler,
            self._kill_worker,
            self._kill_worker,
            self._kill_runner,
            lambda: self._kill_component(API_SERVER),
            lambda: self._kill_component(DAG_PROCESSOR),
            lambda: self._restart_postgres(immediately=False),
            lambda: self._restart_postgres(immediately=True),
            self._freeze_scheduler,
            self._freeze_worker,
            self._freeze_task,
        ]
        return [*kinds, self._fill_disk] if self.disk else kinds

    def _kill_scheduler(self) -> None:
        # One that is down already is no fault: take the other.
        names = [name for name in SCHEDULERS if self.components.runs(name)] or [None]
        if name := self.order.choice(names):
            self._kill_component(name)

    def _kill_component(self, name: str) -> None:
        if not self.components.runs(name):
            self.timeline.note(f"{name} is down already")
            return
        seconds = self.order.uniform(0, 3)
        self.timeline.note(f"kill -9 {name}, down for {seconds:.1f} s")
        self.components.kill9(name, down_seconds=seconds)

    def _kill_worker(self) -> None:
        self._kill_one("embedded worker", self.components.workers())

    def _kill_runner(self) -> None:
        self._kill_one("process runner", self.components.runners())

    def _kill_one(self, what: str, pids: list[int]) -> None:
        if not pids:
            self._retry(f"no {what} is there yet", lambda: self._kill_one_again(what))
            return
        pid = self.order.choice(sorted(pids))
        os.kill(pid, signal.SIGKILL)
        self.timeline.note(f"kill -9 {what} {pid}")

    def _kill_one_again(self, what: str) -> None:
        runs = self.components.runners if "runner" in what else self.components.workers
        self._kill_one(what, runs())

    def _retry(self, why: str, fault: Callable[[], None]) -> None:
        if self._run_state():
            self.timeline.note(f"{why}, and the run is over: left out")
        else:
            self._in(1, f"{why}: tried again", fault)

    def _restart_postgres(self, *, immediately: bool) -> None:
        if self.server.process.poll() is not None:
            self._retry("PostgreSQL is down", lambda: self._restart_postgres(immediately=immediately))
            return
        seconds = self.order.uniform(0, 4)
        mode = "immediate" if immediately else "fast"
        self.timeline.note(f"PostgreSQL stops, mode {mode}, down for {seconds:.1f} s")
        self.server.stop(immediately=immediately)
        self._in(seconds, "PostgreSQL is up again", self.server.start)

    def _fill_disk(self) -> None:
        assert self.disk is not None
        self.disk.fill()
        seconds = self.order.uniform(4, 8)
        self.timeline.note(f"the disk of the log folder is full for {seconds:.1f} s")
        self._in(seconds, "the disk of the log folder has space again", self.disk.free)

    def _freeze_scheduler(self) -> None:
        names = [name for name in SCHEDULERS if self.components.runs(name)]
        if not names:
            self._retry("no scheduler is there yet", self._freeze_scheduler)
            return
        self._freeze("a scheduler", [self.components.pid(self.order.choice(names))], self.leases.scheduler)

    def _freeze_worker(self) -> None:
        if not (workers := self.components.workers()):
            self._retry("no embedded worker is there yet", self._freeze_worker)
            return
        self._freeze("an embedded worker", [self.order.choice(sorted(workers))], self.leases.worker)

    def _freeze_task(self) -> None:
        """Freeze the process that watches a task, with or without the task's own."""
        running = _running(self.airflow.all_executions())
        supervised = [
            (stat.parent, pid) for pid in running if (stat := read_stat(pid)) is not None and stat.parent > 1
        ]
        if not supervised:
            self._retry("no task is in its code", self._freeze_task)
            return
        supervisor, task = self.order.choice(sorted(supervised))
        pids = [supervisor, task] if self.order.random() < 0.5 else [supervisor]
        self._freeze("the supervisor of a task" + ", and the task" * (len(pids) - 1), pids, self.leases.task)

    def _freeze(self, what: str, pids: list[int], lease: float) -> None:
        frozen = [identity for pid in pids if (identity := ProcessIdentity.of(pid))]
        for identity in frozen:
            identity.signal(signal.SIGSTOP)
        seconds = lease * self.order.uniform(1.3, 1.6)
        who = f"{what} ({', '.join(str(pid) for pid in pids)})"
        self.timeline.note(f"SIGSTOP {who} for {seconds:.1f} s, its lease is {lease:g} s")

        def thaw() -> None:
            for identity in frozen:
                identity.signal(signal.SIGCONT)

        self._in(seconds, f"SIGCONT {who}", thaw)


@dataclass
class _Watch:
    """Notices when nothing goes on any more."""

    _seen: int = -1
    _at: float = 0.0

    def ended(self, executions: list[Execution]) -> int:
        """Return how many tasks have ended.

        :raises LocalAirflowError: if no task has shown a sign of life for long.
        """
        if len(executions) != self._seen:
            self._seen, self._at = len(executions), time.monotonic()
        elif time.monotonic() - self._at > STALLED_SECONDS:
            raise LocalAirflowError(f"no task has shown a sign of life for {STALLED_SECONDS} s")
        return sum(execution.event == "end" for execution in executions)


def _running(executions: list[Execution]) -> list[int]:
    events = Counter((e.pid, e.event) for e in executions)
    return sorted({pid for pid, event in events if event == "start" and not events[pid, "end"]})
