"""Pieces of answers that several endpoints have: usage, reasons, tool calls, log probabilities, events."""

from collections.abc import Iterable
from typing import Any, Final, Protocol

from headrace_crds.dialogue import ToolCall
from headrace_crds.result import Usage
from headrace_facade.calls.contract import Choice
from headrace_facade.openai_dialect.wire import json_text

FINISH: Final = {"Stop": "stop", "Length": "length", "ToolCalls": "tool_calls"}
DONE: Final = "data: [DONE]\n\n"
Json = dict[str, Any]


class Named(Protocol):
    """What an answer's id is made of: a call, or what stands for one."""

    @property
    def id(self) -> str: ...


def event(document: Json, name: str | None = None) -> str:
    """A server-sent event; JSON has no line breaks in it."""
    return f"{'' if name is None else f'event: {name}' + chr(10)}data: {json_text(document)}\n\n"


def usage(used: Usage) -> Json:
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens or 0},
    }


def call_suffix(call_id: str) -> str:
    """The call's 32 hex digits, which the ids of all that comes of it are made of."""
    return call_id.removeprefix("call-")


def function_call(call: ToolCall) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def finish_reason(choice: Choice) -> str:
    return FINISH.get(choice.finish_reason, "stop")


def first_alone(calls: list[ToolCall], *, parallel: bool) -> list[ToolCall]:
    """Who wants one call at a time gets the first."""
    return calls if parallel else calls[:1]


def token_logprobs(choice: Choice) -> list[Json]:
    """One per token, of the engine's `{"text", "logprob", "top": [[text, logprob], …]}`."""
    return [
        {
            **_logprob(each.get("text"), each.get("logprob")),
            "top_logprobs": [_logprob(*pair) for pair in _pairs(each.get("top"))],
        }
        for each in choice.logprobs
    ]


def _pairs(value: object) -> Iterable[tuple[object, object]]:
    return [(pair[0], pair[1]) for pair in value] if isinstance(value, list | tuple) else []


def _logprob(text: object, logprob: object) -> Json:
    token = str(text)
    # OpenAI's own floor: JSON has no infinity.
    value = max(float(logprob), -9999.0) if isinstance(logprob, int | float) else -9999.0
    return {"token": token, "logprob": value, "bytes": list(token.encode(errors="replace"))}
