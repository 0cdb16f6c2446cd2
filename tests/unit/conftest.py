# SPDX-License-Identifier: Apache-2.0
"""A real Airflow home for tests of commands: one for all of them."""

from __future__ import annotations

from tests.airflow_home import home, migrated_home, shared_home

__all__ = ["home", "migrated_home", "shared_home"]
