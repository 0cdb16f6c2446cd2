# SPDX-License-Identifier: Apache-2.0
"""From connections to work pools: every definition there is, read anew every few seconds at most.

Where a name is defined twice, the place that Airflow asks first wins: secrets backend, environment, database.
The pool ``default`` exists without being declared.

A definition that is broken becomes an :class:`InvalidPool` with its reason, and disturbs no other. Secrets
backends are slow and may fail, so only :func:`refresh_secrets_pools` asks them, never the scheduler's loop.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from airflow_workpools.core.names import DEFAULT_POOL, name_problem
from airflow_workpools.core.pools import InvalidPool, PoolSource, WorkPool, parse_work_pool
from airflow_workpools.errors import InvalidWorkPool
from airflow_workpools.infrastructure.registry import (
    default_templates,
    template_checks,
    unusable_kinds,
    variable_checks,
)
from airflow_workpools.store import pool_sources
from airflow_workpools.store.pool_sources import ENV_PREFIX, Found
from airflow_workpools.store.sessions import airflow_session

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from airflow_workpools.core.templates import BaseJobTemplate
    from airflow_workpools.settings import PoolSettings, Settings

log = logging.getLogger(__name__)

SECRETS_REFRESH_SECONDS = 60.0
"""Time between two rounds of questions to the secrets backends; each pool is a question."""

AnyPool = WorkPool | InvalidPool
Pools = Mapping[str, WorkPool | InvalidPool]


def work_pools(settings: Settings, *, fresh: bool = False) -> Pools:
    """Return every work pool by name, as known to this process; at most ``refresh_seconds`` old.

    When the database does not answer, the last good answer stays in force.

    :param fresh: read now. For whoever is about to say that a work pool does not exist: it may be new.
    :raises SQLAlchemyError: if the database did not answer and never has in this process.
    """
    return _shared(settings.pools).cache.get(fresh=fresh)


def refresh_secrets_pools(settings: Settings) -> None:
    """Ask the secrets backends for the pools named in the settings. Slow; does nothing if none is named."""
    if settings.pools.secrets_pools:
        _shared(settings.pools).reader.ask_secrets_backends()


def keep_secrets_pools_fresh(
    settings: Settings, *, stop: threading.Event, interval_seconds: float = SECRETS_REFRESH_SECONDS
) -> threading.Thread | None:
    """Start a thread that asks the secrets backends again and again; none if no pool is kept there.

    A process that is forked has no such thread, only what was known until then.
    """
    if not settings.pools.secrets_pools:
        return None

    def refresh() -> None:
        while not stop.wait(interval_seconds):
            try:
                refresh_secrets_pools(settings)
            except Exception:
                log.exception("Secrets backends cannot be asked for work pools; trying again later")

    thread = threading.Thread(target=refresh, name="work pools in secrets backends", daemon=True)
    thread.start()
    return thread


@dataclass
class PoolReader:
    """Reads all definitions. One that has not changed since the last time is not parsed again."""

    settings: PoolSettings
    templates: Mapping[str, BaseJobTemplate]
    """The base job template of every usable type."""
    secrets: Mapping[str, Found] | None = None
    """What the secrets backends have answered, by pool; None before they were asked."""
    _parsed: dict[Found, AnyPool] = field(default_factory=dict)

    def read(self, session: Session, environ: Mapping[str, str]) -> Pools:
        """Return every work pool there is, by name."""
        found = find_definitions(
            session,
            environ,
            secrets_names=self.settings.secrets_pools,
            secrets=self.secrets,
            multi_team=self.settings.multi_team,
        )
        self._parsed = {
            one: self._parsed.get(one) or parse_found(one, settings=self.settings, templates=self.templates)
            for one in found.values()
        }
        pools = {pool.name: pool for pool in self._parsed.values()}
        if session.get_bind().dialect.name == "mysql":
            pools = set_apart(pools)
        if DEFAULT_POOL not in pools:
            pools[DEFAULT_POOL] = builtin_pool(self.settings, self.templates)
        return dict(sorted(pools.items()))

    def ask_secrets_backends(self) -> None:
        """Ask for the pools named in the settings. If one fails, what it said before stays in force."""
        before = self.secrets or {}
        answers = {}
        for answer in pool_sources.in_secrets_backends(self.settings.secrets_pools):
            if answer.passing and answer.name in before:
                log.warning("%s; what is known of it stays in force", answer.problem)
                answers[answer.name] = before[answer.name]
            else:
                answers[answer.name] = answer
        self.secrets = answers


def set_apart(pools: Pools) -> dict[str, AnyPool]:
    """Let only the first of several pools be used whose names differ only in capitals.

    To MariaDB and MySQL their Airflow pools are one, and the tasks of the others would wait for ever.
    """
    first: dict[str, str] = {}
    result: dict[str, AnyPool] = {}
    for name, pool in sorted(pools.items()):
        other = first.setdefault(name.casefold(), name)
        result[name] = pool
        if other != name:
            reason = (
                f"its name differs only in capitals from that of work pool {other!r}, and to this database their "
                "Airflow pools are one; rename one of them"
            )
            result[name] = InvalidPool(name=name, reason=reason, source=pool.source, team_name=pool.team_name)
    return result


def find_definitions(
    session: Session,
    environ: Mapping[str, str],
    *,
    secrets_names: tuple[str, ...] = (),
    secrets: Mapping[str, Found] | None = None,
    multi_team: bool = False,
) -> dict[str, Found]:
    """Return the definition in force of every name.

    :param secrets_names: pools that are said to be in secrets backends.
    :param secrets: what those have answered; None if they have not been asked yet.
    :param multi_team: whether pools belong to teams. If not, nobody owns any, whatever the database says.
    """
    found = {one.name: one for one in pool_sources.in_database(session)}
    if not multi_team:
        found = {name: replace(one, team_name=None) for name, one in found.items()}
    teams = pool_sources.team_names(session) if multi_team else None
    known_names = {*found, *secrets_names}
    in_variables = pool_sources.in_environment(environ, known_names=known_names, teams=teams)
    found |= {one.name: one for one in in_variables if one.team_name is None}
    for one in in_variables:
        if one.team_name is not None:
            found[one.name] = _of_one_team(one, found.get(one.name))
    if secrets is None:
        problem = "its definition has not been read from the secrets backend yet"
        return found | {name: _missing_secret(name, problem) for name in secrets_names}
    problem = "[workpools] pools names it, but neither a secrets backend nor anything else defines it"
    missing = {name: _missing_secret(name, problem) for name in secrets_names if name not in found}
    return missing | found | dict(secrets)


def _of_one_team(one: Found, other: Found | None) -> Found:
    """Put a team's definition in the place of another of that team's, but not of somebody else's.

    Airflow would give either to its own team. A work pool's name stands for one pool, though: it is also that of its
    Airflow pools, and of what the tables remember of it.
    """
    if other is None or other.team_name == one.team_name:
        return one
    others = f"team '{other.team_name}'" if other.team_name else "everybody"
    problem = f"it is defined for team '{one.team_name}' and for {others}; the name of a work pool is one for all teams"
    return replace(other, problem=problem, team_name=None)


def _missing_secret(name: str, problem: str) -> Found:
    return Found(name=name, source=PoolSource.SECRETS, problem=problem)


def parse_found(found: Found, *, settings: PoolSettings, templates: Mapping[str, BaseJobTemplate]) -> AnyPool:
    """Turn what was found into a work pool, or into one that says why it is none."""
    problem = found.problem or name_problem(found.name, what="work pool")
    if problem:
        return InvalidPool(name=found.name, reason=problem, source=found.source, team_name=found.team_name)
    try:
        pool = parse_work_pool(
            found.name,
            found.extra,
            templates=templates,
            source=found.source,
            description=found.description or None,
            unusable_types=unusable_kinds(),
            template_checks=template_checks(),
            variable_checks=variable_checks(),
            default_start_timeout_seconds=settings.start_timeout_seconds,
        )
    except InvalidWorkPool as error:
        return InvalidPool(name=found.name, reason=str(error), source=found.source, team_name=found.team_name)
    return replace(pool, team_name=found.team_name)


def builtin_pool(settings: PoolSettings, templates: Mapping[str, BaseJobTemplate]) -> WorkPool:
    """Return the process pool ``default`` that exists without being declared."""
    return parse_work_pool(
        DEFAULT_POOL,
        {"type": "process", "concurrency_limit": settings.builtin_limit},
        templates=templates,
        source=PoolSource.BUILTIN,
        description="Built in: processes on the scheduler's host",
        default_start_timeout_seconds=settings.start_timeout_seconds,
    )


class PoolCache:
    """Keeps the last good answer for some seconds, and for longer while the database does not answer.

    It holds no lock, so a process may be forked at any time; two threads that both find it stale both read.

    :param read: reads anew.
    :param monotonic: seconds that never go back.
    """

    def __init__(
        self,
        read: Callable[[], Pools],
        *,
        ttl_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._ttl_seconds = ttl_seconds
        self._monotonic = monotonic
        self._pools: Pools | None = None
        self._read_at = 0.0
        self._failing = False

    def get(self, *, fresh: bool = False) -> Pools:
        """Return the work pools; read anew if they are stale, or if ``fresh`` is wanted."""
        now = self._monotonic()
        if self._pools is not None and not fresh and now - self._read_at < self._ttl_seconds:
            return self._pools
        try:
            pools = self._read()
        except SQLAlchemyError as error:
            return self._last_good(error, now)
        if self._failing:
            log.info("Work pools can be read again")
        self._pools, self._read_at, self._failing = pools, now, False
        return pools

    def _last_good(self, error: SQLAlchemyError, now: float) -> Pools:
        if self._pools is None:
            # Without any knowledge a guess would do harm: tasks of pools that "do not exist" fail.
            raise error
        if not self._failing:
            log.warning("Work pools cannot be read; what was last known stays in force: %s", error)
        self._failing, self._read_at = True, now
        return self._pools


@dataclass
class _Shared:
    reader: PoolReader
    cache: PoolCache


@cache
def _shared(settings: PoolSettings) -> _Shared:
    """What all callers in this process share."""
    reader = PoolReader(settings=settings, templates=default_templates())

    def read() -> Pools:
        with airflow_session() as session:
            return reader.read(session, _connection_variables())

    return _Shared(reader, PoolCache(read, ttl_seconds=settings.refresh_seconds))


def _connection_variables() -> dict[str, str]:
    """Copy what may matter of the environment. Another thread may add and remove variables meanwhile."""
    return {
        name: value
        for name in os.environ
        if name.startswith(ENV_PREFIX) and (value := os.environ.get(name)) is not None
    }
