# SPDX-License-Identifier: Apache-2.0
"""The pages of work pools in Airflow's UI: what Airflow is told of them, and the app that serves their bundle.

The pages themselves are in the folder ``ui`` of the repository; the bundle is built from it into ``dist`` here.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

BUNDLE = Path(__file__).with_name("dist") / "workpools.js"
MOUNT = "/workpools/ui"
NAV = "Work pools"
"""Names are what people read in menus and tabs; the bundle gives Airflow its parts under the same."""
TASK_INSTANCE = "Work pool"
DASHBOARD = "Work pools at a glance"
NAV_ROUTE = "workpools"
TASK_INSTANCE_ROUTE = "workpool"


def react_apps() -> list[dict[str, Any]]:
    """Return what Airflow is told of the pages; nothing where they were not built."""
    version = _version()
    if version is None:
        return []
    # Seen from the address that every page of Airflow names as its base, wherever that is.
    bundle = f"{MOUNT.lstrip('/')}/{BUNDLE.name}?v={version}"
    icons = {name: f"{MOUNT.lstrip('/')}/{name}.svg" for name in ("icon", "icon_dark_mode")}
    return [
        {
            "name": NAV,
            "bundle_url": bundle,
            "destination": "nav",
            "category": "browse",
            "url_route": NAV_ROUTE,
            **icons,
        },
        {
            "name": TASK_INSTANCE,
            "bundle_url": bundle,
            "destination": "task_instance",
            "url_route": TASK_INSTANCE_ROUTE,
            **icons,
        },
        {"name": DASHBOARD, "bundle_url": bundle, "destination": "dashboard"},
    ]


def fastapi_apps() -> list[dict[str, Any]]:
    """Return the app that serves the bundle; nothing where it was not built."""
    if _version() is None:
        return []
    return [{"app": _app(), "url_prefix": MOUNT, "name": "Pages of work pools"}]


@functools.cache
def _version() -> str | None:
    """Return what changes when the bundle does; None, and one line in the log, if there is none."""
    try:
        return hashlib.sha256(BUNDLE.read_bytes()).hexdigest()[:12]
    except FileNotFoundError:
        log.warning(
            "Airflow's UI has no pages of work pools: their bundle was not built into this installation. Install "
            "airflow-provider-workpools from a wheel, or run `make ui` (needs Node.js) in its source folder and start "
            "the API server anew; everything else works"
        )
        return None


def _app() -> FastAPI:
    """Return the app. What it serves is public, as Airflow's own pages are: it holds no data."""
    from fastapi import FastAPI
    from fastapi.staticfiles import StaticFiles

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.mount("/", StaticFiles(directory=BUNDLE.parent))
    return app
