"""Tools and their calls on the wire between runner and engine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_runner.engine.untrusted import text

MAX_CALLS: Final = 32
NO_PARAMETERS: Final = '{"type": "object", "properties": {}, "additionalProperties": false}'
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model asks for; ``arguments`` is a JSON object as JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called; ``parameters`` is a JSON Schema of its arguments as JSON text."""

    name: str
    description: str = ""
    parameters: str = NO_PARAMETERS


def read_calls(value: Any) -> tuple[ToolCall, ...]:
    """Read the calls that an engine sent. Raises KeyError, TypeError and ValueError."""
    if len(calls := value or ()) > MAX_CALLS:
        raise ValueError("too many tool calls")
    return tuple(_read_call(call) for call in calls)


def _read_call(body: Mapping[str, Any]) -> ToolCall:
    # As the task's status takes them: an engine that was taken over must not make a commit fail.
    if not _CALL_ID.fullmatch(text(body["id"])) or not _TOOL_NAME.fullmatch(text(body["name"])):
        raise ValueError("a tool call's id or name")
    return ToolCall(body["id"], body["name"], text(body["arguments"]))
