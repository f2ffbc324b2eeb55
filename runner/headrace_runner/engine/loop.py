"""The decode loop: continuous batching over llama.cpp in one thread.

Every step decodes one token of each running sequence and, in the room that is left, chunks of new prompts. Sequences
join and leave between steps. Only this thread touches the llama.cpp context; others talk to it by ``submit`` and
``abort``, and it talks back through ``Job.emit``.
"""

import collections
import threading
import time
from collections.abc import Hashable
from typing import Final

import llama_cpp.llama_cpp as llama

from headrace_runner.engine.batch import TokenBatch
from headrace_runner.engine.heartbeat import Heartbeat
from headrace_runner.engine.model import BATCH_TOKENS, LoadedModel
from headrace_runner.engine.protocol import Failure, FinishReason, Reason, Refusal
from headrace_runner.engine.sampling import SamplerChain
from headrace_runner.engine.sequence import Job, Sequence, never_begun

MAX_FAILED_STEPS: Final = 3
_NO_SLOT: Final = 1


class DecodeLoop:
    """Runs jobs on one model. ``run`` is the thread's body and returns after ``stop``."""

    def __init__(self, model: LoadedModel, heartbeat: Heartbeat) -> None:
        self.max_waiting = max(64, 4 * model.parallelism)
        self._model = model
        self._heartbeat = heartbeat
        self._memory = llama.llama_get_memory(model.context)
        self._batch = TokenBatch(BATCH_TOKENS)
        self._free = list(range(model.parallelism - 1, -1, -1))
        self._running: list[Sequence] = []
        self._failed_steps = 0
        # What other threads touch, under the condition's lock.
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()
        self._aborted: set[Hashable] = set()
        self._stopping = False

    def warm_up(self) -> None:
        """Decode once, so that a build which does not fit this CPU fails before anybody connects."""
        self._batch.clear()
        for position in range(8):
            self._batch.add(min(position, self._model.vocab_size - 1), position, 0, wants_logits=position == 7)
        code = llama.llama_decode(self._model.context, self._batch.native)
        if code != 0:
            raise RuntimeError(f"llama_decode failed with {code} at warm-up")
        llama.llama_memory_clear(self._memory, True)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Refusal with EngineOverloaded or EngineStopping; both are retryable."""
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
        """Work until ``stop``. Raises RuntimeError where llama.cpp is beyond repair: let the process die then."""
        while self._admit():
            if self._running:
                self._heartbeat.busy()
                self._step()
            if not self._running:
                self._heartbeat.idle()
        for sequence in tuple(self._running):
            self._fail(sequence, Refusal(Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True))
        for job in self._waiting:
            job.emit(Failure(job.id, Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True))

    def _admit(self) -> bool:
        """Apply aborts and give free sequences to waiting jobs; waits where there is nothing to do."""
        with self._changed:
            while not (self._running or self._waiting or self._aborted or self._stopping):
                self._changed.wait()
            if self._stopping:
                return False
            aborted, self._aborted = self._aborted, set()
            dropped = [job for job in self._waiting if job.key in aborted]
            if dropped:
                self._waiting = collections.deque(job for job in self._waiting if job.key not in aborted)
            for sequence in [each for each in self._running if each.job.key in aborted]:
                self._finish(sequence, "Cancelled")
            admitted = [self._waiting.popleft() for _ in range(min(len(self._free), len(self._waiting)))]
        for job in dropped:
            waited_seconds = time.monotonic() - job.submitted
            job.emit(never_begun(job.id, prompt_tokens=len(job.tokens), queued_seconds=waited_seconds))
        for job in admitted:
            chain = SamplerChain(job.parameters, self._model.vocab_size)
            self._running.append(Sequence(job, self._free.pop(), chain, self._model.context_tokens))
        return True

    def _step(self) -> None:
        outputs = self._fill_batch()
        code = llama.llama_decode(self._model.context, self._batch.native)
        if code != 0:
            self._give_up(code, outputs)
            return
        self._failed_steps = 0
        for sequence, added, row in outputs:
            sequence.decoded += added
            if row is None:
                continue
            try:
                finish_reason = self._sample(sequence, row)
            except Refusal as refusal:
                self._fail(sequence, refusal)
                continue
            if finish_reason is None:
                sequence.tell_progress()
            else:
                self._finish(sequence, finish_reason)

    def _fill_batch(self) -> list[tuple[Sequence, int, int | None]]:
        """Fill the batch; gives per sequence the tokens added and the row that has its logits, if any."""
        self._batch.clear()
        outputs: list[tuple[Sequence, int, int | None]] = []
        for sequence in self._running:
            if sequence.pending is not None:
                row = self._batch.add(sequence.pending, sequence.decoded, sequence.seq_id, wants_logits=True)
                outputs.append((sequence, 1, row))
        for sequence in self._running:
            tokens = sequence.job.tokens
            if sequence.pending is not None or not self._batch.room:
                continue
            end = min(sequence.decoded + self._batch.room, len(tokens))
            last_row = None
            for position in range(sequence.decoded, end):
                is_last = position == len(tokens) - 1
                row = self._batch.add(tokens[position], position, sequence.seq_id, wants_logits=is_last)
                last_row = row if is_last else None
            outputs.append((sequence, end - sequence.decoded, last_row))
        return outputs

    def _sample(self, sequence: Sequence, row: int) -> FinishReason | None:
        context, constraint = self._model.context, sequence.job.constraint
        if constraint is not None and not constraint.apply(llama.llama_get_logits_ith(context, row)):
            # Nothing may follow: drawing now would give the vocabulary's last token.
            if constraint.is_complete():
                return "Stop"
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, "the grammar allows no token of this model's vocabulary here")
        token = sequence.chain.sample(context, row)
        if token in self._model.eog_tokens:
            return "Stop"
        sequence.count_token()
        sequence.pending = token
        stopped = sequence.text.push(self._model.piece(token))
        if constraint is not None and constraint.consume(token):
            stopped = True
        if stopped:
            return "Stop"
        return "Length" if sequence.completion_tokens >= sequence.token_budget else None

    def _give_up(self, code: int, outputs: list[tuple[Sequence, int, int | None]]) -> None:
        self._failed_steps += 1
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise RuntimeError(f"llama_decode failed {self._failed_steps} times in a row, last with {code}")
        refusal = Refusal(Reason.DECODE_FAILED, f"llama_decode returned {code}", retryable=True)
        if code == _NO_SLOT:
            # The memory is as before the step, so all but the youngest can go on.
            self._fail(outputs[-1][0], refusal)
            return
        # Parts of the batch may have been decoded: nobody's KV can be trusted.
        for sequence, _, _ in outputs:
            self._fail(sequence, refusal, trusted=False)

    def _finish(self, sequence: Sequence, finish_reason: FinishReason) -> None:
        self._release(sequence)
        sequence.job.emit(sequence.result(finish_reason))

    def _fail(self, sequence: Sequence, refusal: Refusal, *, trusted: bool = True) -> None:
        self._release(sequence, trusted=trusted)
        sequence.job.emit(Failure(sequence.job.id, refusal.reason, refusal.message, refusal.retryable))

    def _release(self, sequence: Sequence, *, trusted: bool = True) -> None:
        last = int(llama.llama_memory_seq_pos_max(self._memory, sequence.seq_id))
        if trusted and last != sequence.decoded - 1:
            raise RuntimeError(f"sequence {sequence.seq_id} ends at {last}, the ledger says {sequence.decoded - 1}")
        if not llama.llama_memory_seq_rm(self._memory, sequence.seq_id, -1, -1):
            raise RuntimeError(f"sequence {sequence.seq_id} cannot be removed from memory")
        sequence.chain.free()
        self._running.remove(sequence)
        self._free.append(sequence.seq_id)
