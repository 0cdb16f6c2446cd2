# SPDX-License-Identifier: Apache-2.0
"""What the states of Jobs and pods mean; above all those that a test's cluster can't be brought into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airflow_workpools.infrastructure.base import Phase
from airflow_workpools.infrastructure.kubernetes.manifest import KUEUE_LABEL, PATIENCE_ANNOTATION
from airflow_workpools.infrastructure.kubernetes.status import Reading, Sighting, is_leaving, read

DELETED = "2026-01-01T00:00:00Z"


def job(
    *conditions: Mapping[str, Any], deleted: bool = False, labels: Any = None, **spec: Any
) -> dict[str, Any]:
    metadata = {"name": "wp-1", "annotations": {PATIENCE_ANNOTATION: "7"}, "labels": labels or {}}
    if deleted:
        metadata["deletionTimestamp"] = DELETED
    return {"metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)}}


def condition(type_: str, **facts: Any) -> dict[str, Any]:
    return {"type": type_, "status": "True", **facts}


def pod(
    state: Any = None, *, deleted: bool = False, node: str | None = "node-1", **status: Any
) -> dict[str, Any]:
    """Return a pod whose first container is in this state."""
    metadata: dict[str, Any] = {"name": "wp-1-abcde"}
    if deleted:
        metadata |= {"deletionTimestamp": DELETED, "deletionGracePeriodSeconds": 30}
    containers = [
        {"name": "job", "image": "etl:1", "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "b"},
    ]
    statuses = [{"name": "b", "state": {"running": {}}}]
    if state is not None:
        statuses.append({"name": "job", "image": "etl:1", "state": state})
    return {
        "metadata": metadata,
        "spec": {"containers": containers, "nodeName": node},
        "status": {"containerStatuses": statuses, **status},
    }


RUNNING = {"running": {"startedAt": DELETED}}


def waiting(reason: str, message: str | None = None) -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code: int, **facts: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **facts}}


def reading(**seen: Any) -> Reading:
    return read(Sighting(**{"job": job(), **seen}))


class TestAJobWithoutAPod:
    def test_waits_for_one(self) -> None:
        assert reading().observation.phase is Phase.WAITING

    def test_that_has_failed_is_over_when_its_pod_does_not_turn_up_to_say_how(self) -> None:
        failed = job(condition("Failed", reason="BackoffLimitExceeded", message="has reached the limit"))
        seen = reading(job=failed)
        assert not seen.observation.ended
        assert seen.patience_seconds == 1.0
        assert seen.otherwise is not None
        assert (seen.otherwise.phase, seen.otherwise.reason) == (
            Phase.GONE,
            "its Job failed: has reached the limit",
        )

    def test_that_is_suspended_is_held_back(self) -> None:
        seen = reading(job=job(suspend=True, labels={KUEUE_LABEL: "gpus"})).observation
        assert (seen.phase, seen.reason) == (Phase.QUEUED, "suspended: it waits in the Kueue queue gpus")
        assert reading(job=job(suspend=True)).observation.phase is Phase.QUEUED

    def test_that_is_released_waits_again(self) -> None:
        assert reading(job=job(suspend=False)).observation.phase is Phase.WAITING

    def test_whose_pod_is_refused_is_given_up_after_its_own_patience(self) -> None:
        seen = reading(warning="forbidden: violates PodSecurity")
        assert seen.observation.phase is Phase.WAITING
        assert seen.patience_seconds == 7
        assert seen.otherwise is not None
        assert seen.otherwise.never_started

    def test_waits_as_long_as_it_takes_for_room_in_a_quota(self) -> None:
        assert reading(warning="forbidden: exceeded quota: few").otherwise is None

    def test_that_is_complete_has_ended_well(self) -> None:
        seen = reading(job=job(condition("Complete"))).observation
        assert (seen.phase, seen.exit_code) == (Phase.EXITED, 0)

    def test_that_is_gone_was_deleted(self) -> None:
        assert reading(job=None).observation.reason == "its Job was deleted from outside"
        assert "stopped" in str(reading(job=None, stopping=True).observation.reason)

    def test_that_may_make_none_was_stopped(self) -> None:
        assert reading(job=job(parallelism=0)).observation.phase is Phase.GONE


class TestAPod:
    def test_is_running_when_its_first_container_is(self) -> None:
        assert reading(pod=pod(RUNNING)).observation.phase is Phase.RUNNING

    def test_has_ended_when_its_first_container_has(self) -> None:
        seen = reading(pod=pod(terminated(3), phase="Running")).observation
        assert (seen.phase, seen.exit_code, seen.never_started) == (Phase.EXITED, 3, False)

    def test_that_used_too_much_memory_names_its_limit(self) -> None:
        seen = reading(pod=pod(terminated(137, reason="OOMKilled"))).observation
        assert "memory limit of 1Gi" in str(seen.reason)

    def test_that_ended_well_needs_no_excuse(self) -> None:
        assert reading(pod=pod(terminated(0, reason="OOMKilled"), deleted=True)).observation.exit_code == 0

    @pytest.mark.parametrize("reason", ["ContainerCannotRun", "StartError"])
    def test_whose_command_is_not_there_never_started(self, reason: str) -> None:
        seen = reading(pod=pod(terminated(127, reason=reason, message="exec: not found"))).observation
        assert seen.never_started
        assert "exec: not found" in str(seen.reason)

    @pytest.mark.parametrize("reason", ["ErrImageNeverPull", "InvalidImageName"])
    def test_whose_image_can_not_come_is_given_up_at_once(self, reason: str) -> None:
        seen = reading(pod=pod(waiting(reason)))
        assert (seen.patience_seconds, seen.otherwise is None) == (0, False)

    def test_whose_image_does_not_come_stays_with_the_words_of_the_registry(self) -> None:
        refused = "pull access denied for etl"
        tried = reading(pod=pod(waiting("ErrImagePull", refused)))
        backed_off = reading(pod=pod(waiting("ImagePullBackOff", "Back-off pulling image")), warning=refused)
        for seen in (tried, backed_off):
            assert (seen.waits_for, seen.patience_seconds) == ("image", 7)
            assert seen.observation.reason == f"the image can't be pulled: etl:1 ({refused})"

    def test_of_which_an_init_container_has_no_image_is_given_up(self) -> None:
        first = {"name": "init", "image": "init:1", "state": waiting("ErrImageNeverPull")}
        seen = reading(pod=pod(waiting("PodInitializing"), initContainerStatuses=[first]))
        assert "init:1" in str(seen.observation.reason)

    def test_of_which_an_init_container_failed_never_started(self) -> None:
        first = {"name": "init", "state": terminated(1)}
        seen = reading(pod=pod(waiting("PodInitializing"), initContainerStatuses=[first], phase="Failed"))
        assert seen.observation.never_started
        assert "its init container init failed" in str(seen.observation.reason)

    def test_that_fits_nowhere_says_what_the_scheduler_says(self) -> None:
        unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/9 nodes are available"}
        seen = reading(pod=pod(conditions=[unscheduled], node=None))
        assert seen.observation.reason == "unschedulable: 0/9 nodes are available"
        assert seen.otherwise is None  # the start timeout is the worker's

    def test_that_is_made_ready_says_what_is_in_the_way(self) -> None:
        seen = reading(pod=pod(waiting("ContainerCreating")), warning='configmap "x" not found')
        assert seen.observation.reason == 'its pod is being made ready on node-1: configmap "x" not found'

    def test_that_its_node_does_not_admit_never_started(self) -> None:
        refused = pod(phase="Failed", reason="OutOfcpu", message="Node didn't have enough resource: cpu")
        assert reading(pod=refused).observation.never_started

    def test_that_is_evicted_may_have_run(self) -> None:
        evicted = pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
        assert reading(pod=evicted).observation.reason == "evicted: The node was low on resource: memory."
        assert not reading(pod=evicted).observation.never_started


class TestAPodThatIsTakenAway:
    def test_goes_on_until_its_container_has_ended(self) -> None:
        assert reading(pod=pod(RUNNING, deleted=True)).observation.phase is Phase.RUNNING
        assert reading(pod=pod(waiting("ContainerCreating"), deleted=True)).observation.phase is Phase.WAITING

    @pytest.mark.parametrize(
        ("seen", "cause"),
        [
            ({}, "its pod was deleted from outside; "),
            ({"job": None}, "its Job was deleted from outside; "),
            ({"job": job(deleted=True)}, "its Job was deleted from outside; "),
            ({"job": job(suspend=True)}, "preempted: its Job was suspended while it ran; "),
            ({"stopping": True}, "terminated"),
            (
                {"job": job(condition("Failed", reason="DeadlineExceeded"), activeDeadlineSeconds=60)},
                "deadline exceeded: it took longer than its active_deadline_seconds of 60 s; ",
            ),
        ],
    )
    def test_says_by_whom(self, seen: dict[str, Any], cause: str) -> None:
        ended = reading(**{"pod": pod(terminated(143), deleted=True), **seen}).observation
        assert (ended.phase, ended.exit_code) == (Phase.EXITED, 143)
        assert str(ended.reason).startswith(cause)

    @pytest.mark.parametrize(
        ("reason", "cause"),
        [
            ("PreemptionByScheduler", "preempted: a pod of higher priority got its place"),
            ("DeletionByTaintManager", "evicted: its node got a taint"),
            ("EvictionByEvictionAPI", "evicted: its node is being drained"),
            ("SomethingNew", "ended by the cluster (SomethingNew)"),
        ],
    )
    def test_says_for_what(self, reason: str, cause: str) -> None:
        disrupted = pod(
            terminated(137), deleted=True, conditions=[condition("DisruptionTarget", reason=reason)]
        )
        assert str(reading(pod=disrupted).observation.reason).startswith(cause)

    def test_whose_node_does_not_end_it_is_lost_after_a_while(self) -> None:
        seen = reading(pod=pod(RUNNING, deleted=True))
        assert seen.patience_seconds > 30
        assert seen.otherwise is not None
        assert str(seen.otherwise.reason).startswith("node lost: node-1")
        assert not seen.otherwise.never_started

    def test_on_a_node_that_is_lost_says_so_at_its_end(self) -> None:
        lost = pod(terminated(137), deleted=True, reason="NodeLost", message="Node node-1 was unresponsive")
        assert str(reading(pod=lost).observation.reason).startswith("node lost: Node node-1 was unresponsive")

    def test_and_has_vanished_waits_for_the_word_of_its_job(self) -> None:
        seen = reading(pod_vanished=pod(RUNNING))
        assert seen.observation.phase is Phase.RUNNING
        assert seen.otherwise is not None
        assert (seen.otherwise.reason, seen.otherwise.never_started) == (
            "its pod was deleted from outside",
            False,
        )
        failed = job(condition("Failed", reason="DeadlineExceeded"), activeDeadlineSeconds=60)
        assert "deadline" in str(reading(job=failed, pod_vanished=pod(RUNNING)).observation.reason)

    def test_before_it_began_may_be_tried_again(self) -> None:
        seen = reading(pod_vanished=pod(waiting("ContainerCreating")))
        assert seen.otherwise is not None
        assert seen.otherwise.never_started
        assert not reading(pod_vanished=pod(waiting("x")), begun=True).otherwise.never_started  # type: ignore[union-attr]

    def test_is_leaving_until_it_has_ended(self) -> None:
        assert is_leaving(Sighting(pod=pod(RUNNING, deleted=True)))
        assert is_leaving(Sighting(pod_vanished=pod(RUNNING)))
        assert not is_leaving(Sighting(pod=pod(terminated(0), deleted=True)))
        assert not is_leaving(Sighting(pod=pod(RUNNING)))
        assert not is_leaving(Sighting())
