# SPDX-License-Identifier: Apache-2.0
"""The pool API as an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from airflow_workpools.api.body_limit import BodyLimit
from airflow_workpools.api.pools import wire
from airflow_workpools.api.pools.access import Guards
from airflow_workpools.api.pools.problems import add_handlers, answer
from airflow_workpools.api.pools.routes import pool_routes, worker_routes
from airflow_workpools.api.pools.routes_jobs import job_routes, template_routes

if TYPE_CHECKING:
    from fastapi.routing import APIRoute

    from airflow_workpools.api.pools.access import Door
    from airflow_workpools.api.pools.services import Services

TITLE = "Pool API of airflow-provider-workpools"
DESCRIPTION = """\
What Airflow's UI and automation ask of work pools, and change in them.

Who asks is logged in to Airflow: in the browser, or with a token of Airflow's `/auth/token` as `Authorization: Bearer`.
To read, one has to be allowed to see pools, as Viewer is; to change something, to change pools, as Op is, and to change
the definition of a pool, connections too. Every change is in Airflow's audit log. Lists come in pages: `next_cursor`
asks for the next one, and is null on the last.
"""


def pool_app(services: Services, door: Door) -> FastAPI:
    """Return the app to mount under :data:`~airflow_workpools.api.pools.wire.MOUNT`."""
    # Its document is in the repository; what is served asks for a login.
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    add_handlers(app)
    text = f"the request is longer than {wire.MAX_BODY_BYTES} bytes"
    app.add_middleware(BodyLimit, most=wire.MAX_BODY_BYTES, text=text, refuse=lambda text: answer(413, text))
    guards = Guards(door, services.desk)
    for router in (
        pool_routes(guards, services.pools),
        worker_routes(guards, services.workers),
        job_routes(guards, services.jobs),
        template_routes(guards, services.templates),
    ):
        app.include_router(router, prefix=wire.PATH)
    return app


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of the pool API."""
    from airflow_workpools.api.pools.services import Services

    nothing: Any = None
    return pool_app(Services(*[nothing] * len(Services._fields)), nothing).openapi()


def _operation_id(route: APIRoute) -> str:
    return route.name
