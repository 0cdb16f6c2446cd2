# SPDX-License-Identifier: Apache-2.0
"""What is called when a deadline of the tests' DAGs is missed. No DAG in here."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import traces


def folder() -> Path:
    """Return where callbacks leave what they have to say, and look for what they wait for."""
    path = Path(os.environ[traces.TRACE_VARIABLE]).with_name("callbacks")
    path.mkdir(exist_ok=True)
    return path


def _say(name: str, **values: Any) -> None:
    with (folder() / name).open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **values}) + "\n")


def tell(name: str, context: dict[str, Any]) -> None:
    """Write down what the callback was told, and what it can read."""
    from airflow.sdk import Variable

    _say(
        name,
        run_id=context["dag_run"]["dag_run_id"],
        deadline_is_a=type(context["deadline"]["deadline_time"]).__name__,
        variable=Variable.get("whom_to_page"),
    )


def fail(name: str) -> None:
    """Have nobody to tell."""
    _say(name)
    raise LookupError("nobody answers the pager")


def wait(name: str) -> None:
    """Begin, and end once a file is there."""
    _say(name, event="begins")
    while not (folder() / f"{name}.go").exists():
        time.sleep(0.05)
    _say(name, event="ends")
