# SPDX-License-Identifier: Apache-2.0
"""From what the cluster says of a Job and its pod to what is told of the job. Pure.

The pod's first container is the job: what ends it ends the job. A Job here has one pod, once. Where a cluster makes
another one, because the first was deleted, that is none of this job's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_workpools.core.exits import explain_exit
from airflow_workpools.infrastructure.base import Observation, Phase
from airflow_workpools.infrastructure.kubernetes.manifest import PATIENCE_ANNOTATION
from airflow_workpools.infrastructure.kubernetes.variables import KUEUE_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Object = Mapping[str, Any]

DEFAULT_PATIENCE_SECONDS = 60.0
SETTLE_SECONDS = 1.0
"""How long to wait for the Job to say why its pod is gone, or for the pod of a Job that has failed."""
NODE_PATIENCE_SECONDS = 60.0
"""How long after its grace a pod may take to end before its node is taken for lost."""

_CAN_NOT_MEND = frozenset({"ErrImageNeverPull", "InvalidImageName"})
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable"})
_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_NEVER_RAN = frozenset({"ContainerCannotRun", "StartError"})
_NOT_ADMITTED = ("OutOf", "NodeAffinity", "NodePorts", "Topology", "UnexpectedAdmissionError")
"""How the reasons begin for which a node refuses a pod that it was given."""
_QUOTA = "exceeded quota"

_CAN_NOT_PULL = "the image can't be pulled"
_IMAGE_WORDS = {
    "ErrImageNeverPull": "the image is not on the node, and the image pull policy is Never",
    "InvalidImageName": "the image's name is malformed",
}
_DISRUPTION_WORDS = {
    "PreemptionByScheduler": "preempted: a pod of higher priority got its place",
    "DeletionByTaintManager": "evicted: its node got a taint that it does not tolerate",
    "EvictionByEvictionAPI": "evicted: its node is being drained",
    "DeletionByPodGC": "node lost: its node is gone",
    "TerminationByKubelet": "evicted by its node",
}


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What the cluster has said of one job so far."""

    job: Object | None = None
    pod: Object | None = None
    pod_vanished: Object | None = None
    """The pod as it was seen last, if it is gone."""
    warning: str | None = None
    """What the cluster has warned of, newest only: why there is no pod yet, or why it does not start."""
    begun: bool = False
    """Whether its container was seen to run."""
    stopping: bool = False
    """Whether its end was asked for here."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a sighting means."""

    observation: Observation
    waits_for: str | None = None
    """What is given some time to come about or to mend; the same word while it is the same thing."""
    patience_seconds: float = 0.0
    otherwise: Observation | None = None
    """What is to be said if that time is over."""


def read(seen: Sighting) -> Reading:
    """Say what a sighting means."""
    if seen.pod is not None:
        return _read_pod(seen, seen.pod)
    if seen.pod_vanished is not None:
        return _read_vanished(seen, seen.pod_vanished)
    return _read_job(seen)


def patience_of(job: Object | None) -> float:
    """Return how long what hinders a job's start is waited for."""
    annotations = ((job or {}).get("metadata") or {}).get("annotations") or {}
    try:
        return float(annotations.get(PATIENCE_ANNOTATION, DEFAULT_PATIENCE_SECONDS))
    except ValueError:
        return DEFAULT_PATIENCE_SECONDS


def container_name(pod_or_template: Object) -> str:
    """Return the name of the container that is the job."""
    return str(pod_or_template["spec"]["containers"][0]["name"])


def has_begun(pod: Object) -> bool:
    """Say whether a pod's container runs or has run."""
    state = _state(pod)
    return "running" in state or ("terminated" in state and not _never_ran(state["terminated"]))


def is_leaving(seen: Sighting) -> bool:
    """Say whether a pod that has not ended is being taken away, so that the cluster may make another one."""
    if (pod := seen.pod) is None:
        return seen.pod_vanished is not None
    return _is_being_deleted(pod) and "terminated" not in _state(pod)


def _never_began(seen: Sighting, pod: Object) -> bool:
    """Say whether a pod's container surely never ran. A pod that was evicted may not tell any more."""
    if seen.begun or has_begun(pod):
        return False
    refused_by_node = str(_status(pod).get("reason") or "").startswith(_NOT_ADMITTED)
    return "waiting" in _state(pod) or not (pod.get("spec") or {}).get("nodeName") or refused_by_node


# -- pods -----------------------------------------------------------------------------------------------------


def _read_pod(seen: Sighting, pod: Object) -> Reading:
    state = _state(pod)
    if (terminated := state.get("terminated")) is not None:
        return _exited(seen, pod, terminated)
    phase = _status(pod).get("phase")
    if phase in ("Failed", "Succeeded"):
        return Reading(observation=_gone(_why_pod_failed(seen, pod), never_started=_never_began(seen, pod)))
    if _is_being_deleted(pod) or phase == "Unknown":
        return _ending(seen, pod)
    if "running" in state:
        return Reading(observation=Observation(phase=Phase.RUNNING))
    return _read_waiting(seen, pod)


def _exited(seen: Sighting, pod: Object, terminated: Object) -> Reading:
    code = int(terminated.get("exitCode", 0))
    if _never_ran(terminated):
        reason = f"the container could not be started: {_told(terminated, explain_exit(code))}"
        return Reading(
            observation=Observation(phase=Phase.EXITED, exit_code=code, reason=reason, never_started=True)
        )
    words = explain_exit(code)
    if code != 0:
        if terminated.get("reason") == "OOMKilled":
            words = f"out of memory: {_used_too_much(pod)} (exit code {code})"
        cause = _ended_by(seen, pod)
        words = f"{cause}; {words}" if cause else words
    return Reading(observation=Observation(phase=Phase.EXITED, exit_code=code, reason=words))


def _ending(seen: Sighting, pod: Object) -> Reading:
    """A pod that is being deleted, or of which its node says nothing any more."""
    started = not _never_began(seen, pod)
    grace = float((pod.get("metadata") or {}).get("deletionGracePeriodSeconds") or 0)
    node = (pod.get("spec") or {}).get("nodeName")
    # Without a node there is nobody who could still be ending it.
    lost = f"node lost: {node} has not ended it, and does not answer" if node else "its pod was deleted"
    return Reading(
        observation=Observation(
            phase=Phase.RUNNING if started else Phase.WAITING,
            reason=_ended_by(seen, pod) or "it is being ended",
        ),
        waits_for="end",
        patience_seconds=grace + NODE_PATIENCE_SECONDS,
        otherwise=_gone(lost, never_started=not started),
    )


def _read_waiting(seen: Sighting, pod: Object) -> Reading:
    for status in (*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")):
        waiting = (status.get("state") or {}).get("waiting") or {}
        why = str(waiting.get("reason") or "")
        if why in _CAN_NOT_MEND | _IMAGE:
            image = status.get("image") or _image_of(pod, status.get("name"))
            words = _IMAGE_WORDS.get(why, _CAN_NOT_PULL)
            told = _pull_message(seen, waiting)
            reason = f"{words}: {image}{f' ({told})' if told else ''}"
            return _hindered(seen, "image", reason, at_once=why in _CAN_NOT_MEND)
        if why in _CONTAINER:
            reason = f"the container can't be started: {_told(waiting, why)}"
            return _hindered(seen, "container", reason, at_once=False)
    unscheduled = _condition(pod, "PodScheduled")
    if unscheduled.get("status") == "False":
        reason = f"unschedulable: {_told(unscheduled, 'the scheduler has not said why')}"
        return Reading(observation=Observation(phase=Phase.WAITING, reason=reason))
    node = (pod.get("spec") or {}).get("nodeName")
    reason = f"its pod is being made ready on {node}" if node else "its pod waits for the scheduler"
    if seen.warning:
        reason = f"{reason}: {seen.warning}"
    return Reading(observation=Observation(phase=Phase.WAITING, reason=reason))


def _why_pod_failed(seen: Sighting, pod: Object) -> str:
    if cause := _ended_by(seen, pod):
        return cause
    for status in _statuses(pod, "initContainerStatuses"):
        ended = (status.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"its init container {status.get('name')} failed: {explain_exit(int(ended['exitCode']))}"
    if seen.stopping:
        return "it was stopped; its node has not said how its container ended"
    return f"its pod failed: {_told(_status(pod), 'the cluster has not said why')}"


# -- Jobs -----------------------------------------------------------------------------------------------------


def _read_vanished(seen: Sighting, pod: Object) -> Reading:
    """The pod is gone without having told how its container ended."""
    started = not _never_began(seen, pod)
    if job_failure := _why_job_failed(seen.job):
        return Reading(observation=_gone(job_failure, never_started=not started))
    cause = _ended_by(seen, pod) or (
        "it was stopped" if seen.stopping else "its pod was deleted from outside"
    )
    return Reading(
        observation=Observation(phase=Phase.RUNNING if started else Phase.WAITING, reason=cause),
        waits_for="vanished",
        patience_seconds=0.0 if seen.stopping or seen.job is None else SETTLE_SECONDS,
        otherwise=_gone(cause, never_started=not started),
    )


def _read_job(seen: Sighting) -> Reading:
    job = seen.job
    if job is None:
        reason = "it was stopped before it had a pod" if seen.stopping else "its Job was deleted from outside"
        return Reading(observation=_gone(reason, never_started=not seen.stopping))
    if failure := _why_job_failed(job):
        # Its pod tells how it ended. Jobs and pods come by two watches, and neither waits for the other.
        phase = Phase.RUNNING if seen.begun else Phase.WAITING
        return Reading(
            observation=Observation(phase=phase, reason=failure),
            waits_for="end",
            patience_seconds=SETTLE_SECONDS,
            otherwise=_gone(failure),
        )
    if _condition(job, "Complete").get("status") == "True":
        return Reading(
            observation=Observation(
                phase=Phase.EXITED, exit_code=0, reason="its Job is complete (exit code 0)"
            )
        )
    if (job.get("spec") or {}).get("parallelism") == 0:
        return Reading(observation=_gone("it was stopped"))
    if (job.get("spec") or {}).get("suspend"):
        queue = ((job.get("metadata") or {}).get("labels") or {}).get(KUEUE_LABEL)
        held = f"suspended: it waits in the Kueue queue {queue}" if queue else "its Job is suspended"
        return Reading(observation=Observation(phase=Phase.QUEUED, reason=held))
    if seen.warning is None:
        return Reading(observation=Observation(phase=Phase.WAITING, reason="its pod is being created"))
    reason = f"its pod can't be created: {seen.warning}"
    if _QUOTA in seen.warning:
        # Others end, and then there is room again: the cluster tries again by itself.
        return Reading(observation=Observation(phase=Phase.WAITING, reason=reason))
    return _hindered(seen, "pod", reason, at_once=False)


def _why_job_failed(job: Object | None) -> str | None:
    """Return why a Job has failed, if it has."""
    failed = _condition(job or {}, "Failed")
    if failed.get("status") != "True":
        return None
    if failed.get("reason") == "DeadlineExceeded":
        seconds = ((job or {}).get("spec") or {}).get("activeDeadlineSeconds")
        return f"deadline exceeded: it took longer than its active_deadline_seconds of {seconds} s"
    return f"its Job failed: {_told(failed, 'the cluster has not said why')}"


# -- both -----------------------------------------------------------------------------------------------------


def _hindered(seen: Sighting, what: str, reason: str, *, at_once: bool) -> Reading:
    return Reading(
        observation=Observation(phase=Phase.WAITING, reason=reason),
        waits_for=what,
        patience_seconds=0.0 if at_once else patience_of(seen.job),
        otherwise=_gone(reason, never_started=True),
    )


def _gone(reason: str, *, never_started: bool = False) -> Observation:
    return Observation(phase=Phase.GONE, reason=reason, never_started=never_started)


def _ended_by(seen: Sighting, pod: Object) -> str | None:
    """Return what ended a pod from outside of it, if anything is known to have."""
    status = _status(pod)
    if status.get("reason") == "NodeLost":
        return f"node lost: {_told(status, 'its node does not answer')}"
    if status.get("reason") in ("Evicted", "Preempting", "DeadlineExceeded", "Shutdown", "NodeShutdown"):
        word = {"Evicted": "evicted", "DeadlineExceeded": "deadline exceeded"}.get(
            status["reason"], "ended by its node"
        )
        return f"{word}: {_told(status, 'the node has not said why')}"
    failure = _why_job_failed(seen.job)
    if failure and failure.startswith("deadline"):
        return failure
    disruption = _condition(pod, "DisruptionTarget")
    if disruption.get("status") == "True":
        why = str(disruption.get("reason"))
        reason = f"ended by the cluster ({why})"
        reason = _DISRUPTION_WORDS.get(why, reason)
        return f"{reason} ({disruption['message']})" if disruption.get("message") else reason
    if seen.stopping or not _is_being_deleted(pod):
        return None
    if seen.job is None or _is_being_deleted(seen.job):
        return "its Job was deleted from outside"
    if (seen.job.get("spec") or {}).get("suspend"):
        return "preempted: its Job was suspended while it ran"
    return "its pod was deleted from outside"


def _used_too_much(pod: Object) -> str:
    resources = pod["spec"]["containers"][0].get("resources") or {}
    limit = (resources.get("limits") or {}).get("memory")
    return (
        f"it used more than its memory limit of {limit}, and was killed" if limit else "the kernel killed it"
    )


def _pull_message(seen: Sighting, waiting: Object) -> str:
    """Return the registry's words where they are known; a back-off only says that it is one."""
    message = str(waiting.get("message") or "")
    if seen.warning and (not message or message.startswith("Back-off")):
        return seen.warning
    return message


def _told(source: Object, otherwise: str) -> str:
    return str(source.get("message") or source.get("reason") or otherwise).strip()


def _never_ran(terminated: Object) -> bool:
    return terminated.get("reason") in _NEVER_RAN


def _state(pod: Object) -> Object:
    """Return the state of the container that is the job."""
    name = container_name(pod)
    for status in _statuses(pod, "containerStatuses"):
        if status.get("name") == name:
            state: Object = status.get("state") or {}
            return state
    return {}


def _status(object_: Object) -> Object:
    status: Object = object_.get("status") or {}
    return status


def _statuses(pod: Object, key: str) -> Iterable[Object]:
    statuses: Iterable[Object] = _status(pod).get(key) or ()
    return statuses


def _condition(object_: Object, type_: str) -> Object:
    for condition in _status(object_).get("conditions") or ():
        if condition.get("type") == type_:
            found: Object = condition
            return found
    return {}


def _image_of(pod: Object, name: Any) -> str:
    spec = pod.get("spec") or {}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        if container.get("name") == name:
            return str(container.get("image"))
    return "?"


def _is_being_deleted(object_: Object) -> bool:
    return bool((object_.get("metadata") or {}).get("deletionTimestamp"))
