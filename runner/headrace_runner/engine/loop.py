"""The decode loop: continuous batching over llama.cpp in one thread.

Every step decodes one token of each sequence that generates and, in the room that is left, chunks of prompts. Sequences
join and leave between steps. Only this thread touches the llama.cpp context; others talk to it by ``submit`` and
``abort``, and it talks back through ``Job.emit``.
"""

import collections
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.batch import TokenBatch
from headrace_runner.engine.generation import Generation, never_begun
from headrace_runner.engine.heartbeat import Heartbeat
from headrace_runner.engine.model import BATCH_TOKENS, LoadedModel
from headrace_runner.engine.places import Places
from headrace_runner.engine.protocol import Failure, FinishReason, Reason, Refusal
from headrace_runner.engine.sampling import Distribution, SamplerChain
from headrace_runner.engine.schedule import STEADY_CHUNK, StepBudget, share_among_prompts
from headrace_runner.engine.sequence import Job, Sequence

MAX_FAILED_STEPS: Final = 3
_NO_SLOT: Final = 1


@dataclass(slots=True)
class StepTimes:
    """Seconds over all steps: in llama_decode, in masks, in samplers, and altogether. The rest is Python's."""

    steps: int = 0
    decode: float = 0.0
    mask: float = 0.0
    sample: float = 0.0
    total: float = 0.0


class DecodeLoop:
    """Runs jobs on one model. ``run`` is the thread's body and returns after ``stop``.

    ``cells`` is the size of the KV cache where it is to be smaller than all sequences at their longest.
    """

    def __init__(self, model: LoadedModel, heartbeat: Heartbeat, cells: int | None = None) -> None:
        self.max_waiting = max(64, 4 * model.parallelism)
        self.times = StepTimes()
        self.places = Places(model, model.context_tokens * model.parallelism if cells is None else cells)
        self._model = model
        self._heartbeat = heartbeat
        self._batch = TokenBatch(BATCH_TOKENS)
        self._budget = StepBudget(BATCH_TOKENS)
        self._generations: dict[Sequence, Generation] = {}
        self._arrivals = 0
        self._failed_steps = 0
        # What other threads touch, under the condition's lock.
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._aborted: set[Hashable] = set()
        self._stopping = False

    def warm_up(self) -> None:
        """Decode once, so that a build which does not fit this CPU fails before anybody connects."""
        self.places.forget_all()
        self._batch.clear()
        self._batch.add([min(each, self._model.vocab_size - 1) for each in range(8)], 0, 0, wants_logits=True)
        code = llama.llama_decode(self._model.context, self._batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with {code} at warm-up")
        self.places.forget_all()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises Refusal: InvalidParameters for what can never fit, and, retryable, EngineOverloaded or EngineStopping.
        """
        self.places.check_fits(job)
        with self._changed:
            if self._stopping:
                raise Refusal(Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True)
            if len(self._waiting) >= self.max_waiting:
                message = f"{len(self._waiting)} generations wait for a sequence already"
                raise Refusal(Reason.ENGINE_OVERLOADED, message, retryable=True)
            self._waiting.append(job)
            self._changed.notify()

    def abort(self, key: Hashable) -> None:
        """End a job before the next step; it emits what there is of it. Unknown keys are ignored."""
        with self._changed:
            self._aborted.add(key)
            self._changed.notify()

    def stop(self) -> None:
        """End ``run`` after the current step; what is left emits a Failure with reason EngineStopping."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Work until ``stop``. Raises RuntimeError or LedgerMismatch where all is lost: let the process die then."""
        while self._next():
            self._admit()
            if self.places.live:
                self._heartbeat.busy()
                began = time.perf_counter()
                self._step()
                self.times.total += time.perf_counter() - began
                self.times.steps += 1
            if not self._generations:
                self._heartbeat.idle()
        stopping = Refusal(Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True)
        for generation in dict.fromkeys(self._generations.values()):
            self._fail(generation, stopping)
        for job in self._waiting:
            job.emit(Failure(job.id, stopping.reason, stopping.message, stopping.retryable))

    def _next(self) -> bool:
        """Wait for something to do and apply aborts; False when all is to end."""
        with self._changed:
            while not (self._generations or self._waiting or self._aborted or self._stopping):
                self._changed.wait()
            if self._stopping:
                return False
            aborted, self._aborted = self._aborted, set()
            dropped = [job for job in self._waiting if job.key in aborted]
            if dropped:
                self._waiting = collections.deque(job for job in self._waiting if job.key not in aborted)
        for job in dropped:
            waited_seconds = time.monotonic() - job.submitted
            job.emit(never_begun(job.id, prompt_tokens=len(job.tokens), queued_seconds=waited_seconds))
        for generation in dict.fromkeys(self._generations.values()):
            if generation.job.key in aborted:
                self._drop(generation)
                generation.end("Cancelled")
        return True

    def _admit(self) -> None:
        """Give places to who lost theirs, then to who waits, the oldest first; nobody overtakes."""
        for sequence in tuple(self.places.preempted):
            if not self.places.place(sequence, self._generations[sequence]):
                return
            self.places.preempted.remove(sequence)
        # Only this thread takes from the left, so what is first stays first.
        while self._waiting and self.places.has_room_for(self._waiting[0].completions):
            generation = self._begin(self._waiting[0])
            if not self.places.place(generation.sequences[0], generation):
                _free_chains(generation)
                return
            with self._changed:
                self._waiting.popleft()
            self._arrivals += 1
            self._generations.update(dict.fromkeys(generation.sequences, generation))

    def _begin(self, job: Job) -> Generation:
        sequences = []
        budget = job.token_budget(self._model.context_tokens)
        if job.constraint is not None:
            job.constraint.begin(budget)
        for index in range(job.completions):
            constraint = job.constraint if job.constraint is None or index == 0 else job.constraint.fork()
            chain = SamplerChain(job.parameters, self._model.vocab_size, index)
            sequences.append(Sequence(job, (self._arrivals, index), chain, constraint, budget))
        return Generation(job, sequences)

    def _step(self) -> None:
        plan, prompt_tokens = self._plan()
        self._batch.clear()
        rows = []
        for sequence, count in plan:
            tokens = sequence.tokens[sequence.decoded : sequence.decoded + count]
            is_last = count == sequence.lacking
            row = self._batch.add(tokens, sequence.decoded, sequence.holder, wants_logits=is_last)
            if is_last:
                rows.append((sequence, row))
        if (constraint := next((each.constraint for each, _ in plan if each.constraint is not None), None)) is not None:
            # One speaks for all: the masks of the tokens to come are filled while these are decoded.
            constraint.prepare()
        began = time.perf_counter()
        code = llama.llama_decode(self._model.context, self._batch.native)
        seconds = time.perf_counter() - began
        self.times.decode += seconds
        if code != 0:
            self._give_up(code, [sequence for sequence, _ in plan])
            return
        self._failed_steps = 0
        self._budget.observe(prompt_tokens, len(self._batch), seconds)
        for sequence, count in plan:
            self.places.cache.ledger.extend(sequence.holder, count)
            sequence.decoded += count
            self.places.keep_prefix(sequence)
        # Before anybody ends: whoever waits to share a beginning gets it while it is there.
        self.places.follow(self._generations)
        for sequence, row in rows:
            # Another completion of the same request may have failed it meanwhile.
            if sequence in self._generations:
                self._draw(sequence, row)

    def _plan(self) -> tuple[list[tuple[Sequence, int]], int]:
        """What the step decodes of whom, and how much of it is of prompts; makes room for it."""
        while True:
            self.places.follow(self._generations)
            ready = [sequence for sequence in self.places.live if sequence.follows is None]
            plan = [(sequence, 1) for sequence in ready if sequence.lacking == 1]
            prompts = [sequence for sequence in ready if sequence.lacking > 1]
            room = self._room_for_prompts(len(plan))
            chunks = share_among_prompts([sequence.lacking for sequence in prompts], room)
            plan += [(sequence, count) for sequence, count in zip(prompts, chunks, strict=True) if count]
            if self.places.cache.make_room(sum(count for _, count in plan)):
                # Streams side by side are computed at once, but only those that follow one another.
                return sorted(plan, key=lambda each: each[0].holder), sum(chunks)
            self.places.preempt_youngest(self._generations)

    def _room_for_prompts(self, generating: int) -> int:
        if len(self.places.live) == 1 and not self._waiting:
            steady = min(STEADY_CHUNK, self._batch.capacity)
            # Where even this is slow, only a seed is worth it: it asks for the same sums in the same order.
            if self._budget.tokens >= steady or self.places.live[0].job.parameters.seed is not None:
                return steady
        return self._budget.for_prompts(generating)

    def _draw(self, sequence: Sequence, row: int) -> None:
        """Draw the next token of a sequence, and at a prompt's end of all that begin there."""
        generation = self._generations[sequence]
        beginning = [sequence]
        if generation.waits_to_fork:
            self.places.fork(generation)
            beginning = generation.sequences
        try:
            for each in beginning:
                each.finish_reason = self._sample(each, row)
        except Refusal as refusal:
            self._fail(generation, refusal)
            return
        for each in beginning:
            if each.finish_reason is not None:
                each.text.end()
                self._release(each, generation)
            generation.tell(each)
        if generation.has_ended:
            generation.end()

    def _sample(self, sequence: Sequence, row: int) -> FinishReason | None:
        context, constraint, wanted = self._model.context, sequence.constraint, sequence.job.parameters.logprobs
        began = time.perf_counter()
        distribution = None
        if wanted is not None:
            logits = llama.llama_get_logits_ith(context, row)
            distribution = Distribution(logits, self._model.vocab_size, wanted)
        if constraint is not None and not constraint.apply(llama.llama_get_logits_ith(context, row)):
            # Nothing may follow: drawing now would give the vocabulary's last token.
            if constraint.is_complete():
                return constraint.finish_reason
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, "the grammar allows no token of this model's vocabulary here")
        masked = time.perf_counter()
        token = sequence.chain.sample(context, row)
        self.times.mask += masked - began
        self.times.sample += time.perf_counter() - masked
        if token in self._model.eog_tokens:
            return "Stop" if constraint is None else constraint.finish_reason
        sequence.completion_tokens += 1
        sequence.tokens.append(token)
        if distribution is not None and sequence.logprobs is not None:
            sequence.logprobs.append(distribution.describe(token, self._model.piece))
        piece = self._model.piece(token)
        if not piece and sequence.text.reads_marks:
            piece = self._model.marks.get(token, b"")
        stopped = sequence.text.push(piece)
        if constraint is not None and constraint.consume(token):
            return constraint.finish_reason
        if stopped:
            return "Stop"
        return "Length" if sequence.completion_tokens >= sequence.token_budget else None

    def _give_up(self, code: int, planned: list[Sequence]) -> None:
        self._failed_steps += 1
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise RuntimeError(f"llama_decode failed {self._failed_steps} times in a row, last with {code}")
        if code == _NO_SLOT:
            # The memory is as before the step. The ledger promised room; if it knows every position, cells are lost
            # to something else, and who is youngest makes room.
            self.places.cache.check(sequence.holder for sequence in self.places.live)
            self.places.preempt_youngest(self._generations)
            return
        refusal = Refusal(Reason.DECODE_FAILED, f"llama_decode returned {code}", retryable=True)
        # Parts of the batch may have been decoded: the KV of those in it cannot be trusted, that of all others has to.
        for generation in dict.fromkeys(self._generations[sequence] for sequence in planned):
            self._fail(generation, refusal, trusted=False)
        self.places.cache.check(sequence.holder for sequence in self.places.live)

    def _fail(self, generation: Generation, refusal: Refusal, *, trusted: bool = True) -> None:
        self._drop(generation, trusted=trusted)
        generation.fail(refusal)

    def _drop(self, generation: Generation, *, trusted: bool = True) -> None:
        for sequence in generation.sequences:
            if sequence in self._generations:
                self._release(sequence, generation, trusted=trusted)

    def _release(self, sequence: Sequence, generation: Generation, *, trusted: bool = True) -> None:
        self.places.leave(sequence, generation, trusted=trusted)
        sequence.chain.free()
        del self._generations[sequence]


def _free_chains(generation: Generation) -> None:
    for sequence in generation.sequences:
        sequence.chain.free()
