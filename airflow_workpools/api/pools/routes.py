# SPDX-License-Identifier: Apache-2.0
"""The routes for pools, queues, workers and tokens: each checks who asks, and calls one function of the service."""

# Without postponed annotations: FastAPI has to see the types that are made in a function.

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query

from airflow_workpools.api.pools import wire
from airflow_workpools.api.pools.access import Caller, Guards
from airflow_workpools.api.pools.problems import statuses

if TYPE_CHECKING:
    from airflow_workpools.api.pools.service import PoolService
    from airflow_workpools.api.pools.workers import WorkerService

PoolName = Annotated[str, Path(max_length=250, description="Name of the work pool")]
QueueName = Annotated[str, Path(max_length=250, description="Name of the work queue, without its pool")]
WorkerName = Annotated[str, Path(max_length=250, description="Name or id of the worker")]
TokenId = Annotated[str, Path(max_length=250, description="Id of the token")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=wire.MAX_PAGE, description="Most things on the page")]

READ = statuses(401, 403, 404, 422, 503)
WRITE = statuses(401, 403, 404, 409, 413, 422, 503)


def pool_routes(guards: Guards, service: "PoolService") -> APIRouter:
    """Return the routes for pools and queues."""
    router = APIRouter()
    Reader = Annotated[Caller, guards.reads()]  # noqa: N806 - a type

    @router.get("/pools", tags=["pools"], responses=READ)
    def list_pools(caller: Reader, cursor: Cursor = None, limit: Limit = 100) -> wire.PoolList:
        """List work pools by name, as they are doing now."""
        return service.list_pools(caller, cursor, limit)

    @router.post("/pools", tags=["pools"], responses=WRITE, status_code=201)
    def create_pool(
        caller: Annotated[Caller, guards.writes("workpools_create", "POST")], request: wire.NewPool
    ) -> wire.PoolDetail:
        """Create a work pool."""
        return service.create_pool(caller, request)

    @router.get("/pools/{pool}", tags=["pools"], responses=READ)
    def get_pool(caller: Reader, pool: PoolName) -> wire.PoolDetail:
        """Tell all about a work pool."""
        return service.get_pool(caller, pool)

    @router.patch("/pools/{pool}", tags=["pools"], responses=WRITE)
    def update_pool(
        caller: Annotated[Caller, guards.writes("workpools_update")], pool: PoolName, request: wire.PoolChange
    ) -> wire.PoolDetail:
        """Change a work pool. One that is invalid is mended so."""
        return service.update_pool(caller, pool, request)

    @router.delete("/pools/{pool}", tags=["pools"], responses=WRITE, status_code=204)
    def delete_pool(
        caller: Annotated[Caller, guards.writes("workpools_delete", "DELETE")], pool: PoolName
    ) -> None:
        """Delete a work pool that has no jobs."""
        service.delete_pool(pool)

    @router.post("/pools/{pool}/pause", tags=["pools"], responses=WRITE)
    def pause_pool(
        caller: Annotated[Caller, guards.writes("workpools_pause", definition=False)], pool: PoolName
    ) -> wire.PoolDetail:
        """Let nothing start in a pool; what runs goes on."""
        return service.pause_pool(caller, pool, paused=True)

    @router.post("/pools/{pool}/resume", tags=["pools"], responses=WRITE)
    def resume_pool(
        caller: Annotated[Caller, guards.writes("workpools_resume", definition=False)], pool: PoolName
    ) -> wire.PoolDetail:
        """Let jobs start in a pool again."""
        return service.pause_pool(caller, pool, paused=False)

    # -- queues ---------------------------------------------------------------------------------------------

    @router.get("/pools/{pool}/queues", tags=["queues"], responses=READ)
    def list_queues(
        caller: Reader, pool: PoolName, cursor: Cursor = None, limit: Limit = 100
    ) -> wire.QueueList:
        """List the queues of a pool by priority."""
        return service.list_queues(caller, pool, cursor, limit)

    @router.post("/pools/{pool}/queues", tags=["queues"], responses=WRITE, status_code=201)
    def create_queue(
        caller: Annotated[Caller, guards.writes("workpools_queue_create")],
        pool: PoolName,
        request: wire.NewQueue,
    ) -> wire.QueueAnswer:
        """Add a queue to a pool. If its priority is taken, others make room."""
        return service.create_queue(caller, pool, request)

    @router.patch("/pools/{pool}/queues/{queue}", tags=["queues"], responses=WRITE)
    def update_queue(
        caller: Annotated[Caller, guards.writes("workpools_queue_update")],
        pool: PoolName,
        queue: QueueName,
        request: wire.QueueChange,
    ) -> wire.QueueAnswer:
        """Change a queue. If its new priority is taken, others make room; the answer says which."""
        return service.update_queue(caller, pool, queue, request)

    @router.delete("/pools/{pool}/queues/{queue}", tags=["queues"], responses=WRITE, status_code=204)
    def delete_queue(
        caller: Annotated[Caller, guards.writes("workpools_queue_delete")], pool: PoolName, queue: QueueName
    ) -> None:
        """Delete a queue that has no jobs; ``default`` stays."""
        service.delete_queue(pool, queue)

    @router.post("/pools/{pool}/queues/{queue}/pause", tags=["queues"], responses=WRITE)
    def pause_queue(
        caller: Annotated[Caller, guards.writes("workpools_queue_pause", definition=False)],
        pool: PoolName,
        queue: QueueName,
    ) -> wire.QueueAnswer:
        """Let nothing start from a queue; what runs goes on."""
        return service.pause_queue(caller, pool, queue, paused=True)

    @router.post("/pools/{pool}/queues/{queue}/resume", tags=["queues"], responses=WRITE)
    def resume_queue(
        caller: Annotated[Caller, guards.writes("workpools_queue_resume", definition=False)],
        pool: PoolName,
        queue: QueueName,
    ) -> wire.QueueAnswer:
        """Let jobs start from a queue again."""
        return service.pause_queue(caller, pool, queue, paused=False)

    return router


def worker_routes(guards: Guards, service: "WorkerService") -> APIRouter:
    """Return the routes for workers and their tokens."""
    router = APIRouter()
    Reader = Annotated[Caller, guards.reads()]  # noqa: N806 - a type

    @router.get("/pools/{pool}/workers", tags=["workers"], responses=READ)
    def list_workers(
        caller: Reader,
        pool: PoolName,
        stopped: Annotated[bool, Query(description="Also those that have stopped")] = False,
        cursor: Cursor = None,
        limit: Limit = 100,
    ) -> wire.WorkerList:
        """List the workers that serve a pool, in the order in which they started."""
        return service.list_workers(pool, cursor, limit, stopped=stopped)

    @router.post("/pools/{pool}/workers/{worker}/drain", tags=["workers"], responses=WRITE)
    def drain_worker(
        caller: Annotated[Caller, guards.writes("workpools_worker_drain", definition=False)],
        pool: PoolName,
        worker: WorkerName,
    ) -> wire.WorkerSummary:
        """Let a worker take no more jobs, of this pool and of any other; what it has runs on."""
        return service.drain_worker(caller, pool, worker, drain=True)

    @router.post("/pools/{pool}/workers/{worker}/resume", tags=["workers"], responses=WRITE)
    def resume_worker(
        caller: Annotated[Caller, guards.writes("workpools_worker_resume", definition=False)],
        pool: PoolName,
        worker: WorkerName,
    ) -> wire.WorkerSummary:
        """Let a worker that was drained take jobs again."""
        return service.drain_worker(caller, pool, worker, drain=False)

    # -- tokens ---------------------------------------------------------------------------------------------

    @router.get("/pools/{pool}/tokens", tags=["tokens"], responses=READ)
    def list_tokens(
        caller: Reader, pool: PoolName, cursor: Cursor = None, limit: Limit = 100
    ) -> wire.TokenList:
        """List the tokens that open a pool for workers, the oldest first."""
        return service.list_tokens(pool, cursor, limit)

    @router.post("/pools/{pool}/tokens", tags=["tokens"], responses=WRITE, status_code=201)
    def create_token(
        caller: Annotated[Caller, guards.writes("workpools_token_create")],
        pool: PoolName,
        request: wire.NewToken,
    ) -> wire.TokenMade:
        """Make a token for the workers of a pool. It is shown this once."""
        return service.create_token(caller, pool, request)

    @router.delete("/pools/{pool}/tokens/{token_id}", tags=["tokens"], responses=WRITE, status_code=204)
    def revoke_token(
        caller: Annotated[Caller, guards.writes("workpools_token_revoke")], pool: PoolName, token_id: TokenId
    ) -> None:
        """Let a token open nothing more, from now on."""
        service.revoke_token(caller, pool, token_id)

    return router
