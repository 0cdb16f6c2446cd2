# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: the parts a test needs, and the order of quick and slow ones."""

from __future__ import annotations

import pytest

from tests.parts import PARTS, required_parts


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
