# SPDX-License-Identifier: Apache-2.0
"""The arguments that several commands have, or that say what pools, queues and jobs are."""

from __future__ import annotations

from airflow.cli.cli_config import Arg

from airflow_workpools.cli.arguments import (
    QUEUE_SPEC_HELP,
    assignment,
    job_id,
    limit,
    number,
    queue_spec,
    seconds,
)
from airflow_workpools.core.jobs import JobState

ARG_POOL = Arg(("pool",), help="The name of the work pool")
ARG_QUEUE = Arg(("queue",), metavar="pool/queue", help="The work queue, with its pool")
ARG_WORKER = Arg(("worker",), help="The name or the id of the worker")
ARG_TARGET = Arg(
    ("target",),
    metavar="pool[/queue]",
    help="The work pool, or one of its queues; default: its default queue",
)

ARG_DATA_OUTPUT = Arg(
    ("-o", "--output"), choices=("json", "yaml"), default="json", help="Output format (default: json)"
)
ARG_TYPE = Arg(("-t", "--type"), help="What runs the jobs: process, … (default: process)", default="process")
ARG_TEMPLATE = Arg(
    ("-b", "--base-job-template"),
    metavar="FILE",
    help="File with the base job template as JSON; - reads it from standard input",
)
ARG_LIMIT = Arg(
    ("-l", "--concurrency-limit"),
    metavar="SLOTS",
    type=limit,
    help='Most pool slots that its jobs may hold at once: a number, or "none"; 0 lets nothing start',
)
ARG_SLOTS = Arg(
    ("limit",), metavar="slots", type=limit, help="Most pool slots that its jobs may hold at once"
)
ARG_DESCRIPTION = Arg(("-d", "--description"), help="What it is for")
ARG_TEAM_NAME = Arg(
    ("--team-name",),
    metavar="TEAM",
    help='Team that the work pool belongs to (requires multi_team mode); "" for none',
)
ARG_PAUSED = Arg(
    ("--paused",), action="store_true", help="Create it paused: nothing starts until it is resumed"
)
ARG_OVERWRITE = Arg(("--overwrite",), action="store_true", help="Replace the work pool if it exists")
ARG_QUEUES = Arg(
    ("-q", "--queue"),
    dest="queues",
    metavar="SPEC",
    type=queue_spec,
    action="append",
    help=QUEUE_SPEC_HELP,
)
ARG_DELIVERY = Arg(
    ("--delivery",),
    choices=("push", "pull"),
    help="push: the scheduler's own worker starts the jobs (default); pull: separate workers ask for them",
)
ARG_START_TIMEOUT = Arg(
    ("--start-timeout",),
    metavar="SECONDS",
    type=seconds,
    help="Longest time from a job's claim until its task runs",
)
ARG_START_ATTEMPTS = Arg(
    ("--start-attempts",),
    metavar="NUMBER",
    type=int,
    help="How often a job whose start fails is launched before its try fails (default: 2)",
)
ARG_INFRASTRUCTURE = Arg(
    ("--infrastructure-conn-id",),
    metavar="CONN_ID",
    help="Airflow connection that says where the infrastructure is and how to log in",
)
ARG_SET = Arg(
    ("-s", "--set"),
    dest="variables",
    metavar="VAR=JSON",
    type=assignment,
    action="append",
    help="A job variable and its value: JSON, or plain text; may be repeated",
)
ARG_UNSET = Arg(("--unset",), metavar="VAR", action="append", help="Remove a job variable; may be repeated")
ARG_PRIORITY = Arg(
    ("-p", "--priority"),
    metavar="NUMBER",
    type=int,
    help="1 goes first; queues in the way move. Default for a new queue: the lowest unused number",
)

ARG_JOB = Arg(("job",), metavar="id", type=job_id, help="The id of the job")
ARG_JOBS = Arg(("jobs",), metavar="id", type=job_id, nargs="+", help="The id of the job; may be repeated")
ARG_STATE = Arg(
    ("--state",),
    dest="states",
    choices=[state.value for state in JobState],
    action="append",
    help="Only jobs in this state; may be repeated",
)
ARG_NUMBER = Arg(
    ("--limit",), metavar="NUMBER", type=number, default=100, help="Most rows to show (default: 100)"
)

POOL_KEYS = (
    ARG_DESCRIPTION,
    ARG_LIMIT,
    ARG_TEMPLATE,
    ARG_DELIVERY,
    ARG_START_TIMEOUT,
    ARG_START_ATTEMPTS,
    ARG_INFRASTRUCTURE,
    ARG_TEAM_NAME,
)
