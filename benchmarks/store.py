# SPDX-License-Identifier: Apache-2.0
"""The figures of the store and the scheduler's loop: ``make bench`` or ``make bench BENCH=store``.

On a PostgreSQL of its own, with Airflow's real tables:

- ``allocation``: a heartbeat of slot allocation, 50 pools of 10 queues, 100,000 scheduled task instances;
- ``sync``: the executor's whole heartbeat while 10,000 jobs run;
- ``claim``: how many jobs a second 8 claimers get together;
- ``full_pool``: how busy a pool of 10 slots is in a real Airflow with 200 tasks of a second;
- ``pages``: how long the pages of Airflow's UI wait, with 50 pools and a million jobs;
- ``growth``: the first three with more and more pools, queues, waiting and running jobs;
- ``plots``: draws what the last runs have left under ``.bench/`` into ``docs/plots/``.

Prints a line for each figure with its goal. Figures are kept as JSON under ``.bench/``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.claim import CLAIMERS, measure_claims
from benchmarks.crowd import Crowd, fill
from benchmarks.full_pool import measure_full_pool
from benchmarks.heartbeats import measure_allocation, measure_sync
from benchmarks.measuring import metadata_database
from benchmarks.pages import Past, measure_pages
from benchmarks.results import Results, say
from tests.postgres import postgres_server

PARTS = ("allocation", "sync", "claim", "pages", "growth", "full_pool", "plots")
CLAIMED_AT_A_TIME = 16
"""What an embedded worker takes with one claim at most."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured, and how often."""

    allocation: Crowd
    sync: Crowd
    claim: Crowd
    claimed: int
    """Jobs that the claimers take together."""
    pages: Past
    beats: int
    growth_from: Crowd
    growth_claimed: int
    growth: dict[str, tuple[int, ...]]
    tasks: int = 200
    slots: int = 10


FULL = Size(
    allocation=Crowd(waiting=100_000, running=1_000),
    sync=Crowd(waiting=1_000, running=10_000),
    claim=Crowd(pools=1, pending=20_000),
    claimed=10_000,
    pages=Past(crowd=Crowd(queues=20, running=1_000, waiting=10_000), over=1_000_000),
    beats=30,
    growth_from=Crowd(pools=20, waiting=10_000, running=1_000, pending=10_000),
    growth_claimed=480,
    growth={
        "pools": (5, 20, 50, 100),
        "queues": (2, 5, 10, 20),
        "waiting": (1_000, 10_000, 30_000, 100_000),
        "running": (100, 1_000, 3_000, 10_000),
    },
)
_tiny = Crowd(pools=2, queues=3, waiting=30, running=6)
TINY = Size(
    allocation=_tiny,
    sync=_tiny,
    claim=Crowd(pools=2, queues=3, pending=64),
    claimed=32,
    pages=Past(crowd=_tiny, over=200),
    beats=2,
    growth_from=replace(_tiny, pending=64),
    growth_claimed=32,
    growth={"pools": (1,), "waiting": (10,)},
    tasks=6,
    slots=2,
)
"""To see in a few seconds that everything still runs. Its figures mean nothing."""


def run_allocation(engine: Any, size: Size, results: Results) -> None:
    fill(engine, size.allocation)
    found = measure_allocation(engine, size.beats)
    results.keep("allocation", {"crowd": asdict(size.allocation), **found})
    for kind in ("unchanged", "changed"):
        times = found[kind]
        figure = f"{times['median']:.1f} ms a heartbeat, {kind} (best {times['best']:.1f}, worst {times['worst']:.1f})"
        say("allocation", figure, "<= 50 ms", times["median"] <= 50)
    wrote = found["transactions_that_wrote"]
    say("allocation", f"{wrote} transactions wrote while nothing changed", "0", wrote == 0)


def run_sync(engine: Any, size: Size, results: Results) -> None:
    fill(engine, size.sync)
    found = measure_sync(engine, size.beats)
    results.keep("sync", {"crowd": asdict(size.sync), **found})
    times, rare = found["each_second"], found["with_everything"]
    figure = f"{times['median']:.1f} ms with {found['running']} running jobs (best {times['best']:.1f}), "
    figure += f"every few seconds {rare['median']:.1f} ms, {found['statements']} statements"
    say("sync", figure, "<= 20 ms", times["median"] <= 20)


def run_claim(engine: Any, size: Size, results: Results) -> None:
    found = _claims(engine, size.claim, size.claimed)
    results.keep("claim", {"crowd": asdict(size.claim), **found})
    rate = found["jobs_per_second"]
    figure = (
        f"{rate:.0f} jobs/s, {CLAIMERS} claimers, {CLAIMED_AT_A_TIME} at a time, {size.claim.pools} pool(s)"
    )
    say("claim", figure, ">= 1000 jobs/s", rate >= 1000)


def _claims(engine: Any, crowd: Crowd, jobs: int) -> dict[str, Any]:
    fill(engine, crowd)
    engine.dispose()  # claimers are forked: a connection must have one owner
    return measure_claims(engine, crowd, most=CLAIMED_AT_A_TIME, jobs=jobs)


def run_pages(engine: Any, size: Size, results: Results) -> None:
    found = measure_pages(engine, size.pages, size.beats)
    results.keep("pages", found)
    for name, times in found.items():
        if name == "past":
            continue
        most = 300 if name == "the list" else 200
        first = f"first {times['first']:.0f}, " if "first" in times else ""
        figure = (
            f"{name}: {times['median']:.0f} ms ({first}best {times['best']:.0f}, worst {times['worst']:.0f})"
        )
        say("pages", figure, f"<= {most} ms", times["median"] <= most)


def run_growth(engine: Any, size: Size, results: Results) -> None:
    """Measure heartbeats and claims along each axis; the other axes stay as they are."""
    points: list[dict[str, Any]] = []
    measured: dict[Crowd, dict[str, float]] = {}  # the axes cross in one point
    for axis, values in size.growth.items():
        for value in values:
            crowd = replace(size.growth_from, **{axis: value})
            if axis == "waiting":
                crowd = replace(crowd, pending=min(value, 20_000))
            if crowd not in measured:
                measured[crowd] = _grown(engine, crowd, size)
            points.append({"axis": axis, "value": value, **measured[crowd]})
            results.keep("growth", {"from": asdict(size.growth_from), "points": points})
            figures = " ".join(f"{name}={figure:.1f}" for name, figure in measured[crowd].items())
            print(f"growth: {axis}={value} {figures}", flush=True)


def _grown(engine: Any, crowd: Crowd, size: Size) -> dict[str, float]:
    fill(engine, replace(crowd, pending=0))
    beats = max(2, size.beats // 3)
    return {
        "sync": measure_sync(engine, beats)["each_second"]["median"],
        "allocation": measure_allocation(engine, beats)["unchanged"]["median"],
        "claim": _claims(engine, replace(crowd, waiting=0), size.growth_claimed)["jobs_per_second"],
    }


def run_full_pool(size: Size, results: Results, idle_sleep: float | None) -> None:
    home = Path(tempfile.mkdtemp(prefix="workpools-bench-"))
    try:
        with postgres_server() as server:
            found = measure_full_pool(server, home, tasks=size.tasks, slots=size.slots, idle_sleep=idle_sleep)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    results.keep("full_pool", {**found, "idle_sleep": idle_sleep})
    figure = f"slots busy {found['busy']:.1%} of the time, {size.tasks} tasks of 1 s, {size.slots} slots"
    say("full_pool", figure, ">= 90 %", found["busy"] >= 0.9)
    print(
        f"full_pool: busy {found['busy_once_full']:.1%} of the time since the pool was first full", flush=True
    )
    phases = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in found["seconds"].items())
    print(f"full_pool: median milliseconds of a job: {phases}", flush=True)
    empty = ", ".join(f"until {name} {seconds * 1000:.0f}" for name, seconds in found["empty"].items())
    print(f"full_pool: median milliseconds that a slot is empty: {empty}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    parser.add_argument(
        "--idle-sleep",
        type=float,
        metavar="SECONDS",
        help="[scheduler] scheduler_idle_sleep_time in full_pool; default: Airflow's",
    )
    parser.add_argument("--results", type=Path, default=Path(".bench"))
    parser.add_argument("--plots", type=Path, default=Path("docs/plots"))
    options = parser.parse_args(arguments)
    size, results = (TINY if options.tiny else FULL), Results(options.results)
    if "full_pool" in options.only:  # first: it must not inherit what the others set for this process
        run_full_pool(size, results, options.idle_sleep)
    runs = {
        "allocation": run_allocation,
        "sync": run_sync,
        "claim": run_claim,
        "pages": run_pages,
        "growth": run_growth,
    }
    if wanted := [run for part, run in runs.items() if part in options.only]:
        home = Path(tempfile.mkdtemp(prefix="workpools-bench-"))
        try:
            with metadata_database(home) as engine:
                for run in wanted:
                    run(engine, size, results)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    if "plots" in options.only:
        from benchmarks.plots import draw

        for file in draw(results.read("growth"), results.read("full_pool"), options.plots):
            print(f"plots: {file}")


if __name__ == "__main__":
    sys.exit(main())
