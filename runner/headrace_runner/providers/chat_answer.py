"""A chat completion while its chunks come, and the result that they make together.

https://platform.openai.com/docs/api-reference/chat-streaming; the SDK's ``types/chat/chat_completion_chunk.py``.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Delta, Enforcement, Generate, GenerationResult, Timings, Usage
from headrace_runner.providers.answer_errors import invalid
from headrace_runner.providers.chat_choices import Choice
from headrace_runner.providers.protocol import Fault, ProviderError

_CUT: Final = "the connection ended before the answer did; another try may go better"
_REFUSED: Final = "the model or the provider's filter refuses this content: change the input"


class ChatAnswer:
    """Made when the request is sent, since its timings count from there. ``push`` takes chunks as parsed JSON."""

    def __init__(
        self,
        request: Generate,
        enforcement: Enforcement | None,
        on_delta: Callable[[Delta], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._enforcement = enforcement
        self._on_delta = on_delta
        self._clock = clock
        self._begun = clock()
        self._first: float | None = None
        self._choices = [Choice() for _ in range(request.parameters.n or 1)]
        self._usage: Usage | None = None
        self.chunks = 0

    def push(self, chunk: object) -> None:
        """Take a chunk, or a whole completion that was not streamed. Raises ProviderError."""
        if not isinstance(chunk, Mapping):
            raise invalid("a chunk is no object")
        self.chunks += 1
        if isinstance(usage := chunk.get("usage"), Mapping):
            self._usage = read_usage(usage)
        choices = chunk.get("choices") or ()
        if not isinstance(choices, (list, tuple)):
            raise invalid("choices is no list")
        for piece in choices:
            if not isinstance(piece, Mapping):
                raise invalid("a choice is no object")
            self._push_choice(piece)

    def result(self, *, ended: bool = False) -> GenerationResult:
        """The whole answer; ``ended``: the API said by other means than a finish_reason that nothing follows.

        Raises ProviderError: for a cut, for refused content (with its usage: it is charged), for too few completions.
        """
        usage = self._usage
        if any(choice.refused for choice in self._choices):
            # Without the model's own words of refusal: they repeat what was asked.
            raise ProviderError(Fault.TERMINAL, Reason.CONTENT_REFUSED, _REFUSED, usage=usage)
        first, *others = self._choices
        if first.finish is None and not (ended and first.tokens):
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE, _CUT, usage=usage)
        for other in others:
            if other.finish is None and not (ended and other.tokens):
                missing = "parameters.n: the provider gave fewer completions than were asked for: leave it out"
                raise ProviderError(Fault.TERMINAL, Reason.INVALID_PARAMETERS, missing, usage=usage)
        if first.finish is None:
            first.settle()
        with_logprobs = self._request.parameters.logprobs is not None
        completion = first.completion(with_logprobs=with_logprobs)
        ended_at = self._clock()
        return GenerationResult(
            id=self._request.id,
            text=completion.text,
            finish_reason=completion.finish_reason,
            usage=usage or Usage(0, 0, sum(choice.tokens for choice in self._choices)),
            timings=Timings(0, _millis((self._first or ended_at) - self._begun), _millis(ended_at - self._begun)),
            enforcement=self._enforcement,
            logprobs=completion.logprobs,
            alternatives=tuple(other.completion(with_logprobs=with_logprobs) for other in others),
            tool_calls=completion.tool_calls,
            reasoning=completion.reasoning,
        )

    def _push_choice(self, piece: Mapping[str, Any]) -> None:
        index = piece.get("index") or 0
        if not isinstance(index, int) or not 0 <= index < len(self._choices):
            raise invalid("a choice has an index that was not asked for")
        choice = self._choices[index]
        text, reasoning, calls = choice.push(piece)
        if text or reasoning or calls:
            self._first = self._first or self._clock()
            self._on_delta(Delta(self._request.id, text, choice.tokens, index, reasoning, calls))


def read_usage(usage: Mapping[str, Any]) -> Usage:
    """The object ``usage`` of an answer; what it does not say is 0."""
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(prompt, min(cached, prompt), completion, min(reasoning, completion))


def _count(value: object, name: str) -> int:
    count = value.get(name) if isinstance(value, Mapping) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0


def _millis(seconds: float) -> int:
    return max(0, round(seconds * 1000))
