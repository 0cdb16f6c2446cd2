# SPDX-License-Identifier: Apache-2.0
"""One Airflow with running tasks and one Chromium for all tests of the pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.airflow.harness import ROOT, AirflowInstance
from tests.browser.scenes import an_hour_of_work
from tests.browser.site import PATIENCE_SECONDS, Site
from tests.parts import chromium
from tests.postgres import postgres_server

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--no-proxy-server"),
)
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
    "torn": {"concurrency_limit": "many", "description": "Whose definition can't be read"},
}
AIRFLOW_CONN_DECLARED = json.dumps(
    {"conn_type": "workpool", "extra": {"type": "process", "concurrency_limit": 2}}
)


@pytest.fixture(scope="package")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        airflow = AirflowInstance(
            tmp_path_factory.mktemp("browser"),
            database_url=stack.enter_context(postgres_server()).create_database("airflow"),
            dags_folder=ROOT / "tests/browser/dags",
            settings={"AIRFLOW_CONN_DECLARED": AIRFLOW_CONN_DECLARED, "AIRFLOW__CORE__PARALLELISM": "32"},
        )
        airflow.local.stop_grace_seconds = 0.5  # what sleeps here need not come to a good end
        airflow.api = replace(airflow.api, timeout_seconds=60)
        airflow.migrate()
        stack.callback(airflow.stop)
        airflow.start()
        playwright = stack.enter_context(sync_playwright())
        expect.set_options(timeout=PATIENCE_SECONDS * 1000)
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        stack.callback(browser.close)
        for name, definition in POOLS.items():
            airflow.create_pool(name, **definition)
        an_hour_of_work(airflow, "etl")
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
    _site.tidy()
