# SPDX-License-Identifier: Apache-2.0
"""Base job templates: what a work pool's jobs look like, and what of it a task may set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class BaseJobTemplate:
    """The variables that a job may set, and the configuration that they are put into."""

    variables: Mapping[str, Any]
    """JSON Schema of an object: its properties are the variables."""
    job_configuration: Any
    """Any JSON, with placeholders."""
