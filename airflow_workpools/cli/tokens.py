# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools token …``: with what workers elsewhere show that they may have the jobs of some pools."""

from __future__ import annotations

import getpass
import secrets
import sys
from typing import TYPE_CHECKING, Any

from airflow_workpools.cli.context import opened
from airflow_workpools.cli.output import reads, show_data, show_rows, writes
from airflow_workpools.core.pools import Delivery, WorkPool
from airflow_workpools.core.worker_tokens import WorkerToken, new_token, read_token
from airflow_workpools.errors import Conflict
from airflow_workpools.store.tokens import TokenStore

if TYPE_CHECKING:
    from argparse import Namespace
    from datetime import datetime


@writes("workpools_token_create")
def create(args: Namespace) -> None:
    """Make a token and show it, this once."""
    parts = new_token(secrets.token_hex)
    with opened() as context:
        pools = [context.pool(name) for name in dict.fromkeys(args.pools)]
        token = WorkerToken(
            id=parts.id,
            hash=parts.hash,
            pools=tuple(pool.name for pool in pools),
            description=args.description or None,
            created_at=context.now,
            created_by=_user(),
            expires_at=None if args.expires_in is None else context.now + args.expires_in,
        )
        TokenStore().add(token)
    if args.output == "json":
        show_data({"token": parts.text, **_data(token, token.created_at)}, "json")
    else:
        print(parts.text)
    until = "for ever" if token.expires_at is None else f"until {token.expires_at:%Y-%m-%d %H:%M} UTC"
    _note(f"Token {token.id} opens {_named(token.pools)} {until}. It is not shown again.")
    for pool in pools:
        if isinstance(pool, WorkPool) and pool.delivery is not Delivery.PULL:
            _note(
                f"Jobs of work pool '{pool.name}' are started by the scheduler's own worker; to have them started by "
                f"others: `airflow workpools update {pool.name} --delivery pull`"
            )


@reads
def list_tokens(args: Namespace) -> None:
    """List tokens, the oldest first, without what would open anything."""
    with opened() as context:
        rows = [_data(token, context.now) for token in TokenStore().all()]
    show_rows(rows, args.output)


@writes("workpools_token_revoke")
def revoke(args: Namespace) -> None:
    """Let a token open nothing more, from now on."""
    whole = read_token(args.token)
    token_id = args.token if whole is None else whole.id
    with opened() as context:
        if not TokenStore().revoke(token_id, now=context.now):
            raise Conflict(f"token {token_id} was revoked before")
    print(f"Token {token_id} revoked; its workers can neither ask nor tell anything more")


def _data(token: WorkerToken, now: datetime) -> dict[str, Any]:
    return {
        "id": token.id,
        "pools": list(token.pools),
        "status": token.status(now),
        "expires_at": _time(token.expires_at),
        "revoked_at": _time(token.revoked_at),
        "last_used_at": _time(token.last_used_at),
        "created_at": _time(token.created_at),
        "created_by": token.created_by,
        "description": token.description,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _named(pools: tuple[str, ...]) -> str:
    return f"work pool{'s' * (len(pools) > 1)} {', '.join(map(repr, pools))}"


def _note(text: str) -> None:
    """Say something beside the output, which may go into a file."""
    print(text, file=sys.stderr)


def _user() -> str | None:
    try:
        return getpass.getuser()[:250]
    except (KeyError, OSError):  # a container's user without a name
        return None
