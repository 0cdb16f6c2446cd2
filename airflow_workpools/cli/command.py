# SPDX-License-Identifier: Apache-2.0
"""How a command is declared."""

from __future__ import annotations

from airflow.cli.cli_config import ARG_VERBOSE, ActionCommand, Arg, lazy_load_command


def command(name: str, noun: str, help_: str, *args: Arg, function: str | None = None) -> ActionCommand:
    """Declare a command.

    :param noun: the module that has its function.
    :param function: if it is not called like the command.
    """
    function = function or name.replace("-", "_")
    return ActionCommand(
        name=name,
        help=help_,
        func=lazy_load_command(f"airflow_workpools.cli.{noun}.{function}"),
        args=(*args, ARG_VERBOSE),
    )
