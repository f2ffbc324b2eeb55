"""Who has a place in the KV cache: admission, preemption, forks and shared prefixes.

For the decode thread alone. A sequence is admitted when its tokens fit with some room to grow, not when its longest
text would: most end earlier. When cells run out after all, kept prefixes go first, then the youngest sequence loses its
place and waits for another; what it has drawn stays, so that its text goes on where it was.
"""

import bisect
import heapq
from typing import Final

from headrace_runner.engine.generation import Generation
from headrace_runner.engine.kv_cache import KvCache
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.prefixes import LEAST_TOKENS, Scope, Tokens, common_length
from headrace_runner.engine.protocol import Reason, Refusal
from headrace_runner.engine.sequence import Job, Sequence

_ROOM_TO_GROW: Final = 32
MAX_LOGPROBS: Final = 32 * 1024
"""So many logarithms a result may hold: its frame is bounded."""


class Places:
    """The places of one cache of ``cells`` cells. ``live`` are the sequences that have one, the oldest first."""

    def __init__(self, model: LoadedModel, cells: int) -> None:
        if cells < model.context_tokens:
            raise ValueError(f"{cells} cells do not hold one sequence of {model.context_tokens} tokens")
        self.cache = KvCache(model, cells)
        self.live: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self.preemptions = 0
        self._model = model
        self._free = list(range(model.parallelism))

    def check_fits(self, job: Job) -> None:
        """Raises Refusal with InvalidParameters for what never fits, however long it waits."""
        n, parallelism, total = job.completions, self._model.parallelism, self.cache.ledger.total
        if n > parallelism:
            raise _invalid(f"n is {n}, but the model runs {parallelism} sequences at once (parallelism)")
        budget = job.token_budget(self._model.context_tokens)
        needed = len(job.tokens) + n * budget
        if needed > total:
            message = (
                f"a prompt of {len(job.tokens)} tokens and {n} completions of {budget} need {needed} cells of the KV "
                f"cache, which has {total}"
            )
            raise _invalid(message)
        beyond = next((token for token, _ in job.parameters.logit_bias if token >= self._model.vocab_size), None)
        if beyond is not None:
            raise _invalid(f"logitBias: token {beyond} is beyond the vocabulary of {self._model.vocab_size}")
        if job.parameters.logprobs is not None:
            count = n * budget * (1 + job.parameters.logprobs)
            if count > MAX_LOGPROBS:
                raise _invalid(f"logprobs: {count} may come of this, at most {MAX_LOGPROBS}: lower maxTokens or n")

    def has_room_for(self, completions: int) -> bool:
        """Whether so many sequences could begin, as far as their number goes."""
        kept = 0 if self.cache.unified else len(self.cache.prefixes)
        return len(self._free) + kept >= completions

    def place(self, sequence: Sequence, generation: Generation) -> bool:
        """Give a sequence a place, with those of the forks that are to come; False where it has to wait."""
        forks = len(generation.sequences) - 1 if generation.waits_to_fork else 0
        if not self.has_room_for(1 + forks):
            return False
        tokens = sequence.token_array()
        if not self.live and (sequence.job.parameters.seed is not None or not len(self.cache.prefixes)):
            # The same seed gives the same text on an idle engine: whatever ran before leaves no trace.
            self.forget_all()
        kept, leader, shared = self._longest_shared(sequence.job.scope, tokens)
        grows = (1 + forks) * min(_ROOM_TO_GROW, sequence.token_budget - sequence.completion_tokens)
        promised = sum(each.lacking for each in self.live)
        # With streams of their own all have room for their longest text.
        if self.cache.unified and not self.cache.make_room(promised + len(tokens) - shared + grows, besides=kept):
            return False
        taken_over = kept is not None and not self.cache.unified and self._may_take_over(kept, shared)
        if kept is not None and taken_over:
            self.cache.take_over(kept, shared)
        sequence.seq_id = kept if taken_over else self._next_free(besides=kept)
        bisect.insort(self.live, sequence, key=_by_age)
        if leader is not None:
            sequence.follows = leader, shared
        elif kept is not None:
            self._take(sequence, generation, kept, shared)
        generation.reserved = [self._next_free() for _ in range(forks)]
        # Nobody comes after a request without a scope: what it began with is of no use to keep.
        if self.cache.shares_prefixes and not sequence.completion_tokens and sequence.job.cache_scope is not None:
            sequence.keeps = self.cache.prefixes.note(sequence.job.scope, tokens)
        return True

    def follow(self, generations: dict[Sequence, Generation]) -> None:
        """Let sequences share what others have decoded for them meanwhile."""
        for sequence in self.live:
            if sequence.follows is None:
                continue
            leader, shared = sequence.follows
            if leader.seq_id is None:
                # It ended or lost its place; what it left may be kept.
                found = self.cache.prefixes.find(sequence.job.scope, sequence.token_array())
                sequence.follows = None
                if found is not None:
                    self._take(sequence, generations[sequence], found[0], min(found[1], len(sequence.tokens) - 1))
            elif leader.decoded >= shared:
                sequence.follows = None
                self._take(sequence, generations[sequence], leader.seq_id, shared)

    def keep_prefix(self, sequence: Sequence) -> None:
        """Keep the beginning that two prompts had, as soon as it is decoded."""
        if self.cache.unified and sequence.keeps and sequence.decoded >= sequence.keeps:
            self.cache.keep(sequence.job.scope, sequence.holder, sequence.token_array()[: sequence.keeps])
            sequence.keeps = 0

    def fork(self, generation: Generation) -> None:
        """At the prompt's end: give the further completions their places, sharing the prompt."""
        first, *others = generation.sequences
        for sequence in others:
            sequence.seq_id = generation.reserved.pop(0)
            self.cache.copy(first.holder, sequence.seq_id, first.decoded)
            sequence.decoded = first.decoded
            bisect.insort(self.live, sequence, key=_by_age)

    def preempt_youngest(self, generations: dict[Sequence, Generation]) -> None:
        """Take the place of the youngest sequence. Raises RuntimeError where it is the only one."""
        if len(self.live) < 2:
            raise RuntimeError("one sequence alone finds no room in the KV cache: the ledger is wrong")
        youngest = self.live[-1]
        self.leave(youngest, generations[youngest])
        bisect.insort(self.preempted, youngest, key=_by_age)
        self.preemptions += 1

    def leave(self, sequence: Sequence, generation: Generation, *, trusted: bool = True) -> None:
        """Take a sequence's place, if it has one, but for a beginning that others will ask for.

        Raises LedgerMismatch where llama.cpp held other cells of it.
        """
        if sequence in self.preempted:
            self.preempted.remove(sequence)
        if sequence.seq_id is None:
            return
        freed = generation.reserved if sequence is generation.sequences[0] else []
        if sequence is generation.sequences[0]:
            generation.reserved = []
        keeps = sequence.keeps if trusted and sequence.decoded >= sequence.keeps else 0
        beginning = sequence.prompt[:keeps]
        if not keeps or not self.cache.leave_behind(sequence.job.scope, sequence.seq_id, beginning):
            self.cache.remove(sequence.seq_id, trusted=trusted)
            freed = [*freed, sequence.seq_id]
        self.live.remove(sequence)
        for seq_id in freed:
            heapq.heappush(self._free, seq_id)
        sequence.lose_place()

    def _may_take_over(self, kept: int, shared: int) -> bool:
        """Whether a kept prefix's stream may become a sequence's own: what lies beyond ``shared`` is lost to others."""
        return self.cache.prefixes.length(kept) == shared or not (self._free or len(self.cache.prefixes) > 1)

    def _next_free(self, besides: int | None = None) -> int:
        if not self._free:
            evicted = self.cache.prefixes.evict(besides)
            if evicted is None:
                raise RuntimeError("no sequence is free, against what was counted")
            self.cache.remove(evicted)
            return evicted
        return heapq.heappop(self._free)

    def forget_all(self) -> None:
        """Give up kept prefixes while nobody has a place: the next token goes into the first cell again."""
        evicted = self.cache.clear()
        if not self.cache.unified:
            for seq_id in evicted:
                heapq.heappush(self._free, seq_id)

    def _longest_shared(self, scope: Scope, tokens: Tokens) -> tuple[int | None, Sequence | None, int]:
        """Who of the scope has the longest beginning of ``tokens``; its length.

        That is a kept prefix, or a sequence that has the beginning or will.
        """
        if not self.cache.shares_prefixes:
            return None, None, 0
        # The last token is decoded for each: its logits are what the next one is drawn from.
        most = len(tokens) - 1
        kept, shared = self.cache.prefixes.find(scope, tokens) or (None, 0)
        shared, leader = min(shared, most), None
        for each in (live for live in self.live if live.job.scope == scope):
            common = min(common_length(each.prompt, tokens), most)
            if common >= LEAST_TOKENS and common > shared:
                kept, leader, shared = None, each, common
        return kept, leader, shared

    def _take(self, sequence: Sequence, generation: Generation, source: int, count: int) -> None:
        if source != sequence.seq_id:
            self.cache.copy(source, sequence.holder, count)
        sequence.decoded = count
        if not sequence.completion_tokens:
            generation.cached_tokens = count


def _by_age(sequence: Sequence) -> tuple[int, int]:
    return sequence.arrival


def _invalid(message: str) -> Refusal:
    return Refusal(Reason.INVALID_PARAMETERS, message)
