# SPDX-License-Identifier: Apache-2.0
"""What Airflow is told about this provider.

Every ``import airflow`` calls :func:`get_provider_info`, so this module imports next to nothing.
"""

from __future__ import annotations

from typing import Any

from airflow_workpools import __version__

POOL_TYPES = ("process", "docker", "kubernetes")
"""Types offered in the connection form. Types of other packages can be typed into the form's "Extra"."""

_OBJECT = {"type": ["object", "null"]}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider as Airflow's ``provider_info.schema.json`` wants it."""
    return {
        "package-name": "airflow-provider-workpools",
        "name": "Work pools",
        "description": "Work pools, work queues and workers for Apache Airflow",
        "versions": [__version__],
        "executors": ["airflow_workpools.WorkPoolExecutor"],
        "connection-types": [_connection_type()],
        "db-managers": ["airflow_workpools.store.db_manager.WorkpoolsDBManager"],
        "task-decorators": [
            {"name": "workpool", "class-name": "airflow_workpools.dags.decorator.workpool_task"}
        ],
        "plugins": [{"name": "workpools", "plugin-class": "airflow_workpools.plugin.WorkpoolsPlugin"}],
        "cli": ["airflow_workpools.cli.definition.get_workpools_cli_commands"],
        "config": {"workpools": _config_section()},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "workpool",
        "hook-class-name": "airflow_workpools.hooks.WorkPoolHook",
        "hook-name": "Work pool",
        "ui-field-behaviour": {
            "hidden-fields": ["host", "schema", "login", "password", "port"],
            "relabeling": {"description": "What this work pool is for"},
            "placeholders": {},
        },
        "conn-fields": {
            "type": _field(
                "Type",
                "What runs the jobs.",
                {"type": "string", "enum": list(POOL_TYPES), "default": POOL_TYPES[0]},
            ),
            "concurrency_limit": _field(
                "Concurrency limit",
                "Most slots that jobs of this pool hold at once. Empty: no limit; 0: nothing starts.",
                {"type": ["integer", "null"], "minimum": 0},
            ),
            "queues": _field(
                "Work queues",
                'JSON object, for example {"critical": {"priority": 1, "concurrency_limit": 1}}. '
                "Priority 1 goes first. The queue 'default' is always there.",
                _OBJECT,
            ),
            "job_variables": _field(
                "Job variables",
                "JSON object: this pool's values for the variables of its base job template.",
                _OBJECT,
            ),
            "delivery": _field(
                "Delivery",
                "push: the scheduler's own worker starts the jobs; pull: separate workers ask for them.",
                {"type": ["string", "null"], "enum": ["push", "pull"], "default": "push"},
            ),
            "start_timeout": _field(
                "Start timeout",
                "Seconds that a job may take from its claim until its task runs. "
                "Empty: [workpools] start_timeout.",
                {"type": ["number", "null"], "minimum": 0},
            ),
            "start_attempts": _field(
                "Start attempts",
                "How often a job whose start fails is launched before its try fails. Empty: 2.",
                {"type": ["integer", "null"], "minimum": 1},
            ),
            "infrastructure_conn_id": _field(
                "Infrastructure connection",
                "Id of the Airflow connection that says where the infrastructure is and how to log in.",
                {"type": ["string", "null"]},
            ),
            "base_job_template": _field(
                "Base job template",
                "JSON object with 'variables' and 'job_configuration'. Empty: the template of the type.",
                _OBJECT,
            ),
        },
    }


def _field(label: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": schema}


def _config_section() -> dict[str, Any]:
    return {
        "description": "Work pools, work queues and workers.",
        "options": {
            "default_work_queue": _option(
                "string",
                "default",
                'Where tasks go that name no work queue: "pool" or "pool/queue".',
            ),
            "pools": _option(
                "string",
                "",
                "Work pools kept in secrets backends, comma-separated. Pools in the metadata database "
                "and in environment variables are found without being named here.",
                example="etl,ml-gpu",
            ),
            "home": _option(
                "string",
                "{AIRFLOW_HOME}/workpools",
                "Folder for the files of workers and process jobs on this host.",
            ),
            "start_timeout": _option(
                "float",
                "600",
                "Seconds that a job may take from its claim until its task runs, in work pools that do not "
                "set their own. Waiting for a slot is no part of it.",
            ),
            "pool_refresh_interval": _option(
                "float", "5", "Seconds after which the definitions of work pools are read again."
            ),
            "reconcile_interval": _option(
                "float", "5", "Seconds between two comparisons of jobs with Airflow's task instances."
            ),
            "keep_finished_jobs_days": _option(
                "integer",
                "30",
                "Days after which the scheduler deletes rows of jobs that have ended, and of workers that are "
                "gone. 0 or none keeps them; `airflow workpools db purge` deletes them by hand.",
            ),
            "lost_worker_grace": _option(
                "float",
                "300",
                "Seconds that a separate worker may be gone before its jobs fail that only a worker of its host "
                "can look after. Those on infrastructure that others can see are taken over by them at once.",
            ),
            "reserve_after": _option(
                "float",
                "60",
                "Seconds that a task which needs more slots than are free waits until slots are kept for it. "
                "Until then smaller tasks of its work queue may pass it. 0: at once.",
            ),
            "max_log_mb": _option(
                "integer",
                "16",
                "Megabytes that are kept in the metadata database of what one job writes, in work pools whose jobs "
                "don't write into Airflow's log folder themselves. Airflow's remote logging keeps logs of any length.",
            ),
            "claim_interval": _option(
                "float",
                "1",
                "Longest time in seconds between two looks for claimable jobs when nothing wakes the worker.",
            ),
            "worker_heartbeat_interval": _option(
                "float",
                "10",
                "Seconds between two heartbeats of a worker. It counts as offline after three missed ones.",
            ),
            "worker_restart_max_delay": _option(
                "float",
                "60",
                "Longest pause in seconds before an embedded worker that died is started again.",
            ),
            "api_url": _option(
                "string",
                "",
                "Where standalone workers reach Airflow's API server. Empty: [api] base_url.",
                example="https://airflow.example.com",
            ),
            "drain_timeout": _option(
                "float",
                "30",
                "Longest time in seconds that a worker which was asked to stop takes to finish what it has "
                "begun. Running jobs are not stopped; the next worker takes them over.",
            ),
        },
    }


def _option(type_: str, default: str, description: str, *, example: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": type_,
        "example": example,
        "default": default,
    }
