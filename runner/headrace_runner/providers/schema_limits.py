"""Whether a converted schema is one that the provider takes: size, nesting, and that it has finite documents. Pure."""

from collections.abc import Iterator
from typing import Any, Final

# OpenAI: "Structured outputs", Supported schemas.
STRICT_PROPERTIES: Final = 5000
STRICT_LEVELS: Final = 10
STRICT_CHARS: Final = 120_000
STRICT_VALUES: Final = 1000
STRICT_LONG_ENUM: Final = 250
STRICT_LONG_ENUM_CHARS: Final = 15_000
# Anthropic: "Structured outputs", Schema complexity limits.
OPTIONAL_PROPERTIES: Final = 24
UNIONS: Final = 16


def within_limits(schema: dict[str, Any], *, strict_objects: bool) -> bool:
    """``strict_objects``: by OpenAI's numbers, else by Anthropic's."""
    nodes = list(_nodes(schema))
    if not strict_objects:
        optional = sum(len(node["properties"]) - len(node["required"]) for node in nodes if "properties" in node)
        return optional <= OPTIONAL_PROPERTIES and sum("anyOf" in node for node in nodes) <= UNIONS
    enums = [[str(value) for value in node["enum"]] for node in nodes if "enum" in node]
    names = [name for node in nodes for word in ("properties", "$defs") for name in node.get(word, {})]
    long_enums = [values for values in enums if len(values) > STRICT_LONG_ENUM]
    return (
        sum(len(node.get("properties", {})) for node in nodes) <= STRICT_PROPERTIES
        and sum(map(len, enums)) <= STRICT_VALUES
        and sum(map(len, names)) + sum(len(value) for values in enums for value in values) <= STRICT_CHARS
        and all(sum(map(len, values)) <= STRICT_LONG_ENUM_CHARS for values in long_enums)
        and _levels(schema) <= STRICT_LEVELS
        and _is_finite(schema)
    )


def _children(node: dict[str, Any]) -> list[dict[str, Any]]:
    found = [*node.get("properties", {}).values(), *node.get("anyOf", [])]
    return [*found, node["items"]] if "items" in node else found


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [schema, *schema.get("$defs", {}).values()]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += _children(node)


def _levels(schema: dict[str, Any]) -> int:
    """Objects within objects, each definition counted on its own: references are not followed."""
    deepest = 0
    waiting = [(schema, 0), *((node, 0) for node in schema.get("$defs", {}).values())]
    while waiting:
        node, level = waiting.pop()
        level += node.get("type") == "object"
        deepest = max(deepest, level)
        waiting += [(child, level) for child in _children(node)]
    return deepest


def _is_finite(schema: dict[str, Any]) -> bool:
    """Whether root and definitions have documents that end: a required property may have made a recursion endless."""
    targets = {"#": schema} | {f"#/$defs/{name}": node for name, node in schema.get("$defs", {}).items()}
    ending: set[str] = set()
    while found := [name for name, node in targets.items() if name not in ending and _ends(node, ending)]:
        ending.update(found)
    return len(ending) == len(targets)


def _ends(node: dict[str, Any], ending: set[str]) -> bool:
    if "$ref" in node:
        return node["$ref"] in ending
    if "anyOf" in node:
        return any(_ends(branch, ending) for branch in node["anyOf"])
    if node.get("type") == "array":
        return not node.get("minItems") or _ends(node["items"], ending)
    return all(_ends(child, ending) for child in node.get("properties", {}).values())
