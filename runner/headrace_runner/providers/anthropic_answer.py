"""The events of one streamed message of Anthropic's, put together into a result.

``message_start``, for each block ``content_block_start``, ``content_block_delta`` … and ``content_block_stop``, then
``message_delta`` with the reason of the end, and ``message_stop``; ``ping`` at any time. Kinds that are not known are
passed over, as the API's page "Streaming" asks for.
"""

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Delta, FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.engine.tools import MAX_CALLS, ToolCall, read_calls
from headrace_runner.providers.anthropic_request import Asked, Form
from headrace_runner.providers.protocol import Fault, ProviderError

if TYPE_CHECKING:
    from anthropic.types import MessageDeltaUsage, RawMessageStreamEvent
    from anthropic.types import Usage as MessageUsage

_COUNTS: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
_BYTES_PER_TOKEN: Final = 4
"""A guess, for what a call has said before the API tells how many tokens it was."""
_FINISH: Final[dict[str, FinishReason]] = {
    "end_turn": "Stop",
    "stop_sequence": "Stop",
    "max_tokens": "Length",
    "model_context_window_exceeded": "Length",
    "tool_use": "ToolCalls",
}


@dataclass
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass
class Answer:
    """Collects one message. ``read`` each event, then ``result``."""

    request: Generate
    asked: Asked
    _begun: float = field(default_factory=time.monotonic)
    _first: float | None = None
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: dict[int, _Call] = field(default_factory=dict)
    _tokens: dict[str, int] = field(default_factory=dict)
    _size_bytes: int = 0
    _stop_reason: str | None = None
    ended: bool = False

    def read(self, event: "RawMessageStreamEvent") -> Delta | None:
        """Take one event; what it adds, if anything. Raises ProviderError for one that makes no sense."""
        try:
            return self._read(event)
        except (AttributeError, TypeError) as error:
            # The SDK makes its objects of what it gets, without a look at it.
            raise no_answer() from error

    def _read(self, event: "RawMessageStreamEvent") -> Delta | None:
        match event.type:
            case "message_start":
                self._count(event.message.usage)
            case "content_block_start":
                block = event.content_block
                if block.type == "tool_use":
                    if len(self._calls) >= MAX_CALLS:
                        raise _invalid(f"the model asks for more than {MAX_CALLS} calls at once")
                    self._calls[event.index] = _Call(block.id, block.name)
                elif block.type == "text":
                    return self._said(block.text)
            case "content_block_delta":
                delta = event.delta
                if delta.type == "text_delta":
                    return self._said(delta.text)
                if delta.type == "thinking_delta":
                    return self._thought(delta.thinking)
                if delta.type == "input_json_delta":
                    return self._called(event.index, delta.partial_json)
            case "content_block_stop":
                call = self._calls.get(event.index)
                if call is not None and self.asked.form is Form.TEXT:
                    return Delta(self.request.id, "", self._completion_tokens(), tool_calls=(_whole(call),))
            case "message_delta":
                self._count(event.usage)
                self._stop_reason = event.delta.stop_reason or self._stop_reason
            case "message_stop":
                self.ended = True
        return None

    def _said(self, text: str) -> Delta | None:
        # Beside the call that is the result, a model may say something to it.
        return self._grown(self._text, text) if text and self.asked.form is Form.TEXT else None

    def _thought(self, text: str) -> Delta | None:
        self._grow(self._reasoning, text)
        return Delta(self.request.id, "", self._completion_tokens(), reasoning=text) if text else None

    def _called(self, index: int, piece: str) -> Delta | None:
        if (call := self._calls.get(index)) is None:
            raise _invalid("a piece of a call came without the call")
        if self.asked.form is Form.TOOL_INPUT:
            return self._grown(self._text, piece) if piece else None
        self._grow(call.arguments, piece)
        return None

    def _grown(self, where: list[str], text: str) -> Delta:
        self._grow(where, text)
        return Delta(self.request.id, text, self._completion_tokens())

    def _grow(self, where: list[str], text: str) -> None:
        self._size_bytes += len(text.encode())
        where.append(text)
        self._first = self._first or time.monotonic()

    def _count(self, usage: "MessageUsage | MessageDeltaUsage") -> None:
        """The counts are totals; one that an event leaves out stays as it was."""
        details = getattr(usage, "output_tokens_details", None)
        for name in (*_COUNTS, "thinking_tokens"):
            count = getattr(details if name == "thinking_tokens" else usage, name, None)
            if isinstance(count, int) and count >= 0:
                self._tokens[name] = count

    def _completion_tokens(self) -> int:
        return max(self._tokens.get("output_tokens", 0), -(-self._size_bytes // _BYTES_PER_TOKEN))

    def usage(self) -> Usage:
        """What the API has counted by now."""
        cached = self._tokens.get("cache_read_input_tokens", 0)
        prompt = self._tokens.get("input_tokens", 0) + cached + self._tokens.get("cache_creation_input_tokens", 0)
        completion, thinking = self._tokens.get("output_tokens", 0), self._tokens.get("thinking_tokens", 0)
        return Usage(prompt, cached, completion, min(thinking, completion))

    def result(self) -> GenerationResult:
        """The whole message. Raises ProviderError where it was refused, or broke off."""
        if self._stop_reason == "refusal":
            message = "Anthropic refuses to answer this: change the input"
            raise ProviderError(Fault.TERMINAL, Reason.CONTENT_REFUSED, message, usage=self.usage())
        if not self.ended or self._stop_reason is None:
            message = "the stream of the answer ended before the answer did"
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_FAILED, message, usage=self.usage())
        if self._stop_reason not in _FINISH:
            # pause_turn is about tools that Anthropic runs, which are never asked for.
            raise _invalid("the message ended for a reason that this runner does not know", self.usage())
        finish, text = _FINISH[self._stop_reason], "".join(self._text)
        calls: tuple[ToolCall, ...] = ()
        if self.asked.form is Form.TOOL_INPUT:
            if finish == "ToolCalls":
                finish, text = "Stop", text or "{}"
        else:
            calls = self._whole_calls()
        if self.request.choice and text.strip() in self.request.choice:
            text = text.strip()  # a line break at its end is no other choice
        now = time.monotonic()
        first = self._first or now
        timings = Timings(0, round((first - self._begun) * 1000), round((now - first) * 1000))
        return GenerationResult(
            self.request.id,
            text,
            finish,
            self.usage(),
            timings,
            enforcement=self.asked.enforcement,
            tool_calls=calls,
            reasoning="".join(self._reasoning),
        )

    def _whole_calls(self) -> tuple[ToolCall, ...]:
        """Of a message that was cut off, the last call may be half a one: it is left out."""
        cut = _FINISH.get(self._stop_reason or "") == "Length"
        kept = [call for at, call in enumerate(self._calls.values()) if not cut or at + 1 < len(self._calls)]
        try:
            return read_calls([asdict(_whole(call)) for call in kept])
        except (ValueError, TypeError) as error:
            raise _invalid("a call's id or name is none", self.usage()) from error


def no_answer() -> ProviderError:
    """What came is not what the API says."""
    return _invalid("what came from the provider is no answer of Anthropic's API: look at spec.remote.baseURL")


def _whole(call: _Call) -> ToolCall:
    return ToolCall(call.id, call.name, "".join(call.arguments) or "{}")


def _invalid(message: str, usage: Usage | None = None) -> ProviderError:
    return ProviderError(Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, message, usage=usage)
