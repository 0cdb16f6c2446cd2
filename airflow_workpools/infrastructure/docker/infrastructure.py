# SPDX-License-Identifier: Apache-2.0
"""The docker kind: jobs are containers.

A container has its name from its job, so that "this name exists" means "adopt it". Only who has made a container
starts it: so a task runs once, however many workers launch it. A container that nobody has started by then is
removed, and its job launched again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.base import Handle, LaunchSpec, Observation, Phase
from airflow_workpools.infrastructure.containers import (
    INSTALLATION_LABEL,
    runtime_environment,
)
from airflow_workpools.infrastructure.docker import log as container_log
from airflow_workpools.infrastructure.docker import reasons
from airflow_workpools.infrastructure.docker.engine import Engine, EngineRefusal
from airflow_workpools.infrastructure.docker.events import EventStream
from airflow_workpools.infrastructure.docker.listed import is_over, job_id_of, name_of
from airflow_workpools.infrastructure.docker.plan import (
    ATTEMPT_LABEL,
    GRACE_LABEL,
    REMOVE_LABEL,
    ContainerPlan,
    plan_container,
)
from airflow_workpools.infrastructure.docker.pulls import PullFailed, Pulls
from airflow_workpools.infrastructure.docker.registries import RegistryLogin, named_login
from airflow_workpools.infrastructure.docker.stops import Stops
from airflow_workpools.infrastructure.docker.trial import try_out
from airflow_workpools.infrastructure.docker.variables import DockerVariables
from airflow_workpools.infrastructure.docker.workload_file import put_workload
from airflow_workpools.infrastructure.image_checks import image_problems
from airflow_workpools.infrastructure.template_checks import problems_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from pydantic import BaseModel

log = logging.getLogger(__name__)

_ABANDONED_SECONDS = 30.0
"""A container that was made and not started for so long is started by nobody any more."""
_LOOK_AGAIN_SECONDS = 0.1

_RUNNING = Observation(phase=Phase.RUNNING)
_WAITING = Observation(phase=Phase.WAITING, reason="its container is made, and not started yet")


class DockerInfrastructure:
    """Runs jobs as containers of one engine.

    :param home: not needed: everything that must be known stands in the containers' labels.
    :param connection: where the engine is, and a login at a registry; None: the environment says where.
    :param environment: returns what a runtime must know of this Airflow; blocks.
    """

    kind: ClassVar[str] = "docker"
    runs_at_launch: ClassVar[bool] = False
    variables: ClassVar[type[BaseModel]] = DockerVariables

    def __init__(
        self,
        *,
        home: Path,
        connection: Mapping[str, Any] | None = None,
        environment: Callable[[], Mapping[str, str]] = runtime_environment,
    ) -> None:
        self._engine = Engine(connection)
        self._login = RegistryLogin.from_connection(connection) if connection else None
        self._read_environment = environment
        self._environment: Mapping[str, str] | None = None
        self._pulls = Pulls(self._engine)
        self._stops = Stops(self._engine)
        self._events: EventStream | None = None
        self._launching: Counter[str] = Counter()
        """Names of containers that are being made and started here."""
        self._not_started_since: dict[str, float] = {}
        """Since when (loop time) a container has been seen that was not started, by id."""
        self._changed = asyncio.Event()

    @property
    def bound_to_host(self) -> bool:
        """Whether workers of other hosts have other engines, on which they would miss these jobs."""
        return not self._engine.is_for_all_hosts

    @classmethod
    def default_job_configuration(cls) -> Mapping[str, Any]:
        """Return the ``job_configuration`` of the default base job template, with placeholders."""
        return {name: f"{{{{ {name} }}}}" for name in DockerVariables.model_fields}

    @classmethod
    def template_problems(cls, job_configuration: Any) -> Sequence[str]:
        """Say what is wrong with a template, whatever values a job gives."""
        return problems_of(
            job_configuration,
            needed=("image",),
            plan=lambda spec: plan_container(spec, {}, engine_is_here=False),
        )

    @classmethod
    def variable_problems(cls, job_configuration: Any, variables: Mapping[str, Any]) -> Sequence[str]:
        """Say which job variables make a malformed name of an image."""
        return image_problems(job_configuration, variables, ("image",))

    # -- life -----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect to the engine and follow its events."""
        await self._engine.open()
        if self._events is None:
            self._events = EventStream(self._engine, self._changed.set, asyncio.get_running_loop())

    async def close(self) -> None:
        """Let go of the engine; the containers go on."""
        self._stops.close()
        if self._events is not None:
            self._events.close()
            self._events = None
        await self._engine.close()

    def hindrance(self) -> str | None:
        """Say that the engine does not answer, if that is known."""
        return self._events.lost if self._events is not None else None

    # -- launch and find ------------------------------------------------------------------------------------

    async def launch(self, spec: LaunchSpec) -> AsyncIterator[Handle]:
        """Make a container, give it its workload, and start it; or adopt the one that is there."""
        plan = await self._plan(spec)
        try:
            container, is_ours = await self._make(plan)
        except PullFailed as failure:
            yield _without_container(spec.job_id, plan.name, str(failure))
            return
        except EngineRefusal as refusal:
            if refusal.is_final:
                raise LaunchRejected(f"the Docker Engine refused the container: {refusal}") from refusal
            yield _without_container(spec.job_id, plan.name, f"the container could not be made: {refusal}")
            return
        handle = self._handle(spec.job_id, container["Id"], plan.name, container["Config"]["Labels"])
        try:
            yield handle
            if is_ours and (problem := await self._start(plan, container, spec.workload)):
                yield _without_container(spec.job_id, plan.name, problem)
        finally:
            if is_ours:
                self._done_launching(plan.name)

    async def try_out(self, spec: LaunchSpec) -> str:
        """Say whether the engine has, or may pull, what a job needs; nothing is pulled for that."""
        return await try_out(self._engine, await self._plan(spec))

    async def _plan(self, spec: LaunchSpec) -> ContainerPlan:
        if self._environment is None:
            self._environment = await asyncio.to_thread(self._read_environment)
        return plan_container(spec, self._environment, engine_is_here=self._engine.is_here)

    async def _make(self, plan: ContainerPlan) -> tuple[dict[str, Any], bool]:
        """Return the container, and whether it was made here, just now."""
        if plan.pull_policy == "always":
            await self._pull(plan)
        pulled = plan.pull_policy != "if-not-present"
        while True:
            self._launching[plan.name] += 1
            made = None
            try:
                made = await self._create(plan)
                return made, True
            except EngineRefusal as refusal:
                if refusal.is_name_in_use:
                    if (found := await self._existing(plan.name)) is not None:
                        return found, False
                elif refusal.is_not_found and not pulled and refusal.is_about_image:
                    await self._pull(plan)
                    pulled = True
                elif refusal.is_not_found and plan.pull_policy == "never":
                    raise LaunchRejected(
                        f"image {plan.image_text} is not on the engine, and image_pull_policy is never: {refusal}"
                    ) from refusal
                else:
                    raise
            finally:
                if made is None:
                    self._done_launching(plan.name)

    def _done_launching(self, name: str) -> None:
        self._launching[name] -= 1
        if not self._launching[name]:
            del self._launching[name]

    async def _create(self, plan: ContainerPlan) -> dict[str, Any]:
        def create(client: Any) -> dict[str, Any]:
            return client.containers.create(**plan.arguments).attrs  # type: ignore[no-any-return]

        try:
            return await self._engine.ask(create)
        except (TypeError, ValueError) as error:  # the SDK's word on arguments that it does not know
            raise LaunchRejected(
                f"the job's configuration does not fit: container_create_kwargs: {error}"
            ) from error

    async def _pull(self, plan: ContainerPlan) -> None:
        login = self._login if self._login and self._login.registry == plan.image.registry else None
        if plan.registry_conn_id:
            login = await asyncio.to_thread(named_login, plan.registry_conn_id, plan.image)
        await self._pulls.pull(plan.image, login)

    async def _existing(self, name: str) -> dict[str, Any] | None:
        """Return the container of this name, once it was started; None if it is gone, by itself or as abandoned."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while (found := await self._engine.inspect(name)) is not None:
            if found["State"]["Status"] not in reasons.NOT_STARTED:
                return found
            if loop.time() - since > _ABANDONED_SECONDS:
                await self._remove_unstarted(found["Id"])
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return None

    async def _start(self, plan: ContainerPlan, container: Mapping[str, Any], workload: str) -> str | None:
        """Start a container that was made here; return why it could not be started, if that may pass."""
        id_ = container["Id"]
        try:
            await put_workload(self._engine, container, workload, into_volume=plan.read_only)
            for network in plan.more_networks:
                await self._engine.join(id_, network)
            await self._engine.ask(lambda client: client.api.start(id_))
        except EngineRefusal as refusal:
            if refusal.is_not_found and await self._engine.inspect(id_) is None:
                return reasons.removed_before_start(plan.name)
            await self._engine.remove(id_, force=True)
            if refusal.is_final or reasons.is_about_command(str(refusal)):
                raise LaunchRejected(reasons.start_refused(str(refusal))) from refusal
            return reasons.start_refused(str(refusal))
        except LaunchRejected:
            await self._engine.remove(id_, force=True)
            raise
        return None

    async def find(self, job_ids: Collection[UUID]) -> Mapping[UUID, Handle]:
        """Look for jobs by the labels of their containers; of several attempts the last counts."""
        found: dict[UUID, tuple[int, Handle]] = {}
        for container in await self._engine.containers():
            labels = container["Labels"]
            job_id = job_id_of(labels)
            if job_id is None or job_id not in job_ids:
                continue
            attempt = int(labels.get(ATTEMPT_LABEL) or 0)
            if job_id not in found or found[job_id][0] < attempt:
                found[job_id] = attempt, self._handle(job_id, container["Id"], name_of(container), labels)
        return {job_id: handle for job_id, (_, handle) in found.items()}

    def _handle(self, job_id: UUID, container: str, name: str, labels: Mapping[str, str]) -> Handle:
        """Return the handle of a container: the same from whoever made it and from whoever found it."""
        data = {
            "container_id": container,
            "name": name,
            "stop_grace_seconds": float(labels.get(GRACE_LABEL) or 30),
            "auto_remove": labels.get(REMOVE_LABEL) != "false",
            "bound_to_host": self.bound_to_host,
        }
        return Handle(job_id=job_id, kind=self.kind, data=data)

    async def left_behind(self, installation: str, *, before: datetime) -> Sequence[Handle]:
        """Look for containers by their labels; one that is to be kept is looked for until it has ended."""
        return [
            self._handle(job_id, container["Id"], name_of(container), labels)
            for container in await self._engine.containers()
            if (labels := container["Labels"]).get(INSTALLATION_LABEL) == installation
            and (job_id := job_id_of(labels)) is not None
            and int(container["Created"]) < before.timestamp()
            and not (labels.get(REMOVE_LABEL) == "false" and is_over(container["State"]))
        ]

    # -- observe --------------------------------------------------------------------------------------------

    async def observe(self, handles: Sequence[Handle]) -> Mapping[UUID, Observation]:
        """List all containers once; ask for more only of those that have ended."""
        states = {container["Id"]: container["State"] for container in await self._engine.containers()}
        seen = {handle.job_id: self._seen(handle, states) for handle in handles}
        unclear = [handle for handle in handles if seen[handle.job_id] is None]
        closer = await asyncio.gather(*(self._look_closer(handle) for handle in unclear))
        return {
            **{job_id: observation for job_id, observation in seen.items() if observation is not None},
            **{handle.job_id: observation for handle, observation in zip(unclear, closer, strict=True)},
        }

    def _seen(self, handle: Handle, states: Mapping[str, str]) -> Observation | None:
        """Say what is seen of a job; None if that takes a closer look."""
        if problem := handle.data.get("problem"):
            return reasons.not_started(problem)
        container = handle.data.get("container_id")
        if container is None:
            return reasons.NO_CONTAINER
        if container not in states:
            return self._removed(handle)
        state = states[container].lower()
        if state in reasons.RUNS:
            # Docker tells of an end a moment before its list has it.
            return None if container in self._exit_codes else _RUNNING
        if state in reasons.NOT_STARTED and not self._is_abandoned(handle):
            return _WAITING
        return None

    def _is_abandoned(self, handle: Handle) -> bool:
        """Say whether nobody will start a container any more that was made."""
        if self._launching[handle.data["name"]]:
            return False
        loop = asyncio.get_running_loop()
        since = self._not_started_since.setdefault(handle.data["container_id"], loop.time())
        return loop.time() - since > _ABANDONED_SECONDS

    async def _look_closer(self, handle: Handle) -> Observation:
        container = await self._engine.inspect(handle.data["container_id"])
        if container is None:
            return self._removed(handle)
        state = container["State"]["Status"]
        if state in reasons.RUNS:
            if self._events is not None:  # it was seen to end; the engine is behind, or somebody restarted it
                self._events.forget(container["Id"])
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_SECONDS, self._changed.set)
            return _RUNNING
        if state not in reasons.NOT_STARTED:
            return reasons.ended(container, lost_at=self._events.lost_at if self._events else None)
        if not self._is_abandoned(handle) or not await self._remove_unstarted(container["Id"]):
            return _WAITING
        return reasons.not_started(
            f"its launch was interrupted: its container {handle.data['name']} was made, and never started"
        )

    def _removed(self, handle: Handle) -> Observation:
        return reasons.removed(handle.data["name"], self._exit_codes.get(handle.data["container_id"]))

    @property
    def _exit_codes(self) -> Mapping[str, int]:
        """Of containers that were seen to end, by id."""
        return self._events.exit_codes if self._events is not None else {}

    async def _remove_unstarted(self, container: str) -> bool:
        """Remove a container, unless it is being started right now; say whether it is gone."""
        try:
            await self._engine.remove(container, force=False)
        except EngineRefusal as refusal:
            log.info("A container that nobody had started was not removed: %s", refusal)
            return False
        return True

    async def wait_for_change(self) -> None:
        """Return when a container has started or ended, or the engine was lost or is there again."""
        await self._changed.wait()
        self._changed.clear()

    def follow_log(self, handle: Handle, *, offset: int) -> AsyncIterator[bytes]:
        """Yield what the container writes, from this byte on; nothing of one that was never made."""
        return container_log.follow(self._engine, handle.data.get("container_id"), offset)

    # -- stop and clean up ----------------------------------------------------------------------------------

    async def stop(self, handle: Handle, *, grace_seconds: float) -> None:
        """Ask the container to end (SIGTERM); kill it when the grace is over."""
        if (container := handle.data.get("container_id")) is not None:
            await self._stops.stop(container, grace_seconds=grace_seconds)

    async def cleanup(self, handle: Handle) -> None:
        """Remove the container, unless it is to be kept."""
        container = handle.data.get("container_id")
        if container is None:
            return
        self._not_started_since.pop(container, None)
        self._stops.forget(container)
        if self._events is not None:
            self._events.forget(container)
        if handle.data.get("auto_remove", True):
            try:
                await self._engine.remove(container, force=True)
            except EngineRefusal as refusal:
                if not refusal.status == 409:  # somebody else is removing it just now
                    raise InfrastructureUnavailable(
                        f"container {handle.data['name']} could not be removed: {refusal}"
                    ) from refusal


def _without_container(job_id: UUID, name: str, problem: str) -> Handle:
    """Return the handle of a job of which there is no container; it says why."""
    return Handle(job_id=job_id, kind=DockerInfrastructure.kind, data={"name": name, "problem": problem})
