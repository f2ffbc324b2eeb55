"""`POST /v1/chat/completions`: the completion, whole and in chunks."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallResult, Choice, Delta
from headrace_facade.errors import FacadeError
from headrace_facade.openai_dialect.chat_request import ChatBody
from headrace_facade.openai_dialect.errors import members
from headrace_facade.openai_dialect.objects import (
    DONE,
    Json,
    Named,
    call_suffix,
    event,
    finish_reason,
    first_alone,
    function_call,
    token_logprobs,
    usage,
)
from headrace_facade.openai_dialect.port import told_name
from headrace_facade.openai_dialect.told import Told


def completion(call: Named, result: CallResult, body: ChatBody, caller: Caller) -> Json:
    """The whole answer."""
    return {
        "id": f"chatcmpl-{call_suffix(call.id)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": told_name(result.model, caller),
        "choices": [_choice(choice, index, body) for index, choice in enumerate(result.choices)],
        "usage": usage(result.usage),
    }


def _choice(choice: Choice, index: int, body: ChatBody) -> Json:
    calls = first_alone(choice.tool_calls, parallel=body.parallel_tool_calls)
    message: Json = {"role": "assistant", "content": choice.text or (None if calls else ""), "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if calls:
        message["tool_calls"] = [function_call(each) for each in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": {"content": token_logprobs(choice), "refusal": None} if body.logprobs else None,
        "finish_reason": finish_reason(choice),
    }


class ChatChunks:
    """Tells a call in chunks. Log probabilities come with a completion's last one."""

    def __init__(self, call: Call, body: ChatBody, caller: Caller) -> None:
        self._body = body
        self._caller = caller
        self._told: defaultdict[int, Told] = defaultdict(Told)
        self._head = {
            "id": f"chatcmpl-{call_suffix(call.id)}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": told_name(call.model, caller),
        }

    def opening(self) -> Iterable[str]:
        return ()

    def delta(self, delta: Delta) -> Iterator[str]:
        if delta.index not in self._told:
            yield self._chunk(delta.index, {"role": "assistant", "content": "", "refusal": None})
        told = self._told[delta.index]
        told.add(delta)
        if delta.reasoning:
            yield self._chunk(delta.index, {"reasoning_content": delta.reasoning})
        if delta.text:
            yield self._chunk(delta.index, {"content": delta.text})
        at = len(told.calls) - 1
        if delta.tool_call is not None and (self._body.parallel_tool_calls or at == 0):
            yield self._chunk(delta.index, {"tool_calls": [{"index": at, **function_call(delta.tool_call)}]})

    def ended(self, result: CallResult) -> Iterator[str]:
        self._head["model"] = told_name(result.model, self._caller)
        for index, choice in enumerate(result.choices):
            # At least one delta: the role is told, also of an empty completion.
            rest = self._told[index].rest(choice, index) if index in self._told else Told().rest(choice, index)
            for delta in rest or ([] if index in self._told else [Delta(index=index)]):
                yield from self.delta(delta)
            logprobs = {"content": token_logprobs(choice), "refusal": None} if self._body.logprobs else None
            yield self._chunk(index, {}, finish_reason(choice), logprobs)
        if self._body.include_usage:
            yield event({**self._head, "choices": [], "usage": usage(result.usage)})
        yield DONE

    def failed(self, error: FacadeError) -> Iterator[str]:
        yield event({"error": members(error)})

    def _chunk(self, index: int, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        last = {"usage": None} if self._body.include_usage else {}
        return event({**self._head, "choices": [choice], **last})
