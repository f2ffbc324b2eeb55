"""Rewritten schemas: a narrower one admits nothing that the original refuses, an equivalent one exactly the same."""

import json
import sys
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest

from headrace_runner.engine.narrowing import MAX_ADDED, MAX_BRANCHES, MAX_STEPS, equivalent, narrowed

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


class Compared(str):
    """A name whose comparisons are lines of Python, so that they are counted."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def many(prefix: str, count: int = 4000) -> list[Compared]:
    return [Compared(f"{prefix}{number}") for number in range(count)]


def counts(least: int) -> dict[str, Any]:
    definitions = {"x": {"minProperties": least, "additionalProperties": False}}
    return {"oneOf": [{"type": "object"}, {"type": "object"}], "$defs": definitions}


def nested(levels: int, names: list[str]) -> dict[str, Any]:
    inner = nested(levels - 1, names) if levels else {}
    return {"propertyNames": {"enum": names}, "additionalProperties": inner}


def added(levels: int) -> dict[str, Any]:
    return {"minProperties": MAX_ADDED, "additionalProperties": added(levels - 1) if levels else {}}


def lines_within(limit: int, action: Callable[[], Any]) -> Any:
    """The action's result; fails, rather than hangs, once it has taken more lines of Python."""
    lines = 0

    def trace(_frame: Any, event: str, _arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        assert lines <= limit, "the work has no bound"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return action()
    finally:
        sys.settrace(before)


HOSTILE: dict[str, dict[str, Any]] = {
    "quintillion": counts(10**18),
    "million": counts(10**6),
    "branches": {"oneOf": [{"properties": {"k": {"const": n}}, "required": ["k"]} for n in range(1100)]},
    "nested names": nested(12, [*"abcdefghij"]),
    "nested counts": added(8),
    "dependencies": {"dependentRequired": {"a": many("x")}, "required": ["a", *many("y")]},
    "counted": {"minProperties": 1, "properties": {name: {} for name in many("x")}, "required": many("y")},
    "enumerations": {
        "oneOf": [{"properties": {"k": {"enum": many(letter)}}, "required": ["k"]} for letter in "xy"],
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_rewriting_without_end_is_given_up(name: str) -> None:
    schema = HOSTILE[name]
    assert lines_within(10 * MAX_STEPS, lambda: narrowed(schema)) is schema


def test_values_that_are_left_out_are_compared_within_a_bound() -> None:
    schema = {"enum": many("x"), "not": {"enum": many("y")}}
    assert lines_within(10 * MAX_STEPS, lambda: equivalent(schema)) is schema


def test_what_is_within_the_bounds_is_narrowed() -> None:
    kinds = [{"properties": {"k": {"const": n}}, "required": ["k"]} for n in range(MAX_BRANCHES)]
    assert len(narrowed({"oneOf": kinds})["anyOf"]) == MAX_BRANCHES
    assert len(narrowed({"minProperties": MAX_ADDED})["required"]) == MAX_ADDED
