# SPDX-License-Identifier: Apache-2.0
"""The job variables of the docker kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Size = (
    Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?[bkmgtBKMGT]?[bB]?$")]
    | Annotated[int, Field(gt=0)]
)
"""An amount of memory: bytes, or a number with a unit, like ``512m`` or ``2g``."""


class DockerVariables(BaseModel):
    """How a job runs as a container."""

    model_config = ConfigDict(extra="forbid")

    image: str = Field(
        min_length=1,
        title="Image",
        description="The image of the container. It must have Airflow and the DAG files, as the images that "
        "`airflow workpools image build` makes.",
    )
    command: str | list[str] | None = Field(
        default=None,
        title="Command",
        description="What runs in the container; text is split as a shell would. Left empty: what runs an Airflow "
        "task. Another command must run the workload that it finds in /airflow-workpools/workload.json.",
    )
    env: dict[str, str | None] = Field(
        default_factory=dict,
        title="Environment variables",
        description="Added to the image's; null takes away one that this provider would set.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        title="Labels",
        description="Labels of the container, beside those that identify the job.",
    )
    networks: list[str] = Field(
        default_factory=list,
        title="Networks",
        description="Names of the networks that the container joins.",
    )
    network_mode: str | None = Field(
        default=None,
        title="Network mode",
        description="bridge, host, none, or container:<name>. Can't be used together with networks.",
    )
    volumes: list[Annotated[str, StringConstraints(pattern=r"^[^:]+:/[^:]*(:[a-zA-Z,]+)?$")]] = Field(
        default_factory=list,
        title="Volumes",
        description="What is mounted, as <path on the engine's host or volume>:<path in the container>[:ro].",
    )
    image_pull_policy: Literal["always", "if-not-present", "never"] = Field(
        default="if-not-present",
        title="Image pull policy",
        description="Whether the image is pulled before the container is made.",
    )
    registry_conn_id: str | None = Field(
        default=None,
        title="Registry connection",
        description="An Airflow connection of type docker with address and login of the image's registry.",
    )
    mem_limit: Size | None = Field(
        default=None,
        title="Memory limit",
        description="The most memory that the container may use, like 512m or 2g. What uses more is killed.",
    )
    memswap_limit: Size | Literal[-1] | None = Field(
        default=None,
        title="Memory and swap limit",
        description="The most memory and swap together; -1 is no limit. Needs a memory limit.",
    )
    cpus: float | None = Field(
        default=None,
        gt=0,
        title="CPUs",
        description="The most processors that the container may use, like 1.5.",
    )
    privileged: bool = Field(
        default=False,
        title="Privileged",
        description="Gives the container all rights on the engine's host. Leave it out of templates for others.",
    )
    user: str | None = Field(
        default=None,
        title="User",
        description="The user in the container, a name or a number. Left empty: the image's.",
    )
    working_dir: str | None = Field(
        default=None,
        title="Working directory",
        description="The directory in which the command runs. Left empty: the image's.",
    )
    init: bool = Field(
        default=True,
        title="Init process",
        description="Runs the engine's small init as first process, so that a container can be stopped at once also "
        "before its task handles signals, and ended children are reaped.",
    )
    auto_remove: bool = Field(
        default=True,
        title="Remove the container",
        description="Whether the container is removed when its log and its end are stored. If not, somebody else "
        "has to remove it.",
    )
    stop_grace_seconds: float = Field(
        default=30,
        ge=0,
        title="Grace for stopping (seconds)",
        description="A job that is to stop is asked to end (SIGTERM, which calls the operator's on_kill); a container "
        "that is left after this time is killed.",
    )
    container_create_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        title="Other arguments",
        description="Arguments of the Docker SDK's containers.create() for everything else, such as shm_size, "
        "cap_drop, read_only, device_requests or extra_hosts.",
    )
