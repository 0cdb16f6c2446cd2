# SPDX-License-Identifier: Apache-2.0
"""Tokens of workers: how they look, how they are checked, and how long they are good. Pure.

A token is ``wpt_ID_SECRET``. The prefix is for people and for tools that look for secrets in files; the id names the
token's row; of the secret, which is 256 random bits, only a hash is stored. So nobody who reads the table can make a
token of it, and the hash need not be slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "wpt"
"""By which a token is known as one of ours."""
SECRET_BYTES = 32
ID_BYTES = 6
USE_WRITTEN_EVERY = timedelta(seconds=60)
"""The last use of a token is written down at most so often."""

_TOKEN = re.compile(rf"{PREFIX}_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})", re.ASCII)
_LIFE = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_LONGEST_LIFE = timedelta(days=36_500)


class TokenParts(NamedTuple):
    """What stands in a token."""

    id: str
    secret: str

    @property
    def text(self) -> str:
        return f"{PREFIX}_{self.id}_{self.secret}"

    @property
    def hash(self) -> str:
        """What is stored of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class WorkerToken:
    """What is known of a token: everything but its secret."""

    id: str
    hash: str = field(repr=False)
    pools: tuple[str, ...]
    """Work pools whose jobs its workers may have."""
    description: str | None = None
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    """None: never."""
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def problem(self, now: datetime) -> str | None:
        """Say why it opens nothing (any more), or None if it does."""
        if self.revoked_at is not None:
            return f"token {self.id} was revoked at {self.revoked_at.isoformat(timespec='seconds')}"
        if self.expires_at is not None and now >= self.expires_at:
            return f"token {self.id} expired at {self.expires_at.isoformat(timespec='seconds')}"
        return None

    def status(self, now: datetime) -> str:
        """Return a word for it: ACTIVE, EXPIRED or REVOKED."""
        if self.revoked_at is not None:
            return "REVOKED"
        return "EXPIRED" if self.problem(now) else "ACTIVE"

    def opened_by(self, parts: TokenParts) -> bool:
        """Say whether a secret is this token's. It takes as long whatever of the secret is wrong."""
        return hmac.compare_digest(self.hash, parts.hash)

    def use_is_due(self, now: datetime) -> bool:
        """Say whether its use is worth writing down."""
        return self.last_used_at is None or abs(now - self.last_used_at) >= USE_WRITTEN_EVERY


def new_token(random_hex: Callable[[int], str]) -> TokenParts:
    """Make a token.

    :param random_hex: returns so many random bytes, as hexadecimal digits.
    """
    return TokenParts(random_hex(ID_BYTES), random_hex(SECRET_BYTES))


def read_token(text: str) -> TokenParts | None:
    """Return what stands in a token; None if it is none."""
    found = _TOKEN.fullmatch(text)
    return None if found is None else TokenParts(*found.groups())


def read_life(text: str) -> timedelta:
    """Read how long a token shall be good: ``90d``, ``12h``.

    :raises InvalidInput: if the text is no such time.
    """
    found = _LIFE.fullmatch(text.strip())
    life = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else timedelta()
    if not timedelta() < life <= _LONGEST_LIFE:
        raise InvalidInput(f"{text!r} must be a time like 12h, 90d or 4w, at most {_LONGEST_LIFE.days} days")
    return life
