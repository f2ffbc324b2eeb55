"""One completion on its way through the decode loop: the job as it comes in, the sequence it becomes."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from headrace_runner.engine.answer import Answer
from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.dialects import Reading
from headrace_runner.engine.prefixes import Scope, Tokens
from headrace_runner.engine.protocol import Completion, Event, FinishReason, Parameters, TokenLogprob
from headrace_runner.engine.sampling import SamplerChain
from headrace_runner.engine.text import CompletionText


@dataclass(frozen=True, slots=True)
class Job:
    """A prepared request. ``key`` identifies it to ``abort``; ``emit`` is called on the decode thread.

    ``submitted`` is a reading of the monotonic clock. ``stream`` asks for the text as it grows. ``reading`` tells how
    reasoning and calls stand in the answer; None: it is plain text. ``cache_scope`` is as in ``protocol.Generate``.
    """

    key: Hashable
    id: str
    tokens: list[int]
    parameters: Parameters
    constraint: Constraint | None
    emit: Callable[[Event], None]
    submitted: float
    stream: bool = False
    reading: Reading | None = None
    cache_scope: str | None = None

    @property
    def scope(self) -> Scope:
        """Who may share beginnings with this request; without ``cache_scope`` only its own completions."""
        return ("request", self.key) if self.cache_scope is None else ("scope", self.cache_scope)

    @property
    def completions(self) -> int:
        """How many completions are wanted."""
        return self.parameters.n or 1

    def token_budget(self, context_tokens: int) -> int:
        """How many tokens each completion may have."""
        room = context_tokens - len(self.tokens)
        return min(self.parameters.max_tokens or room, room)


@dataclass(eq=False, slots=True)
class Sequence:
    """One completion. ``tokens`` are the prompt's and those drawn; the first ``decoded`` of them have their KV.

    A sequence that lost its place in the cache keeps everything but ``seq_id`` and goes on where it was, once its
    tokens are decoded again. ``arrival`` orders sequences by age. ``follows`` is another one and how much of its
    beginning this one waits to share. ``keeps`` is how much of the prompt is to be kept for others once it is decoded.
    """

    job: Job
    arrival: tuple[int, int]
    chain: SamplerChain
    constraint: Constraint | None
    token_budget: int
    seq_id: int | None = None
    decoded: int = 0
    completion_tokens: int = 0
    follows: "tuple[Sequence, int] | None" = None
    keeps: int = 0
    finish_reason: FinishReason | None = None
    tokens: list[int] = field(init=False)
    prompt: Tokens = field(init=False)
    text: CompletionText = field(init=False)
    logprobs: list[TokenLogprob] | None = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.job.tokens)
        self.prompt = self.token_array()
        # The grammar alone decides where a document ends: a stop string could cut it open.
        stops = () if self.constraint is not None else self.job.parameters.stop
        self.text = CompletionText(stops) if self.job.reading is None else Answer(self.job.reading, stops)
        self.logprobs = None if self.job.parameters.logprobs is None else []

    @property
    def index(self) -> int:
        """Which of the request's completions this is."""
        return self.arrival[1]

    @property
    def lacking(self) -> int:
        """How many tokens are to be decoded before the next one can be drawn."""
        return len(self.tokens) - self.decoded

    @property
    def holder(self) -> int:
        """The sequence id; only for sequences that have a place."""
        if self.seq_id is None:
            raise ValueError("the sequence has no place in the cache")
        return self.seq_id

    def token_array(self) -> Tokens:
        """Give its tokens so that they are compared fast."""
        return np.array(self.tokens, np.int32)

    def lose_place(self) -> None:
        """What was decoded is gone; what was drawn stays."""
        self.seq_id = self.follows = None
        self.decoded = 0

    def completion(self, finish_reason: FinishReason | None = None) -> Completion:
        """Give what there is, ended for ``finish_reason`` where it has not ended on its own."""
        reason = self.finish_reason or finish_reason or "Cancelled"
        text = self.text.settled() if reason == "Cancelled" else str(self.text)
        if reason == "Stop" and self.text.tool_calls:
            reason = "ToolCalls"
        logprobs = None if self.logprobs is None else tuple(self.logprobs)
        return Completion(text, reason, logprobs, self.text.tool_calls, self.text.reasoning)
