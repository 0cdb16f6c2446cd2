# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools explain``: which gate holds a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data, show_rows
from airflow_workpools.core.task_facts import TaskRef
from airflow_workpools.store.explain import explain_task

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_workpools.core.explain import Explanation, GateView


@reads
def explain(args: Namespace) -> None:
    """Show the gates on a task's way, and the one that holds it."""
    ref = TaskRef(dag_id=args.dag_id, run_id=args.run_id, task_id=args.task_id, map_index=args.map_index)
    with opened() as context:
        found = explain_task(
            ref, pools=context.pools, store=context.store, settings=context.settings, now=context.now
        )
    if args.output in ("json", "yaml"):
        show_data(_everything(found), args.output)
        return
    if args.output == "table":
        print(_summary(found))
    show_rows([_row(view) for view in found.gates], args.output)


def _summary(found: Explanation) -> str:
    here = found.holding
    way_out = f"\nWhat would free it: {here.way_out}" if here.way_out else ""
    return f"{found.ref} is at gate {here.gate}: {here.text}{way_out}\n"


def _row(view: GateView) -> dict[str, Any]:
    return {
        "gate": view.gate.value,
        "status": view.status.value,
        "explanation": view.text,
        "way_out": view.way_out,
    }


def _everything(found: Explanation) -> dict[str, Any]:
    here = found.holding
    return {
        "dag_id": found.ref.dag_id,
        "run_id": found.ref.run_id,
        "task_id": found.ref.task_id,
        "map_index": found.ref.map_index,
        "try_number": found.try_number,
        "state": found.state,
        "stage": found.stage.value,
        "holding": here.gate.value,
        "explanation": here.text,
        "way_out": here.way_out,
        "gates": [{**_row(view), "numbers": dict(view.numbers)} for view in found.gates],
    }
