"""One generation on its way through the decode loop: the job as it comes in, the sequence it becomes."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.protocol import (
    Event,
    FinishReason,
    GenerationResult,
    Parameters,
    Progress,
    Timings,
    Usage,
)
from headrace_runner.engine.sampling import SamplerChain
from headrace_runner.engine.text import CompletionText

PROGRESS_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """A prepared request. ``key`` identifies it to ``abort``; ``emit`` is called on the decode thread.

    ``submitted`` is a reading of the monotonic clock.
    """

    key: Hashable
    id: str
    tokens: list[int]
    parameters: Parameters
    constraint: Constraint | None
    emit: Callable[[Event], None]
    submitted: float


class Sequence:
    """A job that has a place in the KV cache.

    ``decoded`` counts the tokens whose KV exists; ``pending`` is the sampled token that the next step decodes. While
    the prompt is being decoded ``pending`` is None.
    """

    def __init__(self, job: Job, seq_id: int, chain: SamplerChain, context_tokens: int) -> None:
        self.job = job
        self.seq_id = seq_id
        self.chain = chain
        self.decoded = 0
        self.pending: int | None = None
        # The grammar alone decides where a document ends: a stop string could cut it open.
        self.text = CompletionText(() if job.constraint is not None else job.parameters.stop)
        self.completion_tokens = 0
        room = context_tokens - len(job.tokens)
        self.token_budget = min(job.parameters.max_tokens or room, room)
        self._started = self._told = time.monotonic()
        self._first_token: float | None = None

    def count_token(self) -> None:
        """Count a sampled token that belongs to the completion."""
        self.completion_tokens += 1
        if self._first_token is None:
            self._first_token = time.monotonic()

    def tell_progress(self) -> None:
        """Emit progress where the last one is half a second old."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self.job.emit(Progress(self.job.id, self.completion_tokens))

    def result(self, finish_reason: FinishReason) -> GenerationResult:
        """Give the event that ends this generation."""
        now = time.monotonic()
        first_token = now if self._first_token is None else self._first_token
        return GenerationResult(
            id=self.job.id,
            text=self.text.settled() if finish_reason == "Cancelled" else str(self.text),
            finish_reason=finish_reason,
            usage=Usage(len(self.job.tokens), 0, self.completion_tokens),
            timings=Timings(
                queued_ms=_milliseconds(self._started - self.job.submitted),
                first_token_ms=_milliseconds(first_token - self._started),
                generation_ms=_milliseconds(now - self._started),
            ),
            enforcement=None if self.job.constraint is None else "Grammar",
        )


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
