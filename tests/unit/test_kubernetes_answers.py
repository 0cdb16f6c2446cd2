# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_workpools.errors import InfrastructureUnavailable, LaunchRejected
from airflow_workpools.infrastructure.kubernetes.answers import (
    AlreadyExists,
    DoesNotExist,
    NotAccepted,
    NotNow,
    Outdated,
    error_of,
)


def status(message: str = "", **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "message": message, **more}).encode()


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_an_api_that_is_busy_is_worth_another_try(code: int) -> None:
    error = error_of(code, status("too many requests"), retry_after="3")
    assert isinstance(error, NotNow)
    assert error.retry_after == 3
    assert "too many requests" in str(error)


def test_how_long_to_wait_may_stand_in_the_answer() -> None:
    error = error_of(500, status("later", details={"retryAfterSeconds": 2}))
    assert isinstance(error, NotNow)
    assert error.retry_after == 2


def test_a_quota_is_worth_another_try() -> None:
    message = 'jobs.batch "x" is forbidden: exceeded quota: few'
    assert isinstance(error_of(403, status(message)), InfrastructureUnavailable)


def test_a_missing_right_is_quoted_with_the_way_out() -> None:
    message = 'jobs.batch is forbidden: User "me" cannot create resource "jobs"'
    error = error_of(403, status(message))
    assert isinstance(error, LaunchRejected)
    assert message in str(error)
    assert "docs/kubernetes.md" in str(error)


def test_what_rights_would_not_help_with_is_quoted_only() -> None:
    assert "docs/" not in str(error_of(403, status("admission webhook denied the request")))


def test_an_object_that_is_there_is_told_from_two_who_write_at_once() -> None:
    assert isinstance(error_of(409, status(reason="AlreadyExists")), AlreadyExists)
    assert isinstance(error_of(409, status(reason="Conflict")), InfrastructureUnavailable)


def test_what_is_wrong_with_a_manifest_is_told_with_the_field() -> None:
    causes = [{"field": "spec.template.spec.containers[0].image", "message": "Required value"}]
    error = error_of(422, status("Job is invalid", reason="Invalid", details={"causes": causes}))
    assert isinstance(error, LaunchRejected)
    assert "spec.template.spec.containers[0].image: Required value" in str(error)


@pytest.mark.parametrize(("code", "type_"), [(404, DoesNotExist), (410, Outdated), (401, NotAccepted)])
def test_other_answers_have_their_own_errors(code: int, type_: type[Exception]) -> None:
    assert isinstance(error_of(code, status("x")), type_)


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[]", b"null"])
def test_an_answer_that_is_not_of_the_api_is_quoted_as_it_is(body: bytes) -> None:
    error = error_of(503, body)
    assert isinstance(error, InfrastructureUnavailable)
    assert body.decode() in str(error)
