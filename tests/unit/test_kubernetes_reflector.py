# SPDX-License-Identifier: Apache-2.0
"""Keeping up through gaps: a scripted API answers what a real one may."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from airflow_workpools.core.backoff import Backoff
from airflow_workpools.errors import InfrastructureError, InfrastructureUnavailable
from airflow_workpools.infrastructure.kubernetes.answers import error_of
from airflow_workpools.infrastructure.kubernetes.reflector import Reflector


def thing(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def event(type_: str, name: str, version: int) -> bytes:
    return json.dumps({"type": type_, "object": thing(name, version)}).encode() + b"\n"


GONE = (
    json.dumps({"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}}).encode()
    + b"\n"
)


class ScriptedApi:
    """Answers each list and each watch with the next of its script; a watch without one lasts."""

    def __init__(self, lists: list[Any], watches: list[list[bytes] | Exception]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[str] = []

    async def request(self, method: str, path: str, *, query: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(f"list {query.get('continue', '')}".strip())
        answer = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, Any], seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(f"watch {query['resourceVersion']}")
        yield self._chunks(self.watches.pop(0) if self.watches else None)

    async def _chunks(self, script: list[bytes] | Exception | None) -> AsyncIterator[bytes]:
        if isinstance(script, Exception):
            raise script
        for chunk in script or ():
            yield chunk
        if script is None:
            await asyncio.Event().wait()


def page(*names: str, version: int, more: str | None = None) -> dict[str, Any]:
    metadata = {"resourceVersion": str(version), "continue": more}
    return {"metadata": metadata, "items": [thing(name, version) for name in names]}


def watched(api: ScriptedApi, *, until: Callable[[list[str]], object]) -> list[str]:
    """Return what was told until a condition holds."""
    told: list[str] = []

    async def scenario() -> None:
        reflector = Reflector(
            api=api,  # type: ignore[arg-type]
            path="/things",
            selectors={},
            on_list=lambda items, _: told.append(
                "all: " + " ".join(item["metadata"]["name"] for item in items)
            ),
            on_event=lambda type_, item: told.append(f"{type_} {item['metadata']['name']}"),
        )
        reflector._backoff = Backoff(initial=0.001, maximum=0.01)
        reflector.start()
        while not until(told):
            await asyncio.sleep(0.001)
        await reflector.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    return told


def test_a_watch_goes_on_where_the_list_ended_and_the_next_where_it_ended() -> None:
    api = ScriptedApi([page("a", version=5)], [[event("ADDED", "b", 6)], [event("DELETED", "a", 9)]])
    assert watched(api, until=lambda told: len(told) == 3) == ["all: a", "ADDED b", "DELETED a"]
    assert api.asked[:3] == ["list", "watch 5", "watch 6"]


def test_a_bookmark_tells_only_how_far_it_is() -> None:
    api = ScriptedApi([page(version=5)], [[event("BOOKMARK", "", 7)], [event("ADDED", "a", 8)]])
    assert watched(api, until=lambda told: len(told) == 2) == ["all: ", "ADDED a"]
    assert "watch 7" in api.asked


def test_what_the_api_has_forgotten_is_listed_anew() -> None:
    api = ScriptedApi([page("a", version=5), page("b", version=50)], [[GONE]])
    assert watched(api, until=lambda told: len(told) == 2) == ["all: a", "all: b"]
    assert api.asked[:3] == ["list", "watch 5", "list"]


def test_after_a_gap_everything_is_listed_anew() -> None:
    gap = InfrastructureUnavailable("no answer")
    api = ScriptedApi([page("a", version=5), gap, page("b", version=9)], [gap])
    assert watched(api, until=lambda told: len(told) == 2) == ["all: a", "all: b"]


def test_a_long_list_comes_in_pages() -> None:
    api = ScriptedApi([page("a", version=5, more="p2"), page("b", version=5)], [])
    assert watched(api, until=lambda told: told) == ["all: a b"]
    assert api.asked[:2] == ["list", "list p2"]


class TestListedSince:
    """Whether it is certain that something is not there."""

    def scenario(self, api: ScriptedApi, act: Callable[[Reflector], Any]) -> Any:
        async def run() -> Any:
            reflector = Reflector(
                api=api,  # type: ignore[arg-type]
                path="/things", selectors={}, on_list=lambda *_: None, on_event=lambda *_: None,
            )  # fmt: skip
            reflector.start()
            try:
                return await asyncio.wait_for(act(reflector), 10)
            finally:
                await reflector.close()

        return asyncio.run(run())

    def test_the_first_list_answers_who_asked_before_it(self) -> None:
        api = ScriptedApi([page("a", version=5)], [])
        self.scenario(api, lambda reflector: reflector.listed_since(asyncio.get_running_loop().time()))
        assert api.asked.count("list") == 1

    def test_a_later_question_takes_another_list_and_many_at_once_share_it(self) -> None:
        api = ScriptedApi([page("a", version=5)], [])

        async def ask(reflector: Reflector) -> None:
            await reflector.listed_since(0.0)
            await asyncio.sleep(0.01)
            now = asyncio.get_running_loop().time()
            await asyncio.gather(*(reflector.listed_since(now) for _ in range(20)))
            assert reflector.listed_at >= now
            await reflector.listed_since(now)

        self.scenario(api, ask)
        assert api.asked.count("list") == 2

    @pytest.mark.parametrize(
        "problem",
        [InfrastructureUnavailable("no answer"), error_of(403, b'{"message": "User me cannot list things"}')],
    )
    def test_that_nothing_can_be_said_is_raised(self, problem: InfrastructureError) -> None:
        api = ScriptedApi([problem], [])
        with pytest.raises(type(problem)):
            self.scenario(api, lambda reflector: reflector.listed_since(0.0))
