# SPDX-License-Identifier: Apache-2.0
"""What is known of the jobs in one namespace, kept up to date by watches of its Jobs, pods and warnings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_workpools.infrastructure.kubernetes.manifest import SELECTOR
from airflow_workpools.infrastructure.kubernetes.reflector import OptionalReflector, Reflector
from airflow_workpools.infrastructure.kubernetes.status import Sighting, has_begun, is_leaving, read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_workpools.errors import InfrastructureError
    from airflow_workpools.infrastructure.base import Observation
    from airflow_workpools.infrastructure.kubernetes.client import KubernetesApi

_TELLING = frozenset(
    {"FailedCreate", "FailedMount", "FailedAttachVolume", "Failed", "FailedCreatePodSandBox", "FailedBinding"}
)
"""Warnings that say why a job has no pod, or why its pod does not start."""
_FORGET_AFTER = 10_000
_LOOK_AGAIN_SECONDS = 0.1


@dataclass
class Entry:
    """What is known of one Job."""

    name: str
    known_at: float
    """When it was entered here (loop time)."""
    seen: Sighting = field(default_factory=Sighting)
    ended: Observation | None = None
    """How it ended, once that is known: what the cluster says afterwards does not change it."""
    has_workload: bool = False
    """Whether its workload is known to have been handed over."""
    wanted: bool = False
    """Whether anybody here asks for it; of others nothing is kept when they are gone."""
    due: float | None = None
    """When (loop time) it has to be looked at, even if the cluster says nothing new."""
    _waits_for: str | None = None
    _since: float = 0.0
    _told: Any = None

    def observe(self, now: float) -> Observation:
        """Say what is seen of the job."""
        self.due = None
        if self.ended is not None:
            return self.ended
        reading = read(self.seen)
        if reading.waits_for != self._waits_for:
            self._waits_for, self._since = reading.waits_for, now
        seen = reading.observation
        if reading.otherwise is not None:
            self.due = self._since + reading.patience_seconds
            seen = reading.otherwise if now >= self.due else seen
        if seen.ended:
            self.ended, self.due = seen, None
        return seen

    def changed(self, now: float) -> bool:
        """Say whether there is anything new to tell of it, or to wait for, since this was asked last."""
        before, self._told = self._told, (self.observe(now), self._waits_for)
        return bool(before != self._told)

    def stopping(self) -> None:
        """Take down that its end was asked for here."""
        self.seen = replace(self.seen, stopping=True)

    async def until_going(self, *, seconds: float) -> None:
        """Wait until its pod is being taken away, or has ended; for so long at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.ended is None and (pod := self.seen.pod) is not None and loop.time() < until:
            if pod["metadata"].get("deletionTimestamp"):
                return
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def until_over_or_begun(self, *, seconds: float) -> None:
        """Wait until it has ended or its container has begun; for so long at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.ended is None and not self.has_begun and loop.time() < until:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    @property
    def has_begun(self) -> bool:
        pod = self.seen.pod
        return pod is not None and has_begun(pod)

    @property
    def uid(self) -> str | None:
        job = self.seen.job
        return str(job["metadata"]["uid"]) if job is not None else None

    @property
    def is_gone(self) -> bool:
        return self.seen.job is None and self.seen.pod is None


class NamespaceWatch:
    """Watches the jobs of one namespace.

    :param on_change: called when something may have to be told.
    :param on_leaving: called with the name of a Job whose pod is being taken away by somebody else.
    :param on_state: called when it begins to keep up, or ceases to.
    """

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        *,
        on_change: Callable[[], None],
        on_leaving: Callable[[str], None],
        on_state: Callable[[], None],
    ) -> None:
        self.namespace = namespace
        self._on_change, self._on_leaving = on_change, on_leaving
        self._entries: dict[str, Entry] = {}
        self._cleaned: dict[str, None] = {}
        """Names of Jobs that were cleaned up here: what is left of them is of no interest."""
        core, batch = f"/api/v1/namespaces/{namespace}", f"/apis/batch/v1/namespaces/{namespace}"
        ours = {"labelSelector": SELECTOR}
        self._jobs = Reflector(
            api=api, path=f"{batch}/jobs", selectors=ours,
            on_list=self._on_jobs, on_event=self._on_job, on_state=on_state,
        )  # fmt: skip
        self._pods = Reflector(
            api=api, path=f"{core}/pods", selectors=ours,
            on_list=self._on_pods, on_event=self._on_pod, on_state=on_state,
        )  # fmt: skip
        self._warnings = OptionalReflector(
            api=api, path=f"{core}/events", selectors={"fieldSelector": "type=Warning"},
            on_list=self._on_warnings,
            on_event=self._on_warning,
        )  # fmt: skip

    @property
    def problem(self) -> InfrastructureError | None:
        """Why it does not keep up now, if it does not."""
        return self._jobs.problem or self._pods.problem

    @property
    def _has_listed(self) -> bool:
        """Whether all Jobs and all pods were listed once."""
        return min(self._jobs.listed_at, self._pods.listed_at) > float("-inf")

    def start(self) -> None:
        for reflector in (self._jobs, self._pods, self._warnings):
            reflector.start()

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in (self._jobs, self._pods, self._warnings)))

    async def listed_since(self, moment: float) -> None:
        """Return when all that there was at this moment (loop time) is known.

        :raises InfrastructureError: if that is not possible now.
        """
        await asyncio.gather(self._jobs.listed_since(moment), self._pods.listed_since(moment))

    def get(self, name: str) -> Entry | None:
        """Return what is known of a Job that somebody here asks for."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.wanted = True
        return entry

    def put(self, job: Mapping[str, Any]) -> Entry:
        """Enter a Job that was just created or read; the watch may not have told of it yet."""
        name = str(job["metadata"]["name"])
        self._cleaned.pop(name, None)
        entry = self._entry(name)
        entry.wanted = True
        if entry.seen.job is None:
            entry.seen = replace(entry.seen, job=job)
        return entry

    def forget(self, name: str) -> None:
        """Let go of a job that was cleaned up."""
        self._entries.pop(name, None)
        self._cleaned[name] = None
        while len(self._cleaned) > _FORGET_AFTER:
            del self._cleaned[next(iter(self._cleaned))]

    def was_cleaned(self, name: str) -> bool:
        return name in self._cleaned

    # -- what the cluster says ------------------------------------------------------------------------------

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            self._entries[name] = Entry(name, known_at=self._now())
        return self._entries[name]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _on_jobs(self, jobs: list[Any], since: float) -> None:
        there = {str(job["metadata"]["name"]) for job in jobs}
        for job in jobs:
            self._on_job("MODIFIED", job)
        for name, entry in list(self._entries.items()):
            # One that was created while the list was made is not missing from it.
            if name not in there and entry.seen.job is not None and entry.known_at < since:
                self._change(entry, job=None)

    def _on_job(self, type_: str, job: Any) -> None:
        name = str(job["metadata"]["name"])
        if name in self._cleaned:
            return
        entry = self._entry(name)
        if type_ == "DELETED":
            if entry.uid == job["metadata"]["uid"]:
                self._change(entry, job=None)
        else:
            self._change(entry, job=job)

    def _on_pods(self, pods: list[Any], since: float) -> None:
        # The first pod is the job; one that the cluster made in its place is not.
        pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        there = {str(pod["metadata"]["uid"]) for pod in pods}
        for pod in pods:
            self._on_pod("MODIFIED", pod)
        for entry in list(self._entries.values()):
            pod = entry.seen.pod
            if pod is not None and pod["metadata"]["uid"] not in there:
                self._on_pod("DELETED", pod)

    def _on_pod(self, type_: str, pod: Any) -> None:
        name = _job_of(pod)
        if name is None or name in self._cleaned:
            return
        entry = self._entry(name)
        first = entry.seen.pod or entry.seen.pod_vanished
        if first is not None and first["metadata"]["uid"] != pod["metadata"]["uid"]:
            return
        if first is None:
            entry.seen = replace(entry.seen, warning=None)  # it was about a pod that could not be made
        if type_ == "DELETED":
            self._change(entry, pod=pod)  # its last state may say how it ended
            self._change(entry, pod=None, pod_vanished=pod)
        elif entry.seen.pod_vanished is None:
            self._change(entry, pod=pod)
        if entry.wanted and not entry.seen.stopping and is_leaving(entry.seen):
            self._on_leaving(name)

    def _on_warnings(self, events: list[Any], since: float) -> None:
        for event in events:
            self._on_warning("ADDED", event)

    def _on_warning(self, type_: str, event: Any) -> None:
        about, reason = event.get("involvedObject") or {}, str(event.get("reason"))
        message = str(event.get("message") or "").strip()
        if type_ == "DELETED" or reason not in _TELLING or not message or message.startswith("Error: "):
            return
        name, kind = str(about.get("name")), about.get("kind")
        if kind == "Pod":
            name = name.rpartition("-")[0]
        entry = self._entries.get(name)
        # A Job's warning is about a pod that can't be made; a pod's tells more, and later.
        if entry is not None and (kind == "Pod" or (kind == "Job" and entry.seen.pod is None)):
            self._change(entry, warning=message)

    def _change(self, entry: Entry, **changes: Any) -> None:
        begun = entry.seen.begun or entry.has_begun
        entry.seen = replace(entry.seen, begun=begun, **changes)
        if entry.is_gone and not entry.wanted:
            self._entries.pop(entry.name, None)
        # A Job without its pod, or the other way round, would tell of an end that was another.
        if self._has_listed and entry.changed(self._now()) and entry.wanted:
            self._on_change()


def _job_of(pod: Mapping[str, Any]) -> str | None:
    """Return the name of the Job that made a pod."""
    for owner in pod["metadata"].get("ownerReferences") or ():
        if owner.get("kind") == "Job":
            return str(owner["name"])
    return None
