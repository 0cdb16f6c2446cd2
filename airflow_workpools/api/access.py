# SPDX-License-Identifier: Apache-2.0
"""Who may ask: a worker shows a token with every request, and it is looked up every time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.core.attempts import FailedAttempts
from airflow_workpools.core.versions import version_problem
from airflow_workpools.core.worker_tokens import read_token
from airflow_workpools.errors import TokenRefused, TooManyAttempts, VersionRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from airflow_workpools.core.worker_tokens import TokenParts, WorkerToken
    from airflow_workpools.store.tokens import TokenStore

ANOTHER = "make another one with `airflow workpools token create`"
_MOST_GOOD = 10_000


@dataclass
class Access:
    """Checks tokens and versions. Threads share it.

    :param monotonic: seconds that never go back.
    """

    tokens: TokenStore
    clock: Callable[[], datetime]
    version: str
    monotonic: Callable[[], float] = time.monotonic
    _failed: FailedAttempts = field(default_factory=FailedAttempts)
    _good: OrderedDict[tuple[str, str], None] = field(default_factory=OrderedDict)
    """Tokens that were right the last time, by id and hash: they are not kept waiting for the failures of others who
    come from the same address. They are looked up all the same."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, authorization: str | None, version: str | None, *, address: str) -> WorkerToken:
        """Return the token that a request shows.

        :param authorization: the header.
        :param version: that the worker says it has.
        :param address: where the request comes from.
        :raises TokenRefused: if it shows none that opens anything.
        :raises TooManyAttempts: if too many came from this address that did not.
        :raises VersionRefused: if the worker's version is too far from ours.
        """
        token = self._open(authorization, address)
        if problem := version_problem(version, self.version):
            raise VersionRefused(problem)
        return token

    def _open(self, authorization: str | None, address: str) -> WorkerToken:
        scheme, _, text = (authorization or "").partition(" ")
        parts = read_token(text.strip()) if scheme.lower() == "bearer" else None
        self._let_wait(parts, address)
        token = None if parts is None else self.tokens.find(parts.id)
        if parts is None or token is None or not token.opened_by(parts):
            self._note(parts, address, good=False)
            what = "the request has no token" if not text else "the token is not one of this Airflow's"
            raise TokenRefused(f"{what}; {ANOTHER}")
        now = self.clock()
        if problem := token.problem(now):
            # No guess: whoever has it once had a good one. Workers go on showing it until they have another.
            self._forget(parts)
            raise TokenRefused(f"{problem}; {ANOTHER}")
        self._note(parts, address, good=True)
        if token.use_is_due(now):
            self.tokens.note_use(token.id, now=now)
        return token

    def _let_wait(self, parts: TokenParts | None, address: str) -> None:
        with self._lock:
            if parts is not None and (parts.id, parts.hash) in self._good:
                return
            seconds = self._failed.wait_seconds(address, self.monotonic())
        if seconds:
            raise TooManyAttempts(
                f"too many wrong tokens came from {address}; none is looked at for {seconds} s",
                retry_after_seconds=seconds,
            )

    def _note(self, parts: TokenParts | None, address: str, *, good: bool) -> None:
        if parts is not None and not good:
            self._forget(parts)
        with self._lock:
            if parts is not None and good:
                self._good[parts.id, parts.hash] = None
                self._good.move_to_end((parts.id, parts.hash))
                if len(self._good) > _MOST_GOOD:
                    self._good.popitem(last=False)
            else:
                self._failed.failed(address, self.monotonic())

    def _forget(self, parts: TokenParts) -> None:
        with self._lock:
            self._good.pop((parts.id, parts.hash), None)
