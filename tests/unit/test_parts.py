# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.parts import PARTS, required_parts

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"


@pytest.fixture
def needs_mysql(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test session whose only test needs a part that is missing."""
    monkeypatch.setitem(PARTS, "mysql", lambda: "it is not there")  # type: ignore[arg-type]
    monkeypatch.delenv("WORKPOOLS_TEST_REQUIRE", raising=False)
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini("[pytest]\nmarkers =\n    mysql: x\n    airflow: x\n    postgres: x\n")
    pytester.makepyfile("import pytest\n@pytest.mark.mysql\ndef test_it(): pass\n")
    return pytester


def test_a_test_whose_part_is_missing_is_skipped_with_the_reason(needs_mysql: pytest.Pytester) -> None:
    result = needs_mysql.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*it is not there*"])


def test_a_test_whose_part_is_missing_fails_if_the_part_is_required(
    needs_mysql: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKPOOLS_TEST_REQUIRE", "postgres, mysql")
    result = needs_mysql.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*WORKPOOLS_TEST_REQUIRE lists mysql, but it is not there*"])


def test_requiring_an_unknown_part_stops_the_test_run(
    needs_mysql: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKPOOLS_TEST_REQUIRE", "posgres")
    result = needs_mysql.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*lists posgres; known are postgres,*"])


def test_required_parts_are_read_with_spaces_and_empty_items() -> None:
    assert required_parts({"WORKPOOLS_TEST_REQUIRE": " postgres,,mysql ,"}) == {"postgres", "mysql"}
    assert required_parts({}) == frozenset()
