# SPDX-License-Identifier: Apache-2.0
"""What an engine says while it builds, pulls and pushes, and what is made of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from airflow_workpools.errors import ImageError, InfrastructureUnavailable, InvalidInput
from airflow_workpools.images.engine import BuildFailed, Engine, _follow_transfer, follow_build, require_sdk

if TYPE_CHECKING:
    from pathlib import Path


def stream(*lines: str) -> list[dict[str, Any]]:
    return [{"stream": f"{line}\n"} for line in lines]


def test_a_build_tells_what_it_does_and_ends_with_the_image() -> None:
    told: list[str] = []

    image = follow_build(
        iter([*stream("Step 1/2 : FROM x", " ---> 1"), {"aux": {"ID": "sha256:1"}}]), told.append
    )

    assert image == "sha256:1"
    assert told == ["Step 1/2 : FROM x", " ---> 1"]


def test_a_failed_build_names_the_step_and_keeps_its_last_lines_only() -> None:
    events = [
        *stream("Step 1/2 : FROM x", "pulled", "Step 2/2 : RUN y", *(f"line {n}" for n in range(40))),
        {"error": "short", "errorDetail": {"code": 1, "message": "The command returned a non-zero code: 1"}},
    ]

    with pytest.raises(BuildFailed, match="failed at Step 2/2 : RUN y: The command returned") as failed:
        follow_build(iter(events), lambda _: None)

    assert failed.value.lines == tuple(f"line {n}" for n in range(25, 40))


def test_what_our_own_program_says_is_the_reason() -> None:
    events = [
        *stream("Step 3/9 : RUN z", "\x1b[91mError: the base image has no pip\n\x1b[0m"),
        {"error": "code 1"},
    ]

    with pytest.raises(BuildFailed, match=r"Step 3/9 : RUN z: the base image has no pip$"):
        follow_build(iter(events), lambda _: None)


def test_a_push_tells_each_change_once_and_ends_with_the_digest() -> None:
    told: list[str] = []
    events: list[dict[str, Any]] = [
        {"status": "Preparing", "id": "a"},
        {"status": "Pushing", "id": "a", "progress": "1"},
        {"status": "Pushing", "id": "a", "progress": "2"},
        {"aux": {"Digest": "sha256:2"}},
    ]

    assert _follow_transfer(iter(events), told.append, failing="pushing x failed") == "sha256:2"
    assert told == ["a: Preparing", "a: Pushing"]


def test_a_push_that_is_refused_says_why() -> None:
    events: list[dict[str, Any]] = [
        {"status": "Preparing"},
        {"errorDetail": {"message": "denied"}, "error": "denied"},
    ]

    with pytest.raises(ImageError, match="pushing x failed: denied"):
        _follow_transfer(iter(events), lambda _: None, failing="pushing x failed")


def test_a_missing_sdk_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "docker", None)

    with pytest.raises(InvalidInput, match=r"airflow-provider-workpools\[docker\]"):
        require_sdk()


def test_an_engine_that_does_not_answer_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    with (
        pytest.raises(InfrastructureUnavailable, match=r"no container engine answers.*DOCKER_HOST"),
        Engine.reached(),
    ):
        pass
