# SPDX-License-Identifier: Apache-2.0
"""One Airflow with running tasks and one Chromium for all tests of the pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from airflow_workpools import ui
from tests.airflow.harness import ROOT, AirflowInstance
from tests.parts import chromium
from tests.postgres import postgres_server

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--no-proxy-server"),
)
AXE = ROOT / "ui/node_modules/axe-core/axe.min.js"
PROBE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
"""What must be shown as it is, wherever people write something."""
PATIENCE_SECONDS = 20

POOLS: dict[str, dict[str, Any]] = {
    "etl": {
        "concurrency_limit": 10,
        "description": "Loads and reports of the data platform",
        "queues": {
            "critical": {"priority": 1, "concurrency_limit": 1, "description": "On call"},
            "high": {"priority": 5, "concurrency_limit": 1},
            "low": {"priority": 10},
        },
    },
    "narrow": {"concurrency_limit": 1, "description": "One at a time"},
    "elsewhere": {
        "delivery": "pull",
        "concurrency_limit": 20,
        "description": "Workers in the other data centre",
    },
}
AIRFLOW_CONN_DECLARED = json.dumps(
    {"conn_type": "workpool", "extra": {"type": "process", "concurrency_limit": 2}}
)


class Site:
    """An Airflow as people see it."""

    def __init__(self, airflow: AirflowInstance, browser: Browser) -> None:
        self.airflow = airflow
        self.browser = browser
        self.runs: dict[str, str] = {}
        self._contexts: dict[Any, BrowserContext] = {}

    def page(
        self, path: str = "", *, role: str | None = None, scheme: Any = "light", width: int = 1440
    ) -> Page:
        """Open a page of Airflow's.

        :param role: of who looks; None is the admin that everyone is here.
        """
        key = (role, scheme, width)
        # One for all who look alike: what Airflow's UI is made of is loaded once.
        if (context := self._contexts.get(key)) is None:
            context = self._contexts[key] = self.browser.new_context(
                base_url=self.airflow.local.api.url,
                viewport={"width": width, "height": 1000},
                color_scheme=scheme,
                extra_http_headers={"Authorization": f"Bearer {self.token(role)}"} if role else {},
            )
            context.set_default_timeout(PATIENCE_SECONDS * 1000)
        page = context.new_page()
        page.goto(path or "/")
        return page

    def token(self, role: str) -> str:
        """Return a login of somebody with this role."""
        now = int(time.time())
        claims = {
            "sub": f"a {role}",
            "role": role,
            "aud": "apache-airflow",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
        }
        secret = self.airflow.local.environment()["AIRFLOW__API_AUTH__JWT_SECRET"]
        return jwt.encode(claims, secret, algorithm="HS512")

    def task(self, dag_id: str, task_id: str = "load", index: int | None = 0) -> str:
        """Return the path of the tab of a task."""
        mapped = "" if index is None else f"/mapped/{index}"
        return (
            f"/dags/{dag_id}/runs/{self.runs[dag_id]}/tasks/{task_id}{mapped}/plugin/{ui.TASK_INSTANCE_ROUTE}"
        )

    def close(self) -> None:
        """Close all pages."""
        for context in self._contexts.values():
            for page in context.pages:
                page.close()


@pytest.fixture(scope="package")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        airflow = AirflowInstance(
            tmp_path_factory.mktemp("browser"),
            database_url=stack.enter_context(postgres_server()).create_database("airflow"),
            dags_folder=ROOT / "tests/browser/dags",
            settings={"AIRFLOW_CONN_DECLARED": AIRFLOW_CONN_DECLARED, "AIRFLOW__CORE__PARALLELISM": "32"},
        )
        airflow.local.stop_grace_seconds = 3  # what sleeps here need not come to a good end
        airflow.api = replace(airflow.api, timeout_seconds=60)
        airflow.migrate()
        stack.callback(airflow.stop)
        airflow.start()
        for name, definition in POOLS.items():
            airflow.create_pool(name, **definition)
        playwright = stack.enter_context(sync_playwright())
        expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        stack.callback(browser.close)
        site = Site(airflow, browser)
        for dag_id in ("hourly_reports", "backfill", "short", "quick"):
            site.runs[dag_id] = airflow.trigger(dag_id)
        airflow.wait(lambda: _running(airflow) >= 4, what="four tasks to run")
        yield site


def _running(airflow: AirflowInstance) -> int:
    rows = airflow.rows("select count(*) as jobs from workpool_job where state = 'running'")
    return int(rows[0]["jobs"])


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    yield _site
    _site.close()


@pytest.fixture
def axe() -> Callable[[Page], list[str]]:
    """Return what says which serious faults of accessibility our part of a page has."""
    source = AXE.read_text()

    def serious(page: Page, part: str) -> list[str]:
        page.evaluate(source)
        found = page.evaluate("part => axe.run(part, {resultTypes: ['violations']})", part)
        return [
            f"{fault['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]

    return serious  # type: ignore[return-value]
