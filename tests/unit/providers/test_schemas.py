"""Schemas in providers' dialects: what they become, and that no document of them is invalid by the original."""

import copy
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_runner.providers.schemas import Dialect, down_convert

OPENAI, ANTHROPIC = Dialect.OPENAI_STRICT, Dialect.ANTHROPIC
TEXT: dict[str, Any] = {"type": "string"}
EVERYWHERE = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "$ref", "$defs"}
EVERYWHERE |= {"description", "title", "format", "pattern", "minItems"}
KEYWORDS = {
    OPENAI: EVERYWHERE | {"maxItems", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    ANTHROPIC: EVERYWHERE,
}


def convert(schema: Any, dialect: Dialect) -> tuple[Any, tuple[str, ...], bool]:
    converted = down_convert(json.dumps(schema), dialect)
    return converted.schema, converted.dropped, converted.whole


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def opened(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def test_an_optional_property_is_given_where_the_dialect_knows_none() -> None:
    schema = opened(["b"], b=TEXT, a={"type": "integer"})
    assert convert(schema, OPENAI) == (closed(["b", "a"], b=TEXT, a={"type": "integer"}), (), True)
    assert convert(schema, ANTHROPIC) == (closed(["b"], b=TEXT, a={"type": "integer"}), (), True)


def test_the_order_of_properties_survives() -> None:
    names = ["zebra", "ant", "mole", "bee"]
    schema, _, _ = convert(opened([], **dict.fromkeys(names, TEXT)), OPENAI)
    assert list(schema["properties"]) == schema["required"] == names


@pytest.mark.parametrize(
    ("inner", "openai", "anthropic"),
    [
        ({"type": "string", "minLength": 2}, ["minLength"], ["minLength"]),
        ({"type": "string", "pattern": "^a+$"}, [], []),
        ({"type": "string", "pattern": "^(?=a)b"}, ["pattern"], ["pattern"]),
        ({"type": "string", "pattern": "a{1,900}"}, ["pattern"], ["pattern"]),
        ({"type": "string", "format": "uri"}, ["format"], []),
        ({"type": "string", "format": "uuid"}, [], []),
        ({"type": "integer", "minimum": 1, "maximum": 5}, [], ["minimum", "maximum"]),
        ({"type": "number", "multipleOf": 0.5}, [], ["multipleOf"]),
        ({"type": "array", "items": TEXT, "minItems": 1}, [], []),
        ({"type": "array", "items": TEXT, "minItems": 3}, [], ["minItems"]),
        ({"type": "array", "items": TEXT, "maxItems": 3}, [], ["maxItems"]),
        ({"type": "array", "items": TEXT, "uniqueItems": True}, ["uniqueItems"], ["uniqueItems"]),
        ({"type": "array", "prefixItems": [TEXT], "items": False}, ["prefixItems"], ["prefixItems"]),
        ({"type": "string", "not": {"const": "a"}}, ["not"], ["not"]),
        ({"type": "string", "enum": ["a", "bc"], "minLength": 2}, ["minLength"], ["minLength"]),
        (opened([], a=TEXT) | {"additionalProperties": True}, ["additionalProperties"], ["additionalProperties"]),
        (opened([], a=TEXT) | {"patternProperties": {"^x": TEXT}}, ["patternProperties"], ["patternProperties"]),
        (opened([], a=TEXT) | {"minProperties": 1}, [], ["minProperties"]),
        (opened(["a"], a=TEXT) | {"minProperties": 1, "maxProperties": 2}, [], []),
        ({"type": ["string", "null"]}, [], []),
        ({"type": "string", "examples": ["a"], "default": "b"}, [], []),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, [], []),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, ["oneOf"], ["oneOf"]),
        ({"oneOf": [opened(["k"], k={"const": name}) for name in "ab"]}, [], []),
        ({"oneOf": [opened([], k={"const": name}) for name in "ab"]}, ["oneOf"], ["oneOf"]),
    ],
)
def test_what_is_lost_is_told(inner: dict[str, Any], openai: list[str], anthropic: list[str]) -> None:
    for dialect, words in ((OPENAI, openai), (ANTHROPIC, anthropic)):
        schema, dropped, whole = convert(opened(["x"], x=inner), dialect)
        assert schema is not None
        assert dropped == tuple(f"/properties/x/{word}" for word in words), dialect
        assert whole is not bool(words)


def test_the_model_is_told_in_words_what_the_dialect_has_not() -> None:
    schema, _, _ = convert(opened(["x"], x={"type": "integer", "minimum": 3, "description": "Age."}), ANTHROPIC)
    assert schema["properties"]["x"] == {"type": "integer", "description": "Age. (minimum 3)"}


@pytest.mark.parametrize(
    "inner",
    [
        {},
        True,
        {"type": "object"},
        {"type": "object", "additionalProperties": TEXT},
        {"type": "array"},
        {"const": {"a": 1}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/absent"},
        {"$ref": "#anchor"},
        {"$dynamicRef": "#node"},
        {"type": "array", "items": False},
        {"type": "object", "required": ["unnamed"]},
    ],
)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_what_could_not_be_said_any_more_is_not_converted(inner: Any, dialect: Dialect) -> None:
    # Also where it is optional: leaving it out would take data away.
    assert convert(opened([], x=inner, y=TEXT), dialect) == (None, (), False)


def test_what_nothing_is_valid_by_falls_away_without_a_loss() -> None:
    assert convert(opened(["a"], a=TEXT, b=False), OPENAI) == (closed(["a"], a=TEXT), (), True)
    assert convert(opened(["a"], a={"anyOf": [TEXT, False]}), OPENAI) == (closed(["a"], a=TEXT), (), True)
    assert convert(opened(["b"], b=False), OPENAI)[0] is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "true", "NaN", '{"enum": [1e999]}', '{"title": "\\ud800"}', "[" * 10_000]
)
def test_what_is_no_schema_has_no_conversion(text: str) -> None:
    assert down_convert(text, OPENAI).schema is None


def test_the_root_of_a_strict_schema_is_an_object() -> None:
    for root in ({"type": "array", "items": TEXT}, TEXT, {"anyOf": [closed(["a"], a=TEXT), closed(["b"], b=TEXT)]}):
        assert convert(root, OPENAI)[0] is None
        assert convert(root, ANTHROPIC)[0] is not None
    # Alternatives that only say what has to be there are one, when all has to be.
    both = opened([], a=TEXT, b=TEXT) | {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert convert(both, OPENAI) == (closed(["a", "b"], a=TEXT, b=TEXT), (), True)


NODE = opened(["value"], value=TEXT, next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})


def test_recursion_is_openai_s_alone_and_has_to_end() -> None:
    tree = opened(["root"], root={"$ref": "#/$defs/Node"}) | {"$defs": {"Node": NODE}}
    schema, dropped, whole = convert(tree, OPENAI)
    assert (dropped, whole) == ((), True)
    assert schema["$defs"]["Node"]["required"] == ["value", "next"]
    assert convert(tree, ANTHROPIC)[0] is None
    # With next required nothing of it would ever end.
    assert convert(opened([], value=TEXT, next={"$ref": "#"}), OPENAI)[0] is None
    at_root = {"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}
    assert convert(at_root, OPENAI)[0]["type"] == "object"


def test_a_reference_stays_one() -> None:
    shared = opened(["a"], a={"$ref": "#/$defs/T"}, b={"$ref": "#/$defs/T"}) | {"$defs": {"T": TEXT}}
    for dialect in Dialect:
        schema, _, whole = convert(shared, dialect)
        assert whole
        assert schema["$defs"] == {"T": TEXT}
        assert schema["properties"]["b"] == {"$ref": "#/$defs/T"}


def test_an_intersection_becomes_one_object() -> None:
    schema = {"allOf": [opened(["a"], a=TEXT), {"$ref": "#/$defs/B"}], "$defs": {"B": opened(["b"], b=TEXT)}}
    assert convert(schema, OPENAI)[0] == closed(["a", "b"], a=TEXT, b=TEXT)
    shut = {"allOf": [closed(["a"], a=TEXT), opened([], b=TEXT)]}
    assert convert(shut, OPENAI)[0] == closed(["a"], a=TEXT)


def test_all_properties_are_not_too_many() -> None:
    schema = opened([], a=TEXT, b=TEXT) | {"maxProperties": 1}
    assert convert(schema, OPENAI)[0] is None
    assert convert(schema, ANTHROPIC)[1] == ("/maxProperties",)


def test_limits_of_the_dialects() -> None:
    many = opened([], **{f"p{number}": TEXT for number in range(25)})
    assert convert(many, ANTHROPIC)[0] is None
    assert convert(many, OPENAI)[0] is not None
    unions = {f"p{number}": {"type": ["string", "null"]} for number in range(17)}
    assert convert(opened(list(unions), **unions), ANTHROPIC)[0] is None
    deep: dict[str, Any] = TEXT
    for _ in range(11):
        deep = opened(["x"], x=deep)
    assert convert(deep, OPENAI)[0] is None
    assert convert(opened(["x"], x={"enum": [f"v{number}" for number in range(1001)]}), OPENAI)[0] is None


def bomb(levels: int) -> dict[str, Any]:
    defs: dict[str, Any] = {"d0": TEXT}
    for level in range(1, levels):
        one = {"$ref": f"#/$defs/d{level - 1}", "minLength": level}
        defs[f"d{level}"] = {"anyOf": [one, one | {"title": "other"}]}
    return opened(["x"], x={"$ref": f"#/$defs/d{levels - 1}"}) | {"$defs": defs}


@pytest.mark.timeout(20)
def test_the_work_is_bounded() -> None:
    crossed = {"allOf": [{"anyOf": [opened([f"a{one}"], **{f"a{one}": TEXT}) for one in range(30)]}] * 6}
    wide = {"anyOf": [{"type": "object", "required": [f"r{number}"]} for number in range(1500)]}
    wide |= {"type": "object", "properties": {f"r{number}": TEXT for number in range(900)}}
    every = {"allOf": [{"enum": list(range(4000))}] * 3, "type": "integer"}
    for schema in (bomb(40), crossed, wide, opened(["x"], x=every)):
        for dialect in Dialect:
            convert(schema, dialect)
    nested: dict[str, Any] = TEXT
    for _ in range(200):
        nested = {"type": "array", "items": nested}
    assert convert(opened(["x"], x=nested), OPENAI)[0] is None
    large = opened(["x"], x=TEXT | {"description": "x" * 70_000})
    assert convert(large, OPENAI)[0] is None


NAMES = ("a", "b", "c")
SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.fixed_dictionaries(
        {"type": st.just("string")}, optional={"minLength": st.integers(0, 3), "maxLength": st.just(4)}
    ),
    st.fixed_dictionaries({"type": st.just("string")}, optional={"pattern": st.sampled_from(["^[ab]+$", "x", r"\bx"])}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["integer", "number", ["integer", "null"]])},
        optional={"minimum": st.integers(-3, 1), "exclusiveMaximum": st.integers(2, 5), "multipleOf": st.just(2)},
    ),
    st.builds(lambda values: {"enum": values}, st.lists(st.sampled_from(["x", 1, 2.5, True, None]), min_size=1)),
    st.builds(lambda value: {"const": value}, st.sampled_from(["x", "y", 1, False, None])),
    st.sampled_from([{"$ref": "#/$defs/T"}, {"$ref": "#/$defs/O"}, {"$ref": "#/$defs/O", "required": ["c"]}]),
    st.sampled_from([{"type": "string", "not": {"const": "x"}}, {"minLength": 1}, True, False]),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(NAMES), inner, min_size=1)},
        optional={
            "required": st.lists(st.sampled_from(NAMES), unique=True),
            "additionalProperties": st.sampled_from([True, False, {"type": "integer"}]),
            "minProperties": st.integers(0, 3),
            "maxProperties": st.integers(0, 3),
            "patternProperties": st.just({"^a": {"type": "string"}}),
            "anyOf": st.lists(
                st.sampled_from([{"required": ["a"]}, {"required": ["b"]}, {"minProperties": 2}]), min_size=1
            ),
            "if": st.just({"required": ["a"]}),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": inner},
        optional={"minItems": st.integers(0, 3), "maxItems": st.integers(0, 3), "uniqueItems": st.booleans()},
    )
    few = st.lists(inner, min_size=1, max_size=3)
    words = st.sampled_from(["anyOf", "oneOf", "allOf"])
    return st.one_of(objects, arrays, objects, st.builds(lambda word, branches: {word: branches}, words, few))


SCHEMAS = st.recursive(SCALARS, grown, max_leaves=8)
DEFS = {"T": {"type": "string", "maxLength": 3}, "O": opened(["b"], b={"type": "integer"}, c=TEXT)}


def documents(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Documents that are valid by a converted schema, its patterns aside."""
    if "$ref" in schema:
        return documents(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root)
    if "anyOf" in schema:
        return st.one_of([documents(branch, root) for branch in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "object":
        members = {name: documents(inner, root) for name, inner in schema["properties"].items()}
        must = {name: inner for name, inner in members.items() if name in schema["required"]}
        return st.fixed_dictionaries(
            must, optional={name: inner for name, inner in members.items() if name not in must}
        )
    if kind == "array":
        least = schema.get("minItems", 0)
        return st.lists(
            documents(schema["items"], root), min_size=least, max_size=max(least, schema.get("maxItems", 3))
        )
    plain = {"string": st.text("abx", max_size=5), "boolean": st.booleans(), "null": st.none()}
    return plain.get(kind, st.integers(-6, 6) if kind == "integer" else st.sampled_from([-2, 0, 0.5, 2, 3.5, 4]))


def without(schema: Any, pointers: tuple[str, ...]) -> Any:
    """The schema without the keywords that the pointers name."""
    rest = copy.deepcopy(schema)
    for pointer in pointers:
        *path, last = pointer.split("/")[1:]
        at: Any = rest
        for token in path:
            at = at[int(token)] if isinstance(at, list) else at.get(token, {})
        if isinstance(at, dict):
            at.pop(last, None)
    return rest


def outside(schema: dict[str, Any], dialect: Dialect) -> str | None:
    """What of a converted schema is not of the dialect."""
    if unknown := schema.keys() - KEYWORDS[dialect]:
        return f"keyword {min(unknown)}"
    if schema.get("type") == "object":
        if schema["additionalProperties"] is not False:
            return "an open object"
        if dialect is OPENAI and set(schema["required"]) != set(schema["properties"]):
            return "an optional property"
    if dialect is ANTHROPIC and schema.get("minItems", 0) > 1:
        return "minItems"
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), *schema.get("$defs", {}).values()]
    inner += [schema["items"]] if "items" in schema else []
    return next((found for one in inner if (found := outside(one, dialect))), None)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), SCHEMAS, st.sampled_from(Dialect))
def test_no_document_is_invalid_but_for_what_is_told(data: st.DataObject, inner: Any, dialect: Dialect) -> None:
    original = opened(["x"], x=inner) | {"$defs": DEFS}
    schema, dropped, whole = convert(original, dialect)
    assert whole is (schema is not None and not dropped)
    if schema is None:
        return
    assert outside(schema, dialect) is None
    document = data.draw(documents(schema, schema))
    if jsonschema_rs.is_valid(schema, document):
        assert jsonschema_rs.is_valid(without(original, dropped), document), (schema, dropped, document)
