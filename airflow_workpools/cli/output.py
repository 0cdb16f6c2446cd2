# SPDX-License-Identifier: Apache-2.0
"""What commands have in common: how they print, how they fail, and what the audit log remembers of them."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.cli.simple_table import AirflowConsole
from airflow.utils import yaml
from airflow.utils.cli import action_cli, suppress_logs_and_warning
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from airflow_workpools.core.worker_tokens import PREFIX
from airflow_workpools.errors import WorkpoolsError

if TYPE_CHECKING:
    from argparse import Namespace

Command = Callable[["Namespace"], None]
Row = Mapping[str, Any]

_MASK = "***"
_TOKEN = re.compile(rf"({PREFIX}_[0-9a-f]*_)\w+")


def reads(function: Command) -> Command:
    """Make a command of a function that changes nothing."""
    command: Command = suppress_logs_and_warning(_explains(function))
    return command


def writes(event: str) -> Callable[[Command], Command]:
    """Make a command of a function that changes something: Airflow's audit log gets a row ``cli_<event>``."""

    def decorate(function: Command) -> Command:
        quiet = suppress_logs_and_warning(_explains(function))
        quiet.__name__ = event
        audited = action_cli(quiet)

        @functools.wraps(function)
        def command(args: Namespace) -> None:
            with _masked_command_line():
                audited(args)

        return command

    return decorate


def _explains(function: Command) -> Command:
    @functools.wraps(function)
    def command(args: Namespace) -> None:
        try:
            function(args)
        except WorkpoolsError as error:
            fail(str(error))
        except SQLAlchemyError as error:
            fail(f"the metadata database refuses: {getattr(error, 'orig', None) or error}")

    return command


def fail(message: str) -> NoReturn:
    """End the command with exit code 1 and one line on stderr."""
    raise SystemExit(f"Error: {' '.join(message.split())}")


@contextmanager
def _masked_command_line() -> Iterator[None]:
    """Keep the values of job variables out of the audit log, which takes the command line as it is."""
    original = sys.argv
    sys.argv = mask_assignments(original)
    try:
        yield
    finally:
        sys.argv = original


def mask_assignments(argv: Sequence[str]) -> list[str]:
    """Return the arguments with every value of ``--set VAR=VALUE`` replaced, which may be a secret, and every token."""
    masked: list[str] = []
    for argument in argv:
        if masked and re.fullmatch(r"-v*s|--se|--set", masked[-1]):
            argument = _mask_value(argument)
        elif found := re.match(r"(--set?=|-v*s=?(?!-))(.+)", argument, re.DOTALL):
            argument = found[1] + _mask_value(found[2])
        masked.append(_TOKEN.sub(rf"\1{_MASK}", argument))
    return masked


def _mask_value(assignment: str) -> str:
    name, equals, _ = assignment.partition("=")
    return f"{name}={_MASK}" if equals else _MASK


def show_rows(rows: Sequence[Row], output: str) -> None:
    """Print a list in the format that was asked for. JSON and YAML keep numbers and nulls as they are."""
    if output in ("json", "yaml"):
        show_data(list(map(dict, rows)), output)
        return
    cells = [{key: _cell(value, markup=output == "table") for key, value in row.items()} for row in rows]
    AirflowConsole().print_as(data=cells, output=output)


def _cell(value: Any, *, markup: bool) -> str:
    text = "-" if value is None else ", ".join(value) if isinstance(value, list) else str(value)
    # Brackets mean styles to the library that draws the table: "[workpools] pools" would lose its first word.
    return escape(text) if markup else text


def show_data(data: Any, output: str) -> None:
    """Print any JSON values as JSON or YAML."""
    if output == "yaml":
        print(yaml.dump(data, sort_keys=False, allow_unicode=True), end="")
    else:
        print(json.dumps(data, indent=2, ensure_ascii=False))
