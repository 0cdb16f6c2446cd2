# SPDX-License-Identifier: Apache-2.0
"""The folder of a standalone worker: one for each name, used by one process at a time.

::

    <home>/worker-<name>/        0700
        lock                     locked while a worker of this name runs here
        ids                      ids under which workers of this name have been online, one a line
        jobs/                    jobs of kind process
        reports/                 what could not be told yet
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from airflow_workpools.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


@dataclass(frozen=True)
class StandaloneHome:
    """The folder of the worker of this name.

    :raises InvalidInput: if the name can't be one of a folder.
    """

    home: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidInput(
                f"{self.name!r} can't be the name of a worker: letters, digits and . _ @ - are allowed, at most 128, "
                "the first a letter or digit"
            )

    @property
    def path(self) -> Path:
        return self.home.absolute() / f"worker-{self.name}"

    @property
    def reports(self) -> Path:
        return self.path / "reports"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one worker of this name here; the kernel lets go of the lock however the process ends.

        :raises Conflict: if there is another.
        :raises InvalidInput: if the folder can't be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidInput(
                f"{self.path} can't be used ({error.strerror}): make it writable, or set [workpools] home"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(
                f"a worker named '{self.name}' runs already with {self.path}; stop it, or choose another --name"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    def earlier_ids(self) -> list[UUID]:
        """Return under which ids workers of this name have been online that ended since."""
        found = []
        with contextlib.suppress(OSError):
            for line in (self.path / "ids").read_text().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(UUID(line))
        return found

    def note_ids(self, ids: list[UUID]) -> None:
        """Note under which ids something may be left; told before a worker comes online."""
        part = self.path / "ids.part"
        part.write_text("".join(f"{id_}\n" for id_ in ids))
        part.replace(self.path / "ids")
