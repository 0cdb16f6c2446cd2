# SPDX-License-Identifier: Apache-2.0
"""Waiting that ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InfrastructureUnavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, so long at most."""
    await at_most(seconds, event.wait())


async def at_most(seconds: float, *waiting: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these is done, so long at most.

    Not by ``asyncio.wait_for``: before Python 3.12 it may swallow a cancellation that comes in the very moment in
    which what it waits for is done, and the worker would never end.
    """
    tasks = [asyncio.ensure_future(one) for one in waiting]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


async def within(doing: Coroutine[Any, Any, object], seconds: float, late: str) -> None:
    """Do something that must not take longer.

    :raises InfrastructureUnavailable: with ``late``, if it does.
    """
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if not task.done():
        raise InfrastructureUnavailable(late)
    task.result()
