# SPDX-License-Identifier: Apache-2.0
"""WorkPoolExecutor beside LocalExecutor: ``make bench BENCH=local``.

One run, one machine, one PostgreSQL. Each executor is started ``--rounds`` times, in turns. After each start:

1. idle memory: proportional set size of the scheduler and all its descendants; also of one whose executor does
   nothing, so that one sees what an executor adds;
2. the first run of 100 mapped tasks that do nothing, from the trigger to the end of the last task;
3. warm runs of the same, with the CPU time of everything that belongs to this Airflow, and of PostgreSQL;
4. from the trigger of a single task to its start, with nothing else going on. How long that takes depends most of all
   on when in its loop of a second the scheduler is met, so it is met at moments that lie evenly in that second.

Prints every figure, the medians, and ``wall_ratio: X`` (warm, ours ÷ LocalExecutor's) last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from airflow_workpools.cli.local_airflow import SCHEDULER, LocalAirflow, Ports, marked_pids
from airflow_workpools.cli.local_records import LocalRecords
from benchmarks import processes
from benchmarks.runs import Runs
from tests.postgres import PostgresServer, postgres_server

DAGS = Path(__file__).parent / "dags"
EXECUTORS = {"LocalExecutor": "LocalExecutor", "WorkPoolExecutor": "airflow_workpools.WorkPoolExecutor"}
IDLE = "benchmarks.idle_executor.IdleExecutor"
"""An executor that does nothing: what the scheduler and its log server need by themselves."""
TASKS = 100
LOOP_SECONDS = 1.0
"""How long an idle scheduler sleeps between two rounds."""
REST_SECONDS = 0.1
"""A scheduler that has asked the database nothing for so long sleeps."""
_ASKED_LAST = sa.text(
    "SELECT extract(epoch FROM max(state_change)) FROM pg_stat_activity WHERE client_port = ANY(:ports)"
)


@dataclass
class Figures:
    """What was measured of one executor, all rounds together."""

    idle_pss_mb: list[float] = field(default_factory=list)
    idle_processes: list[int] = field(default_factory=list)
    first_wall: list[float] = field(default_factory=list)
    warm_wall: list[float] = field(default_factory=list)
    cpu_per_task: list[dict[str, float]] = field(default_factory=list)
    """CPU seconds per task of each warm run, by component."""
    trigger_to_start: list[float] = field(default_factory=list)
    trigger_to_hand_over: list[float] = field(default_factory=list)
    """The part of it until the scheduler handed the task over."""


class Bench:
    """One Airflow with one executor, on a database of its own."""

    def __init__(self, name: str, server: PostgresServer, home: Path, database: str) -> None:
        self.server = server
        self.airflow = LocalAirflow(
            home=home,
            dags_folder=DAGS,
            executor=EXECUTORS.get(name, IDLE),
            database_url=database,
            ports=Ports.choose(),
            settings={"AIRFLOW__CORE__PARALLELISM": "32", "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        self.records = LocalRecords(database)
        self.runs = Runs(self.airflow, self.records)

    def measure(self, figures: Figures, *, warm_runs: int, starts: int) -> None:
        """Start Airflow, take all figures, and end it."""
        with self.airflow:
            self.airflow.start()
            self.airflow.wait_ready()
            self.runs.wait_for_dags("hundred", "single")
            self._settle()
            scheduler = processes.tree(self.airflow.process(SCHEDULER).pid)
            figures.idle_processes.append(len(scheduler))
            figures.idle_pss_mb.append(processes.pss_mb(scheduler))
            figures.first_wall.append(self.runs.wall_seconds("hundred"))
            for _ in range(warm_runs):
                self._settle()
                before = self._cpu()
                figures.warm_wall.append(self.runs.wall_seconds("hundred"))
                self._settle(1)
                after = self._cpu()
                figures.cpu_per_task.append({name: (after[name] - before[name]) / TASKS for name in after})
            for number in range(starts):
                self._settle(1)
                self._wait_until_scheduler_rests_since(LOOP_SECONDS * (number + 0.5) / starts)
                handed_over, started = self._times_to_start()
                figures.trigger_to_hand_over.append(handed_over)
                figures.trigger_to_start.append(started)

    def idle_pss_mb(self) -> float:
        """Start Airflow only to see what memory its scheduler takes while nothing runs."""
        with self.airflow:
            self.airflow.start()
            self.airflow.wait_ready()
            self._settle()
            return processes.pss_mb(processes.tree(self.airflow.process(SCHEDULER).pid))

    def _settle(self, seconds: float = 3) -> None:
        time.sleep(seconds)

    def _cpu(self) -> Counter[str]:
        """Return the CPU seconds that each component has taken so far."""
        spent: Counter[str] = Counter()
        for pid in marked_pids(self.airflow.home):
            spent[component(processes.command(pid))] += processes.cpu_seconds([pid])
        spent["PostgreSQL"] = processes.cpu_seconds(processes.tree(self.server.pid))
        return spent

    def _times_to_start(self) -> tuple[float, float]:
        """Run a single task; return the seconds from its trigger to the hand-over and to its start."""
        began = time.time()
        [task] = self.runs.finish("single")
        return (task.queued_at or 0) - began, (task.started_at or 0) - began

    def _wait_until_scheduler_rests_since(self, seconds: float) -> None:
        """Wait for that moment of the scheduler's loop: so long after it has fallen asleep, or into its next round."""
        scheduler = psutil.Process(self.airflow.process(SCHEDULER).pid)
        ports = [
            connection.laddr.port
            for connection in scheduler.net_connections("tcp")
            if connection.raddr and connection.raddr.port == self.server.port
        ]
        fell_asleep = self.airflow.wait_for(
            lambda: self._asked_last(ports), timeout=30, what="the scheduler to rest", interval=0.01
        )
        time.sleep(max(0.0, fell_asleep + REST_SECONDS + seconds - time.time()))

    def _asked_last(self, ports: list[int]) -> float | None:
        """Return when these connections were used last, if that is just so long ago that their owner must be asleep."""
        with self.records.connect() as connection:
            asked = connection.execute(_ASKED_LAST, {"ports": ports}).scalar()
        return (
            float(asked) if asked and REST_SECONDS <= time.time() - float(asked) < 2 * REST_SECONDS else None
        )


def component(command: str) -> str:
    """Say which part of Airflow a process belongs to."""
    words = {
        "api_server": "API server",
        "api-server": "API server",
        "dag-processor": "DAG processor",
        "LocalExecutor": "tasks and what runs them",
        "process runner": "tasks and what runs them",
        "embedded worker": "embedded worker",
        "scheduler": "scheduler",
    }
    return next((name for word, name in words.items() if word in command), "other")


def median_cpu(figures: Figures) -> dict[str, float]:
    """Return the median of the warm runs' CPU seconds per task, by component and in all."""
    names = {name for run in figures.cpu_per_task for name in run}
    medians = {name: statistics.median(run.get(name, 0) for run in figures.cpu_per_task) for name in names}
    return medians | {"all": statistics.median(sum(run.values()) for run in figures.cpu_per_task)}


def report(console: Console, results: dict[str, Figures], idle_mb: float) -> float:
    """Print the medians of both, and ours in relation to LocalExecutor's; return the ratio of warm runs.

    :param idle_mb: memory of a scheduler whose executor does nothing.
    """
    table = Table("median of all rounds", *results, "ratio")
    rows = {
        "first run after start, s": "first_wall",
        "warm run, s": "warm_wall",
        "idle: trigger to start, s": "trigger_to_start",
        "of it until the hand-over, s": "trigger_to_hand_over",
        "idle memory (PSS), MB": "idle_pss_mb",
        "idle processes": "idle_processes",
    }
    for title, name in rows.items():
        local, ours = (statistics.median(getattr(results[executor], name)) for executor in EXECUTORS)
        table.add_row(title, f"{local:.3g}", f"{ours:.3g}", f"{ours / local:.2f}" if local else "")
    local, ours = (statistics.median(results[executor].idle_pss_mb) - idle_mb for executor in EXECUTORS)
    table.add_row(
        f"of it by the executor, MB (without: {idle_mb:.0f})",
        f"{local:.3g}",
        f"{ours:.3g}",
        f"{ours / local:.2f}",
    )
    cpu = {name: median_cpu(figures) for name, figures in results.items()}
    for part in sorted(set().union(*cpu.values()), key=lambda part: (part == "all", part)):
        local, ours = (cpu[executor].get(part, 0) * 1000 for executor in EXECUTORS)
        table.add_row(
            f"CPU per task, ms: {part}", f"{local:.1f}", f"{ours:.1f}", f"{ours / local:.2f}" if local else ""
        )
    console.print(table)
    local, ours = (statistics.median(results[name].warm_wall) for name in EXECUTORS)
    return ours / local


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="make bench BENCH=local", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="how often each executor is started")
    parser.add_argument("--warm-runs", type=int, default=3, help="warm runs after each start")
    parser.add_argument("--starts", type=int, default=5, help="single tasks after each start")
    parser.add_argument("--output", type=Path, default=Path(".bench/local.json"))
    options = parser.parse_args(arguments)
    results = {name: Figures() for name in EXECUTORS}
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="workpools-bench-"))
    try:
        with postgres_server() as server:
            database = server.create_database("idle")
            idle = Bench("idle", server, folder / "idle", database)
            idle.airflow.migrate()
            idle_mb = idle.idle_pss_mb()
            benches = {}
            for name in EXECUTORS:
                database = server.create_database(name.lower())
                benches[name] = Bench(name, server, folder / name, database)
                benches[name].airflow.migrate()
            for number in range(options.rounds):
                order = list(EXECUTORS) if number % 2 == 0 else list(reversed(EXECUTORS))
                for name in order:
                    console.print(f"round {number + 1} of {options.rounds}: {name}")
                    benches[name].measure(results[name], warm_runs=options.warm_runs, starts=options.starts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, figures in results.items():
        console.print(name, {key: values for key, values in asdict(figures).items() if key != "cpu_per_task"})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps({name: asdict(figures) for name, figures in results.items()}, indent=1)
    )
    ratio = report(console, results, idle_mb)
    print(f"wall_ratio: {ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
