# SPDX-License-Identifier: Apache-2.0
"""The tokens of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import or_, select, update

from airflow_workpools.core.worker_tokens import USE_WRITTEN_EVERY
from airflow_workpools.store.tables import tokens

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select, Update


def token(token_id: str) -> Select[Any]:
    """All about a token, by its key: asked with every call of a worker."""
    return select(tokens).where(tokens.c.id == token_id)


def all_tokens() -> Select[Any]:
    """All tokens, in the order in which they were made."""
    return select(tokens).order_by(tokens.c.created_at, tokens.c.id)


def revoke(token_id: str, now: datetime) -> Update:
    """Let a token open nothing more; one that is revoked keeps the time when that was done."""
    return update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)


def note_use(token_id: str, now: datetime) -> Update:
    """Write down that a token was used; of many who say so at once, one writes."""
    due = or_(tokens.c.last_used_at.is_(None), ~tokens.c.last_used_at.between(now - USE_WRITTEN_EVERY, now))
    return update(tokens).where(tokens.c.id == token_id, due).values(last_used_at=now)
