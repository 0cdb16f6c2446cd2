# SPDX-License-Identifier: Apache-2.0
"""What is done to a base image, as the text of a Dockerfile.

Packages are installed in a stage of their own, and only the files that this added or changed are copied into the
image. So nothing that the build needed stays there: not pip's settings (an index may have a password in its address),
not its cache, not the wheel. The files of DAGs come last: where only they changed, only the last layer is new.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

OFFICIAL_IMAGE = "apache/airflow"
DEFAULT_HOME = "/opt/airflow"
BUNDLE = "dags-folder"
"""The name that Airflow gives the bundle of ``[core] dags_folder`` unless it is told another."""

LABEL_PREFIX = "org.apache.airflow.workpools"

_BUNDLES = [
    {"name": BUNDLE, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}}
]

# As the engine reads it: registry, path of lower-case names, tag. A digest can't be given to what is yet to be built.
_DOMAIN = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9.-]*[a-zA-Z0-9]|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_REFERENCE = re.compile(rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_NAME}(?:/{_NAME})*)(?::(?P<tag>{_TAG}))?")
_MAX_NAME_LENGTH = 255


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the image says of itself that is built upon."""

    name: str
    user: str = ""
    """Who runs in it; empty is root."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def airflow_home(self) -> str:
        return self.environment.get("AIRFLOW_HOME") or DEFAULT_HOME


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides what the image is, but for the files in it."""

    base: Base
    airflow_version: str
    provider_version: str
    executor: str
    """``[core] executor``: DAG files may name the executors that are configured, and no other."""


def official_image(airflow_version: str, python_version: tuple[int, int]) -> str:
    """Return the official image with this Airflow and Python."""
    return f"{OFFICIAL_IMAGE}:{airflow_version}-python{python_version[0]}.{python_version[1]}"


def checked_tag(text: str) -> str:
    """Return an image's name with its tag, ``latest`` if none is given.

    :raises InvalidInput: if no image can have that name.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None or len(text.rpartition(":")[0] or text) > _MAX_NAME_LENGTH:
        raise InvalidInput(
            f"{text!r} is no name for an image; it must look like name:tag or registry.example.com/team/name:tag, "
            "the name in lower case"
        )
    return text if found["tag"] else f"{text}:latest"


def environment(recipe: Recipe) -> dict[str, str]:
    """Return the environment variables that tasks find in the image."""
    home = recipe.base.airflow_home
    return {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": recipe.executor,
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(_BUNDLES, separators=(",", ":")),
        # The official image's entry point checks the metadata database first: a task has none, and to import
        # Airflow for that takes as long as to start the task.
        "CONNECTION_CHECK_MAX_COUNT": "0",
    }


def labels(recipe: Recipe) -> dict[str, str]:
    """Return what the image says of its making."""
    return {
        f"{LABEL_PREFIX}.created-by": "airflow workpools image build",
        f"{LABEL_PREFIX}.version": recipe.provider_version,
        f"{LABEL_PREFIX}.airflow-version": recipe.airflow_version,
        "org.opencontainers.image.base.name": recipe.base.name,
    }


def dockerfile(recipe: Recipe) -> str:
    """Return the Dockerfile; its context is what :mod:`~airflow_workpools.images.context` gathers."""
    home = recipe.base.airflow_home
    user = recipe.base.user or "root"
    python = '"$(command -v python || command -v python3 || echo python)"'
    return f"""\
FROM {recipe.base.name} AS packages
USER root
COPY packages/ /workpools-build/
RUN {python} /workpools-build/in_image.py packages {_quoted(user)}

FROM {recipe.base.name} AS dags
USER root
COPY in_image.py /workpools-build/
COPY dags/ {home}/dags/
RUN {python} /workpools-build/in_image.py dags {home}/dags

FROM {recipe.base.name}
USER root
COPY --from=packages /workpools-overlay/ /
RUN xargs -0 rm -f -- /workpools-removed < /workpools-removed && mkdir -p {home}/logs && chmod g+rwX {home} {home}/logs\
{_owned_by(recipe.base, home)}
USER {user}
ENV {_pairs(environment(recipe))}
LABEL {_pairs(labels(recipe))}
COPY --from=dags {home}/dags/ {home}/dags/
"""


def _owned_by(base: Base, home: str) -> str:
    """Let the base's user write its logs, where ``AIRFLOW_HOME`` is first made here."""
    if base.user in ("", "root", "0") or "AIRFLOW_HOME" in base.environment:
        return ""
    return f" && chown {_quoted(base.user)} {home} {home}/logs"


def _pairs(values: Mapping[str, str]) -> str:
    return " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'
