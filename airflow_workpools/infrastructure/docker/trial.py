# SPDX-License-Identifier: Apache-2.0
"""Whether a job could be launched, found out without making a container, and without pulling anything."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.docker.registries import named_login

if TYPE_CHECKING:
    from airflow_workpools.infrastructure.docker.engine import Engine
    from airflow_workpools.infrastructure.docker.plan import ContainerPlan


async def try_out(engine: Engine, plan: ContainerPlan) -> str:
    """Say in a sentence where a job's image comes from.

    :raises LaunchRejected: if it can come from nowhere.
    """
    if plan.registry_conn_id:
        await asyncio.to_thread(named_login, plan.registry_conn_id, plan.image)
    if plan.pull_policy == "always":
        return f"Image {plan.image_text} is pulled for each job."
    if await engine.has_image(plan.image_text):
        return f"Image {plan.image_text} is there."
    if plan.pull_policy == "never":
        raise LaunchRejected(f"image {plan.image_text} is not on the engine, and image_pull_policy is never")
    return f"Image {plan.image_text} is not there yet: the first job pulls it."
