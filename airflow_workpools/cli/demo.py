# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools demo``: a real Airflow runs the reference example while one watches, with no setup.

Everything it makes is in one folder, and no process is left when it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import airflow_workpools
from airflow_workpools.cli.demo_report import Interval, Limits, order_of_starts, problems, summarise
from airflow_workpools.cli.demo_view import QueueSnapshot, Snapshot, count, open_view
from airflow_workpools.cli.local_airflow import LocalAirflow, LocalAirflowError, Ports, sweep
from airflow_workpools.cli.local_records import LocalRecords
from airflow_workpools.errors import WorkpoolsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from airflow_workpools.cli.demo_report import DemoReport
    from airflow_workpools.cli.local_records import TaskTry

DAG_ID = "reference_example"
TASKS = 52
POOL = "etl"
POOL_LIMIT = 10
QUEUES = (
    QueueSnapshot(name="critical", priority=1, limit=1),
    QueueSnapshot(name="high", priority=5, limit=3),
    QueueSnapshot(name="low", priority=10, limit=None),
)
CREATE_POOL = (
    *("workpools", "create", POOL, "--type", "process", "--concurrency-limit", str(POOL_LIMIT)),
    *("--queue", "critical:priority=1,limit=1"),
    *("--queue", "high:priority=5,limit=3"),
    *("--queue", "low:priority=10"),
)
"""The ``airflow`` command that creates the example's work pool, as a user would."""
RUN_TIMEOUT_SECONDS = 300
USUAL_PORT = 8080
LOCK = "lock"
"""File that a demo holds; where it is, the folder is a demo's."""
MADE_BY_AIRFLOW = frozenset({"airflow.cfg", "logs"})
"""What any ``airflow`` command makes in a folder that is its AIRFLOW_HOME."""


class Interrupted(BaseException):
    """The demo was told to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_code = 128 + number


@dataclass
class Interrupts:
    """Turns the first signal to end into :class:`Interrupted`, and ignores all that follow.

    So nothing can interrupt the cleaning up that the first one causes.
    """

    closed: bool = field(default=False, init=False)

    def listen(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def close(self) -> None:
        self.closed = True

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if not self.closed:
            self.close()
            raise Interrupted(number)


@dataclass(kw_only=True)
class Demo:
    """One run of the demo in a folder of its own."""

    home: Path
    console: Console
    serve: bool = False
    port: int = USUAL_PORT
    executor: str = "airflow_workpools.WorkPoolExecutor"

    def run(self) -> int:
        """Run from beginning to end; return the exit code."""
        interrupts = Interrupts()
        interrupts.listen()
        with exclusive(self.home):
            self._clear()
            airflow = LocalAirflow(
                home=self.home,
                dags_folder=self._dags_folder(),
                executor=self.executor,
                ports=self._ports(),
                settings={"AIRFLOW__CORE__PARALLELISM": "32"},
            )
            # Two levels, so that a signal that arrives while the inner one ends still finds the outer one.
            try:
                try:
                    return self._run(airflow)
                finally:
                    interrupts.close()
            finally:
                self.console.print("Stopping Airflow …", style="dim")
                airflow.stop()

    def _clear(self) -> None:
        """Remove what an earlier demo left, processes too if it was killed."""
        sweep(self.home, grace_seconds=2)
        for entry in self.home.iterdir():
            if entry.name == LOCK:
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _dags_folder(self) -> Path:
        folder = self.home / "dags"
        folder.mkdir()
        shutil.copy(example_dag(), folder)
        return folder

    def _ports(self) -> Ports:
        ports = Ports.choose(self.port)
        if ports.api != self.port:
            self.console.print(f"Port {self.port} is taken; Airflow listens on {ports.api} instead.")
        return ports

    def _run(self, airflow: LocalAirflow) -> int:
        with self._step("Creating Airflow's tables"):
            airflow.migrate()
        with self._step(f"Creating work pool {POOL!r}"):
            airflow.run_cli(*CREATE_POOL)
        with self._step("Starting Airflow"):
            airflow.start()
            airflow.wait_ready()
            airflow.wait_for(lambda: self._parsed(airflow), timeout=60, what=f"DAG {DAG_ID}")
        run_id = airflow.api.trigger(DAG_ID)
        tries = self._watch(airflow, run_id)
        code = self._tell(tries)
        if self.serve:
            self._keep_up(airflow)
        return code

    @contextlib.contextmanager
    def _step(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(f"{what} …"):
                yield
        else:
            self.console.print(f"{what} …")
            yield
        self.console.print(f"{what}: {time.monotonic() - began:.0f} s", style="dim")

    def _parsed(self, airflow: LocalAirflow) -> bool:
        if errors := airflow.api.import_errors():
            raise LocalAirflowError("the example cannot be read:\n" + "\n".join(errors))
        return airflow.api.has_dag(DAG_ID)

    def _watch(self, airflow: LocalAirflow, run_id: str) -> list[TaskTry]:
        """Show the run until it is over; return its tasks."""
        records = LocalRecords(airflow.database_url)
        began = time.monotonic()
        with open_view(self.console) as view:

            def over() -> bool:
                tries = pool_tries(records.tries(DAG_ID, run_id))
                view.show(snapshot(tries, time.monotonic() - began))
                return records.run_state(DAG_ID, run_id) in ("success", "failed")

            airflow.wait_for(
                over, timeout=RUN_TIMEOUT_SECONDS, what=f"the run of {DAG_ID} to end", interval=0.25
            )
        return pool_tries(records.tries(DAG_ID, run_id))

    def _tell(self, tries: Sequence[TaskTry]) -> int:
        """Write the report and print the summary; return the exit code."""
        intervals = run_intervals(tries)
        report = summarise(
            intervals,
            tasks=len(tries),
            succeeded=sum(task.state == "success" for task in tries),
            limits=Limits(POOL_LIMIT, {q.name: q.limit for q in QUEUES if q.limit is not None}),
        )
        path = self.home / "report.json"
        path.write_text(json.dumps(report.to_json(), indent=2) + "\n")
        say = self.console.print
        say()
        for line in summary(report, intervals):
            say(line, highlight=False, soft_wrap=True)
        say(f"Written to {path}", style="dim", soft_wrap=True)
        wrong = problems(report, expected_tasks=TASKS)
        for problem in wrong:
            say(f"WRONG: {problem}", style="bold red", highlight=False, soft_wrap=True)
        return 1 if wrong else 0

    def _keep_up(self, airflow: LocalAirflow) -> None:
        self.console.print(
            f"\nAirflow is up at {airflow.url} (no login needed). Press Ctrl-C to stop it.", soft_wrap=True
        )
        # Being told to stop is how this ends well: the exit code stays that of the run.
        with contextlib.suppress(Interrupted):
            airflow.wait_for(lambda: False, timeout=float("inf"), what="Ctrl-C", interval=0.5)


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Hold the folder: two demos in one would remove each other's files, and a demo empties its folder.

    :raises WorkpoolsError: if another demo holds it, or if it holds what no demo has made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        inside = {entry.name for entry in home.iterdir()}
    except OSError as error:
        raise WorkpoolsError(
            f"{home} cannot be the demo's folder: {error.strerror}; choose another --home"
        ) from None
    foreign = inside - MADE_BY_AIRFLOW
    if foreign and LOCK not in inside:
        raise WorkpoolsError(
            f"{home} holds what no demo has made ({sorted(foreign)[0]!r}), and a demo empties its folder; "
            "choose another --home"
        )
    with (home / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkpoolsError(
                f"another demo is running in {home}; stop it with Ctrl-C, or choose another --home"
            ) from None
        yield


def example_dag() -> Path:
    """Return the example's file: beside the package in a checkout, else where the wheel's data went."""
    name = f"dags_examples/{DAG_ID}.py"
    checkout = Path(airflow_workpools.__file__).parents[1] / name
    if checkout.exists():
        return checkout
    for installed in metadata.files("airflow-provider-workpools") or ():
        if installed.as_posix().endswith(name):
            return Path(str(installed.locate()))
    raise WorkpoolsError(f"{name} is missing from this installation; install the package again")


def queue_of(task: TaskTry) -> str:
    """Return the name of a task's work queue in the example's pool."""
    return task.queue.partition("/")[2]


def pool_tries(tries: Sequence[TaskTry]) -> list[TaskTry]:
    """Return the tasks that go through the example's pool."""
    return [task for task in tries if task.queue.startswith(f"{POOL}/")]


def snapshot(tries: Sequence[TaskTry], seconds: float) -> Snapshot:
    """Return what the tasks do at this moment."""
    queues = [count(queue, (task for task in tries if queue_of(task) == queue.name)) for queue in QUEUES]
    return Snapshot(seconds=seconds, pool=POOL, limit=POOL_LIMIT, queues=queues)


def run_intervals(tries: Sequence[TaskTry]) -> list[Interval]:
    """Return when each task ran."""
    return [
        Interval(task.started_at, task.ended_at, queue_of(task), task.pool_slots)
        for task in tries
        if task.started_at is not None and task.ended_at is not None
    ]


def summary(report: DemoReport, intervals: Sequence[Interval]) -> list[str]:
    """Return what the run showed, in lines for a person."""
    seen, limits = report.max_running, report.limits
    lines = [f"{report.succeeded} of {report.tasks} tasks succeeded in {report.wall_seconds:.1f} s."]
    lines.append(f"Most at once: {seen.pool} in work pool {POOL!r}, whose limit is {limits.pool};")
    for queue in QUEUES:
        limit = "no limit of its own" if queue.limit is None else f"limit {queue.limit}"
        lines.append(
            f"  {seen.queues.get(queue.name, 0):2d} in {queue.name} ({limit}, priority {queue.priority})"
        )
    lines.append(f"They started in this order: {order_of_starts(intervals)}.")
    return lines


def demo(args: argparse.Namespace) -> None:
    """Run ``airflow workpools demo``; the exit code says whether everything held."""
    try:
        code = Demo(home=Path(args.home).resolve(), console=Console(), serve=args.serve).run()
    except WorkpoolsError as error:
        print(f"demo: {error}", file=sys.stderr)
        code = 1
    except Interrupted as interruption:
        code = interruption.exit_code
    sys.exit(code)
