# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG files: the same figures make the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# Text stays text, and ids come from a fixed salt instead of chance.
mpl.rcParams.update({"svg.hashsalt": "workpools", "svg.fonttype": "none", "font.family": "sans-serif"})

from matplotlib import pyplot as plt  # noqa: E402  after the backend was chosen
from matplotlib.figure import Figure  # noqa: E402

MEASURES = {
    "allocation": ("slot allocation, ms a heartbeat", 50.0),
    "sync": ("sync, ms a heartbeat", 20.0),
    "claim": ("claims of 8 claimers, jobs/s", 1000.0),
}
AXES = {
    "pools": "pools",
    "queues": "queues of each pool",
    "waiting": "waiting tasks or jobs",
    "running": "running jobs",
}


def draw(growth: dict[str, Any] | None, full_pool: dict[str, Any] | None, folder: Path) -> list[Path]:
    """Draw what there is; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if growth is not None:
        files += [_save(_growth(growth, measure), folder / f"{measure}.svg") for measure in MEASURES]
    if full_pool is not None:
        files.append(_save(_full_pool(full_pool), folder / "full_pool.svg"))
    return files


def _growth(growth: dict[str, Any], measure: str) -> Figure:
    """Draw a measure along each axis, from zero, with its goal."""
    title, goal = MEASURES[measure]
    figure, plots = plt.subplots(1, len(AXES), figsize=(12, 3), sharey=True, layout="constrained")
    for plot, (axis, label) in zip(plots, AXES.items(), strict=True):
        points = sorted((p["value"], p[measure]) for p in growth["points"] if p["axis"] == axis)
        plot.plot([x for x, _ in points], [y for _, y in points], marker="o")
        plot.axhline(goal, linestyle="--", color="grey", linewidth=1)
        plot.set_xlabel(label)
        plot.set_xlim(left=0)
        plot.set_ylim(bottom=0)
    plots[0].set_ylabel(title)
    return figure


def _full_pool(full_pool: dict[str, Any]) -> Figure:
    """Draw how many jobs ran at each moment."""
    figure, plot = plt.subplots(figsize=(12, 3), layout="constrained")
    plot.step(
        [at for at, _ in full_pool["over_time"]],
        [number for _, number in full_pool["over_time"]],
        where="post",
    )
    plot.axhline(full_pool["slots"], linestyle="--", color="grey", linewidth=1)
    plot.set_xlabel("seconds")
    plot.set_ylabel("running jobs")
    plot.set_xlim(left=0)
    plot.set_ylim(bottom=0)
    return figure


def _save(figure: Figure, file: Path) -> Path:
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    # No blanks at the ends of lines: these files are kept in the repository.
    file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
    return file
