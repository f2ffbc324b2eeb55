"""What OpenAI's strict mode refuses of a JSON Schema, in its words.

https://platform.openai.com/docs/guides/structured-outputs#supported-schemas: the root is an object, every object has
``additionalProperties: false`` and all its properties ``required``; no ``allOf``, ``not``, ``if``, ``dependent…``.
"""

from collections.abc import Iterator
from typing import Any

_UNSUPPORTED = ("allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties")


def complaint(name: str, schema: Any) -> str | None:
    """The API's message; None for a schema that it takes."""
    wrong = next(_wrong(schema, ()), None)
    if wrong is None and schema.get("type") != "object":
        wrong = f"""schema must be a JSON Schema of 'type: "object"', got 'type: "{schema.get("type")}"'."""
    return None if wrong is None else f"Invalid schema for response_format '{name}': {wrong}"


def _wrong(schema: Any, at: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(schema, dict):
        yield f"{schema!r} is not of type 'object', 'boolean'."
        return
    context = f"In context={at!r}"
    for word in _UNSUPPORTED:
        if word in schema:
            yield f"{context}, '{word}' is not permitted."
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or properties:
        if schema.get("additionalProperties") is not False:
            yield f"{context}, 'additionalProperties' is required to be supplied and to be false."
        missing = sorted(set(properties) - set(schema.get("required", ())))
        if missing:
            yield (
                f"{context}, 'required' is required to be supplied and to be an array including every key in "
                f"properties. Missing '{missing[0]}'."
            )
    for key, each in properties.items():
        yield from _wrong(each, (*at, "properties", key))
    for key, each in schema.get("$defs", {}).items():
        yield from _wrong(each, (*at, "$defs", key))
    for index, each in enumerate(schema.get("anyOf", ())):
        yield from _wrong(each, (*at, "anyOf", str(index)))
    if "items" in schema:
        yield from _wrong(schema["items"], (*at, "items"))
