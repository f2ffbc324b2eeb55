"""STAND-IN, not to be merged: the integrator takes the module of this name from the schemas' engineer.

It knows objects whose members are all required and whose additionalProperties are false; all else it cannot express,
except that it drops a ``minLength``.
"""

import enum
import json
from dataclasses import dataclass
from typing import Any


class Dialect(enum.Enum):
    OPENAI_STRICT = "OpenAIStrict"
    ANTHROPIC = "Anthropic"


@dataclass(frozen=True, slots=True)
class Converted:
    """``schema`` None: cannot be expressed; ``dropped`` are JSON Pointers; ``whole`` where nothing was dropped."""

    schema: dict[str, Any] | None
    dropped: tuple[str, ...]
    whole: bool


def down_convert(schema_text: str, dialect: Dialect) -> Converted:
    """The schema in the dialect's subset of JSON Schema."""
    del dialect
    schema = json.loads(schema_text)
    if not isinstance(schema, dict) or schema.get("additionalProperties") is not False:
        return Converted(None, (), False)
    properties = schema.get("properties", {})
    if set(properties) != set(schema.get("required", ())):
        return Converted(None, (), False)
    dropped = tuple(f"/properties/{name}/minLength" for name, each in properties.items() if "minLength" in each)
    kept = {name: {key: each[key] for key in each if key != "minLength"} for name, each in properties.items()}
    return Converted({**schema, "properties": kept}, dropped, not dropped)
