# SPDX-License-Identifier: Apache-2.0
"""The benchmarks go on running, at a size at which their figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.container_starts import cpu_seconds
from benchmarks.full_pool import busy_part, first_full, over_time

ROOT = Path(__file__).parents[2]


def bench(folder: Path, *parts: str, module: str = "store") -> str:
    options = {"store": ["--plots", str(folder / "plots")], "pull": ["--edge-python", "none"]}.get(module, [])
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"benchmarks.{module}", "--tiny", "--only", *parts),
            *("--results", str(folder), *options),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.postgres
def test_the_benchmarks_of_the_store_run_and_a_heartbeat_without_a_change_writes_nothing(
    tmp_path: Path,
) -> None:
    said = bench(tmp_path, "allocation", "sync", "claim", "pages", "growth")
    for figure in ("allocation: ", "sync: ", "claim: ", "pages: the list: ", "pages: jobs in the middle: "):
        assert figure in said
    assert read(tmp_path, "allocation")["transactions_that_wrote"] == 0
    assert read(tmp_path, "sync")["running"] == 6
    assert read(tmp_path, "claim")["claimed"] >= 32
    assert [point["axis"] for point in read(tmp_path, "growth")["points"]] == ["pools", "waiting"]


@pytest.mark.airflow
@pytest.mark.postgres
def test_the_benchmark_of_a_full_pool_runs(tmp_path: Path) -> None:
    assert "full_pool: slots busy" in bench(tmp_path, "full_pool")
    assert 0 < read(tmp_path, "full_pool")["busy"] <= 1


@pytest.mark.airflow
@pytest.mark.postgres
def test_the_benchmarks_of_pull_pools_run(tmp_path: Path) -> None:
    said = bench(tmp_path, "throughput", "waiting", "pickup", "tasks", module="pull")
    for figure in ("throughput: ", "waiting: ", "pickup: ", "tasks: "):
        assert figure in said
    assert read(tmp_path, "throughput")["jobs"] == 64
    assert read(tmp_path, "waiting")["per_cent"]["API server"] > 0
    assert len(read(tmp_path, "pickup")["seconds"]) == 2
    assert "edge" not in read(tmp_path, "tasks")
    assert len(read(tmp_path, "tasks")["ours"]["warm"]) == 1


@pytest.mark.kubernetes
def test_the_benchmarks_of_jobs_run_and_observing_makes_no_request_for_each_job(tmp_path: Path) -> None:
    said = bench(tmp_path, "creation", "observing", module="containers")
    assert "creation: " in said
    assert set(read(tmp_path, "creation")["jobs_per_second"]) >= {"ours", "bare_16", "bare_32"}
    assert read(tmp_path, "observing")["requests"] <= 3


@pytest.mark.airflow
@pytest.mark.postgres
@pytest.mark.kubernetes
def test_the_benchmark_of_kubernetes_executor_runs(tmp_path: Path) -> None:
    assert "executor: KubernetesExecutor created" in bench(tmp_path, "executor", module="containers")
    assert read(tmp_path, "executor")["pods_per_second"] > 0


@pytest.mark.docker
def test_the_benchmarks_of_containers_run(tmp_path: Path) -> None:
    said = bench(tmp_path, "start", "cpu", module="containers")
    assert "start: " in said
    assert read(tmp_path, "cpu")["median"]["ours"]["cpu_seconds"] > 0


def test_the_cpu_of_a_container_is_what_its_shell_says_last() -> None:
    assert cpu_seconds("a word\n\n0m0.010s 0m0.020s\n1m2.500s 0m0.250s\n") == pytest.approx(62.75)


def read(folder: Path, part: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((folder / f"{part}.json").read_text())
    return figures


def test_busy_is_what_slots_do_while_there_is_work_for_all_of_them() -> None:
    # Two slots: one busy all the time, one idle for a second of four; then one task is left, and nothing counts.
    intervals = [(0.0, 2.0), (0.0, 1.0), (2.0, 4.0), (2.0, 4.0), (4.0, 6.0), (4.0, 5.0)]
    assert busy_part(intervals, 2) == pytest.approx(7 / 8)
    assert over_time(intervals, step=1.0)[:4] == [(0.0, 2), (1.0, 1), (2.0, 2), (3.0, 2)]


def test_what_comes_before_a_pool_is_full_for_the_first_time_can_be_left_out() -> None:
    intervals = [(0.0, 9.0), (1.0, 9.0), (3.0, 9.0), (9.0, 12.0), (9.0, 12.0), (10.0, 12.0)]
    assert first_full(intervals, 3) == 3.0
    assert busy_part(intervals, 3, since=3.0) == 1.0
    assert first_full(intervals, 4) == 10.0  # never


def test_the_same_figures_make_the_same_plots(tmp_path: Path) -> None:
    plots = pytest.importorskip("benchmarks.plots", reason="needs matplotlib, of the extra 'bench'")
    measures = {"allocation": 1.0, "sync": 2.0, "claim": 3.0}
    axes = [(axis, value) for axis in ("pools", "queues", "waiting", "running") for value in (1, 2)]
    growth = {"points": [{"axis": axis, "value": value, **measures} for axis, value in axes]}
    full_pool = {"slots": 2, "over_time": [(0.0, 1), (0.5, 2)]}
    first, again = (plots.draw(growth, full_pool, tmp_path / name) for name in ("first", "again"))
    assert [file.name for file in first] == ["allocation.svg", "sync.svg", "claim.svg", "full_pool.svg"]
    assert [file.read_text() for file in first] == [file.read_text() for file in again]
