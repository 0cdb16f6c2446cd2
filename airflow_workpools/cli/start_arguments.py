# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``airflow workpools worker start``; the names are Prefect's."""

from __future__ import annotations

from airflow.cli.cli_config import Arg

from airflow_workpools.cli.arguments import address, number, patience

START_ARGS = (
    Arg(
        ("-p", "--pool"),
        action="append",
        required=True,
        help="Work pool that it serves; may be repeated",
    ),
    Arg(
        ("-q", "--work-queue"),
        metavar="[POOL/]QUEUE",
        action="append",
        help="Take jobs of this work queue only; may be repeated (default: of all queues of its pools)",
    ),
    Arg(
        ("-n", "--name"),
        help="Name of the worker; the next one of this name goes on with its jobs (default: host and pools)",
    ),
    Arg(("-l", "--limit"), type=number, metavar="NUMBER", help="Most jobs at a time (default: no limit)"),
    Arg(("-t", "--type"), help="Check that the work pools are of this type"),
    Arg(
        ("--url",),
        help="Address of Airflow's API server (default: [workpools] api_url, else [api] base_url)",
    ),
    Arg(
        ("--token-file",),
        metavar="FILE",
        help="File with the worker's token (default: environment variable AIRFLOW_WORKPOOLS_TOKEN)",
    ),
    Arg(("--run-once",), action="store_true", help="Take what there is now, wait for its end, and end"),
    Arg(
        ("--with-healthcheck",),
        action="store_true",
        help="Answer HTTP requests with 200 while heartbeats succeed, else with 503",
    ),
    Arg(
        ("--healthcheck-address",),
        metavar="[HOST:]PORT",
        type=address,
        default=("127.0.0.1", 8974),
        help="Where to answer them (default: 127.0.0.1:8974)",
    ),
    Arg(
        ("--drain-timeout",),
        metavar="SECONDS",
        type=patience,
        help='Longest wait for its jobs after the first SIGTERM, or "none" (default: [workpools] drain_timeout)',
    ),
    Arg(
        ("--create-pool-if-not-found",),
        action="store_true",
        help="If a work pool does not exist, say with which command it is created: a worker may not",
    ),
)
