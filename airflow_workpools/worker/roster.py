# SPDX-License-Identifier: Apache-2.0
"""Which workers of this machine are dead for certain: nobody has to wait until they have been silent for long.

Each worker leaves a file with its process's identity. A worker that starts looks at the files of the others: where
that very process is gone, its jobs can be taken over at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from airflow_workpools.infrastructure.process.proc import ProcessIdentity, pid_realm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roster:
    """The workers that have started on this machine with this home."""

    folder: Path

    def enter(self, worker_id: UUID) -> None:
        """Note that this process is the worker; if that can't be, the others will have to wait for its silence."""
        identity = ProcessIdentity.of(os.getpid())
        if identity is None:  # no /proc
            return
        whole = self.folder / f"{worker_id}.json"
        part = whole.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(asdict(identity)))
            part.rename(whole)
        except OSError as error:  # a full disk: the jobs that run have to be looked after all the same
            log.warning("Embedded worker %s could not be entered into %s: %s", worker_id, self.folder, error)

    def leave(self, worker_id: UUID) -> None:
        """Forget a worker."""
        with contextlib.suppress(OSError):
            (self.folder / f"{worker_id}.json").unlink(missing_ok=True)

    def dead(self) -> Iterator[UUID]:
        """Yield workers whose process is gone.

        A process of another boot, or of another container that shares this folder, can't be judged from here.
        """
        files = sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []
        for file in files:
            try:
                worker_id, identity = UUID(file.stem), ProcessIdentity(**json.loads(file.read_text()))
            except (OSError, ValueError, TypeError):
                continue
            if identity.realm != pid_realm():
                continue
            stat = identity.stat()
            if stat is None or stat.has_ended:
                yield worker_id
