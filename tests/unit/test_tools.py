# SPDX-License-Identifier: Apache-2.0
"""The helpers of CI."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TESTS = """
import pytest
def test_holds(): pass
def test_fails(): assert {"a": 1} == {"a": 2}, "the words of the author"
@pytest.fixture
def broken(): raise RuntimeError("no such part")
def test_breaks(broken): pass
"""


def test_what_failed_is_told_shortly(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null"]
    subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--junit-xml={report}", "test_it.py"],
        cwd=tmp_path,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    told = subprocess.run(
        [sys.executable, "tools/failures.py", str(report)], check=True, capture_output=True, text=True
    ).stdout
    assert "test_holds" not in told
    failed, broke = told.split("\n\n")
    assert failed.splitlines()[0] == "test_it::test_fails"
    assert "the words of the author" in failed
    assert broke.splitlines()[0] == "test_it::test_breaks"
    assert "no such part" in broke
