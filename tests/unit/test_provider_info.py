# SPDX-License-Identifier: Apache-2.0
"""What Airflow is told about the provider, held against Airflow's own schemas and against the code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow._shared.module_loading import import_string

from airflow_workpools import WorkPoolExecutor
from airflow_workpools.core.definitions import DELIVERIES, PoolDefinition
from airflow_workpools.infrastructure.registry import kinds
from airflow_workpools.provider_info import get_provider_info

AIRFLOW = Path(airflow.__file__).parent
INFO = get_provider_info()
(CONNECTION_TYPE,) = INFO["connection-types"]
FIELDS: dict[str, dict[str, Any]] = CONNECTION_TYPE["conn-fields"]


def schema(name: str) -> Any:
    return json.loads((AIRFLOW / name).read_text())


def test_it_is_valid_by_the_schema_airflow_checks_providers_with() -> None:
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


@pytest.mark.parametrize("key", ["connection-types", "config", "executors", "cli", "db-managers", "plugins"])
def test_its_parts_are_valid_by_the_schema_of_airflows_own_providers(key: str) -> None:
    whole = schema("provider.yaml.schema.json")
    part = {**whole["properties"][key], "definitions": whole.get("definitions", {})}

    jsonschema.validate(INFO[key], part)


def test_its_name_and_version_are_those_of_the_package() -> None:
    assert INFO["versions"] == [version(INFO["package-name"])]


@pytest.mark.parametrize(
    "path",
    [
        *INFO["executors"],
        *INFO["db-managers"],
        *INFO["cli"],
        CONNECTION_TYPE["hook-class-name"],
        *(decorator["class-name"] for decorator in INFO["task-decorators"]),
        *(plugin["plugin-class"] for plugin in INFO["plugins"]),
    ],
)
def test_every_path_leads_somewhere(path: str) -> None:
    assert import_string(path)


def test_the_executor_is_named_as_users_name_it() -> None:
    assert [import_string(path) for path in INFO["executors"]] == [WorkPoolExecutor]


def test_the_hook_is_of_the_connection_type_that_brings_it() -> None:
    hook = import_string(CONNECTION_TYPE["hook-class-name"])

    assert hook.conn_type == CONNECTION_TYPE["connection-type"]
    assert hook.hook_name == CONNECTION_TYPE["hook-name"]


def test_the_form_has_a_field_for_every_key_of_a_definition() -> None:
    # A pool's description is the connection's own.
    assert set(FIELDS) == set(PoolDefinition.model_fields) - {"description"}


def test_the_form_offers_the_types_that_this_package_brings() -> None:
    assert set(FIELDS["type"]["schema"]["enum"]) == set(kinds())


def test_the_form_offers_every_delivery() -> None:
    assert tuple(FIELDS["delivery"]["schema"]["enum"]) == DELIVERIES


def test_only_the_type_must_be_filled_in() -> None:
    required = [name for name, field in FIELDS.items() if "null" not in field["schema"]["type"]]

    assert required == ["type"]


def test_what_the_form_leaves_behind_when_nothing_is_filled_in_is_a_valid_definition() -> None:
    left = {name: field["schema"].get("default") for name, field in FIELDS.items()}

    definition = PoolDefinition.model_validate({**left, "queues": {}})

    assert definition.type == "process"
    assert definition.concurrency_limit is None


def test_every_option_and_every_field_is_described() -> None:
    options = INFO["config"]["workpools"]["options"]

    assert all(option["description"].endswith(".") for option in options.values())
    assert all(field["description"].endswith(".") for field in FIELDS.values())


def test_it_costs_airflow_no_import_worth_mentioning() -> None:
    program = (
        "import sys, airflow_workpools.provider_info as p; p.get_provider_info();"
        "heavy = {'airflow', 'sqlalchemy', 'pydantic', 'jsonschema', 'asyncio'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
