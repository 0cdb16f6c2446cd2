# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from airflow_workpools.errors import LaunchRejected
from airflow_workpools.infrastructure.containers import (
    job_labels,
    label_value,
    merged_environment,
    object_name,
    read_configuration,
    runtime_environment,
)

KUBERNETES_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize("text", ["etl", "manual__2026-01-01", "a.b_c-d", "x" * 63, "-1"[1:]])
def test_what_may_be_a_label_stays_as_it_is(text: str) -> None:
    assert label_value(text) == text


@given(st.text(max_size=300))
def test_every_text_becomes_a_label_that_kubernetes_takes(text: str) -> None:
    assert KUBERNETES_LABEL.fullmatch(label_value(text))


@given(st.text(max_size=300))
def test_every_text_becomes_a_name_that_kubernetes_takes(text: str) -> None:
    assert DNS_LABEL.fullmatch(object_name(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("manual__2026-01-01T00:00:00+00:00", "manual__2026-01-01T00:00:00+01:00"),
        ("x" * 70 + "a", "x" * 70 + "b"),
        ("-1", "1"),
        ("a b", "a_b"),
    ],
)
def test_texts_that_differ_only_in_what_a_label_can_not_hold_become_different_labels(
    one: str, other: str
) -> None:
    assert label_value(one) != label_value(other)


def test_labels_of_a_job_stand_in_one_namespace() -> None:
    assert job_labels({"dag_id": "etl", "run_id": "a"}) == {
        "airflow.workpools/dag_id": "etl",
        "airflow.workpools/run_id": "a",
    }


def test_null_takes_a_default_out_of_the_environment() -> None:
    assert merged_environment({"A": "1", "B": "2"}, {"A": None, "C": "3"}) == {"B": "2", "C": "3"}


def test_a_runtime_learns_where_the_execution_api_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example:8080/team")
    assert (
        runtime_environment()["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
        == "http://airflow.example:8080/team/execution/"
    )


@pytest.mark.parametrize(
    ("executor", "named"),
    [
        ("airflow_workpools.WorkPoolExecutor", "airflow_workpools.WorkPoolExecutor"),
        ("LocalExecutor;red=airflow_workpools.WorkPoolExecutor", "LocalExecutor"),
        ("red=LocalExecutor", None),
    ],
)
def test_a_runtime_learns_the_executors_that_dag_files_may_name(
    executor: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    assert runtime_environment().get("AIRFLOW__CORE__EXECUTOR") == named


class _Variables(BaseModel):
    model_config = ConfigDict(extra="forbid")
    image: str
    cpus: float | None = None


def test_a_configuration_is_refused_with_everything_that_is_wrong() -> None:
    with pytest.raises(LaunchRejected, match=r"image: Field required; cpus: .*; imgae: Extra inputs"):
        read_configuration(_Variables, {"imgae": "x", "cpus": "many"})


def test_an_explicit_null_is_the_same_as_nothing() -> None:
    assert read_configuration(_Variables, {"image": "x", "cpus": None}) == _Variables(image="x")
