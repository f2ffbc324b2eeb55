"""Tells the tokens of a request instead of answering it: by the code that prepares requests, and in no sequence.

The answer is a ``done`` whose text is a JSON document: ``{"tokens": [token, …], "contextTokens": n}``.
"""

import json

from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.prompting import PromptMaker
from headrace_runner.engine.protocol import Generate, GenerationResult, Reason, Refusal, Timings, Usage


class Counter:
    """Counts for one model; thread-safe and blocking. ``prompts`` is None where the model generates nothing."""

    def __init__(self, model: LoadedModel, prompts: PromptMaker | None) -> None:
        self._model = model
        self._prompts = prompts

    def count(self, request: Generate) -> GenerationResult:
        """Raises Refusal: ModelNotCapable, ChatTemplateFailed, ContextLengthExceeded."""
        model = self._model
        parts = self._parts(request)
        least = sum(len(part.encode()) for part in parts) // max(1, model.longest_token_bytes)
        if least > model.context_tokens:
            # Some tokenizers of llama.cpp are quadratic or recursive: what can never fit is not tokenized.
            told = f"it has at least {least} tokens; contextTokens is {model.context_tokens}"
            raise Refusal(Reason.CONTEXT_LENGTH_EXCEEDED, told)
        tokens = model.tokenize(parts) if request.count == "Conversation" else model.words.tokenize_plain(parts[0])
        document = json.dumps({"tokens": tokens, "contextTokens": model.context_tokens}, separators=(",", ":"))
        return GenerationResult(request.id, document, "Stop", Usage(0, 0, 0), Timings(0, 0, 0))

    def _parts(self, request: Generate) -> list[str]:
        if request.count == "Text":
            return [request.prompt or ""]
        if self._prompts is None:
            raise Refusal(Reason.MODEL_NOT_CAPABLE, "the model's capabilities name neither Chat nor Completion")
        return self._prompts.make(request).segments
