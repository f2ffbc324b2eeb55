"""`POST /v1/responses`: the response as a stream of events, numbered in their order.

response.created, response.in_progress
of each item    response.output_item.added
                response.content_part.added, response.output_text.delta …, .done, response.content_part.done
                or the same with response.reasoning_text
                or response.function_call_arguments.delta, .done
                response.output_item.done
response.completed, response.incomplete or response.failed
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from headrace_crds.dialogue import ToolCall
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallResult, Choice, Delta
from headrace_facade.errors import FacadeError
from headrace_facade.openai_dialect.errors import members
from headrace_facade.openai_dialect.objects import Json, call_suffix, event, token_logprobs
from headrace_facade.openai_dialect.responses_answer import (
    call_item,
    finished,
    message_item,
    output_text,
    reasoning_item,
    reasoning_text,
    started,
)
from headrace_facade.openai_dialect.responses_request import ResponseBody
from headrace_facade.openai_dialect.told import Told


@dataclass
class _Open:
    """The item that grows."""

    id: str
    thinks: bool
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def name(self) -> str:
        return "reasoning_text" if self.thinks else "output_text"

    def part(self, logprobs: list[Json]) -> Json:
        return reasoning_text(self.text) if self.thinks else output_text(self.text, logprobs)


class ResponseEvents:
    """Tells a call. The log probabilities of a text come with its end."""

    def __init__(self, call: Call, body: ResponseBody, caller: Caller) -> None:
        self._body = body
        self._caller = caller
        self._suffix = call_suffix(call.id)
        self._response = started(call, body, caller)
        self._told = Told()
        self._calls = 0
        self._items: list[Json] = []
        self._open: _Open | None = None
        self._number = 0

    def opening(self) -> Iterator[str]:
        yield self._event("response.created", response=self._response)
        yield self._event("response.in_progress", response=self._response)

    def delta(self, delta: Delta) -> Iterator[str]:
        self._told.add(delta)
        if delta.reasoning:
            yield from self._grow(delta.reasoning, thinks=True)
        if delta.text:
            yield from self._grow(delta.text, thinks=False)
        if delta.tool_call is not None and (self._body.parallel_tool_calls or not self._calls):
            yield from self._close()
            yield from self._call(delta.tool_call)

    def ended(self, result: CallResult) -> Iterator[str]:
        choice = result.choices[0]
        for delta in self._told.rest(choice):
            yield from self.delta(delta)
        speaks = self._open is not None and not self._open.thinks
        if not speaks and all(item["type"] == "reasoning" for item in self._items):
            yield from self._grow("", thinks=False)
        yield from self._close(choice)
        final = finished(self._response, self._items, result, self._caller)
        yield self._event(f"response.{final['status']}", response=final)

    def failed(self, error: FacadeError) -> Iterator[str]:
        told = members(error)
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        problem = {"code": code if error.status >= 429 else "invalid_prompt", "message": told["message"]}
        yield self._event(
            "response.failed",
            response={**self._response, "status": "failed", "error": problem, "output": self._items},
        )

    def _grow(self, text: str, *, thinks: bool) -> Iterator[str]:
        if self._open is not None and self._open.thinks != thinks:
            yield from self._close()
        if self._open is None:
            grown = self._open = _Open(f"{'rs' if thinks else 'msg'}_{self._suffix}_{len(self._items)}", thinks)
            bare = reasoning_item(grown.id, None, "in_progress")
            item = bare if thinks else message_item(grown.id, [], "in_progress")
            yield self._event("response.output_item.added", output_index=len(self._items), item=item)
            yield self._part("response.content_part.added", grown, part=grown.part([]))
        grown = self._open
        grown.pieces.append(text)
        if text:
            more: Json = {} if thinks else {"logprobs": []}
            yield self._part(f"response.{grown.name}.delta", grown, delta=text, **more)

    def _close(self, choice: Choice | None = None) -> Iterator[str]:
        """Ends the item that grows; the last one with its result."""
        grown = self._open
        if grown is None:
            return
        self._open = None
        logprobs = token_logprobs(choice) if choice is not None and self._body.with_logprobs else []
        more: Json = {} if grown.thinks else {"logprobs": logprobs}
        part = grown.part(logprobs)
        yield self._part(f"response.{grown.name}.done", grown, text=grown.text, **more)
        yield self._part("response.content_part.done", grown, part=part)
        cut = choice is not None and choice.finish_reason == "Length"
        if grown.thinks:
            item = reasoning_item(grown.id, grown.text, "completed")
        else:
            item = message_item(grown.id, [part], "incomplete" if cut else "completed")
        yield from self._done(item)

    def _call(self, call: ToolCall) -> Iterator[str]:
        self._calls += 1
        item_id, at = f"fc_{self._suffix}_{len(self._items)}", len(self._items)
        empty = call_item(item_id, call, "in_progress") | {"arguments": ""}
        yield self._event("response.output_item.added", output_index=at, item=empty)
        told: Json = {"item_id": item_id, "output_index": at}
        yield self._event("response.function_call_arguments.delta", **told, delta=call.arguments)
        done = {**told, "name": call.name, "arguments": call.arguments}
        yield self._event("response.function_call_arguments.done", **done)
        yield from self._done(call_item(item_id, call, "completed"))

    def _done(self, item: Json) -> Iterator[str]:
        yield self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)

    def _part(self, kind: str, grown: _Open, **told: Any) -> str:
        return self._event(kind, item_id=grown.id, output_index=len(self._items), content_index=0, **told)

    def _event(self, kind: str, **told: Any) -> str:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **told}, kind)
