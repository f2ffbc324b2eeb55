"""One call of a provider as it grows: what its deltas brought, what it costs, how far it is. It calls nobody."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Timings, Usage
from headrace_runner.engine.tools import ToolCall, read_calls
from headrace_runner.streaming import CallStream

PROGRESS_EVERY_SECONDS: Final = 0.5
CHARS_PER_TOKEN: Final = 4
"""Of an input whose tokens nobody has counted: only for rates, never for the bill."""


class Call:
    """Takes deltas until it is closed; what comes later is ignored."""

    def __init__(
        self,
        request: Generate | Embed,
        *,
        stream: CallStream | None = None,
        on_progress: Callable[[int], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.request = request
        self.tokens = 0
        self.closed = False
        self.sent = False
        self._stream = stream
        self._on_progress = on_progress
        self._monotonic = monotonic
        self._begun = self._told_at = monotonic()
        self._first: float | None = None
        self._deltas = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[ToolCall] = []

    def delta(self, delta: Delta) -> None:
        """The provider has said this."""
        if self.closed:
            return
        now = self._monotonic()
        if self._first is None:
            self._first = now
        self._deltas += 1
        # A provider that counts no tokens sends about one at a time.
        self.tokens = max(self.tokens, delta.completion_tokens or self._deltas)
        text, reasoning = _clean(delta.text), _clean(delta.reasoning)
        if delta.index == 0:
            self._text.append(text)
            self._reasoning.append(reasoning)
            self._tool_calls += delta.tool_calls
        if self._stream is not None:
            self._stream.delta(replace(delta, text=text, reasoning=reasoning))
        if self._on_progress is not None and now - self._told_at >= PROGRESS_EVERY_SECONDS:
            self._told_at = now
            self._on_progress(self.tokens)

    def whole(self, result: GenerationResult) -> GenerationResult:
        """The provider's result, under the caller's id and with the times measured here.

        Raises ValueError for tool calls that no task's status takes.
        """
        return replace(
            result,
            id=self.request.id,
            text=_clean(result.text),
            timings=self._timings(),
            tool_calls=read_calls([asdict(call) for call in result.tool_calls]),
            reasoning=_clean(result.reasoning),
        )

    def partial(self) -> GenerationResult:
        """What there is of a call that was ended early. Its prompt's tokens are estimated, once it was sent."""
        return GenerationResult(
            id=self.request.id,
            text="".join(self._text),
            finish_reason="Cancelled",
            usage=Usage(self._input_tokens() if self.sent else 0, 0, self.tokens),
            timings=self._timings(),
            tool_calls=tuple(self._tool_calls),
            reasoning="".join(self._reasoning),
        )

    def at_most_tokens(self) -> int:
        """An estimate of what it may cost: the input, and what the result may have."""
        request = self.request
        most = request.parameters.max_tokens if isinstance(request, Generate) and request.count is None else None
        return self._input_tokens() + (most or 0)

    def so_far_tokens(self) -> int:
        """An estimate of what it has cost, where the provider does not say."""
        return self._input_tokens() + self.tokens

    def _input_tokens(self) -> int:
        request = self.request
        if isinstance(request, Generate) and request.count is not None:
            return 0
        if isinstance(request, Embed):
            chars = sum(map(len, request.input))
        else:
            chars = len(request.prompt or "") + len(request.json_schema or "")
            for message in request.messages:
                chars += len(message.content) + sum(len(call.arguments) for call in message.tool_calls)
            chars += sum(len(tool.description) + len(tool.parameters) for tool in request.tools)
        return -(-chars // CHARS_PER_TOKEN)

    def _timings(self) -> Timings:
        now = self._monotonic()
        first = now if self._first is None else self._first
        return Timings(0, _ms(first - self._begun), _ms(now - self._begun))


def _clean(text: str) -> str:
    """JSON can carry halves of surrogate pairs, which nobody can encode."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
