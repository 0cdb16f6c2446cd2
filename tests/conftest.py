# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: the parts a test needs, and the order of quick and slow ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parts import PARTS, required_parts

# Before anything imports Airflow: tests read no configuration of whoever runs them, and write none.
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "_AIRFLOW"))]:
    del os.environ[_name]
os.environ["AIRFLOW_HOME"] = str(Path(__file__).parents[1] / ".test" / "airflow")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


def pytest_configure(config: pytest.Config) -> None:
    try:
        required_parts()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that start a real Airflow last: a mistake should show in the quick ones first."""
    items.sort(key=lambda item: item.get_closest_marker("airflow") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, missing in PARTS.items():
        if item.get_closest_marker(name) is None or not (reason := missing()):
            continue
        if name in required_parts():
            pytest.fail(f"WORKPOOLS_TEST_REQUIRE lists {name}, but {reason}", pytrace=False)
        pytest.skip(reason)
