# SPDX-License-Identifier: Apache-2.0
"""Which workloads go into one Secret, and when it is sent. The API stands in a dictionary here."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from airflow_workpools.core.templates import render
from airflow_workpools.errors import InfrastructureUnavailable
from airflow_workpools.infrastructure.base import LaunchSpec
from airflow_workpools.infrastructure.kubernetes import parcels as parcels_module
from airflow_workpools.infrastructure.kubernetes.answers import ApiRefusal
from airflow_workpools.infrastructure.kubernetes.manifest import JobPlan, plan_job
from airflow_workpools.infrastructure.kubernetes.parcels import MAX_BYTES, MAX_SHARES, Parcels, Share
from airflow_workpools.infrastructure.registry import default_template


@dataclass
class Secrets:
    """What there is of Secrets, and how often one was sent."""

    sent: list[str] = field(default_factory=list)
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: list[Exception] = field(default_factory=list)
    """What the next requests are answered with."""
    may_answer: asyncio.Event | None = None

    async def create_secret(self, secret: Mapping[str, Any]) -> None:
        name = secret["metadata"]["name"]
        self.sent.append(name)
        if self.may_answer is not None:
            await self.may_answer.wait()
        if self.answers:
            raise self.answers.pop(0)
        known = self.there.setdefault(name, {"owners": {}, "data": {}})
        known["owners"] |= {one["name"]: one["uid"] for one in secret["metadata"]["ownerReferences"]}
        known["data"] |= {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def job(workload: str = "w", namespace: str = "jobs") -> JobPlan:
    job_id = uuid.uuid4()
    given = {"image": "etl:1", "namespace": namespace}
    configuration = render(default_template("kubernetes"), given, context=None, environ={})
    spec = LaunchSpec(
        job_id=job_id, configuration=configuration, workload=workload, labels={"job_id": str(job_id)}
    )
    return plan_job(spec, namespace="jobs", environment={})


def secret_of(share: Share) -> str:
    volume = share.plan.job["spec"]["template"]["spec"]["volumes"][-1]
    return str(volume["secret"]["secretName"])


def run(test: Callable[[Parcels, Secrets], Coroutine[Any, Any, None]]) -> Secrets:
    secrets = Secrets()

    async def begin() -> None:
        parcels = Parcels(secrets)  # type: ignore[arg-type]
        try:
            await test(parcels, secrets)
        finally:
            await parcels.close()

    asyncio.run(begin())
    return secrets


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_workpools.core.backoff.Backoff.next", lambda _: 0.0)


def test_jobs_that_are_launched_together_share_secrets_and_each_has_its_workload() -> None:
    plans = [job(f"workload {n}") for n in range(2 * MAX_SHARES + 1)]

    async def test(parcels: Parcels, secrets: Secrets) -> None:
        shares = [parcels.join(plan) for plan in plans]
        for share in shares:
            share.created(f"uid of {share.plan.name}")
        await asyncio.gather(*(share.delivered() for share in shares))
        for plan, share in zip(plans, shares, strict=True):
            secret = secrets.there[secret_of(share)]
            assert secret["data"][plan.name] == plan.workload
            assert secret["owners"][plan.name] == f"uid of {plan.name}"
            assert secret["owners"].keys() == secret["data"].keys()

    secrets = run(test)
    assert secrets.sent == [plans[0].name, plans[MAX_SHARES].name, plans[2 * MAX_SHARES].name]


def test_a_job_that_comes_later_does_not_join_what_others_wait_for() -> None:
    async def test(parcels: Parcels, secrets: Secrets) -> None:
        first = parcels.join(job())
        first.created("1")
        second = parcels.join(job())
        assert secret_of(second) == second.plan.name
        await first.delivered()
        assert secrets.sent == [first.plan.name]

    run(test)


def test_secrets_are_of_one_namespace_and_not_too_large() -> None:
    async def test(parcels: Parcels, secrets: Secrets) -> None:
        shares = [parcels.join(job(namespace=name)) for name in ("here", "there", "here")]
        large = [parcels.join(job("w" * (MAX_BYTES - 100), namespace="large")) for _ in range(2)]
        assert [secret_of(one) for one in (*shares, *large)] == [
            shares[0].plan.name,
            shares[1].plan.name,
            shares[0].plan.name,
            large[0].plan.name,
            large[1].plan.name,
        ]

    run(test)


def test_nobody_waits_for_a_job_that_is_not_created() -> None:
    async def test(parcels: Parcels, secrets: Secrets) -> None:
        created, refused = parcels.join(job()), parcels.join(job())
        created.created("1")
        refused.leave()
        await created.delivered()
        assert list(secrets.there[created.plan.name]["data"]) == [created.plan.name]

    run(test)


def test_nobody_waits_for_a_job_that_can_not_be_given_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels_module, "PATIENCE_SECONDS", 3600.0)
    broken = replace(job(), job={"metadata": {"name": "broken", "namespace": "jobs"}})

    async def test(parcels: Parcels, secrets: Secrets) -> None:
        share = parcels.join(job())
        with pytest.raises(KeyError):
            parcels.join(broken)
        share.created("1")
        await asyncio.wait_for(share.delivered(), 10)
        assert list(secrets.there[share.plan.name]["data"]) == [share.plan.name]

    run(test)


def test_one_whose_creation_takes_long_adds_itself_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcels_module, "PATIENCE_SECONDS", 0.0)

    async def test(parcels: Parcels, secrets: Secrets) -> None:
        quick, slow = parcels.join(job("quick")), parcels.join(job("slow"))
        quick.created("1")
        await quick.delivered()
        secret = secrets.there[quick.plan.name]
        assert secret["data"] == {quick.plan.name: "quick"}
        slow.created("2")
        await slow.delivered()
        assert secret["data"] == {quick.plan.name: "quick", slow.plan.name: "slow"}
        assert secret["owners"] == {quick.plan.name: "1", slow.plan.name: "2"}

    run(test)


def test_a_launch_that_is_given_up_keeps_no_other_from_its_workload() -> None:
    async def test(parcels: Parcels, secrets: Secrets) -> None:
        secrets.may_answer = asyncio.Event()
        shares = [parcels.join(job()) for _ in range(2)]
        for share in shares:
            share.created("1")
        waits = [asyncio.create_task(share.delivered()) for share in shares]
        while not secrets.sent:
            await asyncio.sleep(0)
        waits[0].cancel()
        secrets.may_answer.set()
        await waits[1]
        assert len(secrets.there[shares[0].plan.name]["data"]) == 2

    run(test)


def test_an_api_that_does_not_answer_is_asked_again_and_one_that_refuses_is_not() -> None:
    async def test(parcels: Parcels, secrets: Secrets) -> None:
        secrets.answers = [InfrastructureUnavailable("away")] * 3
        share = parcels.join(job())
        share.created("1")
        await share.delivered()
        assert len(secrets.sent) == 4
        secrets.answers = [ApiRefusal("no right", 403)]
        both = [parcels.join(job()) for _ in range(2)]
        for one in both:
            one.created("1")
        told = await asyncio.gather(*(one.delivered() for one in both), return_exceptions=True)
        assert [str(error) for error in told] == ["no right", "no right"]
        assert len(secrets.sent) == 5

    run(test)


def test_what_a_pod_sees_is_nowhere_in_its_job() -> None:
    plan = job("s3cr3t")
    assert "s3cr3t" not in json.dumps(plan.sharing("another").job)
