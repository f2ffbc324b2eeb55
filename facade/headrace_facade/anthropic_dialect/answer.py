"""`POST /v1/messages`: the message, whole and in events."""

import json
from collections.abc import Iterable, Iterator
from typing import Final

from headrace_crds.dialogue import ToolCall
from headrace_crds.result import Usage
from headrace_facade.anthropic_dialect.content import Json
from headrace_facade.anthropic_dialect.errors import document
from headrace_facade.anthropic_dialect.request import MessagesBody
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallResult, Choice, Delta, Waiting
from headrace_facade.errors import FacadeError
from headrace_facade.openai_dialect.answers import EventStream
from headrace_facade.openai_dialect.objects import call_suffix, event, first_alone
from headrace_facade.openai_dialect.port import told_name
from headrace_facade.openai_dialect.told import Told

_STOP_REASONS: Final = {"Stop": "end_turn", "Length": "max_tokens", "ToolCalls": "tool_use"}
_SIGNATURE: Final = ""
"""Thoughts are not signed, as they are not told to models again."""


def message(call: Call, result: CallResult, body: MessagesBody, caller: Caller) -> Json:
    """The whole answer."""
    (choice,) = result.choices
    content: list[Json] = []
    if choice.reasoning and body.tells_thoughts:
        content.append({"type": "thinking", "thinking": choice.reasoning, "signature": _SIGNATURE})
    if choice.text:
        content.append({"type": "text", "text": choice.text})
    content += [_tool_use(each, _input(each)) for each in first_alone(choice.tool_calls, parallel=body.parallel)]
    ending = {"content": content, **_ending(choice), "usage": usage(result.usage)}
    return {**_head(call, told_name(result.model, caller)), **ending}


def _head(call: Call, model: str) -> Json:
    return {"id": f"msg_{call_suffix(call.id)}", "type": "message", "role": "assistant", "model": model}


def _ending(choice: Choice) -> Json:
    """Which stop sequence it was is not told: the text ends before it, as where the model ended it itself."""
    return {"stop_reason": _STOP_REASONS.get(choice.finish_reason, "end_turn"), "stop_sequence": None}


def _tool_use(call: ToolCall, given: Json) -> Json:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": given}


def _input(call: ToolCall) -> Json:
    found = json.loads(call.arguments or "{}")
    return found if isinstance(found, dict) else {}


def usage(used: Usage) -> Json:
    """Anthropic counts what a cache had beside the input, not in it."""
    cached = min(used.cached_tokens, used.prompt_tokens)
    told: Json = {
        "input_tokens": used.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": used.completion_tokens,
    }
    if used.reasoning_tokens is not None:
        told["output_tokens_details"] = {"thinking_tokens": used.reasoning_tokens}
    return told


class MessageEvents:
    """Tells a call in events: one block at a time, each of one kind."""

    def __init__(self, call: Call, body: MessagesBody, caller: Caller, trace_id: str) -> None:
        self._body = body
        self._trace_id = trace_id
        self._told = Told()
        self._head = _head(call, told_name(call.model, caller))
        self._blocks = 0
        self._open: str | None = None

    def opening(self) -> Iterator[str]:
        """What the prompt weighs is not known before the end."""
        counted = usage(Usage(prompt_tokens=0, completion_tokens=0))
        started = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": counted}
        yield _event("message_start", message=started)

    def delta(self, delta: Delta) -> Iterator[str]:
        self._told.add(delta)
        if delta.reasoning and self._body.tells_thoughts:
            yield from self._within("thinking", {"thinking": "", "signature": _SIGNATURE})
            yield self._piece("thinking_delta", thinking=delta.reasoning)
        if delta.text:
            yield from self._within("text", {"text": ""})
            yield self._piece("text_delta", text=delta.text)
        if delta.tool_call is not None and (self._body.parallel or len(self._told.calls) == 1):
            yield from self._close()
            yield from self._begin(_tool_use(delta.tool_call, {}))
            yield self._piece("input_json_delta", partial_json=delta.tool_call.arguments)
            yield from self._close()

    def ended(self, result: CallResult) -> Iterator[str]:
        (choice,) = result.choices
        for rest in self._told.rest(choice):
            yield from self.delta(rest)
        yield from self._close()
        yield _event("message_delta", delta=_ending(choice), usage=usage(result.usage))
        yield _event("message_stop")

    def failed(self, error: FacadeError) -> Iterable[str]:
        return (event(document(error, self._trace_id), "error"),)

    def _within(self, kind: str, empty: Json) -> Iterator[str]:
        if self._open != kind:
            yield from self._close()
            yield from self._begin({"type": kind, **empty})

    def _begin(self, block: Json) -> Iterator[str]:
        self._open = block["type"]
        yield _event("content_block_start", index=self._blocks, content_block=block)

    def _piece(self, kind: str, **members: str) -> str:
        return _event("content_block_delta", index=self._blocks, delta={"type": kind, **members})

    def _close(self) -> Iterator[str]:
        if self._open is not None:
            yield _event("content_block_stop", index=self._blocks)
            self._open = None
            self._blocks += 1


class MessageStream(EventStream):
    """Waiting is told in Anthropic's own event for it."""

    def waiting(self, waiting: Waiting) -> str:
        del waiting
        return _event("ping")


def _event(kind: str, **members: object) -> str:
    return event({"type": kind, **members}, kind)
