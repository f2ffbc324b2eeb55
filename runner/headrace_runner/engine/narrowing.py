"""Rewrites JSON Schemas so that llguidance can enforce them. Pure; nothing here is needed for a result to be right.

``equivalent`` changes no schema's meaning. ``narrowed`` gives a schema that admits *fewer* documents,
all of which the original admits as far as the keyword goes: a list without duplicates becomes one of a single item, of
alternatives that exclude each other those remain that can be told apart by a property. It is for the second try, after
a document that had to be refused.

Schemas are tenants', so the work is counted: what takes more than ``MAX_STEPS`` is left as it is.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

Schema = Any

ENFORCED_FORMATS: Final = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""What llguidance has a mask for."""
CHECKED_FORMATS: Final = ENFORCED_FORMATS | {
    *("idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template"),
    *("json-pointer", "relative-json-pointer", "regex"),
}
"""What JSON Schema defines, so that a validator may look at it. Any other format is a note to the reader."""

# Where schemas stand within a schema.
_ONE: Final = (
    *("additionalProperties", "items", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_TYPES: Final = ("null", "boolean", "number", "string", "array", "object")
MAX_DEPTH: Final = 64
MAX_STEPS: Final = 100_000
"""Of a rewriting: schemas looked at, values compared, values of the outcome."""
MAX_BRANCHES: Final = 32
"""Of a ``oneOf``, each of which is compared with each."""
MAX_ADDED: Final = 64
"""The highest ``minProperties`` that is put into names."""
_CHARS_A_STEP: Final = 64


class _TooManySteps(Exception):
    """The rewriting is given up."""


class _Steps:
    def __init__(self) -> None:
        self._left = MAX_STEPS

    def take(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise _TooManySteps

    def within(self, value: Any, values: Collection[Any]) -> bool:
        """``value in values`` of a list, counted."""
        self.take(1 + len(values))
        return value in values


_Change = Callable[[dict[str, Any], _Steps], dict[str, Any]]


def equivalent(schema: Schema) -> Schema:
    """A schema that admits the same documents in keywords that a mask can express: formats that no validator knows are
    left out, types that are refused become those that are not. The very same object where nothing is to be done or
    too much."""
    return _bounded(schema, _equivalent)


def narrowed(schema: Schema) -> Schema:
    """A narrower schema in the keywords that a mask can express; the very same object where nothing is to be done or
    too much."""
    return _bounded(schema, _narrowed)


def _bounded(schema: Schema, change: _Change) -> Schema:
    steps = _Steps()
    try:
        changed = _everywhere(schema, change, steps)
        if changed is not schema:
            _weigh(changed, steps)
    except _TooManySteps:
        return schema
    return changed


def _weigh(schema: Schema, steps: _Steps) -> None:
    """Take a step for every value as it is written out: a schema that stands in many places is one object, and its
    text, where such schemas are nested, has no end."""
    ahead = [schema]
    while ahead:
        value = ahead.pop()
        steps.take()
        if isinstance(value, str):
            steps.take(len(value) // _CHARS_A_STEP)
        elif isinstance(value, list):
            steps.take(len(value))
            ahead += value
        elif isinstance(value, dict):
            steps.take(sum(1 + len(name) // _CHARS_A_STEP for name in value))
            ahead += value.values()


def _everywhere(schema: Schema, change: _Change, steps: _Steps, depth: int = 0) -> Schema:
    """Apply a change to the schema and all schemas within, innermost first."""
    steps.take()
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    rewritten = dict(schema)
    for key, value in schema.items():
        if key in _LISTS and isinstance(value, list):
            rewritten[key] = [_everywhere(each, change, steps, depth + 1) for each in value]
        elif key in _MAPS and isinstance(value, dict):
            rewritten[key] = {name: _everywhere(each, change, steps, depth + 1) for name, each in value.items()}
        elif key in _ONE:
            rewritten[key] = _everywhere(value, change, steps, depth + 1)
    changed = change(rewritten, steps)
    return schema if changed == schema else changed


def _equivalent(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    if isinstance(schema.get("format"), str) and schema["format"] not in CHECKED_FORMATS:
        schema = _without(schema, "format")
    refused = schema.get("not")
    if not isinstance(refused, dict):
        return schema
    names = refused.get("type")
    if set(refused) == {"type"} and isinstance(names, str) and names not in ("integer", "number"):
        types = schema.get("type", _TYPES)
        return {**_without(schema, "not"), "type": [each for each in _listed(types) if each != names]}
    if isinstance(schema.get("enum"), list) and set(refused) in ({"enum"}, {"const"}):
        values = _values(refused)
        return {
            **_without(schema, "not"),
            "enum": [value for value in schema["enum"] if not steps.within(value, values)],
        }
    return schema


def _narrowed(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    for step in _STEPS:
        schema = step(schema, steps)
    return schema


def _unique_items(schema: dict[str, Any], _: _Steps) -> dict[str, Any]:
    if schema.get("uniqueItems") is not True:
        return schema
    rest = _without(schema, "uniqueItems")
    least, most = _count(schema.get("minItems")), schema.get("maxItems")
    items = schema.get("items")
    names = items.get("enum") if isinstance(items, dict) else None
    if isinstance(names, list) and len(names) >= max(least, 1) and "prefixItems" not in schema:
        # One after the other in the list's order; where it ends is the model's choice.
        places = names if not isinstance(most, int) else names[:most]
        return {**rest, "prefixItems": [{"enum": [name]} for name in places], "items": False}
    if least <= 1:
        return {**rest, "maxItems": 1 if not isinstance(most, int) else min(most, 1)}
    return rest


def _one_of(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    branches = schema.get("oneOf")
    if not isinstance(branches, list) or len(branches) > MAX_BRANCHES or "anyOf" in schema:
        return schema
    each_narrowed = (_exclusive(branches, index, steps) for index in range(len(branches)))
    exclusive = [branch for branch in each_narrowed if branch is not None]
    if not exclusive:
        return schema
    return {**_without(schema, "oneOf"), "anyOf": exclusive}


def _exclusive(branches: list[Schema], index: int, steps: _Steps) -> Schema | None:
    """The branch with what the others need forbidden; None where that does not tell it apart."""
    branch = branches[index]
    if not isinstance(branch, dict):
        return None
    properties = dict(_mapping(branch.get("properties")))
    steps.take(len(properties))
    for other in (each for place, each in enumerate(branches) if place != index):
        if not isinstance(other, dict):
            return None
        steps.take(len(_listed(branch.get("type"))) + len(_listed(other.get("type"))))
        if _types(branch) and _types(other) and not _types(branch) & _types(other):
            continue
        mine, theirs, required = branch.get("properties"), other.get("properties"), branch.get("required") or ()
        if _tells_apart(_mapping(mine), required, _mapping(theirs), steps):
            continue
        needed = [name for name in other.get("required") or () if not steps.within(name, required)]
        forbidden = next((name for name in needed if properties.get(name, False) in (False, True, {})), None)
        if forbidden is None:
            return None
        properties[forbidden] = False
    return {**branch, "properties": properties} if properties else branch


def _tells_apart(mine: Mapping[str, Any], required: Any, theirs: Mapping[str, Any], steps: _Steps) -> bool:
    """A property that must be there and has other values here than there, such as ``kind``."""
    for name in required:
        steps.take()
        here, there = _values(mine.get(name)), _values(theirs.get(name))
        if here and there and not any(steps.within(value, there) for value in here):
            return True
    return False


def _values(schema: Schema) -> list[Any]:
    if not isinstance(schema, dict):
        return []
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else []


def _dependencies(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    given = {**_mapping(schema.get("dependencies")), **_mapping(schema.get("dependentRequired"))}
    given |= _mapping(schema.get("dependentSchemas"))
    if not given:
        return schema
    rest = _without(schema, "dependencies", "dependentRequired", "dependentSchemas")
    required, properties = list(schema.get("required") or ()), dict(_mapping(schema.get("properties")))
    further = []
    for name, needs in given.items():
        if not steps.within(name, required):
            # Without it nothing depends on it.
            properties[name] = False
        elif isinstance(needs, list):
            required += [each for each in needs if not steps.within(each, required)]
        else:
            further.append(needs)
    rest |= {"properties": properties} | ({"required": required} if required else {})
    return {**rest, "allOf": [*(rest.get("allOf") or ()), *further]} if further else rest


def _conditional(schema: dict[str, Any], _: _Steps) -> dict[str, Any]:
    if "if" not in schema:
        return schema
    rest = _without(schema, "if", "then", "else")
    if not ("then" in schema or "else" in schema):
        return rest
    taken = [schema["if"], *([schema["then"]] if "then" in schema else ())]
    return {**rest, "allOf": [*(rest.get("allOf") or ()), *taken]}


def _negation(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    refused = schema.get("not")
    if not isinstance(refused, dict):
        return schema
    rest = _without(schema, "not")
    needed = refused.get("required")
    if isinstance(needed, list) and needed:
        required = schema.get("required") or ()
        absent = next((name for name in needed if not steps.within(name, required)), None)
        if absent is not None:
            return {**rest, "properties": {**_mapping(schema.get("properties")), absent: False}}
    return schema


def _property_counts(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    if "minProperties" not in schema and "maxProperties" not in schema:
        return schema
    properties, required = _mapping(schema.get("properties")), list(schema.get("required") or ())
    least, most = _count(schema.get("minProperties")), schema.get("maxProperties")
    if least > MAX_ADDED:
        return schema
    optional = [name for name, each in properties.items() if each is not False and not steps.within(name, required)]
    required += optional[: max(0, least - len(required))]
    if len(required) < least:
        extra = schema.get("additionalProperties", {})
        added = {f"key{number}": extra for number in range(1, least - len(required) + 1) if extra is not False}
        properties, required = {**properties, **added}, [*required, *added]
    rest = _without(schema, "minProperties", "maxProperties")
    if isinstance(most, int):
        kept = {name: each for name, each in properties.items() if steps.within(name, required)}
        rest |= {"properties": kept, "additionalProperties": False}
    elif properties:
        rest |= {"properties": properties}
    return {**rest, "required": required} if required else rest


def _property_names(schema: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or "patternProperties" in schema:
        return schema
    rest, extra = _without(schema, "propertyNames"), schema.get("additionalProperties", {})
    rest["additionalProperties"] = False
    if allowed := [name for name in _values(names) if isinstance(name, str)]:
        properties = {**dict.fromkeys(allowed, extra), **_mapping(schema.get("properties"))}
        return {**rest, "properties": {name: each for name, each in properties.items() if steps.within(name, allowed)}}
    if isinstance(names.get("pattern"), str) and not schema.get("properties"):
        return {**rest, "patternProperties": {names["pattern"]: extra}}
    return rest


def _contains(schema: dict[str, Any], _: _Steps) -> dict[str, Any]:
    if "contains" not in schema or "prefixItems" in schema or isinstance(schema.get("items"), list):
        return schema
    least = max(1, _count(schema.get("minContains", 1)))
    both = [each for each in (schema["contains"], schema.get("items")) if each not in (None, True, {})]
    rest = _without(schema, "contains", "minContains", "maxContains")
    # Exactly the least number, so that maxContains holds as well.
    return {**rest, "items": {"allOf": both}, "minItems": max(least, _count(schema.get("minItems"))), "maxItems": least}


_STEPS: Final[tuple[_Change, ...]] = (
    *(_conditional, _dependencies, _negation, _one_of, _property_names, _property_counts, _contains, _unique_items),
)


def _without(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in keys}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _types(schema: dict[str, Any]) -> frozenset[str]:
    # Every integer is a number.
    return frozenset("number" if name == "integer" else name for name in _listed(schema.get("type")))


def _listed(types: object) -> list[str]:
    if isinstance(types, str):
        return [types]
    return [each for each in types if isinstance(each, str)] if isinstance(types, list | tuple) else []
