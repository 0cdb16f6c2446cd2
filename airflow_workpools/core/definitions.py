# SPDX-License-Identifier: Apache-2.0
"""The definition of a work pool as people write it: its keys, and what each may hold.

A definition comes from a connection's ``extra``: JSON from an environment variable or a secrets backend,
the query of a connection URI (where every value is text), or Airflow's form, which leaves empty text and
null in fields that nobody filled. So digits are a number, JSON text is the object that it says, and empty
text, null and ``{}`` mean "not given".

Everything that is wrong is told at once. What is wrong is set aside, so that the rest can still be judged.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from airflow_workpools.core.json_values import json_path, plain_json, read_json
from airflow_workpools.core.wording import did_you_mean, listing, type_word

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

MAX_NUMBER = 2**31 - 1
"""Greatest limit, priority or timeout: what an integer column of a database holds."""

DELIVERIES = ("push", "pull")


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else type_word(value)


def _number(value: Any) -> float | int | None:
    """Return a number, also one written as text; None for everything else, true and false among it."""
    if isinstance(value, str):
        try:
            return int(value) if value.strip().lstrip("+-").isdecimal() else float(value)
        except ValueError:
            return None
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole_number(value: Any, *, least: int, hint: str) -> int | None:
    if _is_blank(value):
        return None
    number = _number(value)
    if number is None or not least <= number <= MAX_NUMBER or number != int(number):
        raise ValueError(f"must be a whole number from {least} to {MAX_NUMBER}{hint}, not {_shown(value)}")
    return int(number)


def _limit(value: Any) -> int | None:
    return _whole_number(value, least=0, hint=", or left out for no limit (0 delivers nothing)")


def _priority(value: Any) -> int | None:
    return _whole_number(value, least=1, hint=" (1 goes first), or left out for the lowest unused")


def _attempts(value: Any) -> int | None:
    return _whole_number(value, least=1, hint="")


def _seconds(value: Any) -> float | None:
    if _is_blank(value):
        return None
    number = _number(value)
    if number is None or not math.isfinite(number) or not 0 < number <= MAX_NUMBER:
        raise ValueError(f"must be a number of seconds above 0, not {_shown(value)}")
    return float(number)


def _text(value: Any) -> str | None:
    if _is_blank(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {type_word(value)}")
    return value.strip()


def _delivery(value: Any) -> str | None:
    if _is_blank(value):
        return None
    if value not in DELIVERIES:
        raise ValueError(f"must be {' or '.join(map(repr, DELIVERIES))}, not {_shown(value)}")
    return str(value)


def _object(value: Any) -> dict[str, Any]:
    if _is_blank(value):
        return {}
    value = read_json(value) if isinstance(value, str) else plain_json(value)
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, not {type_word(value)}")
    return value


Limit = Annotated["int | None", BeforeValidator(_limit)]
Text = Annotated["str | None", BeforeValidator(_text)]
Object = Annotated["dict[str, Any]", BeforeValidator(_object)]


class QueueDefinition(BaseModel):
    """A work queue as its pool's definition has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    priority: Annotated[int | None, BeforeValidator(_priority)] = None
    concurrency_limit: Limit = None
    description: Text = None
    job_variables: Object = Field(default_factory=dict)


class PoolDefinition(BaseModel):
    """A work pool as its connection's ``extra`` has it. ``{}`` in ``base_job_template`` is the type's
    default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Text = None
    description: Text = None
    concurrency_limit: Limit = None
    delivery: Annotated[str | None, BeforeValidator(_delivery)] = None
    start_timeout: Annotated[float | None, BeforeValidator(_seconds)] = None
    """Seconds."""
    start_attempts: Annotated[int | None, BeforeValidator(_attempts)] = None
    infrastructure_conn_id: Text = None
    queues: dict[str, QueueDefinition] = Field(default_factory=dict)
    """By name. Also accepted: a list of objects that have a ``name``; null for a queue with nothing
    special."""
    job_variables: Object = Field(default_factory=dict)
    base_job_template: Object = Field(default_factory=dict)


def read_definition(definition: Mapping[str, Any] | str | None) -> tuple[PoolDefinition, list[str]]:
    """Read a definition.

    :return: what could be read, and all that is wrong: sentences that name the key and what it may hold.
    :raises ValueError: if it is no JSON object at all; the message is a sentence without a subject.
    """
    raw = _object(definition)
    raw["queues"], problems = _queues_by_name(raw.get("queues"))
    try:
        return PoolDefinition.model_validate(raw), problems
    except ValidationError as error:
        wrong = error.errors(include_url=False)
    for fault in wrong:
        problems.append(_sentence(fault))
        _remove(raw, fault["loc"])
    return PoolDefinition.model_validate(raw), problems


def _queues_by_name(value: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Bring the queues into one form, an object for each name; and say what cannot be brought into it."""
    try:
        entries = list(_queue_entries(value))
    except ValueError as error:
        return {}, [f"queues {error}"]
    queues: dict[str, dict[str, Any]] = {}
    problems = []
    for place, name, queue in entries:
        if not isinstance(name, str) or not name:
            problems.append(f"{place} has no name")
        elif name in queues:
            problems.append(f"{place} has the name {name!r}, which another work queue has already")
        elif isinstance(queue, dict) or _is_blank(queue):
            queues[name] = queue or {}
        else:
            problems.append(f"{place} must be an object, not {type_word(queue)}")
    return queues, problems


def _queue_entries(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield place, name and definition of each queue."""
    if _is_blank(value):
        return
    if isinstance(value, str):
        value = read_json(value)
    if isinstance(value, dict):
        for name, queue in value.items():
            yield json_path([name], root="queues"), name, queue
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, dict):
                item = dict(item)
                yield f"queues[{index}]", item.pop("name", None), item
            else:
                yield f"queues[{index}]", item, None
    else:
        raise ValueError(f"must be an object of work queues by name, not {type_word(value)}")


def _sentence(fault: ErrorDetails) -> str:
    """Put a fault that pydantic found into words that begin with its place."""
    root, *path = fault["loc"]
    place = json_path(path, root=str(root))
    if fault["type"] == "extra_forbidden":
        known = (QueueDefinition if path else PoolDefinition).model_fields
        key = str(fault["loc"][-1])
        return f"{place} is unknown{did_you_mean(key, known)}; known keys are: {listing(known)}"
    return f"{place} {fault['ctx']['error']}"


def _remove(raw: dict[str, Any], place: tuple[str | int, ...]) -> None:
    *parents, key = place
    for parent in parents:
        raw = raw[str(parent)]
    del raw[str(key)]
