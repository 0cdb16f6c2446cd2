# SPDX-License-Identifier: Apache-2.0
"""What pools of containers cost: ``make bench BENCH=containers``, with a Docker Engine and a Kubernetes cluster.

- ``creation``: 200 Jobs through the kubernetes kind, beside a bare loop of ``kubernetes_asyncio``;
- ``executor``: how fast KubernetesExecutor creates pods on the same cluster, as it is by default;
- ``observing``: what requests it takes to keep an eye on 1,000 Jobs;
- ``start``: a command that does nothing through the docker kind, beside ``docker run``;
- ``cpu``: a task that does nothing in an image of ``airflow workpools image build``, with the module that this
  provider brings and with Airflow's, which KubernetesExecutor's pods run.

No pod runs for the first three: no node fits. Prints a line for each figure with its goal. Figures are kept as JSON
under ``.bench/``.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Results, say

PARTS = ("creation", "executor", "observing", "start", "cpu")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured, and how often."""

    created: int = 200
    rounds: int = 3
    pods: int = 40
    pods_seconds: float = 60.0
    observed: int = 1000
    observed_seconds: float = 120.0
    """Longer than a watch lasts."""
    starts: int = 10
    tasks: int = 5


FULL = Size()
TINY = Size(
    created=4,
    rounds=1,
    pods=2,
    pods_seconds=15.0,
    observed=4,
    observed_seconds=1.0,
    starts=1,
    tasks=1,
)
"""To see that everything still runs. Its figures mean nothing."""


def run_creation(size: Size, results: Results) -> None:
    from benchmarks.kubernetes_jobs import BARE_IN_FLIGHT, WORKERS_IN_FLIGHT, measure_creation

    found = measure_creation(size.created, size.rounds)
    results.keep("creation", found)
    rates = found["jobs_per_second"]
    for name, rate in rates.items():
        print(f"creation: {name}: {rate:.0f} Jobs/s", flush=True)
    bare = max(rates[f"bare_{count}"] for count in BARE_IN_FLIGHT)
    ours = rates["ours"]
    figure = f"{ours:.0f} Jobs/s with their Secrets, {WORKERS_IN_FLIGHT} at a time, {ours / bare:.2f} of the {bare:.0f}"
    say("creation", f"{figure} of the bare loop, which makes no Secrets", ">= 0.8", ours >= 0.8 * bare)
    same = rates[f"bare_{WORKERS_IN_FLIGHT}_with_secrets"]
    print(f"creation: {ours / same:.2f} of a bare loop that makes the Secrets, too", flush=True)


def run_executor(size: Size, results: Results) -> None:
    from benchmarks.kubernetes_executor import measure_executor

    found = measure_executor(size.pods, size.pods_seconds)
    results.keep("executor", found)
    theirs = found["pods_per_second"]
    figure = (
        f"KubernetesExecutor created {found['pods']} pods in {found['seconds']:.0f} s, {theirs:.2f} a second"
    )
    creation = results.read("creation")
    if creation is None:
        print(f"executor: {figure}", flush=True)
        return
    ours = creation["jobs_per_second"]["ours"]
    say("executor", f"{figure}; ours is {ours / theirs:.0f} times that", ">= 10 times", ours >= 10 * theirs)


def run_observing(size: Size, results: Results) -> None:
    from benchmarks.kubernetes_jobs import measure_observing

    found = measure_observing(size.observed, size.observed_seconds)
    results.keep("observing", found)
    rate = found["requests_per_second"]
    figure = f"{found['requests']} requests in {found['seconds']:.0f} s for {found['jobs']} Jobs, {rate:.2f} a second"
    say("observing", figure, "<= 1 a second", rate <= 1)
    print(f"observing: {found['looks']} looks of {found['look_ms']:.1f} ms", flush=True)


def run_start(size: Size, results: Results) -> None:
    from benchmarks.container_starts import measure_start

    found = measure_start(size.starts)
    results.keep("start", found)
    medians, more = found["median"], found["more"]
    figure = f"{medians['ours']:.2f} s from launch to removal, docker run --rm {medians['bare']:.2f} s: {more:+.2f} s"
    say("start", figure, "<= 0.3 s more", more <= 0.3)


def run_cpu(size: Size, results: Results) -> None:
    from benchmarks.container_starts import measure_cpu

    found = measure_cpu(size.tasks)
    results.keep("cpu", found)
    ours, airflows = found["median"]["ours"], found["median"]["airflows"]
    figure = f"{ours['cpu_seconds']:.2f} s of CPU a task, Airflow's module {airflows['cpu_seconds']:.2f} s"
    say("cpu", f"{figure}: {found['cpu_ratio']:.2f}", "<= 0.6", found["cpu_ratio"] <= 0.6)
    print(f"cpu: {ours['seconds']:.1f} s until they ended, {airflows['seconds']:.1f} s", flush=True)


RUNS = {
    "creation": run_creation,
    "executor": run_executor,
    "observing": run_observing,
    "start": run_start,
    "cpu": run_cpu,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(
        prog="make bench BENCH=containers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS)
    )
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    parser.add_argument("--results", type=Path, default=Path(".bench"))
    options = parser.parse_args(arguments)
    # A cluster for tests may have a certificate that nobody checks.
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    size, results = (TINY if options.tiny else FULL), Results(options.results)
    for part, run in RUNS.items():
        if part in options.only:
            run(size, results)


if __name__ == "__main__":
    sys.exit(main())
