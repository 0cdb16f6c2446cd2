# SPDX-License-Identifier: Apache-2.0
"""Tokens of workers, versions, and who fails too often: the rules, without I/O."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core import attempts
from airflow_workpools.core.attempts import FailedAttempts
from airflow_workpools.core.versions import version_problem
from airflow_workpools.core.worker_tokens import TokenParts, WorkerToken, new_token, read_life, read_token
from airflow_workpools.errors import InvalidInput

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def token(**values: object) -> WorkerToken:
    parts = new_token(secrets.token_hex)
    return WorkerToken(**{"id": parts.id, "hash": parts.hash, "pools": ("etl",), "created_at": NOW, **values})  # type: ignore[arg-type]


def test_a_token_is_read_as_it_was_made_and_its_hash_says_nothing_of_its_secret() -> None:
    parts = new_token(secrets.token_hex)
    assert read_token(parts.text) == parts
    assert parts.text.startswith("wpt_")
    assert len(parts.secret) == 64
    assert parts.secret not in parts.hash
    assert new_token(secrets.token_hex) != parts


@given(st.text())
def test_what_is_no_token_is_not_read(text: str) -> None:
    assert read_token(text) is None
    assert read_token(f"wpt_{text}") is None


def test_only_the_whole_secret_opens_a_token() -> None:
    parts = new_token(secrets.token_hex)
    made = token(id=parts.id, hash=parts.hash)
    assert made.opened_by(parts)
    assert not made.opened_by(TokenParts(parts.id, parts.secret[:-1]))
    assert not made.opened_by(new_token(secrets.token_hex))


def test_a_token_is_good_until_its_end_or_its_revocation() -> None:
    ends = token(expires_at=NOW + timedelta(seconds=1))
    assert (ends.problem(NOW), ends.status(NOW)) == (None, "ACTIVE")
    late = NOW + timedelta(seconds=1)
    assert ends.status(late) == "EXPIRED"
    assert "expired at 2026-01-01T00:00:01" in str(ends.problem(late))
    assert token(revoked_at=NOW, expires_at=NOW).status(NOW) == "REVOKED"
    assert token().problem(NOW + timedelta(days=9999)) is None


@pytest.mark.parametrize(
    ("text", "life"),
    [("12h", timedelta(hours=12)), (" 90 d", timedelta(days=90)), ("4w", timedelta(weeks=4))],
)
def test_how_long_a_token_is_good_is_read(text: str, life: timedelta) -> None:
    assert read_life(text) == life


@pytest.mark.parametrize("text", ["", "0d", "90", "d", "-1d", "1.5h", "999999w", "1y", "٣d"])
def test_what_is_no_such_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="must be a time like 12h"):
        read_life(text)


@pytest.mark.parametrize("worker", ["1.4.0", "1.5.9", "1.6.0.dev3", "1.5.0+local"])
def test_versions_one_minor_apart_understand_each_other(worker: str) -> None:
    assert version_problem(worker, "1.5.0") is None


@pytest.mark.parametrize(
    ("worker", "older"),
    [("1.3.9", "worker"), ("0.5.0", "worker"), ("1.7.0", "API server"), ("2.5.0", "API server")],
)
def test_versions_further_apart_are_named_with_what_to_upgrade(worker: str, older: str) -> None:
    problem = str(version_problem(worker, "1.5.0"))
    assert worker in problem
    assert "1.5.0" in problem
    assert problem.endswith(f"Upgrade it on the {older}")


@given(st.text())
def test_any_text_may_be_said_to_be_a_version(text: str) -> None:
    problem = version_problem(text, "1.5.0")
    assert problem is None or len(problem) < 300


def test_who_fails_too_often_waits_until_the_first_failure_is_old_enough() -> None:
    failed = FailedAttempts(most=2, seconds=10)
    failed.failed("here", 0)
    assert failed.wait_seconds("here", 1) == 0
    failed.failed("here", 4)
    assert (failed.wait_seconds("here", 5), failed.wait_seconds("there", 5)) == (5, 0)
    assert failed.wait_seconds("here", 10) == 0
    failed.failed("here", 10)
    assert failed.wait_seconds("here", 11) == 3


def test_failures_of_so_many_addresses_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_ADDRESSES", 3)
    failed = FailedAttempts(most=1)
    for address in "abcd":
        failed.failed(address, 0)
    assert [failed.wait_seconds(address, 1) > 0 for address in "abcd"] == [False, True, True, True]
