# SPDX-License-Identifier: Apache-2.0
"""What an image is made of, before any engine is asked."""

from __future__ import annotations

import json

import pytest

from airflow_workpools.errors import InvalidInput
from airflow_workpools.images.recipe import Base, Recipe, checked_tag, dockerfile, environment, official_image

OFFICIAL = Base(
    name="apache/airflow:3.3.2-python3.12", user="airflow", environment={"AIRFLOW_HOME": "/opt/airflow"}
)
PLAIN = Base(name="python:3.12-slim")


def recipe(base: Base = OFFICIAL) -> Recipe:
    return Recipe(
        base=base,
        airflow_version="3.3.2",
        provider_version="0.1.0",
        executor="airflow_workpools.WorkPoolExecutor",
    )


def instructions(text: str) -> list[str]:
    return text.replace("\\\n", "").splitlines()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("dags", "dags:latest"),
        ("dags:1.2", "dags:1.2"),
        ("team/dags:v1", "team/dags:v1"),
        ("registry.example.com:5000/team/dags", "registry.example.com:5000/team/dags:latest"),
        ("localhost:5000/dags:a_b-c.d", "localhost:5000/dags:a_b-c.d"),
    ],
)
def test_a_name_without_a_tag_means_the_latest(given: str, name: str) -> None:
    assert checked_tag(given) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dags",
        "dags:",
        "dags:-a",
        "da gs",
        "team//dags",
        "-dags",
        "dags@sha256:abc",
        "dags:" + "x" * 129,
        "a" * 256,
    ],
)
def test_what_no_image_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no name for an image"):
        checked_tag(text)


def test_the_default_base_is_the_official_image_with_this_airflow_and_python() -> None:
    assert official_image("3.3.2", (3, 12)) == "apache/airflow:3.3.2-python3.12"


def test_tasks_find_their_dag_files_in_the_bundle_that_airflow_has_by_default() -> None:
    found = environment(recipe())

    (bundle,) = json.loads(found["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
    assert bundle["name"] == "dags-folder"
    assert found["AIRFLOW__CORE__DAGS_FOLDER"] == "/opt/airflow/dags"
    assert found["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"


def test_dag_files_may_name_the_executors_that_are_configured() -> None:
    assert environment(recipe())["AIRFLOW__CORE__EXECUTOR"] == "airflow_workpools.WorkPoolExecutor"


def test_the_official_entry_point_does_not_look_for_a_database() -> None:
    assert environment(recipe())["CONNECTION_CHECK_MAX_COUNT"] == "0"


def test_where_the_base_has_airflow_s_home_it_stays() -> None:
    base = Base(name="x", environment={"AIRFLOW_HOME": "/srv/airflow"})

    assert "COPY --from=dags /srv/airflow/dags/ /srv/airflow/dags/" in dockerfile(recipe(base))


def test_the_dag_files_are_the_last_layer() -> None:
    assert instructions(dockerfile(recipe()))[-1].startswith("COPY --from=dags ")


def test_the_image_runs_as_the_user_of_its_base() -> None:
    users = [line for line in instructions(dockerfile(recipe())) if line.startswith("USER ")]
    assert users[-1] == "USER airflow"
    assert instructions(dockerfile(recipe(PLAIN))).count("USER root") == 4


def test_a_user_without_a_home_of_airflow_s_may_write_into_the_new_one() -> None:
    assert 'chown "1000:0" /opt/airflow' in dockerfile(recipe(Base(name="x", user="1000:0")))
    assert "chown" not in dockerfile(recipe())


def test_values_are_quoted_for_the_dockerfile() -> None:
    text = dockerfile(Recipe(base=PLAIN, airflow_version="3", provider_version="1", executor='a"$b\\'))

    assert r'AIRFLOW__CORE__EXECUTOR="a\"\$b\\"' in text


def test_nothing_of_the_build_is_copied_into_the_image_but_packages_and_dag_files() -> None:
    final = dockerfile(recipe()).rpartition("FROM ")[2]

    copied = [line.split() for line in final.splitlines() if line.startswith("COPY")]
    assert [words[1:3] for words in copied] == [
        ["--from=packages", "/workpools-overlay/"],
        ["--from=dags", "/opt/airflow/dags/"],
    ]


def test_the_image_says_who_made_it_of_what() -> None:
    text = dockerfile(recipe())

    assert 'org.apache.airflow.workpools.created-by="airflow workpools image build"' in text
    assert 'org.opencontainers.image.base.name="apache/airflow:3.3.2-python3.12"' in text
