"""Rewritten schemas: a narrower one admits nothing that the original refuses, an equivalent one exactly the same."""

import json
from typing import Any

import jsonschema_rs
import pytest

from headrace_runner.engine.narrowing import equivalent, narrowed

DOCUMENTS: list[Any] = [
    *(None, True, 0, 3, 1.5, "", "a", "ab", "x@y", [], [1], [1, 1], [1, 2], ["a"], ["a", "b"], ["b", "a"], ["a", "a"]),
    *(
        {},
        {"a": 1},
        {"b": 1},
        {"a": 1, "b": 1},
        {"a": "x"},
        {"kind": "p", "n": 1},
        {"kind": "q", "n": 1},
        {"kind": "q"},
    ),
    *({"key1": 1}, {"key1": 1, "a": 1}, {"ab": 1, "b": 2}, {"kind": "p"}, {"a": 1, "b": 1, "c": 1}),
]
NARROWED: list[dict[str, Any]] = [
    {"type": "array", "uniqueItems": True},
    {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "minItems": 1},
    {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {
        "oneOf": [
            {"properties": {"kind": {"const": "p"}, "n": {"type": "integer"}}, "required": ["kind", "n"]},
            {"properties": {"kind": {"const": "q"}}, "required": ["kind"]},
        ],
        "type": "object",
    },
    {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}, "required": ["a"]},
    {"type": "object", "properties": {"a": {}, "b": {}}, "dependencies": {"a": ["b"]}},
    {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}},
    {"type": "object", "not": {"required": ["a"]}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "minProperties": 2},
    {"type": "object", "minProperties": 1},
    {"type": "object", "properties": {"a": {}, "b": {}}, "maxProperties": 1, "required": ["a"]},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}},
    {"type": "array", "contains": {"type": "string"}, "maxContains": 1},
]
EQUIVALENT: list[dict[str, Any]] = [
    {"type": "string", "format": "material"},
    {"not": {"type": "string"}},
    {"type": ["string", "array"], "not": {"type": "array"}},
    {"enum": ["a", "ab", 3], "not": {"const": "a"}},
    {"properties": {"a": {"not": {"type": "null"}}}},
]


def admitted(schema: Any) -> list[str]:
    validator = jsonschema_rs.validator_for(schema)
    return [json.dumps(document) for document in DOCUMENTS if validator.is_valid(document)]


@pytest.mark.parametrize("schema", NARROWED, ids=json.dumps)
def test_what_is_narrowed_admits_some_of_the_same(schema: dict[str, Any]) -> None:
    narrow = narrowed(schema)
    assert narrow != schema
    assert admitted(narrow)
    assert set(admitted(narrow)) <= set(admitted(schema))


@pytest.mark.parametrize("schema", EQUIVALENT, ids=json.dumps)
def test_what_is_equivalent_admits_the_same(schema: dict[str, Any]) -> None:
    assert equivalent(schema) != schema
    assert admitted(equivalent(schema)) == admitted(schema)


def test_what_needs_no_rewriting_is_the_same_object() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}, "required": ["a"]}
    assert equivalent(schema) is schema
    assert narrowed(schema) is schema
    assert narrowed(True) is True


def test_nonsense_is_left_to_the_validator() -> None:
    nonsense = {"oneOf": 3, "properties": [], "required": None, "not": [], "minProperties": "x", "if": 1, "type": {}}
    equivalent(nonsense)
    narrowed({**nonsense, "items": [{"uniqueItems": 3}], "allOf": [{"contains": None}]})
