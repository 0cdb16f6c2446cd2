# SPDX-License-Identifier: Apache-2.0
"""The namespaces in which a worker may have launched jobs, written down so that the next one looks there."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamespacesUsed:
    """A file with a namespace on each line."""

    path: Path

    def read(self) -> frozenset[str]:
        """Return the namespaces that were written down."""
        with contextlib.suppress(OSError):
            return frozenset(self.path.read_text().split())
        return frozenset()

    def add(self, namespace: str) -> None:
        """Write down a namespace, if it is not there yet."""
        if namespace in self.read():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(f"{namespace}\n")
        except OSError as error:
            # Only a job whose launch a crash interrupts would be missed.
            log.warning("%s can't be written: %s", self.path, error)
