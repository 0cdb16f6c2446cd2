# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: the parts a test needs, and the order of quick and slow ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parts import PARTS, required_parts

# What these check is shown as in tests, when it does not hold.
pytest.register_assert_rewrite("tests.airflow.harness", "tests.unit.infrastructure_contract")

# Before anything imports Airflow: tests read no configuration of whoever runs them, and write none.
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "_AIRFLOW"))]:
    del os.environ[_name]
# One for each process of a parallel run.
_home = f"airflow{os.environ.get('PYTEST_XDIST_WORKER', '')}"
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / ".test" / _home)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


def pytest_configure(config: pytest.Config) -> None:
    try:
        required_parts()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(_FailuresAtOnce(config))


class _FailuresAtOnce:
    """Tells in a parallel run of each failure when it happens: the whole run takes long."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            terminal.write_line(
                f"\n{report.when} of {report.nodeid} failed: {crash.message if crash else ''}"[:500]
            )


# First, because that of pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests that start a real Airflow last: a mistake should show in the quick ones first.

    In a parallel run (``-n 3 --dist loadgroup``) they go first, as they take longest, and tests that share a fixture
    which costs much stay together.
    """
    parallel = hasattr(config, "workerinput")
    items.sort(key=lambda item: (item.get_closest_marker("airflow") is not None) is not parallel)
    if parallel:
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    if not getattr(session.config.option, "loadgroup", False):
        return
    alone = [item.nodeid for item in session.items if not item.nodeid.endswith(f"@{_group(item)}")]
    if alone:
        # Tests that share an Airflow or a cluster would disturb each other, and each would start its own.
        raise pytest.UsageError(f"pytest-xdist does not know the groups of tests: {alone[0]}")


def _group(item: pytest.Item) -> str:
    """Say what a test shares: a cluster, a browser, the real Airflow on one database of many files, or its file's."""
    if item.get_closest_marker("kubernetes") is not None:
        return "kubernetes"
    if item.path.parent.name == "browser":
        return "browser"
    database = getattr(getattr(item, "callspec", None), "params", {}).get("airflow")
    return f"airflow on {database}" if isinstance(database, str) else item.path.name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, missing in PARTS.items():
        if item.get_closest_marker(name) is None or not (reason := missing()):
            continue
        if name in required_parts():
            pytest.fail(f"WORKPOOLS_TEST_REQUIRE lists {name}, but {reason}", pytrace=False)
        pytest.skip(reason)
