# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_workpools.infrastructure.kubernetes.logs import without_excuse
from airflow_workpools.infrastructure.kubernetes.reflector import lines

EXCUSE = b"rpc error: code = Unknown desc = Error: No such container: 5e126657a71e"


async def stream(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def read(chunks: Sequence[bytes]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [chunk async for chunk in without_excuse(stream(chunks))]

    return asyncio.run(collect())


def cut(text: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut a text at these places."""
    bounds = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(bounds)]


@given(places=st.lists(st.integers(0, 200)), begin=st.sampled_from([b"", b"farewell\n", b"one\ntwo\n"]))
def test_the_excuse_of_a_node_is_no_part_of_a_log(places: list[int], begin: bytes) -> None:
    assert b"".join(read(cut(begin + EXCUSE, places))) == begin


@given(places=st.lists(st.integers(0, 200)), log=st.binary(max_size=100))
def test_anything_else_is(places: list[int], log: bytes) -> None:
    assert b"".join(read(cut(b"> " + log, places))) == b"> " + log


@pytest.mark.parametrize(
    "log", [b"rpc error: code = 7\n", b"rpc error: none\n", b"it says: " + EXCUSE, EXCUSE + b"\nand goes on"]
)
def test_a_log_may_have_the_same_words(log: bytes) -> None:
    assert b"".join(read([log])) == log
    assert b"".join(read([log[:4], log[4:11], log[11:]])) == log


def test_an_unfinished_line_is_not_waited_for() -> None:
    assert read([b"10 %", b" 20 %", b" done\n"]) == [b"10 %", b" 20 %", b" done\n"]


@given(places=st.lists(st.integers(0, 60)))
def test_events_are_cut_at_the_ends_of_lines(places: list[int]) -> None:
    async def collect() -> list[bytes]:
        return [line async for line in lines(stream(cut(b'{"a": 1}\n{"b": 2}\n\n{"c', places)))]

    assert asyncio.run(collect()) == [b'{"a": 1}', b'{"b": 2}']
