# SPDX-License-Identifier: Apache-2.0
"""What tests expect otherwise on another version of Airflow: ``docs/compatibility.md`` names each difference."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

AIRFLOW = Version(version("apache-airflow-core"))
"""The installed Airflow."""


def since_3_4(difference: str) -> bool:
    """Say whether the installed Airflow has a difference, which came with 3.4 or one of its pre-releases.

    :param difference: as ``docs/compatibility.md`` names it; ``tests/unit/test_compatibility.py`` compares.
    """
    return AIRFLOW.release >= (3, 4) and bool(difference)
