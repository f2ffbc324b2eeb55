"""Reads JSON Schemas: what a reference means, and what several schemas demand together. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from headrace_runner.providers.schema_types import Dropped, Inexpressible, NothingValid, type_of_value

ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "$schema", "$id", "id", "$defs", "definitions", "$anchor", "$vocabulary"}
)
CONDITIONS: Final = ("not", "if", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedItems")
_EXCLUSIVE_LIMIT: Final = 64
_TIGHTEST: Final = {
    "minimum": max,
    "exclusiveMinimum": max,
    "minLength": max,
    "minItems": max,
    "minProperties": max,
    "maximum": min,
    "exclusiveMaximum": min,
    "maxLength": min,
    "maxItems": min,
    "maxProperties": min,
}
_STRUCTURE: Final = frozenset(
    {"type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties"}
    | {"items", "prefixItems", "additionalItems", "$ref", "allOf", "anyOf", "oneOf", "then", "else"}
)


@dataclass(frozen=True, slots=True)
class Part:
    """A schema, and where in the original it is (a JSON Pointer)."""

    schema: Any
    pointer: str

    def asserts(self) -> bool:
        """Whether it says anything about a document."""
        return not isinstance(self.schema, dict) or bool(self.schema.keys() - ANNOTATIONS)

    def is_reference(self) -> bool:
        """Whether it is a reference and nothing besides."""
        return (
            isinstance(self.schema, dict)
            and "$ref" in self.schema
            and not (self.schema.keys() - ANNOTATIONS - {"$ref"})
        )

    def without(self, *keywords: str) -> "Part":
        return Part({name: value for name, value in self.schema.items() if name not in keywords}, self.pointer)


class Resolver:
    """Finds what a schema refers to inside of itself."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root

    def resolve(self, reference: Any) -> tuple[str, Any]:
        """The pointer and what is there. Raises Inexpressible for all but pointers into the schema itself."""
        if not isinstance(reference, str) or not reference.startswith("#") or reference[1:2] not in ("", "/"):
            raise Inexpressible
        pointer = unquote(reference[1:])
        target: Any = self.root
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and name in target:
                target = target[name]
            elif isinstance(target, list) and name.isascii() and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            else:
                raise Inexpressible
        return pointer, target

    def exclusive(self, branches: list[Any]) -> bool:
        """Whether no document can be valid by two branches; false where that is not plain to see."""
        if len(branches) > _EXCLUSIVE_LIMIT:
            return False  # every pair is looked at
        seen = [self._plain(branch) for branch in branches]
        return all(_apart(one, other) for at, one in enumerate(seen) for other in seen[:at])

    def _plain(self, branch: Any) -> Any:
        if isinstance(branch, dict) and isinstance(branch.get("$ref"), str):
            try:
                return self.resolve(branch["$ref"])[1]
            except Inexpressible:
                return branch
        return branch


def flatten(parts: list[Part], resolver: Resolver) -> list[Part]:
    """The same demands without references and ``allOf``. Raises NothingValid where one of them is ``false``."""
    flat: list[Part] = []
    seen: set[str] = set()
    waiting = list(reversed(parts))
    while waiting:
        part = waiting.pop()
        if part.schema is True:
            continue
        if part.schema is False:
            raise NothingValid
        if not isinstance(part.schema, dict) or "$dynamicRef" in part.schema or "$recursiveRef" in part.schema:
            raise Inexpressible
        if part.pointer and isinstance(part.schema.get("$id"), str):
            raise Inexpressible  # it begins a document of its own, in which references mean something else
        inner: list[Part] = []
        if "$ref" in part.schema:
            pointer, target = resolver.resolve(part.schema["$ref"])
            if pointer not in seen:
                seen.add(pointer)
                inner.append(Part(target, pointer))
        every = part.schema.get("allOf", [])
        if not isinstance(every, list):
            raise Inexpressible
        inner += [Part(schema, f"{part.pointer}/allOf/{number}") for number, schema in enumerate(every)]
        flat.append(part.without("$ref", "allOf"))
        waiting += reversed(inner)
    return flat


class Node:
    """What flat parts without unions demand together. Disagreements that no keyword can say are dropped."""

    def __init__(self, parts: list[Part], dropped: Dropped) -> None:
        self._parts = parts
        self.dropped = dropped
        self.keywords: dict[str, tuple[Any, tuple[str, ...]]] = {}
        """Values, each with the pointers to where it is from."""
        for part in parts:
            for name, value in part.schema.items():
                if name not in _STRUCTURE and name not in ANNOTATIONS:
                    self._add(name, value, f"{part.pointer}/{name}")

    def _add(self, name: str, value: Any, pointer: str) -> None:
        old, pointers = self.keywords.get(name, (value, ()))
        if old == value:
            self.keywords[name] = (value, (*pointers, pointer))
        elif name in _TIGHTEST and _is_number(old) and _is_number(value):
            self.keywords[name] = (_TIGHTEST[name](old, value), (*pointers, pointer))
        else:
            self.dropped.add(pointer)

    def number(self, keyword: str) -> float | None:
        value = self.keywords.get(keyword, (None, ""))[0]
        return value if _is_number(value) else None

    def all_of(self, keyword: str) -> Iterator[tuple[Any, str]]:
        """Each part's value of the keyword, with its pointer."""
        for part in self._parts:
            if keyword in part.schema:
                yield part.schema[keyword], f"{part.pointer}/{keyword}"

    def literals(self) -> list[Any] | None:
        """The values that ``enum`` and ``const`` leave; None where neither is there."""
        left: list[Any] | None = None
        lists = [value for value, _ in self.all_of("enum")] + [[value] for value, _ in self.all_of("const")]
        for values in lists:
            if not isinstance(values, list):
                raise Inexpressible
            given = {value_key(value) for value in values}
            left = list(values) if left is None else [one for one in left if value_key(one) in given]
        return left

    def properties(self) -> dict[str, list[Part]]:
        """By name, in the order of the text; without those that a closed part has not."""
        found: dict[str, list[Part]] = {}
        for value, pointer in self.all_of("properties"):
            if not isinstance(value, dict):
                raise Inexpressible
            for name, schema in value.items():
                found.setdefault(name, []).append(Part(schema, f"{pointer}/{_token(name)}"))
        for part in self._parts:
            if part.schema.get("additionalProperties") is False and not part.schema.get("patternProperties"):
                own = part.schema.get("properties", {})
                found = {name: parts for name, parts in found.items() if name in own}
        return found

    def required(self) -> set[str]:
        names: set[str] = set()
        for value, _ in self.all_of("required"):
            if isinstance(value, list):
                names.update(name for name in value if isinstance(name, str))
        return names

    def is_closed(self) -> bool:
        closed = any(value is False for value, _ in self.all_of("additionalProperties"))
        closed |= self.keywords.get("unevaluatedProperties", (None, ""))[0] is False
        return closed and not any(value for value, _ in self.all_of("patternProperties"))

    def items(self) -> list[Part]:
        """What every item has to be; empty where nothing is said of it, or nothing may follow a tuple."""
        found = [(value, at) for value, at in self.all_of("items") if not isinstance(value, list)]
        found += [pair for pair in self.all_of("additionalItems") if self.tuples()]
        return [Part(value, at) for value, at in found if not (value is False and self.tuples())]

    def tuples(self) -> list[Part]:
        """What the items are one by one; the order of kinds is not kept by any dialect."""
        found: list[Part] = []
        for keyword in ("prefixItems", "items"):
            for value, at in self.all_of(keyword):
                if isinstance(value, list):
                    self.dropped.add(at)
                    found += [Part(schema, f"{at}/{number}") for number, schema in enumerate(value)]
        return found

    def drop_conditions(self) -> None:
        for name in CONDITIONS:
            if name in self.keywords:
                self.dropped.add(*self.keywords[name][1])

    def drop_of_object(self, *, least: int, most: int) -> None:
        """Tell what of an object's rules is lost when it is closed and has between ``least`` and ``most`` members."""
        for value, at in self.all_of("additionalProperties"):
            if value is not False:
                self.dropped.add(at)
        for value, at in self.all_of("patternProperties"):
            if value:
                self.dropped.add(at)
        fewest, at_most = self.number("minProperties"), self.number("maxProperties")
        held = {
            "minProperties": fewest is not None and fewest <= least,
            "maxProperties": at_most is not None and at_most >= most,
            "unevaluatedProperties": self.keywords.get("unevaluatedProperties", (False, ""))[0] is False,
            "propertyNames": False,
        }
        for name, is_held in held.items():
            if name in self.keywords and not is_held:
                self.dropped.add(*self.keywords[name][1])

    def annotated(self, schema: dict[str, Any]) -> dict[str, Any]:
        """With title and description of the first part that has them, and in words what the model should keep to."""
        for name in ("title", "description"):
            value = next((value for value, _ in self.all_of(name) if isinstance(value, str)), None)
            if value is not None:
                schema.setdefault(name, value)
        told = [
            f"{name} {value}"
            for name, (value, at) in self.keywords.items()
            if self.dropped.pointers.keys() & at and isinstance(value, str | int | float) and len(str(value)) <= 100
        ]
        if told:
            schema["description"] = f"{schema.get('description', '')} ({', '.join(told)})".strip()
        return schema


def value_key(value: Any) -> tuple[str, Any]:
    """Equal for equal JSON values: 1 and 1.0 are the same, 1 and true are not."""
    kind = type_of_value(value)
    if kind in ("object", "array"):
        return kind, json.dumps(value, sort_keys=True)
    return "number" if kind == "integer" else kind, value


def _apart(one: Any, other: Any) -> bool:
    if one is False or other is False:
        return True
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not (values & others)
    types, other_types = _types(one), _types(other)
    if types and other_types and not (types & other_types):
        return True
    if types != {"object"} or other_types != {"object"}:
        return False
    mine, theirs = one.get("properties"), other.get("properties")
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return False
    both = set(one.get("required") or ()) & set(other.get("required") or ())
    for name in both & mine.keys() & theirs.keys():
        if _values(mine[name]) is not None and _values(theirs[name]) is not None and _apart(mine[name], theirs[name]):
            return True
    return False


def _values(schema: Any) -> set[tuple[str, Any]] | None:
    """Keys of the scalars that ``enum`` or ``const`` admit; None where there is neither, or more than scalars."""
    if not isinstance(schema, dict):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        return None
    return {value_key(value) for value in values}


def _types(schema: dict[str, Any]) -> set[str]:
    values = _values(schema)
    if values is not None:
        return {kind for kind, _ in values}
    given = schema.get("type", [])
    names = given if isinstance(given, list) else [given]
    return {"number" if name == "integer" else name for name in names if isinstance(name, str)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
