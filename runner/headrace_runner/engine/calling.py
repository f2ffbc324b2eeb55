"""The JSON Schema of a call that is required, for the mask and for nothing else: the arguments are judged apart."""

import json
from collections.abc import Sequence
from typing import Any, Final

from headrace_runner.engine.tools import Tool

_DEFINITIONS: Final = ("$defs", "definitions")


def call_schema(tools: Sequence[Tool], arguments_key: str) -> str:
    """A call of one of ``tools``: its name, then its arguments. References into a tool's own definitions hold."""
    definitions: dict[str, dict[str, Any]] = {}
    calls = [_call(tool, arguments_key, definitions) for tool in tools]
    return json.dumps({**(calls[0] if len(calls) == 1 else {"anyOf": calls}), **definitions}, ensure_ascii=False)


def loose_call_schema(tools: Sequence[Tool], arguments_key: str) -> str:
    """The same for schemas that cannot be enforced: any object as arguments."""
    return call_schema([Tool(tool.name, parameters="{}") for tool in tools], arguments_key)


def _call(tool: Tool, arguments_key: str, definitions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    arguments: dict[str, Any] = json.loads(tool.parameters)
    for key in _DEFINITIONS:
        # "#/$defs/…" counts from the root, which is ours.
        found = arguments.pop(key, None)
        if isinstance(found, dict):
            definitions.setdefault(key, {}).update(found)
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, arguments_key: {"type": "object", **arguments}},
        "required": ["name", arguments_key],
        "additionalProperties": False,
    }
