# SPDX-License-Identifier: Apache-2.0
"""A small disk of one's own that can really be full."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SIZE = "64m"
_BLOCK = bytes(1 << 20)


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs mounted at a folder."""

    path: Path

    @property
    def _filler(self) -> Path:
        return self.path / "filler"

    def fill(self) -> None:
        """Write until the kernel says that no space is left."""
        for size in (len(_BLOCK), 4096):
            with contextlib.suppress(_Full):
                while True:
                    self._write(size)

    def _write(self, size: int) -> None:
        handle = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(handle, _BLOCK[:size])
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _Full from None
            raise
        finally:
            os.close(handle)

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


class _Full(Exception):
    """No space is left."""


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk | None]:
    """Mount one at this folder; None where mounting is not permitted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "workpools-test", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        yield None
        return
    if done.returncode:
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: whoever still has a log open there must not keep it mounted for ever.
        subprocess.run(["umount", "--lazy", str(path)], check=False)
