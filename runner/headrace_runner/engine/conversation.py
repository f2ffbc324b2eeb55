"""A request's messages and tools in the form that the model's template takes, and in words where it takes none.

The words are those of the Hermes family, which most models have seen: tools in a system message, calls between
``<tool_call>`` marks, results as a user's message.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from headrace_runner.engine.protocol import Message
from headrace_runner.engine.template_traits import Traits
from headrace_runner.engine.tools import Tool, ToolCall

_INSTRUCTION: Final = (
    "You can have functions called that help with the request. Their signatures, one JSON object a line:\n"
    "<tools>\n{tools}\n</tools>\n"
    "To have one called, write its name and its arguments as a JSON object between these marks and then wait:\n"
    '<tool_call>\n{{"name": NAME, "arguments": ARGUMENTS}}\n</tool_call>'
)
Guard = Callable[[str], str]


def shape(
    messages: Sequence[Message], tools: Sequence[Tool], traits: Traits, guard: Guard
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Messages and tools for the template; ``guard`` is applied to every text that a user wrote."""
    definitions = [_definition(tool, guard) for tool in tools]
    shaped = [_native(message, traits, guard) for message in messages]
    if traits.calls is None:
        shaped = _joined(_in_words(message, guard) for message in messages)
    _name_results(shaped)
    if definitions and not traits.tools:
        shaped = _told(shaped, definitions, traits)
    return shaped, definitions if definitions and traits.tools else None


def _definition(tool: Tool, guard: Guard) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": guard(tool.description),
        "parameters": _guarded(json.loads(tool.parameters), guard),
    }
    return {"type": "function", "function": function}


def _native(message: Message, traits: Traits, guard: Guard) -> dict[str, Any]:
    shaped: dict[str, Any] = {"role": guard(message.role), "content": guard(message.content)}
    if message.tool_calls:
        shaped["content"] = shaped["content"] or traits.empty_content
        shaped["tool_calls"] = [_call(call, traits, guard) for call in message.tool_calls]
    if message.tool_call_id is not None:
        shaped["tool_call_id"] = _id(message.tool_call_id, traits, guard)
    return shaped


def _call(call: ToolCall, traits: Traits, guard: Guard) -> dict[str, Any]:
    arguments = _guarded(json.loads(call.arguments), guard) if traits.calls == "Object" else guard(call.arguments)
    return {
        "id": _id(call.id, traits, guard),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _id(call_id: str, traits: Traits, guard: Guard) -> str:
    if not traits.short_ids or (len(call_id) == 9 and call_id.isalnum() and call_id.isascii()):
        return guard(call_id)
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _name_results(shaped: list[dict[str, Any]]) -> None:
    """Some templates name the function beside its result."""
    names: dict[str, str] = {}
    for message in shaped:
        for call in message.get("tool_calls", ()):
            names[call["id"]] = call["function"]["name"]
        if message.get("tool_call_id") in names:
            message["name"] = names[message["tool_call_id"]]


def _in_words(message: Message, guard: Guard) -> dict[str, Any]:
    if message.role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{guard(message.content)}\n</tool_response>"}
    calls = [
        f'<tool_call>\n{{"name": "{call.name}", "arguments": {guard(call.arguments)}}}\n</tool_call>'
        for call in message.tool_calls
    ]
    said = [guard(message.content)] if message.content or not calls else []
    return {"role": guard(message.role), "content": "\n".join(said + calls)}


def _joined(messages: Any) -> list[dict[str, Any]]:
    """Without two users in a row, which templates that know no tools refuse."""
    joined: list[dict[str, Any]] = []
    for message in messages:
        if joined and message["role"] == joined[-1]["role"] == "user":
            joined[-1]["content"] += "\n" + message["content"]
        else:
            joined.append(message)
    return joined


def _told(shaped: list[dict[str, Any]], definitions: list[dict[str, Any]], traits: Traits) -> list[dict[str, Any]]:
    lines = "\n".join(json.dumps(each, ensure_ascii=False) for each in definitions)
    words = _INSTRUCTION.format(tools=lines)
    if traits.system:
        if shaped and shaped[0]["role"] == "system":
            return [{**shaped[0], "content": f"{shaped[0]['content']}\n\n{words}"}, *shaped[1:]]
        return [{"role": "system", "content": words}, *shaped]
    for index, message in enumerate(shaped):
        if message["role"] == "user":
            told = {**message, "content": f"{words}\n\n{message['content']}"}
            return [*shaped[:index], told, *shaped[index + 1 :]]
    return [{"role": "user", "content": words}, *shaped]


def _guarded(value: Any, guard: Guard) -> Any:
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, list):
        return [_guarded(each, guard) for each in value]
    if isinstance(value, dict):
        return {guard(key): _guarded(each, guard) for key, each in value.items()}
    return value
