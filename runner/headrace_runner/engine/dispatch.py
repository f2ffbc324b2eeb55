"""Which of a model's contexts a request is for: one generates text, one makes embeddings; a model may lack either."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from headrace_runner.engine.counting import Counter
from headrace_runner.engine.embedding import EmbeddingJob, EmbeddingLoop
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.loop import DecodeLoop
from headrace_runner.engine.preparation import Preparation
from headrace_runner.engine.protocol import Generate, GenerationResult, Reason, Refusal
from headrace_runner.engine.sequence import Job

if TYPE_CHECKING:
    from headrace_runner.engine.server import Connection


class Dispatch:
    """Looks like one loop to the server."""

    def __init__(
        self,
        preparation: Preparation | None,
        decode_loop: DecodeLoop | None,
        embedding_loop: EmbeddingLoop | None,
        counter: Counter,
    ) -> None:
        self._counter = counter
        self._preparation = preparation
        self._decode_loop = decode_loop
        self._embedding_loop = embedding_loop

    @property
    def loops(self) -> Sequence[DecodeLoop | EmbeddingLoop]:
        """Those that there are; each runs in a thread of its own."""
        return [loop for loop in (self._decode_loop, self._embedding_loop) if loop is not None]

    @property
    def max_waiting(self) -> int:
        return sum(loop.max_waiting for loop in self.loops)

    def prepare(self, connection: "Connection", request: Generate | Embed) -> Job | EmbeddingJob | GenerationResult:
        """Make the job, or the answer where none is needed. Raises Refusal, ModelNotCapable among them; blocks."""
        if isinstance(request, Generate) and request.count is not None:
            return self._counter.count(request)
        if isinstance(request, Embed):
            if self._embedding_loop is None:
                raise Refusal(Reason.MODEL_NOT_CAPABLE, "the model's capabilities do not name Embedding")
            return self._embedding_loop.prepare((connection.number, request.id), request, connection.emit_from_thread)
        if self._preparation is None:
            raise Refusal(Reason.MODEL_NOT_CAPABLE, "the model's capabilities name neither Chat nor Completion")
        return self._preparation.prepare(connection, request)

    def submit(self, job: Job | EmbeddingJob) -> None:
        """Queue a job with its loop. Raises Refusal."""
        if isinstance(job, EmbeddingJob):
            if self._embedding_loop is not None:
                self._embedding_loop.submit(job)
        elif self._decode_loop is not None:
            self._decode_loop.submit(job)

    def abort(self, key: Hashable) -> None:
        """End a job; only one of the loops knows it."""
        for loop in self.loops:
            loop.abort(key)

    def warm_up(self) -> None:
        """Do ahead of the first request what it would wait for."""
        if self._preparation is not None:
            self._preparation.warm_up()

    def stop(self) -> None:
        """Have every loop end."""
        for loop in self.loops:
            loop.stop()
