# SPDX-License-Identifier: Apache-2.0
"""The template of docs/docker.md for pools whose DAG authors must not be root on the engine's host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from airflow_workpools.core.templates import BaseJobTemplate, RenderContext, render

_PAGE = Path(__file__).parents[2] / "docs/docker.md"
JOB_ID = "00000000-0000-0000-0000-000000000007"
_CONTEXT = RenderContext(
    dag_id="d",
    task_id="t",
    run_id="r",
    map_index=-1,
    try_number=1,
    work_pool="p",
    work_queue="q",
    job_id=JOB_ID,
)


def locked_down() -> BaseJobTemplate:
    """Return the template as the page has it."""
    found = re.search(r"^```json\n(.*?)^```$", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return BaseJobTemplate.parse(json.loads(found.group(1)))


def rendered(**variables: Any) -> dict[str, Any]:
    """Return the configuration of a job with these variables."""
    return dict(render(locked_down(), variables, context=_CONTEXT, environ={}))
