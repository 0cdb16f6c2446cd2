# SPDX-License-Identifier: Apache-2.0
"""What may be secret is not shown; what only says where a secret comes from is."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_workpools.core.masking import masked, masked_template


def is_secret(name: str) -> bool:
    return "password" in name.lower() or name == "token"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "x", "user": "me"}, {"password": "***", "user": "me"}),
        (
            {"password": 7, "Password2": ["a", {"b": "c"}]},
            {"password": "***", "Password2": ["***", {"b": "***"}]},
        ),
        (
            {"password": None, "token": True, "password3": ""},
            {"password": None, "token": True, "password3": ""},
        ),
        ({"password": "{{ conn.db.password }}"}, {"password": "{{ conn.db.password }}"}),
        ({"password": "x{{ env }}"}, {"password": "***"}),
        ([{"name": "DB_PASSWORD", "value": "x"}], [{"name": "DB_PASSWORD", "value": "***"}]),
        ([{"name": "PLAIN", "value": "x"}], [{"name": "PLAIN", "value": "x"}]),
        ("postgres://me:x@db:5432/y?z=1", "postgres://me:***@db:5432/y?z=1"),
        ("a https://u:p@h/ and https://:q@i", "a https://u:***@h/ and https://:***@i"),
        ("https://h:80/a@b", "https://h:80/a@b"),
        (3.5, 3.5),
    ],
)
def test_secrets_are_replaced(value: Any, shown: Any) -> None:
    assert masked(value, is_secret) == shown


def test_of_a_template_the_schemas_stay_schemas() -> None:
    password = {"type": "string", "title": "Password", "default": "x", "examples": ["y"], "enum": ["x", "y"]}
    template = {
        "variables": {
            "type": "object",
            "properties": {"password": password, "on": True, "n": {"default": 1}},
        },
        "job_configuration": {"password": "{{ password }}", "token": "x"},
    }
    shown = masked_template(template, is_secret)
    assert shown["job_configuration"] == {"password": "{{ password }}", "token": "***"}
    assert shown["variables"]["properties"] == {
        "password": {**password, "default": "***", "examples": ["***"], "enum": ["***", "***"]},
        "on": True,
        "n": {"default": 1},
    }
    assert masked_template({"variables": {}, "job_configuration": 1}, is_secret) == {
        "variables": {},
        "job_configuration": 1,
    }
