# SPDX-License-Identifier: Apache-2.0
"""What of a log is kept, where it is cut, and how it is shown."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.core.logs import (
    MAX_CHUNK_BYTES,
    LogChunk,
    LogEnd,
    accept,
    cut,
    lines_of,
    own_line,
    redact,
    structured,
)

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
JOB = uuid.UUID(int=7)
TOKEN = b"eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiIxIiwic2NvcGUiOiJ3b3JrbG9hZCJ9.c2lnbmF0dXJl-_x"


def chunk(position: int, data: bytes) -> LogChunk:
    return LogChunk(job_id=JOB, position=position, data=data)


@given(
    log=st.binary(max_size=200),
    cuts=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=30),
)
def test_whoever_sends_which_part_how_often_what_is_stored_is_the_log_from_its_beginning(
    log: bytes, cuts: list[tuple[int, int]]
) -> None:
    end, stored = LogEnd(), b""
    for begin, size in cuts:
        new, end = accept([chunk(begin, log[begin : begin + size])], end, most=1000, now=NOW)
        stored += b"".join(part.data for part in new)
        assert stored == log[: end.position]


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(0, 100))
def test_never_more_is_kept_than_allowed(parts: list[bytes], most: int) -> None:
    end, position, kept = LogEnd(), 0, 0
    for part in parts:
        new, end = accept([chunk(position, part)], end, most=most, now=NOW)
        kept += sum(one.size for one in new)
        position += len(part)
    assert kept == end.position <= most
    assert end.full == (position > most)


def test_a_token_is_hidden_and_every_byte_stays_where_it_is() -> None:
    line = b'{"event": "Executing workload", "token": "' + TOKEN + b'", "n": 1}\n'

    hidden = redact(line)

    assert TOKEN not in hidden
    assert b"eyJ" not in hidden
    assert len(hidden) == len(line)
    assert json.loads(hidden)["n"] == 1


@pytest.mark.parametrize("harmless", [b"eyJust a word.", b"version 1.2.3", b"eyJhbGciOiJI", b"a.b.c"])
def test_what_is_no_token_is_left_as_it_is(harmless: bytes) -> None:
    assert redact(harmless) == harmless


def test_a_chunk_ends_with_a_line() -> None:
    assert cut(b"one\ntwo\nthr") == 8
    assert cut(b"thr") == 0
    assert cut(b"") == 0


def test_the_last_line_is_taken_without_its_end() -> None:
    assert cut(b"one\nthr", last=True) == 4
    assert cut(b"thr", last=True) == 3


def test_an_unfinished_line_is_taken_when_it_has_waited_long_enough() -> None:
    assert cut(b"Downloading 45%", partial=True) == 15
    assert cut(b"Password: ", partial=True) == 10


def test_an_unfinished_line_is_not_cut_within_a_token() -> None:
    for length in range(1, len(TOKEN)):
        line = b"token " + TOKEN[:length]
        assert cut(line, partial=True) == 6


def test_a_line_that_is_too_long_for_a_chunk_is_cut_and_not_within_a_token() -> None:
    line = b"x" * 10 + b" " * (MAX_CHUNK_BYTES - 20) + TOKEN + b" more"

    assert cut(line) == MAX_CHUNK_BYTES - 10
    assert cut(b"x" * (MAX_CHUNK_BYTES + 1)) == MAX_CHUNK_BYTES


@given(st.binary(max_size=300).filter(lambda log: b"\r" not in log), st.integers(1, 40))
def test_the_lines_of_a_log_are_the_same_however_it_was_cut(log: bytes, size: int) -> None:
    chunks = [chunk(at, log[at : at + size]) for at in range(0, len(log), size)]

    expected = [line.decode(errors="replace") for line in log.split(b"\n") if line]
    assert list(lines_of(chunks)) == expected


def test_what_is_no_json_is_shown_with_the_time_of_the_line_before() -> None:
    first = own_line("begins", level="info", now=NOW).decode().strip()
    lines = [first, "Traceback (most recent call last):", "", "2031 is no date", "{not json"]

    shown = list(structured(lines))

    assert shown[0] == first
    assert [json.loads(line) for line in shown[1:3]] == [
        {"timestamp": NOW.isoformat(), "event": "Traceback (most recent call last):"},
        {"timestamp": NOW.isoformat(), "event": "2031 is no date"},
    ]
    assert shown[3] == "{not json"


def test_what_comes_before_any_time_is_shown_without_one() -> None:
    assert [json.loads(line) for line in structured(["exec: no such file", "bye"])] == [
        {"event": "exec: no such file"},
        {"event": "bye"},
    ]
