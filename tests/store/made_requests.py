# SPDX-License-Identifier: Apache-2.0
"""Values made from the OpenAPI document of an API: such as it allows, and now and then others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes values of the schemas of a document."""

    document: Schema
    ids: list[str]
    """What stands where a UUID is asked for, for the most part."""
    texts: Callable[[Schema], st.SearchStrategy[str]]
    """Makes texts, most of which mean something."""
    free: Callable[[Schema, Maker], st.SearchStrategy[Any]]
    """Makes objects of which the document names no keys."""
    one_in: int = 20
    """So often a value is one that the document does not allow."""
    limits: Mapping[float, float] = field(default_factory=dict)
    """Lower limits of numbers in place of those of the document: of times that somebody would wait, for one."""

    def values(self, schema: Schema) -> st.SearchStrategy[Any]:
        """Make values of a schema, and now and then one that is none."""
        return st.integers(0, self.one_in).flatmap(
            lambda luck: anything if luck == 0 else self._values(schema)
        )

    def _values(self, schema: Schema) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return self._values(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return st.one_of([self.values(one) for one in schema["anyOf"]])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if schema.get("format") == "uuid":
            return st.sampled_from(self.ids) | st.uuids().map(str)
        kind = schema.get("type")
        if kind == "object":
            return self._objects(schema) if "properties" in schema else self.free(schema, self)
        if kind == "array":
            items = self.values(schema["items"])
            return st.lists(items, min_size=schema.get("minItems", 0), max_size=3)
        if kind == "integer":
            return st.integers(schema.get("minimum", -(2**70)), schema.get("maximum", 2**70))
        if kind == "number":
            most = schema.get("maximum", 1e300)
            return st.floats(schema.get("minimum", 0), self.limits.get(most, most))
        if kind == "boolean":
            return st.booleans()
        return st.none() if kind == "null" else self.texts(schema)

    def _objects(self, schema: Schema) -> st.SearchStrategy[Any]:
        required = set(schema.get("required", ()))
        fields = {name: self.values(one) for name, one in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: one for name, one in fields.items() if name in required},
            optional={name: one for name, one in fields.items() if name not in required},
        )
