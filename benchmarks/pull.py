# SPDX-License-Identifier: Apache-2.0
"""Pull pools over HTTP: ``make bench BENCH=pull``, on a real API server and PostgreSQL.

- ``throughput``: jobs a second that one worker claims, and reports to run and to have succeeded, 32 at a time;
- ``waiting``: what 100 workers cost the API server that wait for work, with their heartbeats and all;
- ``pickup``: from a task's hand-over to its claim by ``airflow workpools worker start``, with nothing else going on;
- ``tasks``: 100 mapped tasks that do nothing, by one worker of 32 jobs at a time, beside EdgeExecutor with the same
  concurrency, where that is installed in an environment of its own (the command does it).

Prints a line for each figure with its goal. Figures are kept as JSON under ``.bench/``.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_workpools.cli.local_airflow import DAG_PROCESSOR, SCHEDULER
from benchmarks.pull_airflow import LIMIT, PullAirflow, edge_airflow, pull_airflow
from benchmarks.pull_workers import measure_throughput, measure_waiting
from benchmarks.results import Results, say
from tests.postgres import PostgresServer, postgres_server

PARTS = ("throughput", "waiting", "pickup", "tasks")
LOOK_SECONDS = 0.25
"""The API server looks for work so often: hand-overs meet it at moments that lie evenly in that time."""
_CLAIMS = """
SELECT EXTRACT(epoch FROM claimed_at - handed_over_at) AS seconds
FROM workpool_job WHERE dag_id = 'single' ORDER BY handed_over_at OFFSET 1
"""
"""The first task of a worker is not counted: it imports what the others need."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured, and how often."""

    jobs: int = 3200
    workers: int = 100
    waiting_seconds: float = 60.0
    spread_seconds: float = 10.0
    """Workers come online one after the other within this time: their heartbeats are spread over it, too."""
    settle_seconds: float = 30.0
    """Longer than a long poll: afterwards all that a worker does now and then has begun."""
    pickups: int = 40
    rest_seconds: float = 1.0
    """Nothing goes on for so long before a task is triggered for ``pickup``."""
    warm_runs: int = 3
    pause_seconds: float = 3.0
    """Time between two runs of ``tasks``."""
    dag_id: str = "hundred"
    """What ``tasks`` runs."""


FULL = Size()
TINY = Size(
    jobs=64,
    workers=4,
    waiting_seconds=2.0,
    spread_seconds=0.0,
    settle_seconds=0.0,
    pickups=2,
    rest_seconds=0.0,
    warm_runs=1,
    pause_seconds=0.0,
    dag_id="single",
)
"""To see that everything still runs. Its figures mean nothing."""


def run_throughput(ours: PullAirflow, size: Size, results: Results) -> None:
    found = measure_throughput(ours, jobs=size.jobs)
    results.keep("throughput", found)
    rate, cpu = found["jobs_per_second"], found["cpu_ms_per_job"]
    say("throughput", f"{rate:.0f} jobs/s by one worker, {LIMIT} at a time", ">= 50 jobs/s", rate >= 50)
    print(f"throughput: CPU a job, ms: {_figures(cpu)}", flush=True)


def run_waiting(ours: PullAirflow, size: Size, results: Results) -> None:
    found = measure_waiting(
        ours,
        workers=size.workers,
        seconds=size.waiting_seconds,
        spread_seconds=size.spread_seconds,
        settle_seconds=size.settle_seconds,
    )
    results.keep("waiting", found)
    per_cent = found["per_cent"]["API server"]
    figure = f"{per_cent:.1f} % of a core by the API server for {size.workers} workers, over {found['seconds']:.0f} s"
    say("waiting", figure, "<= 15 %", per_cent <= 15)
    print(
        f"waiting: PostgreSQL {found['per_cent']['PostgreSQL']:.1f} %; without workers: {_figures(found['idle'])}",
        flush=True,
    )
    print(f"waiting: requests a second: {_figures(found['requests_per_second'])}", flush=True)


def run_pickup(ours: PullAirflow, size: Size, results: Results) -> None:
    for number in range(-1, size.pickups):
        time.sleep(size.rest_seconds + LOOK_SECONDS * max(0, number) / size.pickups)
        ours.runs.finish("single")
        ours.airflow.wait_for(lambda: _all_ended(ours), timeout=60, what="the job to end")
    seconds = sorted(float(row["seconds"]) for row in ours.records.rows(_CLAIMS))
    if len(seconds) != size.pickups:
        raise SystemExit(f"{len(seconds)} jobs of {size.pickups}; nothing measured here means anything")
    median, p95 = statistics.median(seconds), seconds[math.ceil(0.95 * len(seconds)) - 1]
    results.keep("pickup", {"seconds": seconds, "median": median, "p95": p95})
    figure = f"median {median:.2f} s, 95 % within {p95:.2f} s, at most {seconds[-1]:.2f} s, of {len(seconds)} tasks"
    say("pickup", figure, "median <= 0.5 s, 95 % within 1 s", median <= 0.5 and p95 <= 1)


def _all_ended(ours: PullAirflow) -> bool:
    return not ours.records.rows("SELECT 1 FROM workpool_job WHERE ended_at IS NULL")


def measure_tasks(bench: PullAirflow, size: Size) -> dict[str, Any]:
    """Run tasks that do nothing, once cold and then warm; return the seconds of each run."""
    bench.runs.wait_for_dags(size.dag_id)
    first = bench.runs.wall_seconds(size.dag_id)
    warm = []
    for _ in range(size.warm_runs):
        time.sleep(size.pause_seconds)
        warm.append(bench.runs.wall_seconds(size.dag_id))
    return {"first": first, "warm": warm, "median": statistics.median(warm)}


def run_tasks(
    ours: dict[str, Any],
    server: PostgresServer,
    folder: Path,
    edge_python: Path,
    size: Size,
    results: Results,
) -> None:
    """Run the same with EdgeExecutor, if it is there, and compare."""
    found: dict[str, Any] = {"limit": LIMIT, "ours": ours}
    if edge_python.exists():
        with edge_airflow(server, folder, edge_python) as edge:
            found["edge"] = measure_tasks(edge, size)
    results.keep("tasks", found)
    said = f"{ours['median']:.1f} s (first {ours['first']:.1f} s)"
    if "edge" not in found:
        print(f"tasks: {said}; EdgeExecutor is not installed ({edge_python}): no comparison", flush=True)
        return
    theirs = found["edge"]
    ratio = ours["median"] / theirs["median"]
    said += f", EdgeExecutor {theirs['median']:.1f} s (first {theirs['first']:.1f} s): {ratio:.2f}"
    say("tasks", said, "<= 0.4", ratio <= 0.4)


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {figure:.1f}" for name, figure in figures.items())


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(
        prog="make bench BENCH=pull",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    parser.add_argument("--results", type=Path, default=Path(".bench"))
    parser.add_argument(
        "--edge-python",
        type=Path,
        metavar="FILE",
        default=Path(f"{sys.prefix}-edge/bin/python"),
        help="Python of an environment in which EdgeExecutor is installed",
    )
    options = parser.parse_args(arguments)
    size, results = (TINY if options.tiny else FULL), Results(options.results)
    folder = Path(tempfile.mkdtemp(prefix="workpools-bench-"))
    try:
        with postgres_server() as server:
            with pull_airflow(server, folder) as ours:
                tasks = run_ours(ours, options.only, size, results)
            if tasks is not None:
                run_tasks(tasks, server, folder, options.edge_python, size, results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_ours(
    ours: PullAirflow, parts: tuple[str, ...], size: Size, results: Results
) -> dict[str, Any] | None:
    """Run what is wanted with our executor; return what was found of ``tasks``, if that is."""
    if "throughput" in parts:
        run_throughput(ours, size, results)
    if "waiting" in parts:
        run_waiting(ours, size, results)
    if not {"pickup", "tasks"} & set(parts):
        return None
    ours.start(SCHEDULER, DAG_PROCESSOR)
    with ours.worker():
        ours.runs.wait_for_dags("single")
        if "pickup" in parts:
            run_pickup(ours, size, results)
        return measure_tasks(ours, size) if "tasks" in parts else None


if __name__ == "__main__":
    sys.exit(main())
