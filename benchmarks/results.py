# SPDX-License-Identifier: Apache-2.0
"""Where figures go: beside their goals to standard output, and as JSON into a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Results:
    """Figures, kept in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, part: str, figures: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{part}.json").write_text(json.dumps(figures, indent=1) + "\n")

    def read(self, part: str) -> dict[str, Any] | None:
        file = self.folder / f"{part}.json"
        return json.loads(file.read_text()) if file.exists() else None


def say(part: str, figure: str, goal: str, met: bool) -> None:
    """Print a figure beside its goal."""
    print(f"{part}: {figure} (goal: {goal}) {'met' if met else 'NOT MET'}", flush=True)
