# SPDX-License-Identifier: Apache-2.0
"""``**work_queue("pool/queue", …)``: arguments that every operator has anyway."""

from __future__ import annotations

import pytest

import airflow_workpools
from airflow_workpools import work_queue
from airflow_workpools.errors import InvalidInput


def test_a_work_queue_becomes_the_queue():
    assert work_queue("etl/critical") == {"queue": "etl/critical"}


def test_a_pool_alone_means_its_default_queue():
    assert work_queue("etl") == {"queue": "etl/default"}


def test_job_variables_become_the_executor_config():
    assert work_queue("etl/critical", image="train:1.4", env={"A": "1"}) == {
        "queue": "etl/critical",
        "executor_config": {"image": "train:1.4", "env": {"A": "1"}},
    }


def test_a_job_variable_may_be_called_queue():
    assert work_queue("aws/batch", queue="spot")["executor_config"] == {"queue": "spot"}


@pytest.mark.parametrize(
    "malformed", ["", "/", "etl/", "/critical", "etl//x", "etl/a/b", "e t l", "etl.a", None, 3]
)
def test_a_malformed_work_queue_is_refused_at_once_with_the_form_expected(malformed):
    with pytest.raises(InvalidInput, match="pool/queue"):
        work_queue(malformed)


def test_the_package_has_what_it_says_it_has():
    assert set(airflow_workpools.__all__) <= set(dir(airflow_workpools))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        airflow_workpools.nothing  # noqa: B018
