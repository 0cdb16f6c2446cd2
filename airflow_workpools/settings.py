# SPDX-License-Identifier: Apache-2.0
"""Section ``[workpools]`` of Airflow's configuration, read once and passed on as plain values.

Nothing else in this package asks Airflow for configuration. Every duration is in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from airflow_workpools.core.names import DEFAULT_POOL, WorkQueueRef
from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

SECTION = "workpools"

_DEFAULT_WORK_QUEUE = WorkQueueRef(DEFAULT_POOL)

MAX_DAYS = 36_500
"""Longest time in days that an option may ask for; more than any clock can subtract is a mistake."""
RESERVE_AFTER = timedelta(seconds=60)
"""How long a task that needs many slots waits until smaller ones may pass it no more."""
MAX_LOG_BYTES = 16 * 2**20
"""How much is kept of what one job writes."""
MAX_LOG_MB = 1024
"""Most that may be kept of it: a database is no place for more."""

T = TypeVar("T")


class ConfigSource(Protocol):
    """Where options are read: Airflow's ``conf``, or an executor's own view of it for its team."""

    def get(self, section: str, key: str, **kwargs: Any) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """Where work pools are defined, and what is true of those that do not say otherwise."""

    default_work_queue: WorkQueueRef = _DEFAULT_WORK_QUEUE
    """Where a task goes that names no work queue."""

    secrets_pools: tuple[str, ...] = ()
    """Work pools kept in secrets backends. Those cannot be enumerated, so they are named here (``pools``)."""

    refresh_seconds: float = 5.0
    """Age at which what is known of the work pools' definitions is read again (``pool_refresh_interval``)."""

    start_timeout_seconds: float = 600.0
    """Longest time from claim to the task running, where a pool sets no other (``start_timeout``)."""

    multi_team: bool = False
    """Whether pools and DAGs belong to teams: ``[core] multi_team``."""

    builtin_limit: int | None = 32
    """Concurrency limit of the built-in pool ``default``: ``[core] parallelism``; None is no limit."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How the embedded worker behaves."""

    claim_seconds: float = 1.0
    """Longest time between two looks for claimable jobs when nothing wakes the worker."""

    heartbeat_seconds: float = 10.0
    """Time between two heartbeats (``worker_heartbeat_interval``); after three missed ones it is offline."""

    restart_max_delay_seconds: float = 60.0
    """Longest pause before a worker that died is started again (``worker_restart_max_delay``)."""

    drain_timeout_seconds: float = 30.0
    """Longest time a worker that was asked to stop takes to finish what it has begun (``drain_timeout``).

    Running jobs are not stopped: they go on, and the next worker takes them over.
    """


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of section ``[workpools]``."""

    home: Path
    """Folder for the files of workers and process jobs on this host."""

    reconcile_seconds: float = 5.0
    """Time between two comparisons of jobs with Airflow's task instances (``reconcile_interval``)."""

    lost_worker_grace_seconds: float = 300.0
    """How long a standalone worker may be gone before what only its host has is given up (``lost_worker_grace``)."""

    keep_finished_jobs_days: int | None = 30
    """Age at which rows of jobs that have ended, and of workers that are gone, are deleted; None keeps them."""
    reserve_after: timedelta = RESERVE_AFTER
    """How long a task that needs more slots than are free waits until slots are kept for it."""
    scheduler_idle_seconds: float = 1.0
    """How long a scheduler sleeps that has found nothing to do: ``[scheduler] scheduler_idle_sleep_time``."""
    max_log_bytes: int = MAX_LOG_BYTES
    """How much is kept of what one job writes, where Airflow's log folder does not have it (``max_log_mb``)."""

    api_url: str | None = None
    """Where standalone workers reach Airflow's API server (``api_url``); else ``[api] base_url``, where that
    is an address."""
    api_certificates: str | None = None
    """File of the authorities that the API server's certificate may be from: ``[api] ssl_cert``."""

    pools: PoolSettings = field(default_factory=PoolSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)

    @classmethod
    def from_airflow(
        cls, config: ConfigSource | None = None, *, of_team: ConfigSource | None = None
    ) -> Settings:
        """Read Airflow's configuration.

        :param config: Airflow's own if not given.
        :param of_team: the ``conf`` of a team's executor. What it has goes first; what is true of work pools is
            true for every team, though, and is read from ``config`` alone.
        :raises InvalidInput: with every option that makes no sense.
        """
        config = config or _airflow_config()
        shared = _Reader(config)
        reader = _Reader(config, of_team)
        settings = cls(
            home=Path(reader.text("home", "") or _default_home()).expanduser(),
            reconcile_seconds=reader.seconds("reconcile_interval", cls.reconcile_seconds),
            lost_worker_grace_seconds=reader.seconds("lost_worker_grace", cls.lost_worker_grace_seconds),
            keep_finished_jobs_days=reader.days("keep_finished_jobs_days", cls.keep_finished_jobs_days),
            reserve_after=timedelta(
                seconds=reader.seconds("reserve_after", RESERVE_AFTER.total_seconds(), zero=True)
            ),
            scheduler_idle_seconds=shared.seconds(
                "scheduler_idle_sleep_time", cls.scheduler_idle_seconds, zero=True, section="scheduler"
            ),
            max_log_bytes=reader.megabytes("max_log_mb", cls.max_log_bytes),
            api_url=_api_url(reader),
            api_certificates=reader.text("ssl_cert", "", section="api") or None,
            pools=_read_pools(shared),
            worker=_read_worker(reader),
        )
        if problems := shared.problems + reader.problems:
            raise InvalidInput(problems)
        return settings


def _api_url(reader: _Reader) -> str | None:
    base_url = reader.text("base_url", "", section="api")
    return reader.text("api_url", "") or (base_url if base_url.startswith("http") else None)


def _read_pools(reader: _Reader) -> PoolSettings:
    defaults = PoolSettings
    names = (name.strip() for name in reader.text("pools", "").split(","))
    return defaults(
        default_work_queue=reader.parsed("default_work_queue", WorkQueueRef.parse, _DEFAULT_WORK_QUEUE),
        secrets_pools=tuple(dict.fromkeys(name for name in names if name)),
        refresh_seconds=reader.seconds("pool_refresh_interval", defaults.refresh_seconds),
        start_timeout_seconds=reader.seconds("start_timeout", defaults.start_timeout_seconds),
        multi_team=reader.text("multi_team", "False", section="core").lower() in ("true", "t", "1"),
        builtin_limit=reader.parallelism(),
    )


def _read_worker(reader: _Reader) -> WorkerSettings:
    defaults = WorkerSettings
    return defaults(
        claim_seconds=reader.seconds("claim_interval", defaults.claim_seconds),
        heartbeat_seconds=reader.seconds("worker_heartbeat_interval", defaults.heartbeat_seconds),
        restart_max_delay_seconds=reader.seconds(
            "worker_restart_max_delay", defaults.restart_max_delay_seconds
        ),
        drain_timeout_seconds=reader.seconds("drain_timeout", defaults.drain_timeout_seconds, zero=True),
    )


def _airflow_config() -> ConfigSource:
    from airflow.configuration import conf

    return cast("ConfigSource", conf)


def _default_home() -> str:
    from airflow.configuration import AIRFLOW_HOME

    return f"{AIRFLOW_HOME}/workpools"


class _Reader:
    """Reads options, and collects what is wrong with them instead of stopping at the first."""

    def __init__(self, config: ConfigSource, of_team: ConfigSource | None = None) -> None:
        self._config = config
        self._of_team = of_team
        self.problems: list[str] = []

    def text(self, key: str, default: str, *, section: str = SECTION) -> str:
        # Airflow itself goes from a team's option straight to the default, past what is set for everybody.
        value = self._of_team.get(section, key, fallback=None) if self._of_team else None
        value = value or self._config.get(section, key, fallback=default)
        return str(value).strip() if value else default

    def seconds(self, key: str, default: float, *, zero: bool = False, section: str = SECTION) -> float:
        text = self.text(key, str(default), section=section)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and (value > 0 or (zero and value == 0)):
            return value
        least = "0 or more" if zero else "more than 0"
        self.problems.append(f"[{section}] {key} must be a number of seconds, {least}, not {text!r}")
        return default

    def megabytes(self, key: str, default: int) -> int:
        """Read an amount; returned in bytes."""
        text = self.text(key, str(default // 2**20))
        if text.isdecimal() and 1 <= int(text) <= MAX_LOG_MB:
            return int(text) * 2**20
        self.problems.append(
            f"[{SECTION}] {key} must be a whole number of megabytes from 1 to {MAX_LOG_MB}, not {text!r}"
        )
        return default

    def days(self, key: str, default: int | None) -> int | None:
        """Read an age; 0 and ``none`` stand for never."""
        text = self.text(key, str(default))
        if text.lower() == "none":
            return None
        if text.isdecimal() and int(text) <= MAX_DAYS:
            return int(text) or None
        self.problems.append(
            f"[{SECTION}] {key} must be a whole number of days up to {MAX_DAYS}, or 0 for never, not {text!r}"
        )
        return default

    def parsed(self, key: str, parse: Callable[[str], T], default: T) -> T:
        try:
            return parse(self.text(key, str(default)))
        except InvalidInput as error:
            self.problems.extend(f"[{SECTION}] {key}: {problem}" for problem in error.problems)
            return default

    def parallelism(self) -> int | None:
        """Airflow's own limit; Airflow checks it, and means "no limit" by 0."""
        text = self.text("parallelism", "32", section="core")
        try:
            return int(text) or None
        except ValueError:
            self.problems.append(f"[core] parallelism must be a whole number, not {text!r}")
            return None
