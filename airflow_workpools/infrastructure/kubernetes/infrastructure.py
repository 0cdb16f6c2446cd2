# SPDX-License-Identifier: Apache-2.0
"""The kubernetes kind: a job is a Kubernetes Job with one pod, which runs once."""

from __future__ import annotations

import asyncio
import logging
from datetime import timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase
from airflow_workpools.infrastructure.containers import (
    INSTALLATION_LABEL,
    JOB_ID_LABEL,
    label_value,
    runtime_environment,
)
from airflow_workpools.infrastructure.image_checks import fixed_image_problems, image_problems
from airflow_workpools.infrastructure.kubernetes import pod_mutation
from airflow_workpools.infrastructure.kubernetes.answers import ApiRefusal
from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi
from airflow_workpools.infrastructure.kubernetes.job_objects import JobObjects
from airflow_workpools.infrastructure.kubernetes.logs import follow_pod_log
from airflow_workpools.infrastructure.kubernetes.manifest import (
    IMAGES,
    SELECTOR,
    JobPlan,
    plan_job,
    secret_of,
    workload_place,
)
from airflow_workpools.infrastructure.kubernetes.namespace import Entry, NamespaceWatch
from airflow_workpools.infrastructure.kubernetes.namespaces_used import NamespacesUsed
from airflow_workpools.infrastructure.kubernetes.objects import (
    KIND,
    chunks,
    created_at,
    handle_of,
    job_id_of,
    jobs_path,
    place_of,
    workload_place_of,
)
from airflow_workpools.infrastructure.kubernetes.parcels import Parcels, Share
from airflow_workpools.infrastructure.kubernetes.stopping import free_pod, stop_job
from airflow_workpools.infrastructure.kubernetes.variables import JOB_CONFIGURATION, KubernetesVariables
from airflow_workpools.infrastructure.template_checks import problems_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from pydantic import BaseModel

log = logging.getLogger(__name__)

_ONCE = 0.0
"""The moment (loop time) since when everything is known that was listed at all."""
_FIND_AT_ONCE = 40
"""Most jobs that one request looks for: their ids stand in its address."""
_COLLECT_SECONDS = 0.05
"""Changes are collected this long and told together: a thousand jobs are looked at together, too."""
_HANDED_OVER_SECONDS = 10.0
"""How long the worker that created a Job may take to hand over its workload before another one looks after it."""
_LOOK_SECONDS = 1.0
"""How often who hands over a workload looks whether its job was taken away meanwhile."""


class KubernetesInfrastructure:
    """Runs jobs as Kubernetes Jobs.

    :param home: where it is remembered in which namespaces there may be jobs.
    :param connection: where the cluster is; None: the worker's own pod or kubeconfig says it.
    :param in_flight: most requests that are made at a time.
    """

    kind: ClassVar[str] = KIND
    runs_at_launch: ClassVar[bool] = False
    bound_to_host: ClassVar[bool] = False
    variables: ClassVar[type[BaseModel]] = KubernetesVariables
    launches_in_flight: ClassVar[int] = 32
    """How many Jobs are created at a time, through each connection."""

    def __init__(
        self, *, home: Path, connection: Mapping[str, Any] | None = None, in_flight: int = launches_in_flight
    ) -> None:
        self.api = KubernetesApi(connection, in_flight=in_flight)
        self._objects = JobObjects(self.api)
        self._parcels = Parcels(self._objects)
        conn_id = str((connection or {}).get("conn_id") or "own")
        self._namespaces = NamespacesUsed(Path(home) / "kubernetes" / f"{conn_id}.namespaces")
        self._watches: dict[str, NamespaceWatch] = {}
        self._changed = asyncio.Event()
        self._errands: dict[str, asyncio.Task[None]] = {}
        """What is being done to jobs without anybody waiting for it."""
        self._environment: Mapping[str, str] | None = None
        self._wake_up: asyncio.TimerHandle | None = None

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        """Return the ``job_configuration`` of the default base job template, with placeholders."""
        return JOB_CONFIGURATION

    @classmethod
    def template_problems(cls, job_configuration: Any) -> Sequence[str]:
        """Say what is wrong with a template, whatever values a job gives."""
        problems = problems_of(
            job_configuration,
            needed=("manifest", "spec", "template", "spec", "containers", 0, "name"),
            plan=lambda spec: plan_job(spec, namespace="default", environment={}),
        )
        return [*problems, *fixed_image_problems(job_configuration, *IMAGES)]

    @classmethod
    def variable_problems(cls, job_configuration: Any, variables: Mapping[str, Any]) -> Sequence[str]:
        """Say which job variables make a malformed name of an image."""
        return image_problems(job_configuration, variables, *IMAGES)

    # -- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Log in to the cluster."""
        await self.api.open()

    async def close(self) -> None:
        """Let go of watches and connections; the jobs go on."""
        if self._wake_up is not None:
            self._wake_up.cancel()
        errands = list(self._errands.values())
        for task in errands:
            task.cancel()
        await asyncio.gather(*errands, return_exceptions=True)
        await self._parcels.close()
        await asyncio.gather(*(watch.close() for watch in self._watches.values()))
        self._watches.clear()
        await self.api.close()

    def hindrance(self) -> str | None:
        """Say why no job can be launched now, whichever it is; None if nothing is known to hinder."""
        problems = [watch.problem for watch in self._watches.values()]
        if problems and all(isinstance(problem, InfrastructureUnavailable) for problem in problems):
            return str(problems[0])
        return None

    def _watch(self, namespace: str) -> NamespaceWatch:
        if namespace not in self._watches:
            self._namespaces.add(namespace)
            watch = NamespaceWatch(
                self.api,
                namespace,
                on_change=self._changed.set,
                on_leaving=lambda name: self._hold(namespace, name),
                on_state=self._changed.set,
            )
            self._watches[namespace] = watch
            watch.start()
        return self._watches[namespace]

    # -- launch and find ------------------------------------------------------------------------------------

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        """Create a job's Job, then the Secret with its workload; adopt those that are there."""
        plan = await self._plan(spec)
        watch = self._watch(plan.namespace)
        # What can't be watched must not be started.
        await watch.listed_since(_ONCE)
        share = self._parcels.join(plan)
        try:
            job, adopted = await self._objects.create_job(share.plan, again=plan)
            shares = not adopted and workload_place(job) == workload_place(share.plan.job)
            if shares:
                share.created(str(job["metadata"]["uid"]))
        finally:
            share.leave()
        entry = watch.put(job)
        yield handle_of(spec.job_id, job)
        if not adopted or not entry.has_begun:
            await self._hand_over(plan, entry, job, share if shares else None)

    async def try_out(self, spec: LaunchSpec) -> str:
        """Say whether the API would take a job, by a dry run."""
        plan = await self._plan(spec)
        return await self._objects.try_out(plan)

    async def _plan(self, spec: LaunchSpec) -> JobPlan:
        if self._environment is None:
            self._environment = runtime_environment()
        return await pod_mutation.planned(spec, namespace=self.api.namespace, environment=self._environment)

    async def _hand_over(
        self, plan: JobPlan, entry: Entry, job: Mapping[str, Any], share: Share | None
    ) -> None:
        """Hand over the workload for which a job's pod waits, however long that takes.

        If it is refused, nothing is left of the job. Should this worker end in between, the next one finds the Job
        without its workload and takes it away. So does this one where it takes long, and then this ends, too.

        :param share: its place in a Secret that is being gathered; None: it goes where its Job says.
        """
        if share is not None:
            doing = share.delivered()
        else:
            place = workload_place(job)
            owner = {plan.name: str(job["metadata"]["uid"])}
            workload = {place.key: plan.workload}
            doing = self._parcels.send(secret_of(owner, workload, name=place.secret, first=plan))
        handing = asyncio.ensure_future(doing)
        try:
            while not handing.done() and not entry.has_workload:
                await asyncio.wait({handing}, timeout=_LOOK_SECONDS)
            if handing.done():
                handing.result()
                entry.has_workload = True
        except ApiRefusal as error:
            entry.has_workload = True
            await self._objects.delete_job(plan.namespace, plan.name)
            raise LaunchRejected(f"its workload can't be handed over: {error}") from error
        finally:
            handing.cancel()

    async def renew(self, handle: Handle, workload: str) -> None:
        """Replace the workload of a job that has not started."""
        await self._objects.replace_workload(place_of(handle)[0], workload_place_of(handle), workload)

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        """Look for jobs by their labels, in every namespace where this worker may have launched any."""
        wanted = {str(job_id): job_id for job_id in job_ids}
        found: dict[UUID, Handle] = {}
        for namespace in self._namespaces_used():
            watch = self._watches.get(namespace)
            for ids in chunks(sorted(wanted), _FIND_AT_ONCE):
                query = {"labelSelector": f"{JOB_ID_LABEL} in ({','.join(ids)})"}
                try:
                    told = await self.api.request("GET", jobs_path(namespace), query=query)
                except ApiRefusal as error:
                    # Where it may not even look, it can't have launched anything lately.
                    log.info("Jobs are not looked for in namespace %s: %s", namespace, error)
                    continue
                # The latest attempt is the one that counts.
                for job in sorted(told.get("items") or (), key=created_at):
                    if watch is None or not watch.was_cleaned(job["metadata"]["name"]):
                        job_id = wanted[job["metadata"]["labels"][JOB_ID_LABEL]]
                        found[job_id] = handle_of(job_id, job)
        return found

    def _namespaces_used(self) -> set[str]:
        return {self.api.namespace, *self._watches, *self._namespaces.read()}

    async def left_behind(self, installation: str, *, before: datetime) -> Sequence[Handle]:
        """Look for Jobs by their labels; the cluster takes the Secret of one along that is deleted."""
        made_before = before.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        selector = f"{SELECTOR},{INSTALLATION_LABEL}={label_value(installation)}"
        found: list[Handle] = []
        for namespace in self._namespaces_used():
            watch = self._watches.get(namespace)
            try:
                jobs = await self.api.list_all(jobs_path(namespace), {"labelSelector": selector})
            except ApiRefusal as error:
                log.info("What is left of jobs is not looked for in namespace %s: %s", namespace, error)
                continue
            found += [
                handle_of(job_id, job)
                for job in jobs
                if (job_id := job_id_of(job)) is not None
                and created_at(job) < made_before
                and (watch is None or not watch.was_cleaned(job["metadata"]["name"]))
            ]
        return found

    # -- observe --------------------------------------------------------------------------------------------

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        """Say what is seen of these jobs."""
        await self._learn(handles)
        now = asyncio.get_running_loop().time()
        seen = {handle.job_id: self._observe(handle, now) for handle in handles}
        await self._look_after_abandoned(handles, now)
        return seen

    async def _learn(self, handles: Sequence[Handle]) -> None:
        """Have every namespace listed in which there is a job that is not known here: all of them at once."""
        now = asyncio.get_running_loop().time()
        unknown: dict[str, NamespaceWatch] = {}
        for handle in handles:
            namespace, name = place_of(handle)
            if name and namespace not in unknown:
                watch = self._watch(namespace)
                if watch.get(name) is None and not watch.was_cleaned(name):
                    unknown[namespace] = watch
        try:
            await asyncio.gather(*(watch.listed_since(now) for watch in unknown.values()))
        except LaunchRejected as error:
            raise InfrastructureUnavailable(f"jobs can't be watched: {error}") from error

    def _observe(self, handle: Handle, now: float) -> Observation:
        namespace, name = place_of(handle)
        if not name:
            return Observation(phase=Phase.GONE, reason="its handle names no Job")
        watch = self._watch(namespace)
        entry = watch.get(name)
        if entry is None:
            cleaned = watch.was_cleaned(name)
            why = (
                "was cleaned up" if cleaned else "is gone: deleted from outside, or its time to live was over"
            )
            return Observation(phase=Phase.GONE, reason=f"its Job {name} in namespace {namespace} {why}")
        seen = entry.observe(now)
        if entry.due is not None:
            self._wake_at(entry.due)
        if seen.phase is Phase.GONE and not entry.is_gone:
            self._take_away(namespace, name)
        return seen

    def _wake_at(self, due: float) -> None:
        """Have the jobs looked at when the patience with one of them is over."""
        loop = asyncio.get_running_loop()
        if self._wake_up is None or not loop.time() < self._wake_up.when() <= due:
            if self._wake_up is not None:
                self._wake_up.cancel()
            self._wake_up = loop.call_at(due, self._changed.set)

    def _take_away(self, namespace: str, name: str) -> None:
        """Delete a Job that is over for us, so that its cluster starts nothing more of it."""
        self._in_background(f"delete {name}", lambda: self._objects.delete_job(namespace, name))

    def _hold(self, namespace: str, name: str) -> None:
        """Keep the cluster from making another pod, in which the job would run again."""
        self._in_background(f"hold {name}", lambda: self._objects.make_no_pods(namespace, name))

    def _in_background(self, what: str, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if what in self._errands:
            return

        def on_done(task: asyncio.Task[None]) -> None:
            self._errands.pop(what, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                log.warning("Could not %s: %s", what, error)

        self._errands[what] = asyncio.create_task(do(), name=what)
        self._errands[what].add_done_callback(on_done)

    async def _look_after_abandoned(self, handles: Sequence[Handle], now: float) -> None:
        """Take away Jobs whose worker ended before it had handed over the workload: their pods would wait for ever.

        Each job that another worker launched is asked about once.
        """
        for handle in handles:
            namespace, name = place_of(handle)
            entry = self._watches[namespace].get(name) if name else None
            if entry is None or entry.has_workload or now - entry.known_at < _HANDED_OVER_SECONDS:
                continue
            entry.has_workload = True
            if (
                entry.ended is None
                and not entry.has_begun
                and not await self._objects.has_workload(namespace, workload_place_of(handle))
            ):
                entry.ended = Observation(
                    phase=Phase.GONE,
                    reason="its worker ended before it had handed over the workload",
                    never_started=True,
                )
                self._changed.set()

    async def wait_for_change(self) -> None:
        """Return when a job has begun or ended, or the watch has."""
        await self._changed.wait()
        await asyncio.sleep(_COLLECT_SECONDS)
        self._changed.clear()

    def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        """Yield what the job's container writes, from this byte on, while it runs."""
        namespace, name = place_of(handle)
        watch = self._watch(namespace)
        return follow_pod_log(self.api, watch, name, str(handle.data.get("container")), offset=offset)

    # -- stop and clean up ----------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """Have a job's pod deleted; see ``stopping``."""
        namespace, name = place_of(handle)
        if not name:
            return
        await self._learn([handle])
        entry = self._watch(namespace).get(name)
        if entry is None or entry.ended is not None:
            return  # its log is still to be fetched
        pod = await stop_job(self._objects, entry, namespace, grace_seconds=grace_seconds)
        if pod is not None and not entry.has_begun:
            self._in_background(f"free {name}", lambda: free_pod(self._objects, entry, namespace, pod))

    async def cleanup(self, handle: Handle) -> None:
        """Delete a job's Job; the cluster takes its pod and its Secret along."""
        namespace, name = place_of(handle)
        if name:
            await self._objects.delete_job(namespace, name)
            self._watch(namespace).forget(name)
