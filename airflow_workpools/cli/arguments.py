# SPDX-License-Identifier: Apache-2.0
"""How arguments are read. What they mean, and whether it is allowed, is decided elsewhere."""

from __future__ import annotations

import json
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow_workpools.core.worker_tokens import read_life
from airflow_workpools.errors import InvalidInput
from airflow_workpools.settings import MAX_DAYS

if TYPE_CHECKING:
    from datetime import timedelta

NO_LIMIT = "none"
NEVER = "never"

QUEUE_SPEC_HELP = (
    'A work queue, for example "critical" or "critical:priority=1,limit=1"; may be repeated. '
    "Keys: priority, limit, description"
)


@dataclass(frozen=True)
class Assignment:
    """A job variable and the value it shall have."""

    name: str
    value: Any


def assignment(text: str) -> Assignment:
    """Read ``VAR=JSON``. What is not JSON is text: ``image=python:3.12`` needs no inner quotes."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ArgumentTypeError(f"{text!r} must look like VAR=JSON, for example image=python:3.12 or cpus=2")
    try:
        return Assignment(name.strip(), json.loads(value))
    except ValueError:
        return Assignment(name.strip(), value)


def limit(text: str) -> int | str:
    """Read a concurrency limit: a number of slots, or ``none``."""
    if text.strip().lower() == NO_LIMIT:
        return NO_LIMIT
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} must be a whole number of slots, or {NO_LIMIT!r}") from None


def number(text: str) -> int:
    """Read how many things to show."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def days(text: str) -> int:
    """Read an age in days. Not less than one: what has just happened is still of use to somebody."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_DAYS:
        raise ArgumentTypeError(f"{text!r} must be a whole number of days, from 1 to {MAX_DAYS}")
    return int(text)


def life(text: str) -> timedelta | None:
    """Read how long something shall be good; ``never`` is for ever."""
    if text.strip().lower() == NEVER:
        return None
    try:
        return read_life(text)
    except InvalidInput as error:
        raise ArgumentTypeError(f"{error}, or {NEVER!r}") from None


def job_id(text: str) -> UUID:
    """Read the id of a job."""
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is no id of a job; `airflow workpools jobs list` shows them"
        ) from None


def seconds(text: str) -> float:
    """Read a duration."""
    try:
        return float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} must be a number of seconds") from None


@dataclass(frozen=True)
class Patience:
    """How long something may take; None: as long as it does."""

    seconds: float | None


def patience(text: str) -> Patience:
    """Read a duration that may be without end."""
    if text.strip().lower() == NO_LIMIT:
        return Patience(None)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise ArgumentTypeError(f"{text!r} must be a number of seconds, 0 or more, or {NO_LIMIT!r}")
    return Patience(found)


def address(text: str) -> tuple[str, int]:
    """Read ``PORT`` or ``HOST:PORT``; a port alone is one of this machine only."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise ArgumentTypeError(f"{text!r} must be a port, or HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def queue_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME`` or ``NAME:key=value,…``; return the queue's name and its definition."""
    name, _, settings = text.partition(":")
    definition = {}
    for part in filter(None, settings.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ArgumentTypeError(f"{part!r} in {text!r} must look like key=value")
        definition.update(_queue_setting(key.strip(), value.strip(), text))
    return name.strip(), definition


def _queue_setting(key: str, value: str, text: str) -> dict[str, Any]:
    if key == "description":
        return {key: value}
    if key == "limit" and value == NO_LIMIT:
        return {"concurrency_limit": None}
    if key not in ("priority", "limit"):
        raise ArgumentTypeError(
            f"{key!r} in {text!r} is not a setting of a work queue: priority, limit, description"
        )
    try:
        return {"concurrency_limit" if key == "limit" else key: int(value)}
    except ValueError:
        raise ArgumentTypeError(f"{key} in {text!r} must be a whole number") from None
