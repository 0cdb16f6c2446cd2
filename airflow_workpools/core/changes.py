# SPDX-License-Identifier: Apache-2.0
"""What shall be different in a definition."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_workpools.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What shall be different in the definition of a pool or queue; what is not named stays."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    """New values by key; None takes the key out."""
    set_variables: Mapping[str, Any] = field(default_factory=dict)
    """New values of job variables."""
    unset_variables: Collection[str] = ()
    """Job variables to take out."""

    def __bool__(self) -> bool:
        return bool(self.keys or self.set_variables or self.unset_variables)

    def apply(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return the changed definition.

        :raises InvalidInput: if a job variable is to be taken out that is not there.
        """
        changed = {**definition, **self.keys}
        if self.set_variables or self.unset_variables:
            variables = _object(changed.get("job_variables"))
            if absent := sorted(set(self.unset_variables) - variables.keys()):
                raise InvalidInput(
                    f"job variable {', '.join(map(repr, absent))} is not set here; "
                    f"set are: {', '.join(sorted(variables)) or 'none'}"
                )
            kept = {name: value for name, value in variables.items() if name not in self.unset_variables}
            changed["job_variables"] = {**kept, **self.set_variables} or None
        return without_nulls(changed)


def _object(value: Any) -> dict[str, Any]:
    """Read an object that a definition may also hold as JSON text."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"the present job variables are not valid JSON: {error}") from error
    if value and not isinstance(value, dict):
        raise InvalidInput("the present job variables are no JSON object; define the work pool anew")
    return dict(value or {})


def without_nulls(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what has no value."""
    return {key: value for key, value in mapping.items() if value is not None}
