"""Embeddings in a context of their own: texts of several requests share a batch, and a vector for each comes out.

llama.cpp fixes how token vectors are pooled when a context is made, and asserts that a text fits into one batch: a
context that generates can do neither. Only this module's thread touches this one.
"""

import collections
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import llama_cpp.llama_cpp as llama
import numpy as np

from headrace_runner.engine.embedding_request import Embed, document
from headrace_runner.engine.failures import EngineRefusal
from headrace_runner.engine.generation import never_begun
from headrace_runner.engine.header import ModelHeader
from headrace_runner.engine.heartbeat import Heartbeat
from headrace_runner.engine.memory import embedding_tokens
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.native import set_context_parameters
from headrace_runner.engine.protocol import (
    Event,
    Failure,
    GenerationResult,
    Progress,
    Reason,
    Refusal,
    Timings,
    Usage,
)
from headrace_runner.engine.settings import EngineSettings

MAX_SEQUENCES: Final = 64
"""Texts of one batch."""
MAX_WAITING: Final = 64
_POOLING: Final = {"Mean": 1, "CLS": 2, "Last": 3}
_RANK: Final = 4
_PROGRESS_SECONDS: Final = 0.5

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(eq=False)
class EmbeddingJob:
    """One request, its texts as tokens."""

    key: Hashable
    id: str
    inputs: Sequence[Sequence[int]]
    emit: Callable[[Event], None]
    submitted: float
    started: float | None = None
    told: float = 0.0
    given: int = 0
    vectors: dict[int, Vector] = field(default_factory=dict)


class EmbeddingLoop:
    """Works on jobs in turns, text by text. ``run`` is the thread's body and returns after ``stop``."""

    def __init__(
        self, model: LoadedModel, header: ModelHeader, settings: EngineSettings, heartbeat: Heartbeat | None
    ) -> None:
        """Make the context. Raises EngineRefusal: InvalidSettings, ContextTooLarge.

        ``heartbeat`` is None where another thread's tells that this process lives.
        """
        self.max_waiting = MAX_WAITING
        self.input_tokens = embedding_tokens(header, settings)
        self._model = model
        self._heartbeat = heartbeat
        self._context = _create_context(model, header, settings, self.input_tokens)
        self._length = int(llama.llama_model_n_embd_out(model.native))
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(self.input_tokens, 0, 1)
        self._changed = threading.Condition()
        self._waiting: collections.deque[EmbeddingJob] = collections.deque()
        self._aborted: set[Hashable] = set()
        self._stopping = False

    def prepare(self, key: Hashable, request: Embed, emit: Callable[[Event], None]) -> EmbeddingJob:
        """Tokenize a request. Raises Refusal: ContextLengthExceeded, InvalidParameters."""
        received = time.monotonic()
        inputs = []
        for index, text in enumerate(request.input):
            # Some tokenizers of llama.cpp are quadratic: what can never fit is not tokenized.
            least = len(text.encode()) // max(1, self._model.longest_token_bytes)
            tokens = self._model.words.tokenize_plain(text) if least <= self.input_tokens else []
            count = len(tokens) or least
            if count > self.input_tokens:
                message = f"embed.input[{index}] has {count} tokens, an input can have {self.input_tokens}: split it"
                raise Refusal(Reason.CONTEXT_LENGTH_EXCEEDED, message)
            if not tokens:
                raise Refusal(Reason.INVALID_PARAMETERS, f"embed.input[{index}] holds no token")
            inputs.append(tokens)
        return EmbeddingJob(key, request.id, inputs, emit, received)

    def submit(self, job: EmbeddingJob) -> None:
        """Queue a job. Raises Refusal with EngineOverloaded or EngineStopping; both are retryable."""
        with self._changed:
            if self._stopping:
                raise Refusal(Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True)
            if len(self._waiting) >= self.max_waiting:
                message = f"{len(self._waiting)} requests for embeddings wait already"
                raise Refusal(Reason.ENGINE_OVERLOADED, message, retryable=True)
            self._waiting.append(job)
            self._changed.notify()

    def abort(self, key: Hashable) -> None:
        """End a job before the next batch. Unknown keys are ignored."""
        with self._changed:
            self._aborted.add(key)
            self._changed.notify()

    def stop(self) -> None:
        """End ``run`` after the current batch; what is left emits a Failure with reason EngineStopping."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def run(self) -> None:
        """Work until ``stop``. Raises RuntimeError where llama.cpp is beyond repair: let the process die then."""
        while (batch := self._next_batch()) is not None:
            if self._heartbeat is not None:
                self._heartbeat.busy() if batch else self._heartbeat.idle()
            if batch:
                self._compute(batch)
        for job in self._waiting:
            job.emit(Failure(job.id, Reason.ENGINE_STOPPING, "the engine is stopping", retryable=True))

    def _next_batch(self) -> list[tuple[EmbeddingJob, int]] | None:
        """Take texts from the jobs in turns while there is room; empty where there is none to take, None at a stop."""
        with self._changed:
            if not (self._waiting or self._aborted or self._stopping) and self._heartbeat is None:
                self._changed.wait()
            elif not (self._waiting or self._aborted or self._stopping):
                self._changed.wait(timeout=1.0)
            if self._stopping:
                return None
            aborted, self._aborted = self._aborted, set()
            ended = [job for job in self._waiting if job.key in aborted]
            self._waiting = collections.deque(job for job in self._waiting if job.key not in aborted)
            batch: list[tuple[EmbeddingJob, int]] = []
            room = self.input_tokens
            while self._waiting and len(batch) < MAX_SEQUENCES:
                job = self._waiting[0]
                if len(job.inputs[job.given]) > room:
                    break
                self._waiting.popleft()
                batch.append((job, job.given))
                room -= len(job.inputs[job.given])
                job.given += 1
                if job.given < len(job.inputs):
                    self._waiting.append(job)
        for job in ended:
            job.emit(never_begun(job.id, queued_seconds=time.monotonic() - job.submitted))
        return batch

    def _compute(self, batch: list[tuple[EmbeddingJob, int]]) -> None:
        native = self._batch
        native.n_tokens = 0
        for sequence, (job, index) in enumerate(batch):
            for position, token in enumerate(job.inputs[index]):
                row = native.n_tokens
                native.token[row] = token
                native.pos[row] = position
                native.n_seq_id[row] = 1
                native.seq_id[row][0] = sequence
                native.logits[row] = 1
                native.n_tokens += 1
        began = time.monotonic()
        if self._memory:
            llama.llama_memory_clear(self._memory, True)
            code = llama.llama_decode(self._context, native)
        else:
            code = llama.llama_encode(self._context, native)
        if code != 0:
            raise RuntimeError(f"llama.cpp gave no embeddings: {code}")
        for sequence, (job, index) in enumerate(batch):
            job.started = began if job.started is None else job.started
            job.vectors[index] = self._vector(sequence)
            if len(job.vectors) == len(job.inputs):
                job.emit(_result(job, self._length))
            elif time.monotonic() - job.told >= _PROGRESS_SECONDS:
                job.told = time.monotonic()
                job.emit(Progress(job.id, 0))

    def _vector(self, sequence: int) -> Vector:
        pointer = llama.llama_get_embeddings_seq(self._context, sequence)
        if not pointer:
            raise RuntimeError("llama.cpp gave no embedding for a text")
        vector: Vector = np.ctypeslib.as_array(pointer, shape=(self._length,)).astype(np.float32)
        # Of length 1, as OpenAI's are: a dot product is the cosine.
        norm = float(np.linalg.norm(vector))
        return vector / np.float32(norm) if norm > 0 else vector


def _create_context(model: LoadedModel, header: ModelHeader, settings: EngineSettings, tokens: int) -> Any:
    if header.pooling == _RANK and settings.pooling is None:
        raise EngineRefusal("InvalidSettings", "the model is a reranker and gives no embeddings")
    parameters = llama.llama_context_default_params()
    set_context_parameters(parameters, settings)
    # The cache is emptied after every batch, and its precision is the vectors'.
    parameters.type_k = parameters.type_v = 1
    parameters.embeddings = True
    parameters.pooling_type = _POOLING[settings.pooling] if settings.pooling else header.pooling or _POOLING["Mean"]
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = tokens
    parameters.n_seq_max = MAX_SEQUENCES
    parameters.kv_unified = True
    context = llama.llama_init_from_model(model.native, parameters)
    if not context:
        raise EngineRefusal("ContextTooLarge", f"no memory for embeddings of {tokens} tokens: {model.last_error()}")
    model.adapters.apply(context)
    return context


def _result(job: EmbeddingJob, length: int) -> GenerationResult:
    now = time.monotonic()
    started = now if job.started is None else job.started
    vectors = b"".join(job.vectors[index].astype("<f4").tobytes() for index in range(len(job.inputs)))
    spent_ms = round((now - started) * 1000)
    return GenerationResult(
        id=job.id,
        text=document(vectors, len(job.inputs), length),
        finish_reason="Stop",
        usage=Usage(sum(len(tokens) for tokens in job.inputs), 0, 0),
        timings=Timings(round((started - job.submitted) * 1000), spent_ms, spent_ms),
    )
