"""The body of a request for a chat completion, for OpenAI and for what speaks its language.

https://platform.openai.com/docs/api-reference/chat/create; the SDK's ``types/chat/completion_create_params.py``.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import PARAMETER_NAMES, Generate, Message, Parameters
from headrace_runner.engine.tools import Tool
from headrace_runner.providers.chat_shapes import Shape, open_shape, strict_shape
from headrace_runner.providers.protocol import Fault, ProviderError

_SHARED: Final[Mapping[str, tuple[str, ...]]] = {
    name: (name,) for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "n")
}


@dataclass(frozen=True, slots=True)
class ChatDialect:
    """How an API differs: ``members`` gives for a parameter of ours the names that its value is sent under."""

    name: str
    members: Mapping[str, tuple[str, ...]]
    shape: Callable[[Generate], Shape]
    max_stops: int | None = None
    whole_biases: bool = False


OPENAI: Final = ChatDialect(
    "OpenAI",
    # max_tokens is deprecated, and models that reason refuse it.
    {**_SHARED, "max_tokens": ("max_completion_tokens",)},
    strict_shape,
    max_stops=4,
    whole_biases=True,
)
COMPATIBLE: Final = ChatDialect(
    "OpenAICompatible",
    {
        **_SHARED,
        "max_tokens": ("max_tokens",),
        "top_k": ("top_k",),
        "min_p": ("min_p",),
        # vLLM, SGLang and OpenRouter call it the first, llama-server, LM Studio and Ollama the second; each passes
        # over the other's. extraBody with one of the names says which is sent.
        "repeat_penalty": ("repetition_penalty", "repeat_penalty"),
    },
    open_shape,
)


def chat_body(
    request: Generate, model: str, dialect: ChatDialect, extra: Mapping[str, Any], shape: Shape
) -> dict[str, Any]:
    """The body, always of a streamed request; ``extra`` has the model's own members, which a task's go before.

    ``shape`` is the dialect's for this request. Raises ProviderError (Terminal) where the task would not get what it
    asks for.
    """
    body: dict[str, Any] = {
        **extra,
        "model": model,
        "messages": _messages(request, shape.instruction),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if shape.response_format is not None:
        body["response_format"] = shape.response_format
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body["tool_choice"] = _tool_choice(request.tool_choice)
    else:
        # It is refused where there are no tools.
        body.pop("parallel_tool_calls", None)
    body |= _parameters(request.parameters, dialect, extra)
    if request.parameters.stop and shape.enforcement is None:
        # With a shape, stop has no effect: the shape decides where the text ends.
        body["stop"] = _stops(request.parameters.stop, dialect)
    return body


def request_texts(request: Generate) -> Iterator[str]:
    """What the request says, for those who must not repeat it."""
    yield from (text for text in (request.prompt, request.json_schema, request.regex, request.grammar) if text)
    yield from request.choice
    yield from request.parameters.stop
    for message in request.messages:
        yield message.content
        yield from (call.arguments for call in message.tool_calls)
    for tool in request.tools:
        yield tool.description
        yield tool.parameters


def _messages(request: Generate, instruction: str | None) -> list[dict[str, Any]]:
    if request.prompt is not None:
        messages = [{"role": "user", "content": _clean(request.prompt)}]
    else:
        messages = [_message(message) for message in request.messages]
    if instruction is None:
        return messages
    if messages and messages[0]["role"] == "system":
        # Chat templates of many open models take one system message, at the beginning.
        first = {"role": "system", "content": f"{messages[0]['content']}\n\n{_clean(instruction)}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": _clean(instruction)}, *messages]


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": _clean(message.content)}
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["content"] = body["content"] or None
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _clean(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": json.loads(tool.parameters)}
    if tool.description:
        function["description"] = _clean(tool.description)
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in ("auto", "none", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def _parameters(given: Parameters, dialect: ChatDialect, extra: Mapping[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for wire, name in PARAMETER_NAMES.items():
        value = getattr(given, name)
        if value is None or name in ("stop", "logprobs") or (name == "n" and value == 1):
            continue
        names = dialect.members.get(name)
        if names is None:
            raise _invalid(f"parameters.{wire}: {dialect.name} has no such parameter: remove it")
        chosen = [each for each in names if each in extra] or names
        body |= dict.fromkeys(chosen, value)
    if given.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": given.logprobs}
    if given.logit_bias:
        body["logit_bias"] = {str(token): _bias(bias, dialect) for token, bias in given.logit_bias}
    return body


def _bias(bias: float, dialect: ChatDialect) -> float:
    if bias.is_integer():
        return int(bias)
    if dialect.whole_biases:
        raise _invalid(f"parameters.logitBias: {dialect.name} takes whole numbers")
    return bias


def _stops(stops: tuple[str, ...], dialect: ChatDialect) -> list[str]:
    if dialect.max_stops is not None and len(stops) > dialect.max_stops:
        raise _invalid(
            f"parameters.stop: {dialect.name} takes at most {dialect.max_stops} texts, these are {len(stops)}"
        )
    return [_clean(stop) for stop in stops]


def _clean(text: str) -> str:
    """JSON can carry lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _invalid(message: str) -> ProviderError:
    return ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, message)
