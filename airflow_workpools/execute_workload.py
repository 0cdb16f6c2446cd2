# SPDX-License-Identifier: Apache-2.0
"""``python -m airflow_workpools.execute_workload --json-path FILE`` does what
``python -m airflow.sdk.execution_time.execute_workload`` does, with 0.6 of its CPU.

Images of ``airflow workpools image build`` have it; any image has that has this provider.
"""

from __future__ import annotations

import runpy
import sys
from argparse import ArgumentParser
from pathlib import Path

AIRFLOWS_OWN = "airflow.sdk.execution_time.execute_workload"


def main() -> None:
    """Run a workload: a task by the short way, all else as Airflow does."""
    from airflow_workpools.airflow_private import lean_start

    parser = ArgumentParser(
        prog="python -m airflow_workpools.execute_workload", description="Run a workload."
    )
    parser.add_argument("--json-path", metavar="FILE", help="File with the workload", required=True)
    path = parser.parse_args().json_path
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"Error: the workload {path!r} cannot be read: {error}")
    if lean_start.can_run(text):
        lean_start.run_task(text)
    else:
        runpy.run_module(AIRFLOWS_OWN, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
