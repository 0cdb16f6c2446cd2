# SPDX-License-Identifier: Apache-2.0
"""What every kind that runs jobs in containers needs: the command, the environment, names and labels.

The image brings Airflow and the DAG files. What only the worker knows goes into the environment: where the
Execution API is. The workload, which carries the job's token, goes into a file.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from airflow_workpools.errors import LaunchRejected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TypeVar

    Model = TypeVar("Model", bound=BaseModel)

WORKLOAD_DIRECTORY = "/airflow-workpools"
"""Where a container finds its workload. No image brings this directory."""
WORKLOAD_NAME = "workload.json"
WORKLOAD_PATH = f"{WORKLOAD_DIRECTORY}/{WORKLOAD_NAME}"

DEFAULT_COMMAND = (
    "python",
    "-m",
    "airflow.sdk.execution_time.execute_workload",
    "--json-path",
    WORKLOAD_PATH,
)
"""Runs the workload; what it writes to standard output is the task's log as JSON lines."""

LEAN_COMMAND = ("python", "-m", "airflow_workpools.execute_workload", "--json-path", WORKLOAD_PATH)
"""Does the same with less of Airflow, in images that have this provider."""

LABEL_PREFIX = "airflow.workpools/"
JOB_ID_LABEL = f"{LABEL_PREFIX}job_id"
"""By which a job is found again, whoever launched it."""

INSTALLATION_LABEL = f"{LABEL_PREFIX}installation"
"""Whose job it is, where several Airflows share an infrastructure."""

MAX_LABEL_VALUE = 63
"""Longest value of a label on Kubernetes; elsewhere the same is used, so that labels look alike."""
_PATIENCE = tuple(
    f"AIRFLOW__WORKERS__{option}"
    for option in ("EXECUTION_API_RETRIES", "EXECUTION_API_RETRY_WAIT_MAX", "MAX_FAILED_HEARTBEATS")
)
_HASH_LENGTH = 8
_NOT_IN_LABEL = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_IN_NAME = re.compile(r"[^a-z0-9-]+")
_ENDS = "-_."


def label_value(text: str, *, max_length: int = MAX_LABEL_VALUE) -> str:
    """Return a text as the value of a label: unchanged where it may be one, else cleaned and told apart by a hash."""
    return _fitting(text, _NOT_IN_LABEL.sub("_", text).strip(_ENDS), max_length)


def object_name(text: str, *, max_length: int = MAX_LABEL_VALUE) -> str:
    """Return a text as the name of something: lower-case letters, digits and "-", told apart by a hash if changed."""
    return _fitting(text, _NOT_IN_NAME.sub("-", text.lower()).strip(_ENDS), max_length) or _digest("")


def _fitting(text: str, cleaned: str, max_length: int) -> str:
    if cleaned == text and len(text) <= max_length:
        return text
    digest = _digest(text)
    kept = cleaned[: max_length - _HASH_LENGTH - 1].rstrip(_ENDS)
    return f"{kept}-{digest}" if kept else digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_LENGTH]


def job_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return what identifies a job as labels of its container: one namespace, values that every platform takes."""
    return {f"{LABEL_PREFIX}{name}": label_value(value) for name, value in labels.items()}


def runtime_environment() -> dict[str, str]:
    """Return what a runtime must know of this Airflow, from the configuration of the worker.

    No database and no secret: a runtime asks the Execution API. Where its DAG files are, is the image's matter.
    The executors are named because DAG files may name them; those of teams are left out, since a runtime
    could look for the teams only in a database.
    """
    from airflow.configuration import conf
    from airflow.executors.base_executor import get_execution_api_server_url

    everyone, *_ = conf.get("core", "executor", fallback="").split(";")
    environment = {
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": get_execution_api_server_url(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    if everyone and "=" not in everyone:
        environment["AIRFLOW__CORE__EXECUTOR"] = everyone
    # How long tasks wait for an API server that is away, where that was set for this worker.
    return environment | {name: os.environ[name] for name in _PATIENCE if name in os.environ}


def merged_environment(defaults: Mapping[str, str], variables: Mapping[str, str | None]) -> dict[str, str]:
    """Return the environment of a container: a job's variables over the defaults; None takes a default away."""
    return {name: value for name, value in {**defaults, **variables}.items() if value is not None}


def read_configuration(variables: type[Model], configuration: Mapping[str, Any]) -> Model:
    """Read the rendered configuration of a job; an explicit null is the same as nothing.

    :raises LaunchRejected: with everything that is wrong.
    """
    try:
        return variables.model_validate(
            {name: value for name, value in configuration.items() if value is not None}
        )
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in problem['loc']) or 'configuration'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        )
        raise LaunchRejected(f"the job's configuration does not fit: {'; '.join(problems)}") from None
