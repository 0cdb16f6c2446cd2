# SPDX-License-Identifier: Apache-2.0
"""What a gate says, and the words that several gates share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airflow_workpools.core.task_facts import TaskFacts

SCHEDULER_LOOKS = "the scheduler's next look, within seconds"
START_A_SCHEDULER = "start one: `airflow scheduler`"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a gate says."""

    holds: bool = False
    text: str | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict, hash=False)
    way_out: str | None = None


def no_scheduler(facts: TaskFacts) -> bool:
    return facts.executor is not None and not facts.executor.schedulers


def age(moment: datetime, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds())


def at(moment: datetime) -> str:
    return f"at {moment:%Y-%m-%d %H:%M:%S %Z}".rstrip()
