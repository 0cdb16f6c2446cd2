# SPDX-License-Identifier: Apache-2.0
"""Connections for base job templates, read where Airflow reads them."""

from __future__ import annotations

from typing import Any

import airflow.configuration
import pytest
from airflow.models.connection import Connection
from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from airflow_workpools.errors import NotFound
from airflow_workpools.store.airflow_connections import airflow_connections, infrastructure_connection


class Vault:
    """A secrets backend that knows one connection, and fails for another."""

    def get_connection(self, conn_id: str) -> Connection | None:
        if conn_id == "sealed":
            raise PermissionError("the vault is sealed")
        return (
            Connection(conn_id=conn_id, conn_type="generic", host="in-vault") if conn_id == "both" else None
        )


@pytest.fixture(autouse=True)
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [Vault(), EnvironmentVariablesBackend()]
    monkeypatch.setattr(airflow.configuration, "ensure_secrets_loaded", lambda: found)
    monkeypatch.setenv("AIRFLOW_CONN_BOTH", "generic://in-environment")
    monkeypatch.setenv(
        "AIRFLOW_CONN_WAREHOUSE",
        '{"conn_type": "postgres", "host": "db", "port": 5432, "login": "etl", "password": "s3cret",'
        ' "extra": {"region": "north"}}',
    )


def test_the_fields_that_a_connection_has_are_read_into_its_extra_too() -> None:
    assert airflow_connections(["warehouse"]) == {
        "warehouse": {
            "conn_type": "postgres",
            "host": "db",
            "port": 5432,
            "login": "etl",
            "password": "s3cret",
            "extra": {"region": "north"},
        }
    }


def test_the_place_that_airflow_asks_first_counts() -> None:
    assert airflow_connections(["both"])["both"]["host"] == "in-vault"


def test_a_connection_that_is_nowhere_is_left_out() -> None:
    assert airflow_connections(["nowhere"]) == {}


def test_a_backend_that_fails_is_no_missing_connection() -> None:
    with pytest.raises(PermissionError, match="sealed"):
        airflow_connections(["sealed"])


def test_an_infrastructure_is_told_all_fields_of_its_connection_and_which_it_is() -> None:
    assert infrastructure_connection("warehouse") == {
        "conn_id": "warehouse",
        "conn_type": "postgres",
        "host": "db",
        "port": 5432,
        "login": "etl",
        "password": "s3cret",
        "schema": None,
        "extra": {"region": "north"},
    }
    assert infrastructure_connection("both")["host"] == "in-vault"


def test_an_infrastructure_whose_connection_is_missing_is_told_so_and_one_that_cannot_be_read_fails() -> None:
    with pytest.raises(NotFound, match="there is no Airflow connection 'nowhere'"):
        infrastructure_connection("nowhere")
    with pytest.raises(PermissionError, match="the vault is sealed"):
        infrastructure_connection("sealed")
