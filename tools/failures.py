# SPDX-License-Identifier: Apache-2.0
"""Tells what failed in a run of pytest, shortly: for the end of a long log, of which only the end may be kept."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

LINES, CHARACTERS = 12, 1200
"""The most that is told of one failure."""


def failures(report: Path) -> list[str]:
    """Return a text for each test that failed or broke.

    :param report: JUnit XML, as pytest writes it.
    """
    told = []
    for case in ElementTree.parse(report).iter("testcase"):
        for problem in (*case.findall("failure"), *case.findall("error")):
            # pytest marks the lines of the error itself.
            lines = [line[2:] for line in (problem.text or "").splitlines() if line.startswith("E ")]
            said = "\n".join(lines[:LINES]) or problem.get("message") or ""
            told.append(f"{case.get('classname')}::{case.get('name')}\n{said[:CHARACTERS]}")
    return told


if __name__ == "__main__":
    print("\n\n".join(failures(Path(sys.argv[1]))))
