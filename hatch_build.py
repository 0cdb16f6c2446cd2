# SPDX-License-Identifier: Apache-2.0
"""Builds the pages of Airflow's UI into the wheel: with Node.js, or from a bundle that is there already.

An editable installation takes what is there: ``make ui`` makes it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE = (20, 19)
"""The oldest version that the build runs on."""
DIST = "airflow_workpools/ui/dist"


class PagesHook(BuildHookInterface):  # type: ignore[type-arg]
    """Makes the bundle before the files of the wheel are gathered."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version != "editable":
            make_bundle(root)
        if not (root / DIST / "workpools.js").exists():
            print(
                f"airflow-provider-workpools: without the pages of Airflow's UI: there is no bundle in {DIST}. "
                f"Install Node.js {NODE[0]}.{NODE[1]} or newer and run `make ui`; everything else works without",
                file=sys.stderr,
            )
        # Git ignores it, and so would the build.
        build_data["artifacts"].append(f"{DIST}/*")


def make_bundle(root: Path) -> None:
    """Make the bundle, if its sources are newer than it, and there is Node.js.

    :raises SystemExit: if the build fails.
    """
    sources = root / "ui"
    if not (sources / "package.json").exists() or _is_new(root / DIST / "workpools.js", sources):
        return
    if (npm := shutil.which("npm")) is None or _node() < NODE:
        return
    for command in ([npm, "ci", "--no-audit", "--no-fund"], [npm, "run", "build"]):
        if subprocess.run(command, cwd=sources, stdout=sys.stderr).returncode:
            sys.exit(f"airflow-provider-workpools: `{' '.join(command[1:])}` failed in {sources}, see above")


def _node() -> tuple[int, ...]:
    node = shutil.which("node")
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout if node else ""
    return tuple(int(part) for part in re.findall(r"\d+", said)[:2])


def _is_new(bundle: Path, sources: Path) -> bool:
    """Say whether a bundle is newer than all that it is made of."""
    made_of = [path for path in sources.glob("*") if path.is_file()]
    made_of += [path for path in (sources / "src").rglob("*") if path.is_file()]
    return bundle.exists() and bundle.stat().st_mtime >= max(path.stat().st_mtime for path in made_of)
