# SPDX-License-Identifier: Apache-2.0
"""What Airflow takes for granted of a provider's distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_airflow_finds_nothing_wrong_with_the_provider_where_it_loads_examples(tmp_path: Path) -> None:
    """Airflow's default is to load examples, and it looks for every provider's."""
    program = "from airflow.dag_processing.bundles.manager import DagBundlesManager; DagBundlesManager()"
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "True"}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "workpools" not in said.stdout + said.stderr
