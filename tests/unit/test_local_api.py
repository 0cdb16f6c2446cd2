# SPDX-License-Identifier: Apache-2.0
"""Calls of Airflow's REST API that have to come through."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_workpools.cli import local_api
from airflow_workpools.cli.local_api import ApiError, LocalApi

LOCKED, EXISTS, REFUSED = 500, 409, 422


class Scripted(LocalApi):
    """Answers with these statuses, one after the other; 200 after the last."""

    def __init__(self, *statuses: int) -> None:
        super().__init__("http://127.0.0.1:1")
        object.__setattr__(self, "statuses", list(statuses))
        object.__setattr__(self, "asked", [])

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.asked.append((method, path, body))  # type: ignore[attr-defined]
        if self.statuses:  # type: ignore[attr-defined]
            raise ApiError(self.statuses.pop(0), path, "")  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_api.time, "sleep", lambda _: None)


@pytest.mark.parametrize("statuses", [(), (LOCKED,), (LOCKED, LOCKED), (LOCKED, EXISTS)], ids=str)
def test_what_a_locked_database_refuses_is_asked_again(statuses: tuple[int, ...]) -> None:
    api = Scripted(*statuses)
    api.create("pools", {"name": "wide"})
    assert set(map(str, api.asked)) == {str(("POST", "pools", {"name": "wide"}))}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "statuses", [(EXISTS,), (REFUSED,), (LOCKED, REFUSED), (LOCKED,) * local_api.CREATE_ATTEMPTS], ids=str
)
def test_what_stays_refused_is_told(statuses: tuple[int, ...]) -> None:
    with pytest.raises(ApiError) as refused:
        Scripted(*statuses).create("pools", {"name": "wide"})
    assert refused.value.status == statuses[-1]


def test_a_run_is_asked_for_under_one_name() -> None:
    api = Scripted(LOCKED, EXISTS)
    run_id = api.trigger("nightly")
    assert {body["dag_run_id"] for _, _, body in api.asked} == {run_id}  # type: ignore[attr-defined]
