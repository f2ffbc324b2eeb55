"""From a request to a job: conversation → rendered prompt → tokens, schema → grammar."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from headrace_runner.engine.constraint import Constraint
from headrace_runner.engine.grammars import TokenMasks
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.prompting import Prompt, PromptMaker
from headrace_runner.engine.protocol import Generate, Reason, Refusal
from headrace_runner.engine.rendering import TemplateRenderer
from headrace_runner.engine.sequence import Job
from headrace_runner.engine.server import Connection


class Preparation:
    """Prepares requests for one model; thread-safe and blocking: run it in an executor."""

    def __init__(self, model: LoadedModel, renderer: TemplateRenderer) -> None:
        self._model = model
        self._renderer = renderer
        self._prompts = PromptMaker(renderer, model.control_texts())
        model.find_marks(self._prompts.marks)
        self._masks = _Once(model.token_masks)

    @property
    def prompts(self) -> PromptMaker:
        """For who counts what they make."""
        return self._prompts

    def warm_up(self) -> None:
        """Build the token masks ahead of the first request that needs them."""
        self._masks.get()

    def prepare(self, connection: Connection, request: Generate) -> Job:
        """Make the job. Raises Refusal: ChatTemplateFailed, ContextLengthExceeded, InvalidSchema, UnsupportedSchema."""
        received = time.monotonic()
        prompt = self._prompts.make(request)
        # Some tokenizers of llama.cpp are quadratic or recursive: what can never fit is not tokenized.
        size_bytes = sum(len(segment.encode()) for segment in prompt.segments)
        self._check_room(size_bytes // self._model.longest_token_bytes, "at least ")
        tokens = self._model.tokenize(prompt.segments)
        if not tokens:
            raise Refusal(Reason.INVALID_PARAMETERS, "the prompt is empty")
        self._check_room(len(tokens), "")
        return Job(
            key=(connection.number, request.id),
            id=request.id,
            tokens=tokens,
            parameters=request.parameters,
            constraint=self._constraint(request, prompt),
            emit=connection.emit_from_thread,
            submitted=received,
            stream=request.stream,
            reading=prompt.reading,
            cache_scope=request.cache_scope,
        )

    def _constraint(self, request: Generate, prompt: Prompt) -> Constraint | None:
        if prompt.call_schemas:
            shapes = [replace(request, json_schema=schema, narrow=False) for schema in prompt.call_schemas]
            for shape in shapes[:-1]:
                # What a tool's schema asks beyond the mask is judged in the call; that it is one must not fail for it.
                with contextlib.suppress(Refusal):
                    return self._masks.get().constraint(shape)
            return self._masks.get().constraint(shapes[-1])
        if not (request.json_schema or request.grammar or request.regex or request.choice):
            return None
        return self._masks.get().constraint(request)

    def _check_room(self, tokens: int, at_least: str) -> None:
        limit = self._model.context_tokens
        if tokens + 1 > limit:
            message = f"the prompt has {at_least}{tokens} tokens and needs room for one more; contextTokens is {limit}"
            raise Refusal(Reason.CONTEXT_LENGTH_EXCEEDED, message)


class _Once:
    """A value that is built by the first thread to need it, while the others wait."""

    def __init__(self, build: Callable[[], TokenMasks]) -> None:
        self._build = build
        self._lock = threading.Lock()
        self._value: TokenMasks | None = None

    def get(self) -> TokenMasks:
        with self._lock:
            if self._value is None:
                self._value = self._build()
            return self._value
