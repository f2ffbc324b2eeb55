"""Scalars, literals and bounds of a JSON Schema in a provider's dialect. Pure."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from headrace_runner.providers.schema_nodes import Node

TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_KEYWORDS: Final = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "array": ("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains"),
    "boolean": (),
    "null": (),
}
_OF_OBJECT: Final = ("properties", "required", "additionalProperties", "patternProperties", "minProperties")
_OF_ARRAY: Final = ("items", "prefixItems")
_REPEAT_LIMIT: Final = 64
# No look-around, back reference, word boundary or class of Unicode: neither provider's expressions have them.
_NOT_IN_PATTERN: Final = re.compile(r"\(\?(?!:)|\\[1-9bBpPkGAZzQE]")
_REPEAT: Final = re.compile(r"\{(\d*)(?:,(\d*))?\}")


class Inexpressible(Exception):
    """The dialect has no words for it."""


class NothingValid(Exception):
    """No document is valid by it: a branch or an optional property that falls away without a loss."""


@dataclass
class Dropped:
    """Pointers to what is lost, each once, in the order in which it was met."""

    pointers: dict[str, None] = field(default_factory=dict)

    def add(self, *pointers: str) -> None:
        self.pointers.update(dict.fromkeys(pointers))


@dataclass(frozen=True, slots=True)
class Keywords:
    """What a dialect has beside types: keywords of scalars and arrays, formats, and the largest ``minItems``."""

    kept: frozenset[str]
    formats: frozenset[str]
    min_items_limit: int | None


def type_of_value(value: Any) -> str:
    """The JSON type's name; ``integer`` for whole numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "integer" if value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def types_of(node: "Node") -> list[str] | None:
    """The types that a document may have; taken from other keywords where none is given. None: any."""
    left: list[str] | None = None
    for value, _ in node.all_of("type"):
        given = value if isinstance(value, list) else [value]
        names = [name for name in TYPES if name in given]
        left = names if left is None else [common for one in left if (common := _common(one, names))]
    if left is not None:
        return [name for name in left if not (name == "integer" and "number" in left)]
    if any(True for name in _OF_OBJECT for _ in node.all_of(name)):
        return ["object"]
    if any(True for name in _OF_ARRAY for _ in node.all_of(name)):
        return ["array"]
    guessed = [name for name in ("string", "number") if any(word in node.keywords for word in _KEYWORDS[name])]
    return guessed[:1] or None


def _common(name: str, others: list[str]) -> str | None:
    if name in others:
        return name
    return "integer" if {name, *others} >= {"integer", "number"} and name in ("integer", "number") else None


def literals(node: "Node", values: list[Any], types: list[str] | None, dropped: Dropped) -> list[dict[str, Any]]:
    """One schema for each type of the values. Raises Inexpressible for objects and arrays among them."""
    groups: dict[str, list[Any]] = {}
    for value in values:
        name = type_of_value(value)
        if types is not None and name not in types and not (name == "integer" and "number" in types):
            continue
        if name in ("object", "array"):
            raise Inexpressible
        groups.setdefault("number" if name == "integer" and types and "number" in types else name, []).append(value)
    given = {word for name in groups for word in _KEYWORDS["number" if name == "integer" else name]}
    for word, (_, at) in node.keywords.items():
        if word in given:
            dropped.add(*at)
    node.drop_conditions()
    return [{"type": name} if name == "null" else {"type": name, "enum": kept} for name, kept in groups.items()]


def converted_scalar(node: "Node", name: str, rules: Keywords) -> dict[str, Any]:
    """The type (``array`` too, without its items) with those of its keywords that the dialect has."""
    schema: dict[str, Any] = {"type": name}
    for word in _KEYWORDS["number" if name == "integer" else name]:
        if word not in node.keywords:
            continue
        value, at = node.keywords[word]
        if word in ("uniqueItems", "minLength", "minItems") and not value:
            continue  # says nothing
        kept = _kept(word, value, rules)
        if kept is not None:
            schema[word] = kept
        if kept != value:
            node.dropped.add(*at)
    return schema


def _kept(word: str, value: Any, rules: Keywords) -> Any:
    if word == "format":
        return value if value in rules.formats else None
    if word not in rules.kept:
        return None
    if word == "pattern":
        return value if isinstance(value, str) and _is_simple(value) else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if word == "minItems" and rules.min_items_limit is not None:
        return min(value, rules.min_items_limit)
    return value


def _is_simple(pattern: str) -> bool:
    if _NOT_IN_PATTERN.search(pattern):
        return False
    return all(int(count or 0) <= _REPEAT_LIMIT for pair in _REPEAT.findall(pattern) for count in pair)
