# SPDX-License-Identifier: Apache-2.0
"""Pages of lists: a cursor says after what the next one begins, whatever was added or removed meanwhile. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import UUID

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_workpools.store.records import JobRecord

T = TypeVar("T")


class Page(NamedTuple):
    """Some of a list."""

    items: list[Any]
    total: int
    next_cursor: str | None


def page_of(items: Iterable[T], key: Callable[[T], list[Any]], cursor: str | None, limit: int) -> Page:
    """Return a page of things that are all at hand.

    :param key: their order, as JSON values; of each thing another.
    :raises InvalidInput: if the cursor is none.
    """
    ordered = sorted(items, key=key)
    total = len(ordered)
    if cursor is not None:
        after = _read(cursor)
        try:
            ordered = [item for item in ordered if key(item) > after]
        except TypeError as error:
            raise _no_cursor() from error
    more = len(ordered) > limit
    shown = ordered[:limit]
    return Page(shown, total, _written(key(shown[-1])) if more else None)


def job_cursor(job: JobRecord) -> str:
    """Return the cursor of the page after a job."""
    return _written([job.handed_over_at.isoformat(), job.id.hex])


def read_job_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Return hand-over and id of the last job of the page before.

    :raises InvalidInput: if the cursor is none.
    """
    if cursor is None:
        return None
    try:
        at, id_ = _read(cursor)
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None:
            raise _no_cursor()
        return moment, UUID(id_)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _no_cursor() from error


def _written(key: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _read(cursor: str) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise _no_cursor() from error
    if not isinstance(key, list):
        raise _no_cursor()
    return key


def _no_cursor() -> InvalidInput:
    return InvalidInput("the cursor is not one of this list's; begin with the first page, without a cursor")
