# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_workpools.core.pools import InvalidPool, PoolSource
from airflow_workpools.core.templates import render
from airflow_workpools.errors import InfrastructureError, NotFound
from airflow_workpools.infrastructure import registry
from airflow_workpools.infrastructure.base import Infrastructure
from airflow_workpools.infrastructure.process import ProcessInfrastructure
from airflow_workpools.settings import PoolSettings
from airflow_workpools.store.pool_sources import Found
from airflow_workpools.store.pools import parse_found

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, EntryPoint]]:
    """The entry points that are installed; a test may change them."""
    points = dict(registry._entry_points())
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    caches = (
        registry.infrastructure_class,
        registry.default_template,
        registry.default_templates,
        registry.unusable_kinds,
    )
    for cached in caches:
        cached.cache_clear()
    yield points
    for cached in caches:
        cached.cache_clear()


def entry_point(name: str, value: str) -> EntryPoint:
    found = EntryPoint(name, value, registry.GROUP)
    # What importlib.metadata does when it reads an entry point from a distribution.
    vars(found).update(dist=distribution("airflow-provider-workpools"))
    return found


def test_the_process_kind_is_there() -> None:
    assert "process" in registry.kinds()
    assert registry.infrastructure_class("process") is ProcessInfrastructure


def test_the_process_kind_is_an_infrastructure() -> None:
    assert isinstance(ProcessInfrastructure(home=Path("/nowhere")), Infrastructure)


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(NotFound, match=r"'proces'; installed are: .*process"):
        registry.infrastructure_class("proces")


def test_a_missing_extra_names_itself(installed: dict[str, EntryPoint]) -> None:
    installed["process"] = entry_point("process", "a_library_nobody_has:Thing")
    with pytest.raises(InfrastructureError, match=r'pip install "airflow-provider-workpools\[process\]"'):
        registry.infrastructure_class("process")


def test_a_kind_without_an_extra_says_what_is_missing(installed: dict[str, EntryPoint]) -> None:
    installed["quantum"] = entry_point("quantum", "a_library_nobody_has:Thing")
    with pytest.raises(InfrastructureError, match=r"No module named 'a_library_nobody_has'$"):
        registry.infrastructure_class("quantum")


def test_an_entry_point_must_be_named_like_the_kind_it_leads_to(installed: dict[str, EntryPoint]) -> None:
    installed["proc"] = entry_point("proc", "airflow_workpools.infrastructure.process:ProcessInfrastructure")
    with pytest.raises(InfrastructureError, match=r"'proc' leads to .* calls itself 'process'"):
        registry.infrastructure_class("proc")


def test_kinds_that_cannot_be_imported_have_no_default_template(installed: dict[str, EntryPoint]) -> None:
    installed["quantum"] = entry_point("quantum", "a_library_nobody_has:Thing")
    assert "process" in registry.default_templates()
    assert "quantum" not in registry.default_templates()


def test_the_default_template_renders_to_what_the_kind_takes() -> None:
    template = registry.default_template("process")
    configuration = render(template, {"env": {"A": "1"}, "nice": 5}, context=None, environ={})
    assert configuration["env"] == {"A": "1"}
    assert configuration["nice"] == 5
    assert ProcessInfrastructure.variables.model_validate(configuration)


def test_every_variable_of_the_process_kind_is_described() -> None:
    properties = registry.default_template("process").variables["properties"]
    assert properties
    for name, schema in properties.items():
        assert schema["title"], name
        assert schema["description"].endswith("."), name


def test_the_registry_imports_no_kind_until_it_is_asked_for() -> None:
    program = (
        "import sys, airflow_workpools.infrastructure.registry as r; r.kinds();"
        "sys.exit('airflow_workpools.infrastructure.process' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_work_pool_whose_kind_cannot_be_imported_says_what_to_install(
    installed: dict[str, EntryPoint],
) -> None:
    installed["moon"] = entry_point("moon", "a_library_nobody_has:Thing")
    found = Found(name="etl", source=PoolSource.DATABASE, extra='{"type": "moon"}')
    pool = parse_found(found, settings=PoolSettings(), templates=registry.default_templates())
    assert isinstance(pool, InvalidPool)
    assert "work pool type 'moon' (a_library_nobody_has:Thing) cannot be imported" in pool.reason
