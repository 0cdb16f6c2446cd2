# SPDX-License-Identifier: Apache-2.0
"""Waiting that ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def wait_for(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, so long at most."""
    await at_most(event.wait(), seconds)


async def at_most(waiting: Coroutine[Any, Any, object], seconds: float) -> None:
    """Wait so long at most.

    Not by ``asyncio.wait_for``: before Python 3.12 it may swallow a cancellation that comes in the very moment in
    which what it waits for is done, and the worker would never end.
    """
    task = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
    if task.done() and not task.cancelled():
        task.result()
