# SPDX-License-Identifier: Apache-2.0
"""The workloads of jobs that are launched at the same time go into one Secret: half of the requests, nearly.

Which Secret that is, has to be known when a Job is created; that it is there, only when its pod starts. So jobs join a
parcel while none of its Jobs has been created yet, and the Secret is sent when all of them have been: it names them as
its owners from the start. One whose Job can't be created now, and is tried again later, leaves the parcel, and nobody
waits long for one that takes long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes.manifest import secret_of, workload_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_workpools.infrastructure.kubernetes.job_objects import JobObjects
    from airflow_workpools.infrastructure.kubernetes.manifest import JobPlan

log = logging.getLogger(__name__)

MAX_SHARES = 8
"""Most jobs that share a Secret: a fraction of those that are launched at a time, so that none waits for all others."""
MAX_BYTES = 256 * 1024
"""Most that is put into one Secret, which may have 1 MiB."""
PATIENCE_SECONDS = 0.25
"""So long after the first of its Jobs, a Secret is sent without those that have not been created by then."""


class Parcels:
    """Gathers workloads. One for each cluster."""

    def __init__(self, objects: JobObjects) -> None:
        self._objects = objects
        self._open: dict[str, Parcel] = {}
        """To be joined, by namespace."""
        self._sending: set[asyncio.Task[None]] = set()

    def join(self, plan: JobPlan) -> Share:
        """Give a job's workload a place in a Secret; nothing is sent yet."""
        parcel = self._open.get(plan.namespace)
        if parcel is None or not parcel.has_room_for(plan):
            parcel = self._open[plan.namespace] = Parcel(self, plan)
        return parcel.add(plan)

    async def send(self, secret: Mapping[str, Any]) -> None:
        """Create a Secret, or add to the one that is there, however long that takes.

        :raises ApiRefusal: if the API says no.
        """
        backoff = Backoff()
        while True:
            try:
                return await self._objects.create_secret(secret)
            except InfrastructureUnavailable as error:
                jobs = ", ".join(owner["name"] for owner in secret["metadata"]["ownerReferences"])
                log.warning("The workload of %s can't be handed over yet: %s", jobs, error)
                await asyncio.sleep(backoff.next())

    def begin(self, parcel: Parcel) -> asyncio.Task[None]:
        """Send a parcel, whoever of those that wait for it gives up."""
        task = asyncio.create_task(parcel.send(), name=f"send {parcel.name}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def close(self) -> None:
        """Give up what is being sent: the next worker finds Jobs without their workloads, and takes them away."""
        sending = list(self._sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


class Parcel:
    """A Secret that is being gathered. It is called like the first job that joins it."""

    def __init__(self, parcels: Parcels, first: JobPlan) -> None:
        self.name = first.name
        self._parcels, self._first = parcels, first
        self._plans: dict[str, JobPlan] = {}
        self._owners: dict[str, str] = {}
        """The uids of the Jobs that have been created, by name."""
        self._all_there = asyncio.Event()
        self._sent: frozenset[str] | None = None
        """The names of those with whom it was sent."""
        self._task: asyncio.Task[None] | None = None

    def has_room_for(self, plan: JobPlan) -> bool:
        used = sum(len(one.workload) for one in self._plans.values())
        return not self._owners and len(self._plans) < MAX_SHARES and used + len(plan.workload) <= MAX_BYTES

    def add(self, plan: JobPlan) -> Share:
        share = Share(self, plan)  # first: one that can't be made is not waited for
        self._plans[plan.name] = plan
        return share

    def created(self, name: str, uid: str) -> None:
        self._owners[name] = uid
        self._look()

    def leave(self, name: str) -> None:
        if name not in self._owners and self._plans.pop(name, None) is not None:
            self._look()

    def _look(self) -> None:
        if self._owners.keys() == self._plans.keys():
            self._all_there.set()

    async def delivered(self, name: str) -> None:
        if self._task is None:
            self._task = self._parcels.begin(self)
        await asyncio.shield(self._task)
        if self._sent is None or name not in self._sent:
            await self._parcels.send(self._secret({name}))

    async def send(self) -> None:
        waiting = asyncio.ensure_future(self._all_there.wait())
        try:
            await asyncio.wait({waiting}, timeout=PATIENCE_SECONDS)
        finally:
            waiting.cancel()
        self._sent = frozenset(self._owners)
        await self._parcels.send(self._secret(self._sent))

    def _secret(self, names: frozenset[str] | set[str]) -> dict[str, Any]:
        owners = {name: uid for name, uid in self._owners.items() if name in names}
        workloads = {workload_place(self._plans[name].job).key: self._plans[name].workload for name in owners}
        return secret_of(owners, workloads, name=self.name, first=self._first)


class Share:
    """The place of one job's workload in a parcel.

    :ivar plan: the job's plan, with that place.
    """

    def __init__(self, parcel: Parcel, plan: JobPlan) -> None:
        self._parcel = parcel
        self.plan = plan.sharing(parcel.name)

    def created(self, uid: str) -> None:
        """Take down that its Job has been created, with this plan."""
        self._parcel.created(self.plan.name, uid)

    def leave(self) -> None:
        """Give the place up, if its Job has not been created."""
        self._parcel.leave(self.plan.name)

    async def delivered(self) -> None:
        """Return when the workload is there for the job's pod.

        :raises ApiRefusal: if the API says no.
        """
        await self._parcel.delivered(self.plan.name)
