# SPDX-License-Identifier: Apache-2.0
"""The commands ``airflow workpools …``: their names, arguments and help.

Every ``airflow`` command loads this module, so what a command does is imported when it runs.
"""

from __future__ import annotations

from airflow.cli.cli_config import ARG_OUTPUT, Arg, CLICommand, GroupCommand

from airflow_workpools.cli.arguments import days, life
from airflow_workpools.cli.command import command as _command
from airflow_workpools.cli.image_arguments import BUILD_ARGS
from airflow_workpools.cli.shared_arguments import (
    ARG_DATA_OUTPUT,
    ARG_DESCRIPTION,
    ARG_JOB,
    ARG_JOBS,
    ARG_LIMIT,
    ARG_NUMBER,
    ARG_OVERWRITE,
    ARG_PAUSED,
    ARG_POOL,
    ARG_PRIORITY,
    ARG_QUEUE,
    ARG_QUEUES,
    ARG_SET,
    ARG_SLOTS,
    ARG_STATE,
    ARG_TARGET,
    ARG_TYPE,
    ARG_UNSET,
    ARG_WORKER,
    POOL_KEYS,
)
from airflow_workpools.cli.start_arguments import START_ARGS

POOL_COMMANDS = (
    _command(
        "create",
        "pools",
        "Create a work pool",
        ARG_POOL,
        ARG_TYPE,
        *POOL_KEYS,
        ARG_QUEUES,
        ARG_SET,
        ARG_PAUSED,
        ARG_OVERWRITE,
    ),
    _command("list", "pools", "List work pools", ARG_OUTPUT, function="list_pools"),
    _command("ls", "pools", "List work pools", ARG_OUTPUT, function="list_pools"),
    _command("inspect", "pools", "Show all about a work pool", ARG_POOL, ARG_DATA_OUTPUT),
    _command("update", "pools", "Change a work pool", ARG_POOL, *POOL_KEYS, ARG_SET, ARG_UNSET),
    _command("delete", "pools", "Delete a work pool that has no active jobs", ARG_POOL),
    _command("pause", "pools", "Let no more jobs of a work pool start; what runs goes on", ARG_POOL),
    _command("resume", "pools", "Let jobs of a paused work pool start again", ARG_POOL),
    _command("set-concurrency-limit", "pools", "Set a work pool's concurrency limit", ARG_POOL, ARG_SLOTS),
    _command("clear-concurrency-limit", "pools", "Remove a work pool's concurrency limit", ARG_POOL),
    _command(
        "preview",
        "pools",
        "Show what would start next in a work pool, in order, and what keeps the rest waiting",
        ARG_POOL,
        ARG_NUMBER,
        ARG_OUTPUT,
    ),
    _command("slots", "pools", "Show who holds slots, and who waits for them", ARG_OUTPUT),
)

QUEUE_COMMANDS = (
    _command(
        "create",
        "queues",
        "Add a work queue to a pool",
        ARG_QUEUE,
        ARG_PRIORITY,
        ARG_LIMIT,
        ARG_DESCRIPTION,
        ARG_SET,
        ARG_PAUSED,
    ),
    _command(
        "list", "queues", "List the work queues of a pool", ARG_POOL, ARG_OUTPUT, function="list_queues"
    ),
    _command("ls", "queues", "List the work queues of a pool", ARG_POOL, ARG_OUTPUT, function="list_queues"),
    _command(
        "update",
        "queues",
        "Change a work queue",
        ARG_QUEUE,
        ARG_PRIORITY,
        ARG_LIMIT,
        ARG_DESCRIPTION,
        ARG_SET,
        ARG_UNSET,
    ),
    _command(
        "jobs",
        "jobs",
        "List the jobs of a work queue, the newest first",
        ARG_QUEUE,
        ARG_STATE,
        ARG_NUMBER,
        ARG_OUTPUT,
        function="list_of_queue",
    ),
    _command("delete", "queues", "Delete a work queue that has no active jobs", ARG_QUEUE),
    _command("pause", "queues", "Let no more jobs of a work queue start; what runs goes on", ARG_QUEUE),
    _command("resume", "queues", "Let jobs of a paused work queue start again", ARG_QUEUE),
    _command("set-concurrency-limit", "queues", "Set a work queue's concurrency limit", ARG_QUEUE, ARG_SLOTS),
    _command("clear-concurrency-limit", "queues", "Remove a work queue's concurrency limit", ARG_QUEUE),
)

JOB_COMMANDS = (
    _command(
        "list",
        "jobs",
        "List jobs, the newest first",
        Arg(("--pool",), help="Only jobs of this work pool"),
        Arg(("--queue",), metavar="POOL/QUEUE", help="Only jobs of this work queue"),
        ARG_STATE,
        Arg(("--dag",), dest="dag_id", metavar="DAG_ID", help="Only jobs of this DAG"),
        Arg(("--task",), dest="task_id", metavar="TASK_ID", help="Only jobs of this task"),
        Arg(("--run",), dest="run_id", metavar="RUN_ID", help="Only jobs of this DAG run"),
        Arg(("--worker",), metavar="WORKER", help="Only jobs of this worker, given by its name or id"),
        ARG_NUMBER,
        ARG_OUTPUT,
        function="list_jobs",
    ),
    _command("inspect", "jobs", "Show all about a job", ARG_JOB, ARG_DATA_OUTPUT),
    _command(
        "logs",
        "job_logs",
        "Print what a job wrote, where that is kept in the metadata database",
        ARG_JOB,
        Arg(("-f", "--follow"), action="store_true", help="Go on until the job has ended"),
        Arg(
            ("-o", "--output"),
            choices=("text", "json"),
            default="text",
            help="text: for people (default); json: one JSON object a line, as Airflow's API gives it",
        ),
    ),
    _command(
        "cancel",
        "jobs",
        "Cancel jobs: their tries fail, and are tried again where the task has retries",
        ARG_JOBS,
        Arg(("--reason",), metavar="TEXT", help="Why; it is written to the log of the task"),
    ),
)

WORKER_COMMANDS = (
    _command(
        "start",
        "worker_start",
        "Run a worker of pull pools here; it needs nothing of Airflow but its API server",
        *START_ARGS,
    ),
    _command(
        "list",
        "workers",
        "List workers",
        Arg(("--pool",), help="Only workers that serve this work pool"),
        Arg(("--all",), action="store_true", help="Also those that have ended and have no job left"),
        ARG_OUTPUT,
        function="list_workers",
    ),
    _command(
        "inspect", "workers", "Show all about a worker", ARG_WORKER, ARG_DATA_OUTPUT, function="inspect"
    ),
    _command("drain", "workers", "Let a worker take no more jobs; what it has goes on", ARG_WORKER),
    _command("resume", "workers", "Let a worker that was drained take jobs again", ARG_WORKER),
)

TOKEN_COMMANDS = (
    _command(
        "create",
        "tokens",
        "Make a token with which workers elsewhere may have the jobs of work pools; it is shown once",
        Arg(
            ("--pool",),
            dest="pools",
            metavar="POOL",
            action="append",
            required=True,
            help="A work pool whose jobs it opens; may be repeated",
        ),
        Arg(
            ("--expires-in",),
            metavar="TIME",
            type=life,
            default="365d",
            help='How long it is good: 12h, 90d, 4w, or "never" (default: 365d)',
        ),
        Arg(("-d", "--description"), help="What it is for"),
        Arg(
            ("-o", "--output"),
            choices=("text", "json"),
            default="text",
            help="text: the token alone (default); json: with what is known of it",
        ),
    ),
    _command("list", "tokens", "List tokens, without their secrets", ARG_OUTPUT, function="list_tokens"),
    _command(
        "revoke",
        "tokens",
        "Let a token open nothing more, at once",
        Arg(("token",), metavar="id", help="The id of the token"),
    ),
)

DB_COMMANDS = (
    _command(
        "purge",
        "housekeeping",
        "Delete rows of jobs that ended long ago, and of workers that are gone",
        Arg(
            ("--older-than",),
            metavar="DAYS",
            type=days,
            required=True,
            help="Days since a job ended, or since a worker was heard of",
        ),
        Arg(("--dry-run",), action="store_true", help="Only say how many there are"),
    ),
)

TEMPLATE_COMMANDS = (
    _command(
        "get-default-base-job-template",
        "templates",
        "Print the base job template that pools of a type have by default",
        ARG_TYPE,
        Arg(("-f", "--file"), metavar="FILE", help="Write it to this file instead"),
    ),
    _command(
        "render-job",
        "templates",
        "Print the job that given variables would make",
        ARG_TARGET,
        ARG_SET,
        ARG_DATA_OUTPUT,
    ),
)

IMAGE_COMMANDS = (
    _command(
        "build",
        "images",
        "Build an image that tasks can run in: DAG files, requirements and this provider on a base image",
        *BUILD_ARGS,
        function="build_image",
    ),
)

EXPLAIN_COMMAND = _command(
    "explain",
    "explain",
    "Say which gate holds a task, and what would free it",
    Arg(("dag_id",), help="The id of the DAG"),
    Arg(("run_id",), help="The id of the run"),
    Arg(("task_id",), help="The id of the task"),
    Arg(("--map-index",), type=int, default=-1, help="Which instance of a mapped task"),
    ARG_OUTPUT,
)

DEMO_COMMAND = _command(
    "demo",
    "demo",
    "Start an Airflow of its own that runs example DAGs through a work pool",
    Arg(("--home",), metavar="DIR", default=".demo", help="Folder for everything it makes (default: .demo)"),
    Arg(("--serve",), action="store_true", help="Keep Airflow up afterwards until Ctrl-C"),
)


def get_workpools_cli_commands() -> list[CLICommand]:
    """Return what this provider adds to the ``airflow`` command."""
    return [
        GroupCommand(
            name="workpools",
            help="Manage work pools, work queues and workers",
            subcommands=(
                *POOL_COMMANDS,
                GroupCommand(
                    name="queue", help="Manage the work queues of a pool", subcommands=QUEUE_COMMANDS
                ),
                GroupCommand(name="jobs", help="Look at jobs, and cancel them", subcommands=JOB_COMMANDS),
                GroupCommand(
                    name="worker", help="Run workers, look at them, drain them", subcommands=WORKER_COMMANDS
                ),
                GroupCommand(
                    name="token", help="Manage the tokens of workers elsewhere", subcommands=TOKEN_COMMANDS
                ),
                GroupCommand(name="image", help="Build images that tasks run in", subcommands=IMAGE_COMMANDS),
                GroupCommand(name="db", help="Look after the tables", subcommands=DB_COMMANDS),
                *TEMPLATE_COMMANDS,
                EXPLAIN_COMMAND,
                DEMO_COMMAND,
            ),
        )
    ]
