"""A generation as a request of Anthropic's Messages API, or why it cannot be one. Pure.

What the API has no word for is refused, never left out: the task would not get what it asked for.

| the task asks for                     | is asked of the API by                                            |
|---------------------------------------|-------------------------------------------------------------------|
| jsonSchema that the dialect can say   | ``output_config.format``; in words too what had to be dropped     |
| jsonSchema of an object, no own tools | one tool that must be called; its input is the result             |
| any other jsonSchema, regex, choice   | words in the system text                                          |
| grammar                               | refused: nobody would judge the result                            |

System messages become ``system``, wherever they stood: a later one keeps its authority and loses its place.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Enforcement, Generate, Message, Parameters
from headrace_runner.engine.tools import Tool
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.schemas import Dialect, down_convert

DEFAULT_MAX_TOKENS: Final = 4096
"""The API wants a bound. A task's work always has one."""
SAMPLING_VERSION: Final = "2023-06-01"
"""The last version of the API (its page "Versions") that takes temperature, top_p and top_k, for the models that do;
the SDK's own has none of them.
"""
RESULT_TOOL: Final = "give_result"
_ID_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
# Parameters without a word in the API, and the values that change nothing.
_UNKNOWN: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    "seed": ("seed", ()),
    "min_p": ("minP", (0,)),
    "presence_penalty": ("presencePenalty", (0,)),
    "frequency_penalty": ("frequencyPenalty", (0,)),
    "repeat_penalty": ("repeatPenalty", (1,)),
    "logprobs": ("logprobs", ()),
    "n": ("n", (1,)),
}


class Form(StrEnum):
    """In which part of the answer the result is."""

    TEXT = "Text"
    TOOL_INPUT = "ToolInput"


@dataclass(frozen=True, slots=True)
class Asked:
    """The request's ``body`` and further ``headers``, where the result will be, and who enforces its shape (None: it
    has none).
    """

    body: dict[str, Any]
    headers: dict[str, str]
    form: Form
    enforcement: Enforcement | None


def asked(request: Generate, model: str, extra: dict[str, Any]) -> Asked:
    """The request for ``model`` with the members of ``extraBody``. Raises ProviderError, Terminal."""
    messages = request.messages or (Message("user", request.prompt or ""),)
    shaped = bool(request.json_schema or request.grammar or request.regex or request.choice)
    body: dict[str, Any] = {"model": model, **_parameters(request.parameters, shaped=shaped), **extra, "stream": True}
    system = [message.content for message in messages if message.role == "system" and message.content.strip()]
    body["messages"] = _turns([message for message in messages if message.role != "system"])
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request.tool_choice)
    form, enforcement = _shape(request, body, system)
    if system:
        body["system"] = "\n\n".join(system)
    sampled = body.keys() & {"temperature", "top_p", "top_k"}
    return Asked(body, {"anthropic-version": SAMPLING_VERSION} if sampled else {}, form, enforcement)


def _refuse(message: str, reason: Reason = Reason.INVALID_PARAMETERS) -> NoReturn:
    raise ProviderError(Fault.TERMINAL, reason, message)


def _parameters(given: Parameters, *, shaped: bool) -> dict[str, Any]:
    for name, (wire, neutral) in _UNKNOWN.items():
        if (value := getattr(given, name)) is not None and value not in neutral:
            _refuse(f"spec.parameters.{wire}: Anthropic's API has no such parameter: remove it, or use another model")
    if given.logit_bias:
        _refuse("logitBias: Anthropic's API has no such parameter: remove it, or use another model")
    if given.temperature is not None and given.temperature > 1:
        _refuse("spec.parameters.temperature: Anthropic takes 0 to 1: lower it")
    body: dict[str, Any] = {"max_tokens": given.max_tokens or DEFAULT_MAX_TOKENS}
    if given.temperature is not None:
        body["temperature"] = given.temperature
    if given.top_p is not None:
        body["top_p"] = given.top_p
    if given.top_k:  # 0 switches it off
        body["top_k"] = given.top_k
    if given.stop and not shaped:  # the shape alone decides where such a text ends
        body["stop_sequences"] = list(given.stop)
    return body


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    """User and assistant in turn, each with the blocks of all messages that follow one another. Tool answers are the
    user's, and come first in a turn, as the API wants them. It refuses empty texts: there are none.
    """
    ids = _call_ids(messages)
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message, number, ids)
        if not blocks:
            continue
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += blocks
    if not turns:
        _refuse("spec.messages: nothing is said in them: Anthropic refuses an empty conversation")
    for turn in turns:
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return turns


def _blocks(message: Message, number: int, ids: dict[str, str]) -> list[dict[str, Any]]:
    if message.role == "tool":
        answer: dict[str, Any] = {"type": "tool_result", "tool_use_id": ids[message.tool_call_id or ""]}
        return [answer | ({"content": message.content} if message.content.strip() else {})]
    blocks: list[dict[str, Any]] = [{"type": "text", "text": message.content}] if message.content.strip() else []
    for at, call in enumerate(message.tool_calls):
        where = f"spec.messages[{number}].toolCalls[{at}].arguments"
        blocks.append(
            {"type": "tool_use", "id": ids[call.id], "name": call.name, "input": _object(call.arguments, where)}
        )
    return blocks


def _call_ids(messages: list[Message]) -> dict[str, str]:
    """Ids of calls as the API takes them: letters, digits, _ and -; ours may have more."""
    given = [call.id for message in messages for call in message.tool_calls]
    given += [message.tool_call_id or "" for message in messages if message.role == "tool"]
    distinct = list(dict.fromkeys(given))
    fit = all(name and set(name) <= _ID_CHARS for name in distinct)
    return {name: name if fit else f"call_{number}" for number, name in enumerate(distinct)}


def _tool(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object"} | _object(tool.parameters, f"the parameters of tool {tool.name}")
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": schema}


def _tool_choice(wanted: str) -> dict[str, Any]:
    if wanted == "required":
        return {"type": "any"}
    return {"type": wanted} if wanted in ("auto", "none") else {"type": "tool", "name": wanted}


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        _refuse(f"{where}: not a JSON object, which Anthropic wants: correct it")
    return value


def _shape(request: Generate, body: dict[str, Any], system: list[str]) -> tuple[Form, Enforcement | None]:
    if request.grammar:
        _refuse(
            "output.grammar: Anthropic's API enforces no grammar, and nothing else would judge the result: use "
            "output.jsonSchema, output.regex or output.choice",
            Reason.UNSUPPORTED_SCHEMA,
        )
    if request.regex:
        system.append(
            "Answer with nothing but one text that, from its first to its last character, matches this regular "
            f"expression: {request.regex}"
        )
        return Form.TEXT, "ValidatedOnly"
    if request.choice:
        choices = json.dumps(list(request.choice), ensure_ascii=False)
        system.append(f"Answer with exactly one of the texts of this list, without quotes and nothing else: {choices}")
        return Form.TEXT, "ValidatedOnly"
    if request.json_schema:
        return _json(request, request.json_schema, body, system)
    return Form.TEXT, None


def _json(
    request: Generate, schema_text: str, body: dict[str, Any], system: list[str]
) -> tuple[Form, Enforcement | None]:
    converted = down_convert(schema_text, Dialect.ANTHROPIC)
    in_words = f"valid by this JSON Schema: {schema_text}"
    if converted.schema is not None:
        config = body.get("output_config", {})
        body["output_config"] = config | {"format": {"type": "json_schema", "schema": converted.schema}}
        if converted.whole:
            return Form.TEXT, "Provider"
        system.append(f"The answer has to be {in_words}")
        return Form.TEXT, "ValidatedOnly"
    schema = _tool_schema(schema_text)
    # The API lets no tool be forced while the model thinks, and a task's own tools are not to be taken away.
    thinks = body.get("thinking", {"type": "disabled"})["type"] != "disabled"
    if schema is not None and not request.tools and not thinks:
        described = "Gives the result. Call it once; its input is the whole answer."
        body["tools"] = [{"name": RESULT_TOOL, "description": described, "input_schema": schema}]
        body["tool_choice"] = {"type": "tool", "name": RESULT_TOOL, "disable_parallel_tool_use": True}
        return Form.TOOL_INPUT, "ValidatedOnly"
    system.append(f"Answer with nothing but one JSON document, without a code fence, {in_words}")
    return Form.TEXT, "ValidatedOnly"


def _tool_schema(text: str) -> dict[str, Any] | None:
    """The schema where a tool's input can have it: an object, without alternatives at its root."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return None
    return None if schema.keys() & {"anyOf", "oneOf", "allOf", "$ref", "$schema"} else schema
