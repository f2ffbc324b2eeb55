"""The strict reading of a conversation and of tools: what ``requests`` does for all else."""

import json
import re
from typing import Any, Final

from headrace_runner.engine.protocol import Message, Reason, Refusal
from headrace_runner.engine.tools import MAX_CALLS, NO_PARAMETERS, Tool, ToolCall

MAX_MESSAGES: Final = 4096
MAX_TOOLS: Final = 64
MAX_TOOL_BYTES: Final = 64 * 1024
TOOL_CHOICES: Final = ("auto", "none", "required")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MESSAGE_FIELDS: Final = {"role", "content", "tool_calls", "tool_call_id"}


def clean(text: str) -> str:
    """JSON can carry lone surrogates ("\\ud800"), which no tokenizer can read."""
    return text.encode("utf-8", "replace").decode("utf-8")


def invalid(message: str) -> Refusal:
    return Refusal(Reason.INVALID_PARAMETERS, message)


def read_messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
        raise invalid(f"messages: expected 1 to {MAX_MESSAGES} messages")
    read = []
    for index, item in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(item, dict) or not {"role", "content"} <= set(item) <= _MESSAGE_FIELDS:
            raise invalid(f"{where}: expected role, content, tool_calls, tool_call_id and nothing else")
        role, content = item["role"], item["content"]
        if isinstance(content, list):
            raise Refusal(Reason.UNSUPPORTED_CONTENT, f"{where}: content is text, images and audio are not supported")
        if not isinstance(role, str) or not isinstance(content, str) or not 0 < len(role) <= 64:
            raise invalid(f"{where}: role and content are strings, role of 1 to 64 characters")
        read.append(
            Message(
                clean(role),
                clean(content),
                _read_calls(item.get("tool_calls") or [], f"{where}.tool_calls"),
                _read_id(item.get("tool_call_id"), where),
            )
        )
    return tuple(read)


def read_tools(value: object, choice: object) -> tuple[tuple[Tool, ...], str]:
    """Tools and the choice among them."""
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise invalid(f"tools: expected at most {MAX_TOOLS}")
    tools = tuple(_read_tool(item, f"tools[{index}]") for index, item in enumerate(value))
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise invalid("tools: two have the same name")
    if choice not in TOOL_CHOICES and choice not in names:
        raise invalid("tool_choice: expected auto, none, required or the name of a tool")
    return tools, str(choice)


def _read_tool(item: object, where: str) -> Tool:
    if not isinstance(item, dict) or not {"name"} <= set(item) <= {"name", "description", "parameters"}:
        raise invalid(f"{where}: expected name, description, parameters and nothing else")
    name, description = item["name"], item.get("description", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in TOOL_CHOICES:
        raise invalid(f"{where}.name: expected 1 to 64 letters, digits, dashes and underscores")
    if not isinstance(description, str):
        raise invalid(f"{where}.description: expected a string")
    parameters = _read_object(item.get("parameters", NO_PARAMETERS), f"{where}.parameters")
    return Tool(name, clean(description), parameters)


def _read_calls(value: object, where: str) -> tuple[ToolCall, ...]:
    if not isinstance(value, list) or len(value) > MAX_CALLS:
        raise invalid(f"{where}: expected at most {MAX_CALLS} calls")
    read = []
    for item in value:
        if not isinstance(item, dict) or set(item) != {"id", "name", "arguments"}:
            raise invalid(f"{where}: expected id, name and arguments and nothing else")
        name = item["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid(f"{where}.name: expected 1 to 64 letters, digits, dashes and underscores")
        id_ = _read_id(item["id"], where)
        if id_ is None:
            raise invalid(f"{where}.id: expected a string")
        read.append(ToolCall(id_, name, _read_object(item["arguments"], f"{where}.arguments")))
    return tuple(read)


def _read_id(value: object, where: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 64):
        raise invalid(f"{where}: an id has 1 to 64 characters")
    return None if value is None else clean(value)


def _read_object(value: object, where: str) -> str:
    """JSON text of an object, as it is."""
    if not isinstance(value, str) or len(value.encode("utf-8", "surrogatepass")) > MAX_TOOL_BYTES:
        raise invalid(f"{where}: expected JSON text of at most {MAX_TOOL_BYTES} bytes")
    text = clean(value)
    try:
        parsed: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"{where}: not JSON: {type(error).__name__}") from error
    if not isinstance(parsed, dict):
        raise invalid(f"{where}: expected a JSON object")
    return text
