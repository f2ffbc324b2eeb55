"""One request in the decode loop: its sequences, one for each completion, and what its runner is told."""

import time
from typing import Final

from headrace_runner.engine.protocol import (
    Delta,
    Failure,
    FinishReason,
    GenerationResult,
    Progress,
    Refusal,
    Timings,
    Usage,
)
from headrace_runner.engine.sequence import Job, Sequence

PROGRESS_SECONDS: Final = 0.5


class Generation:
    """A request that has begun. ``reserved`` are the places of completions that wait for the prompt's end."""

    def __init__(self, job: Job, sequences: list[Sequence]) -> None:
        self.job = job
        self.sequences = sequences
        self.reserved: list[int] = []
        self.cached_tokens = 0
        self._started = self._told = time.monotonic()
        self._first_token: float | None = None

    @property
    def waits_to_fork(self) -> bool:
        """Whether the prompt's end, at which the further completions begin, is still to come."""
        return len(self.sequences) > 1 and self._first_token is None

    @property
    def has_ended(self) -> bool:
        """Whether all completions have."""
        return all(sequence.finish_reason for sequence in self.sequences)

    def tell(self, sequence: Sequence) -> None:
        """Emit the text that a step added to a sequence, and progress where the last is half a second old."""
        now = time.monotonic()
        if self._first_token is None:
            self._first_token = now
        if self.job.stream:
            added, (reasoning, calls) = sequence.text.take(), sequence.text.take_parts()
            if added or reasoning or calls:
                index, tokens = sequence.index, sequence.completion_tokens
                self.job.emit(Delta(self.job.id, added, tokens, index, reasoning, calls))
        if now - self._told >= PROGRESS_SECONDS and sequence.finish_reason is None:
            self._told = now
            self.job.emit(Progress(self.job.id, self._completion_tokens()))

    def end(self, finish_reason: FinishReason | None = None) -> None:
        """Emit the result; sequences that have not ended do so for ``finish_reason``."""
        now = time.monotonic()
        first_token = now if self._first_token is None else self._first_token
        first, *others = (sequence.completion(finish_reason) for sequence in self.sequences)
        result = GenerationResult(
            id=self.job.id,
            text=first.text,
            finish_reason=finish_reason or first.finish_reason,
            usage=Usage(len(self.job.tokens), self.cached_tokens, self._completion_tokens()),
            timings=Timings(
                queued_ms=_milliseconds(self._started - self.job.submitted),
                first_token_ms=_milliseconds(first_token - self._started),
                generation_ms=_milliseconds(now - self._started),
            ),
            enforcement=None if self.job.constraint is None else self.job.constraint.enforcement,
            complete=self.job.constraint is not None and self.job.constraint.is_complete(),
            logprobs=first.logprobs,
            alternatives=tuple(others),
            tool_calls=first.tool_calls,
            reasoning=first.reasoning,
        )
        self.job.emit(result)

    def fail(self, refusal: Refusal) -> None:
        """Emit a failure."""
        self.job.emit(Failure(self.job.id, refusal.reason, refusal.message, refusal.retryable))

    def _completion_tokens(self) -> int:
        return sum(sequence.completion_tokens for sequence in self.sequences)


def never_begun(request_id: str, *, prompt_tokens: int = 0, queued_seconds: float = 0.0) -> GenerationResult:
    """The event that ends a generation which was aborted before it had a sequence."""
    return GenerationResult(
        id=request_id,
        text="",
        finish_reason="Cancelled",
        usage=Usage(prompt_tokens, 0, 0),
        timings=Timings(_milliseconds(queued_seconds), 0, 0),
    )


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
