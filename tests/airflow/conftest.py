# SPDX-License-Identifier: Apache-2.0
"""One Airflow for many tests: to start one costs more than most tests do."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.airflow.harness import LIVE, ROOT, WORK_POOL_EXECUTOR, AirflowInstance
from tests.mariadb import mariadb_server
from tests.postgres import postgres_server

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

QUEUED_TIMEOUT_SECONDS = 10
"""How long Airflow lets a task be queued here; short, because it must do nothing to ours."""

# The example that everything must satisfy.
_ETL = {
    "concurrency_limit": 10,
    "queues": {
        "critical": {"priority": 1, "concurrency_limit": 1},
        "high": {"priority": 5, "concurrency_limit": 3},
        "low": {"priority": 10},
    },
}
POOLS: dict[str, dict[str, Any]] = {
    "etl": _ETL,
    "production": _ETL,
    "dev": {"type": "process", "concurrency_limit": 4},
    "crash": {"concurrency_limit": 6},
    "narrow": {"concurrency_limit": 1},
    "thin": {"concurrency_limit": 1},
    "shared": {"concurrency_limit": 4},
    "far": {"delivery": "pull"},
}
"""The work pools that the tests' DAGs name."""
AIRFLOW_POOLS = {"wide": 50, "db": 2}
"""The Airflow pools that their authors chose."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, None, None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for instance in LIVE:
            report.sections.append((f"Airflow in {instance.local.home}", instance.output()))


_shared: dict[str, AirflowInstance] = {}
"""What runs of the Airflow that many files use, by its database."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End a shared Airflow with the last test on it: idle, it takes an eighth of a processor from all that follow.

    Its tests follow each other where they are one group; elsewhere it ends with the fixture.
    """
    database = _database(item)
    if hasattr(item.config, "workerinput") and database in _shared and _database(nextitem) != database:
        _shared.pop(database).stop()


def _database(item: pytest.Item | None) -> str:
    """Return on which database a test uses the shared Airflow; empty if it does not."""
    return str(getattr(getattr(item, "callspec", None), "params", {}).get("airflow", ""))


@pytest.fixture(
    scope="session",
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
)
def airflow(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AirflowInstance]:
    """A real Airflow with WorkPoolExecutor first and LocalExecutor beside it, and the example's work pool.

    Tests that ask for it are run on both databases; on MariaDB those that name it.
    """
    home = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        url = ""
        if request.param == "postgres":
            url = stack.enter_context(postgres_server()).create_database("airflow")
        elif request.param == "mariadb":
            url = stack.enter_context(mariadb_server()).create_database("airflow")
        settings = {}
        if request.param == "mariadb":  # see docs/databases.md: its removal of unused assets
            settings["AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL"] = "31536000"
        instance = AirflowInstance(
            home,
            executor=f"{WORK_POOL_EXECUTOR},LocalExecutor",
            database_url=url,
            dags_folder=_dags_folder(home),
            settings={
                **settings,
                "AIRFLOW__CORE__PARALLELISM": "64",
                "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
                "AIRFLOW__CORE__KILLED_TASK_CLEANUP_TIME": "5",  # what Airflow 3.3 always gives
                "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
                "AIRFLOW__WORKPOOLS__RESERVE_AFTER": "2",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": str(QUEUED_TIMEOUT_SECONDS),
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
            },
        )
        instance.migrate()
        stack.callback(instance.stop)
        instance.start()
        for name, definition in POOLS.items():
            instance.create_pool(name, **definition)
        for name, slots in AIRFLOW_POOLS.items():
            instance.api.create("pools", {"name": name, "slots": slots})
        _shared[request.param] = instance
        yield instance


def _dags_folder(home: Path) -> Path:
    """Put the tests' DAGs and the examples side by side, as a user would have them."""
    folder = home / "dags"
    shutil.copytree(ROOT / "tests/airflow/dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "dags_examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
