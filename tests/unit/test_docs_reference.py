# SPDX-License-Identifier: Apache-2.0
"""What the reference pages list is what there is: nothing is left out, and nothing is made up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.cli.definition import get_workpools_cli_commands
from airflow_workpools.core.jobs import OCCUPYING, TRANSITIONS, JobState
from airflow_workpools.provider_info import get_provider_info
from airflow_workpools.store.records import WorkerKind, WorkerState
from airflow_workpools.store.tables import metadata
from tests.unit.test_docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Column, Table

REFERENCE = ROOT / "docs/reference"


def sections(text: str, level: str) -> dict[str, str]:
    """Cut a page into its sections with headings of a level, by heading."""
    parts = re.split(rf"^{level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of tables in a text, without heads."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if re.match(r"^\| ---", line):
            found.pop()
        elif line.startswith("|"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# -- settings ------------------------------------------------------------------------------------------------


def test_the_settings_page_has_every_option_with_its_default_and_no_other() -> None:
    first_table = (REFERENCE / "settings.md").read_text().split("Of Airflow's own options")[0]
    shown = {names(name)[0]: default.strip("`") for name, default, _unit, _meaning in rows(first_table)}
    options = get_provider_info()["config"]["workpools"]["options"]
    assert shown == {name: option["default"] for name, option in options.items()}


def test_the_settings_page_says_the_unit_of_every_number_that_has_one() -> None:
    first_table = (REFERENCE / "settings.md").read_text().split("Of Airflow's own options")[0]
    units = {names(name)[0]: unit for name, _default, unit, _meaning in rows(first_table)}
    options = get_provider_info()["config"]["workpools"]["options"]
    described = {
        name: next(
            (unit for unit in ("seconds", "days", "megabytes") if unit in option["description"].lower()), ""
        )
        for name, option in options.items()
    }
    assert units == described


# -- commands ------------------------------------------------------------------------------------------------

CLI = (REFERENCE / "cli.md").read_text()


def commands(found: Iterable[Any], *above: str) -> Iterator[tuple[str, set[str]]]:
    """Return every command with its options."""
    for one in found:
        if hasattr(one, "subcommands"):
            yield from commands(one.subcommands, *above, one.name)
        else:
            options = {flag for argument in one.args for flag in argument.flags if flag.startswith("-")}
            yield " ".join((*above, one.name)[1:]), options


COMMANDS = dict(commands(get_workpools_cli_commands()))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_page_has_every_command_and_its_options(command: str) -> None:
    assert re.search(rf"`(airflow workpools )?{command}( [^`]*)?`", CLI)
    assert {option for option in COMMANDS[command] if not re.search(rf"[` ]{option}[` ]", CLI)} == set()


# -- tables --------------------------------------------------------------------------------------------------

TABLES = (REFERENCE / "tables.md").read_text()
TABLE_SECTIONS = {heading.strip("`"): text for heading, text in sections(TABLES, "##").items()}


@pytest.fixture(params=metadata.sorted_tables, ids=lambda table: table.name)
def table(request: pytest.FixtureRequest) -> Table:
    found: Table = request.param
    return found


def column_rows(table: Table) -> dict[str, list[str]]:
    """Return the cells of a table's columns, by the column's name."""
    before_states = TABLE_SECTIONS[table.name].split("\n### ")[0]
    return {name: cells for cells in rows(before_states) for name in names(cells[0])}


def test_every_table_is_described_and_no_other() -> None:
    described = {heading for heading in TABLE_SECTIONS if heading.startswith("workpool_")}
    assert described == {table.name for table in metadata.sorted_tables}


def test_every_column_is_described_in_its_order_and_no_other(table: Table) -> None:
    assert list(column_rows(table)) == [column.name for column in table.columns]


def test_every_column_is_described_with_its_type(table: Table) -> None:
    described = {name: cells[1] for name, cells in column_rows(table).items()}
    wrong = {
        column.name: described[column.name]
        for column in table.columns
        if described[column.name] not in _types(column)
    }
    assert wrong == {}


def _types(column: Column[object]) -> set[str]:
    """Return the words that may stand for a column's type: a number's may be its unit."""
    kind = type(column.type).__name__
    length = getattr(column.type, "length", None)
    if kind in ("String", "StringID", "Text"):
        exact = f"text, {length}"
        return (
            {exact, f"{exact} each", "text"} if kind in ("String", "StringID") else {"text", "text, 10,000"}
        )
    return {
        "Boolean": {"boolean"},
        "Integer": {"number", "slots"},
        "Double": {"seconds"},
        "UtcDateTime": {"time"},
        "Uuid": {"UUID"},
        "JSON": {"JSON"},
        "LargeBinary": {"bytes"},
    }[kind]


def test_every_column_says_who_writes_it_and_what_it_means(table: Table) -> None:
    assert [name for name, cells in column_rows(table).items() if len(cells) != 4 or not all(cells)] == []


def test_whether_a_column_may_be_empty_is_said(table: Table) -> None:
    described = {name: cells[2] for name, cells in column_rows(table).items()}
    may_be_empty = {
        "desired_state",
        "reason",
        "handle",
        "scheduler_job_id",
        "ended_at",
        "reported_at",
    }  # empty for as long as there is no such thing: goes without saying
    silent = {
        column.name
        for column in table.columns
        if column.nullable and "empty" not in described[column.name].lower()
    }
    assert silent <= may_be_empty


def test_every_index_is_described_with_its_columns_and_no_other() -> None:
    text = sections(TABLE_SECTIONS["workpool_job"], "###")["Indexes"]
    described = {names(cells[0])[0]: names(cells[1]) for cells in rows(text)}
    there_are = {
        index.name: [re.sub(r"^\w+\.| DESC$", "", str(part)) for part in index.expressions]
        for table in metadata.sorted_tables
        for index in table.indexes
    }
    assert described == there_are


def test_an_index_of_a_part_of_the_rows_says_so() -> None:
    text = sections(TABLE_SECTIONS["workpool_job"], "###")["Indexes"]
    described = {names(cells[0])[0] for cells in rows(text) if "Only " in cells[2]}
    partial = {
        index.name
        for table in metadata.sorted_tables
        for index in table.indexes
        if index.dialect_options["postgresql"]["where"] is not None
    }
    assert described == partial


def test_the_states_of_a_job_are_those_of_the_transition_table() -> None:
    text = sections(TABLE_SECTIONS["workpool_job"], "###")["States of a job"]
    described = {
        JobState(names(state)[0]): ({JobState(name) for name in names(following)}, held)
        for state, _meaning, held, following, _by in rows(text)
    }
    assert described == {
        state: (set(following), "yes" if state in OCCUPYING else "no")
        for state, following in TRANSITIONS.items()
    }


def test_the_states_and_kinds_of_workers_are_named() -> None:
    described = {name: cells[2] for name, cells in column_rows(metadata.tables[_qualified()]).items()}
    assert set(names(described["state"])) == {str(state) for state in WorkerState}
    assert set(names(described["kind"])) == {str(kind) for kind in WorkerKind}


def _qualified() -> str:
    return f"{metadata.schema}.workpool_worker" if metadata.schema else "workpool_worker"
