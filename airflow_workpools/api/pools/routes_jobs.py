# SPDX-License-Identifier: Apache-2.0
"""The routes for jobs, templates, explanations and statistics."""

# Without postponed annotations: FastAPI has to see the types that are made in a function.

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from airflow_workpools.api.pools import wire_jobs
from airflow_workpools.api.pools.access import Caller, Guards
from airflow_workpools.api.pools.routes import READ, WRITE, Cursor, Limit, PoolName
from airflow_workpools.core.jobs import JobState

if TYPE_CHECKING:
    from airflow_workpools.api.pools.jobs import JobService
    from airflow_workpools.api.pools.templates import TemplateService

JobId = Annotated[UUID, Path(description="Id of the job")]
QueueFilter = Annotated[str | None, Query(max_length=250, description="Name of a work queue")]
IdFilter = Annotated[str | None, Query(max_length=250)]
Id = Annotated[str, Query(min_length=1, max_length=250)]
MapIndex = Annotated[int, Query(ge=-1, le=2**31 - 1, description="-1: the task is not mapped")]
JobStates = Annotated[
    list[JobState] | None, Query(max_length=len(JobState), description="States; may be repeated")
]


def job_routes(guards: Guards, service: "JobService") -> APIRouter:
    """Return the routes for jobs."""
    router = APIRouter()
    Reader = Annotated[Caller, guards.reads()]  # noqa: N806 - a type

    @router.get("/pools/{pool}/jobs", tags=["jobs"], responses=READ)
    def list_jobs(
        caller: Reader,
        pool: PoolName,
        state: JobStates = None,
        queue: QueueFilter = None,
        dag_id: IdFilter = None,
        cursor: Cursor = None,
        limit: Limit = 50,
    ) -> wire_jobs.JobList:
        """List jobs of a pool, the newest hand-over first."""
        states = None if not state else frozenset(state)
        return service.list_jobs(caller, pool, states, queue, dag_id, cursor, limit)

    @router.get("/jobs/{job_id}", tags=["jobs"], responses=READ)
    def get_job(caller: Reader, job_id: JobId) -> wire_jobs.JobDetail:
        """Tell all about a job."""
        return service.get_job(caller, job_id)

    @router.post("/jobs/{job_id}/cancel", tags=["jobs"], responses=WRITE)
    def cancel_job(
        caller: Annotated[Caller, guards.writes("workpools_jobs_cancel", definition=False)],
        job_id: JobId,
        request: wire_jobs.CancelRequest,
    ) -> wire_jobs.JobDetail:
        """Cancel a job: at once if it waits, else its worker is asked to stop it."""
        return service.cancel_job(caller, job_id, request)

    # -- what happens, and why ------------------------------------------------------------------------------

    @router.get("/explain", tags=["jobs"], responses=READ)
    def explain(
        caller: Reader, dag_id: Id, run_id: Id, task_id: Id, map_index: MapIndex = -1
    ) -> wire_jobs.ExplainAnswer:
        """Say at which gate a task instance is and why, with the newest job of its present try."""
        return service.explain(caller, dag_id, run_id, task_id, map_index)

    @router.get("/pools/{pool}/statistics", tags=["pools"], responses=READ)
    def get_statistics(
        caller: Reader, pool: PoolName, window: wire_jobs.Window = "1h"
    ) -> wire_jobs.StatisticsAnswer:
        """Tell how a pool was used: slots by queue over time, and how long jobs waited. May be some seconds old."""
        return service.get_statistics(pool, window)

    @router.get("/dashboard", tags=["pools"], responses=READ)
    def get_dashboard(caller: Reader) -> wire_jobs.DashboardAnswer:
        """Tell how all work pools are doing, in a few numbers."""
        return service.get_dashboard(caller)

    return router


def template_routes(guards: Guards, service: "TemplateService") -> APIRouter:
    """Return the routes for what jobs look like."""
    router = APIRouter()
    Reader = Annotated[Caller, guards.reads()]  # noqa: N806 - a type

    @router.get("/infrastructure-types", tags=["templates"], responses=READ)
    def list_infrastructure_types(caller: Reader) -> wire_jobs.InfrastructureTypeList:
        """List the kinds of infrastructure that are installed, with their default templates."""
        return service.list_types()

    @router.get("/pools/{pool}/template", tags=["templates"], responses=READ)
    def get_template(caller: Reader, pool: PoolName) -> wire_jobs.TemplateAnswer:
        """Return the base job template of a pool."""
        return service.get_template(caller, pool)

    @router.put("/pools/{pool}/template", tags=["templates"], responses=WRITE)
    def put_template(
        caller: Annotated[Caller, guards.writes("workpools_template_update")],
        pool: PoolName,
        request: wire_jobs.TemplateRequest,
    ) -> wire_jobs.TemplateAnswer:
        """Give a pool another base job template, or that of its type back."""
        return service.put_template(caller, pool, request)

    @router.post("/templates/validate", tags=["templates"], responses=READ)
    def validate_template(caller: Reader, request: wire_jobs.ValidateRequest) -> wire_jobs.ValidateAnswer:
        """Say what is wrong with a base job template, and where. Nothing is stored."""
        return service.validate(request)

    @router.post("/pools/{pool}/preview", tags=["templates"], responses=READ)
    def preview_job(
        caller: Reader, pool: PoolName, request: wire_jobs.PreviewRequest
    ) -> wire_jobs.PreviewAnswer:
        """Render the job that given variables would make, and say which variables are open. Nothing is stored."""
        return service.preview(caller, pool, request)

    return router
