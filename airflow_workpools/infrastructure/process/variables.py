# SPDX-License-Identifier: Apache-2.0
"""The job variables of the process kind."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ProcessVariables(BaseModel):
    """How a job runs as a process on the worker's machine."""

    model_config = ConfigDict(extra="forbid")

    working_dir: str | None = Field(
        default=None,
        title="Working directory",
        description="The directory in which the task runs. It must exist. Left empty: the worker's own.",
    )
    env: dict[str, str | None] = Field(
        default_factory=dict,
        title="Environment variables",
        description="Added to the worker's environment; null removes a variable. What Python reads while it "
        "starts (PYTHONPATH, LD_LIBRARY_PATH) takes effect in programs that the task starts, not in itself.",
    )
    labels: dict[str, str] = Field(
        default_factory=dict,
        title="Labels",
        description="Written into the job's directory, next to what identifies the job.",
    )
    user: str | None = Field(
        default=None,
        title="User",
        description="The user of the operating system as whom the job runs. The worker must run as root.",
    )
    nice: int | None = Field(
        default=None,
        ge=-20,
        le=19,
        title="Nice value",
        description="How much the job yields the CPU to others, at most 19. Below 0 needs root.",
    )
    memory_limit_mb: int | None = Field(
        default=None,
        gt=0,
        title="Memory limit (MB)",
        description="The most memory that each process of the job may allocate. A Python task that wants "
        "more gets a MemoryError; other programs have ways of their own.",
    )
    stop_grace_seconds: float = Field(
        default=30,
        ge=0,
        title="Grace for stopping (seconds)",
        description="A job that is to stop is asked to end (SIGTERM, which calls the operator's on_kill); "
        "what is left of it after this time is killed.",
    )
