# SPDX-License-Identifier: Apache-2.0
"""``airflow workpools worker start``: the one command that has no database."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_workpools.cli.output import fail
from airflow_workpools.core.names import WorkQueueRef
from airflow_workpools.errors import InvalidInput, WorkpoolsError
from airflow_workpools.settings import Settings
from airflow_workpools.worker.credential import WHERE_FROM, check_token, read_token
from airflow_workpools.worker.standalone import WorkerOptions, run_standalone_worker

if TYPE_CHECKING:
    from argparse import Namespace

TOKEN = "AIRFLOW_WORKPOOLS_TOKEN"
"""Environment variable with the worker's token."""


def start(args: Namespace) -> None:
    """Run a worker until it is told to stop."""
    status = 1
    try:
        run_standalone_worker(options(args, Settings.from_airflow()))
        status = 0
    except WorkpoolsError as error:
        fail(str(error))
    except KeyboardInterrupt:  # before it was online
        status = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    # Not by returning: threads may wait for an answer of the API server for a while.
    os._exit(status)


def options(args: Namespace, settings: Settings) -> WorkerOptions:
    """Return what the command line, the environment and Airflow's configuration say.

    :raises InvalidInput: if something is missing, or makes no sense.
    """
    pools = tuple(dict.fromkeys(args.pool))
    url = args.url or settings.api_url
    if not url:
        raise InvalidInput(
            "it is not known where Airflow's API server is: give --url, or set [workpools] api_url or [api] base_url"
        )
    drain = args.drain_timeout
    return WorkerOptions(
        url=url,
        token=_token(args.token_file),
        token_file=None if args.token_file is None else Path(args.token_file).absolute(),
        pools=pools,
        queues=_queues(args.work_queue, pools),
        name=args.name or f"{socket.gethostname()}-{'-'.join(pools)}"[:128],
        limit=args.limit,
        type=args.type,
        run_once=args.run_once,
        healthcheck=args.healthcheck_address if args.with_healthcheck else None,
        drain_timeout_seconds=settings.worker.drain_timeout_seconds if drain is None else drain.seconds,
        create_pool=args.create_pool_if_not_found,
        home=settings.home,
        heartbeat_seconds=settings.worker.heartbeat_seconds,
        certificates=settings.api_certificates,
    )


def _token(path: str | None) -> str:
    if path:
        return read_token(Path(path))
    # Not passed on: what the worker starts must not have it.
    token = os.environ.pop(TOKEN, "").strip()
    if not token:
        raise InvalidInput(f"there is no token in environment variable {TOKEN}. {WHERE_FROM}")
    return check_token(token)


def _queues(names: list[str] | None, pools: tuple[str, ...]) -> tuple[WorkQueueRef, ...] | None:
    """Read work queues: ``pool/queue``, or the name of a queue of any of the pools."""
    if not names:
        return None
    refs: dict[WorkQueueRef, None] = {}
    for name in names:
        for text in (name,) if "/" in name else (f"{pool}/{name}" for pool in pools):
            ref = WorkQueueRef.parse(text)
            if ref.pool not in pools:
                raise InvalidInput(
                    f"work queue '{ref}' is of no pool that this worker serves; add --pool {ref.pool}"
                )
            refs[ref] = None
    return tuple(refs)
