# SPDX-License-Identifier: Apache-2.0
"""``docs/compatibility.md`` says what is true: versions, and what tests expect otherwise on another Airflow."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from tests.airflow_versions import AIRFLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/compatibility.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()


def table(heading: str) -> dict[str, list[str]]:
    """Return the first table whose first column has this heading, by what stands in that column."""
    found = re.search(rf"^\| {heading} \|.*\n\| --- .*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert found, f"no table of {heading}"
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in found.group(1).splitlines()]
    return {first: rest for first, *rest in rows}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name


def test_the_page_names_exactly_what_tests_expect_otherwise() -> None:
    """In both directions: nothing that tests know is kept from readers, and nothing is claimed that no test knows."""
    expected = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if _named(node, "since_3_4"):
                (argument,) = node.args  # type: ignore[attr-defined]
                assert isinstance(argument, ast.Constant), f"{path}: the difference must be written out"
                expected.add(argument.value)
    assert expected == set(table("difference"))


def test_no_test_is_skipped_for_a_version_of_airflow() -> None:
    """As the page says; a mark that asks for Airflow's version would have to be named there."""
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if (_named(node, "skipif") or _named(node, "xfail"))
        and ("AIRFLOW" in ast.unparse(node) or "since_3_4" in ast.unparse(node))
    ]
    assert asked == []
    assert "No test is skipped on 3.4." in PAGE


def test_the_versions_of_airflow_are_those_that_can_be_installed() -> None:
    dependency = re.search(r'"apache-airflow([^"]+)"', PROJECT)
    assert dependency
    supported = SpecifierSet(dependency.group(1), prereleases=True)
    versions = table("Airflow")
    assert supported.contains("3.3.0")
    assert supported.contains("3.4.0b2")
    assert not supported.contains("3.2.9")
    assert set(versions) == {"3.3", "3.4", "3.2 and older"}
    pinned = re.search(r"^apache-airflow==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert versions["3.3"][1].startswith(f"{pinned.group(1)}, the whole suite")
    if AIRFLOW.is_prerelease:  # the one that was tested last: run the suite, then write down the new one
        assert versions[f"{AIRFLOW.major}.{AIRFLOW.minor}"][1].startswith(f"{AIRFLOW}, ")


def test_the_versions_of_python_are_those_that_the_package_claims() -> None:
    claimed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    named = [version for row in table("Python") for version in row.split(", ")]
    assert sorted(named) == sorted(claimed)
    written = re.search(r"with Python (3\.\d+)\.", (ROOT / "constraints.txt").read_text())
    assert written
    assert written.group(1) in table("Python")
