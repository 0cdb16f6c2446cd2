# SPDX-License-Identifier: Apache-2.0
"""The token that a worker shows. When it is not taken any more, its file is read again, so that nobody has to restart
the worker to give it another one.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_workpools.errors import InvalidInput, TokenNotTaken

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

REFUSED_SECONDS = 60.0
"""A token that was refused is not shown again before: it is of no use. The file is looked at with every call."""
WHERE_FROM = (
    "One is made where Airflow's database can be reached: airflow workpools token create; it goes into a file "
    "(--token-file) or into the environment"
)


def check_token(token: str) -> str:
    """Return a token.

    :raises InvalidInput: if it can't be one.
    """
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise InvalidInput(
            "what was given is no token: it must be one word like wpt_…, as `token create` has shown it"
        )
    return token


def read_token(path: Path) -> str:
    """Return the token in a file.

    :raises InvalidInput: if there is none.
    """
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the token can't be read from {path}: {error}") from None
    if not token:
        raise InvalidInput(f"there is no token in {path}. {WHERE_FROM}")
    try:
        return check_token(token)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


@dataclass
class Credential:
    """Shows a token. Threads may share it.

    :param file: where there may be another one when this one is refused; None: there is no such place.
    :param monotonic: seconds that never go back.
    """

    token: str = field(repr=False)
    file: Path | None = None
    monotonic: Callable[[], float] = time.monotonic
    _refusal: TokenNotTaken | None = None
    _refused_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        check_token(self.token)

    def to_show(self) -> str:
        """Return the token to show now.

        :raises TokenNotTaken: if it was refused lately, and there is no other.
        """
        with self._lock:
            if self._refusal is None:
                return self.token
            problem = self._look_for_another()
            if self._refusal is not None and self.monotonic() - self._refused_at < REFUSED_SECONDS:
                raise TokenNotTaken(f"{self._refusal}{problem}")
            self._refused_at = self.monotonic()  # one caller tries, and tells the others
            return self.token

    def refused(self, token: str, refusal: TokenNotTaken) -> None:
        """Note that a token was not taken."""
        with self._lock:
            if token == self.token:
                self._refusal, self._refused_at = refusal, self.monotonic()

    def taken(self, token: str) -> None:
        """Note that a token was taken."""
        if self._refusal is not None:
            with self._lock:
                if token == self.token:
                    self._refusal = None

    def _look_for_another(self) -> str:
        """Take the token in the file, if it is another; say what people have to do if it is not."""
        if self.file is None:
            return ", and start the worker with it"
        try:
            found = read_token(self.file)
        except InvalidInput as error:
            return f", and put it into {self.file}, which is read again ({error})"
        if found == self.token:
            return f", and put it into {self.file}: it is read again, without a restart"
        log.info("Worker: there is another token in %s, and it goes on with that", self.file)
        self.token, self._refusal = found, None
        return ""
