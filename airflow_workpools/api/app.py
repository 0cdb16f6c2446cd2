# SPDX-License-Identifier: Apache-2.0
"""The worker API as an app: routes that check who asks, and call one function of the service each."""

# Without postponed annotations: FastAPI has to see the types that are made in a function.

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from airflow_workpools import __version__
from airflow_workpools.api import wire
from airflow_workpools.api.body_limit import BodyLimit
from airflow_workpools.api.problems import STATUSES, add_handlers, answer
from airflow_workpools.core.wakeups import Waiter
from airflow_workpools.core.worker_tokens import WorkerToken

if TYPE_CHECKING:
    from airflow_workpools.api.access import Access
    from airflow_workpools.api.news import NewsDesk
    from airflow_workpools.api.service import WorkerService

TITLE = "Worker API of airflow-provider-workpools"
DESCRIPTION = """\
How workers elsewhere ask for the jobs of their work pools, and say what became of them.

Every request shows a worker token (`airflow workpools token create`) and the version of airflow-provider-workpools that
speaks. A call that makes jobs a worker's own carries a number, higher than that of any before; every other call may be
repeated as it is.
"""


def worker_app(service: "WorkerService", access: "Access", news: "NewsDesk") -> FastAPI:
    """Return the app to mount under :data:`~airflow_workpools.api.wire.MOUNT`."""
    # Its document is in the repository; what is served asks for a token.
    app = FastAPI(
        title=TITLE, description=DESCRIPTION, version="1", openapi_url=None, docs_url=None, redoc_url=None
    )
    add_handlers(app)
    app.add_middleware(
        BodyLimit,
        most=wire.MAX_BODY_BYTES,
        text=f"the request is longer than {wire.MAX_BODY_BYTES} bytes; send it in parts",
        refuse=lambda text: answer(413, wire.ProblemCode.TOO_LARGE, text),
    )
    app.include_router(_router(service, access, news), prefix=wire.PATH)
    return app


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of the worker API."""
    nothing: Any = None
    return worker_app(nothing, nothing, nothing).openapi()


def _router(service: "WorkerService", access: "Access", news: "NewsDesk") -> APIRouter:
    def token_of(
        request: Request,
        response: Response,
        authorization: Annotated[str | None, Header(description="`Bearer` and the token")] = None,
        version: Annotated[
            str | None, Header(alias=wire.VERSION_HEADER, description="Version of the worker")
        ] = None,
    ) -> WorkerToken:
        response.headers[wire.VERSION_HEADER] = __version__
        address = request.client.host if request.client else "nowhere"
        return access.check(authorization, version, address=address)

    Token = Annotated[WorkerToken, Depends(token_of)]  # noqa: N806 - a type
    router = APIRouter(responses=STATUSES)

    @router.post("/register")
    def register(
        token: Token,
        request: wire.RegisterRequest,
        version: Annotated[str, Header(alias=wire.VERSION_HEADER)] = "",
    ) -> wire.WorkerAnswer:
        """Come online. Said again, it makes a worker that was taken for dead come online again."""
        return service.register(token, request, version)

    @router.post("/heartbeat")
    def heartbeat(token: Token, request: wire.HeartbeatRequest) -> wire.WorkerAnswer:
        """Say that the worker lives, and what it can't use; the answer says what it is taken for."""
        return service.heartbeat(token, request)

    @router.post("/stop")
    def stop(token: Token, request: wire.StopRequest) -> wire.Done:
        """Go offline. Jobs that run stay the worker's until another one takes them over."""
        return service.stop(token, request)

    @router.post("/installation")
    def installation(token: Token, request: wire.InstallationRequest) -> wire.InstallationAnswer:
        """Say which Airflow this is."""
        return service.installation()

    @router.post("/pools")
    def pools(token: Token, request: wire.PoolsRequest) -> wire.PoolsAnswer:
        """Say what work pools are like. No connection is in the answer, only the name of one."""
        return service.pools(token, request)

    @router.post("/wait")
    async def wait(token: Token, request: wire.WaitRequest) -> wire.WaitAnswer:
        """Answer as soon as a claim may bring jobs, or there are new wishes to cancel some; at the latest in 30 s.

        At once, if the work pools are not as the worker knows them.
        """
        if not await run_in_threadpool(service.begin_to_wait, token, request):
            return wire.WaitAnswer(work=False, wishes=False, pools=True)
        waiter = Waiter(
            worker_id=request.worker_id,
            pools=frozenset(request.pools),
            queues=None if request.queues is None else frozenset(request.queues),
            most=request.most,
        )
        found = await news.wait(waiter, heard=request.heard, seconds=request.seconds)
        return wire.WaitAnswer(work=found.work, wishes=found.wishes)

    @router.post("/claim")
    def claim(token: Token, request: wire.ClaimRequest) -> wire.JobsAnswer:
        """Take jobs to launch, within every limit. Their workloads carry fresh tokens."""
        return service.claim(token, request)

    @router.post("/mine")
    def mine(token: Token, request: wire.MineRequest) -> wire.JobsAnswer:
        """List the jobs that the worker has: also those of a claim whose answer was lost."""
        return service.mine(token, request)

    @router.post("/over")
    def over(token: Token, request: wire.OverRequest) -> wire.OverAnswer:
        """Say of which jobs what is left on an infrastructure may be removed: they ended long ago, or are not known."""
        return service.over(token, request)

    @router.post("/revoked")
    def revoked(token: Token, request: wire.RevokedRequest) -> wire.RevokedAnswer:
        """Say which claims nobody has any more, so that the worker stops the jobs: it was silent for too long."""
        return service.revoked(token, request)

    @router.post("/take_over")
    def take_over(token: Token, request: wire.TakeOverRequest) -> wire.JobsAnswer:
        """Become the owner of what dead workers have left behind that this one can look after."""
        return service.take_over(token, request)

    @router.post("/renew")
    def renew(token: Token, request: wire.RenewRequest) -> wire.RenewAnswer:
        """Let the start timeouts of jobs begin anew that could not start; the answer has fresh workloads."""
        return service.renew(token, request)

    @router.post("/report")
    def report(token: Token, request: wire.ReportRequest) -> wire.ReportAnswer:
        """Tell what became of jobs. What is said of a job that is another's changes nothing, and is answered so."""
        return service.report(token, request)

    @router.post("/requeue")
    def requeue(token: Token, request: wire.RequeueRequest) -> wire.Done:
        """Give jobs back that were not seen running."""
        return service.requeue(token, request)

    @router.post("/wishes")
    def wishes(token: Token, request: wire.WishesRequest) -> wire.WishesAnswer:
        """List the worker's jobs that shall be cancelled."""
        return service.wishes(token, request)

    @router.post("/log_ends")
    def log_ends(token: Token, request: wire.LogEndsRequest) -> wire.LogEndsAnswer:
        """Say how far logs of the worker's jobs are stored."""
        return service.log_ends(token, request)

    @router.post("/append_log")
    def append_log(token: Token, request: wire.AppendLogRequest) -> wire.LogEndsAnswer:
        """Send what jobs have written, in chunks at positions. What is stored already is not stored again."""
        return service.append_log(token, request)

    return router
