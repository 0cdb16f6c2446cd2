# SPDX-License-Identifier: Apache-2.0
"""The work pools that workers elsewhere may serve, and what they are told of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from airflow_workpools.api import translate, wire
from airflow_workpools.core.pools import Delivery, InvalidPool, WorkPool
from airflow_workpools.errors import PoolRefused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class ReadPools(Protocol):
    """Reads the work pools; anew, if that is asked for."""

    def __call__(self, *, fresh: bool = False) -> Mapping[str, WorkPool | InvalidPool]: ...


class _Described(NamedTuple):
    """A pool, how it is told of, and a digest of that."""

    pool: WorkPool
    told: wire.Pool
    digest: bytes


@dataclass(frozen=True)
class ServedPools:
    """Says which pools workers may serve. Threads share it."""

    read: ReadPools
    _described: dict[str, _Described] = field(default_factory=dict, repr=False)
    """How each pool is told of, as long as it stays as it is: a base job template is long."""

    def to_register(self, names: Collection[str]) -> list[WorkPool]:
        """Return those of these pools that can be read.

        :raises PoolRefused: if there is one that is not there, or whose jobs the scheduler's own worker starts.
        """
        known = self.read()
        if any(name not in known for name in names):
            known = self.read(fresh=True)
        for name in names:
            found = known.get(name)
            if found is None:
                raise PoolRefused(
                    f"there is no work pool '{name}'; create it where the scheduler runs: "
                    f"`airflow workpools create {name} --delivery pull`"
                )
            if (problem := _push_problem(found)) is not None:
                raise PoolRefused(f"work pool '{name}': {problem}")
        return [pool for name in names if isinstance(pool := known[name], WorkPool)]

    def claimable(self, names: Collection[str]) -> list[WorkPool]:
        """Return those of these pools whose jobs can be claimed now."""
        known = self.read()
        found = (known.get(name) for name in dict.fromkeys(names))
        return [pool for pool in found if isinstance(pool, WorkPool) and pool.delivery is Delivery.PULL]

    def describe(self, names: Collection[str]) -> wire.PoolsAnswer:
        """Say what pools are like, and which can't be served."""
        known = self.read()
        served: list[wire.Pool] = []
        problems: dict[str, str] = {}
        digest = hashlib.sha256()
        for name in sorted(set(names)):
            found = known.get(name)
            if found is None:
                problems[name] = "there is no such work pool (any more)"
            elif isinstance(found, InvalidPool):
                problems[name] = found.reason
            elif (problem := _push_problem(found)) is not None:
                problems[name] = problem
            else:
                described = self._describe(found)
                served.append(described.told)
                digest.update(described.digest)
        digest.update(repr(problems).encode())
        return wire.PoolsAnswer(pools=served, problems=problems, version=digest.hexdigest())

    def _describe(self, pool: WorkPool) -> _Described:
        known = self._described.get(pool.name)
        if known is None or known.pool is not pool:
            told = translate.pool_to_wire(pool)
            digest = hashlib.sha256(told.model_dump_json().encode()).digest()
            known = self._described[pool.name] = _Described(pool, told, digest)
        return known


def _push_problem(pool: WorkPool | InvalidPool) -> str | None:
    """Say why workers can't ask for jobs of a pool, or None if they can."""
    if isinstance(pool, InvalidPool) or pool.delivery is Delivery.PULL:
        return None
    return (
        "its jobs are started by the scheduler's own worker (delivery: push); to have them started by others: "
        f"`airflow workpools update {pool.name} --delivery pull`"
    )
