# SPDX-License-Identifier: Apache-2.0
"""What ``airflow workpools image build`` asks on a terminal: whatever the command line leaves open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.prompt import Confirm, Prompt

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

REQUIREMENTS = "requirements.txt"
"""The file in the DAG folder that is offered."""


class Questions:
    """Asks whoever sits at the terminal.

    :raises InvalidInput: from each question, if the terminal is closed instead of an answer.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)

    def tag(self) -> str:
        return self._text("Name and tag of the image")

    def base_image(self, default: str) -> str:
        return self._text("Image to build on", default=default)

    def requirements(self, dags_folder: Path) -> tuple[Path, ...]:
        """Offer the file that a DAG folder often has."""
        found = dags_folder / REQUIREMENTS
        if found.is_file() and self._is_wanted(f"Install what {escape(str(found))} lists?", default=True):
            return (found,)
        return ()

    def push(self, tag: str) -> bool:
        return self._is_wanted(f"Push {escape(tag)} to its registry?", default=False)

    def registry_conn_id(self) -> str | None:
        """Ask who logs in to the registry."""
        question = "Airflow connection to log in there with (Enter: as docker login did)"
        return self._text(question, default="") or None

    def pools(self, known: Collection[str]) -> list[str]:
        """Ask whose jobs shall run in the image, until these are pools that can."""
        if not known:
            return []
        question = f"Work pools whose jobs run in it from then on: {escape(', '.join(known))} (Enter: none)"
        while True:
            names = [name for name in self._text(question, default="").replace(",", " ").split() if name]
            if not (unknown := [name for name in names if name not in known]):
                return names
            self._console.print(f"No such work pool: {escape(', '.join(unknown))}")

    def _text(self, question: str, *, default: str | None = None) -> str:
        try:
            if default is None:
                return Prompt.ask(question, console=self._console)
            return Prompt.ask(question, console=self._console, default=default, show_default=bool(default))
        except EOFError:
            raise _no_answer() from None

    def _is_wanted(self, question: str, *, default: bool) -> bool:
        try:
            return Confirm.ask(question, default=default, console=self._console)
        except EOFError:
            raise _no_answer() from None


def _no_answer() -> InvalidInput:
    return InvalidInput("the terminal was closed before all was answered; with --no-prompt nothing is asked")
