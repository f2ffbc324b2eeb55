"""How an attempt ends: with an outcome (`Verdict`) or without one (`Setback`). Pure.

| the engine said                         | ends in                                       |
|-----------------------------------------|-----------------------------------------------|
| done, no schema                         | Complete                                      |
| done, schema, cut off by maxTokens      | Failed/OutputTruncated                        |
| done, schema, the document is valid     | Complete                                      |
| done, schema, the document is not valid | Failed/InvalidOutput                          |
| done, above 32 KiB                      | Failed/ResultTooLarge, without the result     |
| refused, trying again cannot help       | Failed with the engine's reason and message   |
| refused, trying again may help          | setback with the engine's reason              |
| nothing: it is gone                     | setback EngineLost                            |
"""

from dataclasses import dataclass
from typing import Final

from headrace_crds.outcome import text_result
from headrace_crds.reasons import Reason
from headrace_crds.task import INLINE_RESULT_LIMIT_BYTES, Enforcement, Outcome, Result, Timings, Usage
from headrace_crds.work import Work
from headrace_runner.engine.client import EngineError, EngineRefused
from headrace_runner.engine.protocol import GenerationResult
from headrace_runner.validate import Finding, Judgement

_ABORTED: Final = "Aborted"


@dataclass(frozen=True)
class Verdict:
    """An outcome that this attempt may commit."""

    outcome: Outcome
    reason: str
    message: str = ""
    result: Result | None = None
    usage: Usage | None = None
    timings: Timings | None = None

    @property
    def size_bytes(self) -> int:
        return 0 if self.result is None else self.result.size_bytes


@dataclass(frozen=True)
class Setback:
    """The attempt ended without an outcome; whoever planned it decides whether another follows."""

    reason: str
    message: str
    retryable: bool = True


def failed(reason: str, message: str, *, usage: Usage | None = None, timings: Timings | None = None) -> Verdict:
    return Verdict(Outcome.FAILED, reason, message, usage=usage, timings=timings)


def of_generation(generation: GenerationResult, work: Work, judgement: Judgement | None, timings: Timings) -> Verdict:
    """The outcome of a generation; ``judgement`` is None where there was nothing to judge."""
    usage = Usage(
        prompt_tokens=generation.usage.prompt_tokens,
        cached_tokens=generation.usage.cached_tokens,
        completion_tokens=generation.usage.completion_tokens,
    )
    if work.json_schema is not None and generation.finish_reason == "Length":
        return failed(Reason.OUTPUT_TRUNCATED, _truncated(work, usage), usage=usage, timings=timings)
    if judgement is not None and judgement.finding is not Finding.VALID:
        return failed(judgement.finding.reason, judgement.message, usage=usage, timings=timings)
    enforcement = None
    if work.json_schema is not None:
        enforcement = Enforcement.GRAMMAR if generation.enforcement == "Grammar" else Enforcement.VALIDATED_ONLY
    result = text_result(generation.text, generation.finish_reason, enforcement)
    if result.size_bytes > INLINE_RESULT_LIMIT_BYTES:
        message = (
            f"the result has {result.size_bytes} bytes, an object holds {INLINE_RESULT_LIMIT_BYTES}: "
            "lower spec.parameters.maxTokens or ask for less"
        )
        return failed(Reason.RESULT_TOO_LARGE, message, usage=usage, timings=timings)
    return Verdict(Outcome.COMPLETE, Reason.SUCCEEDED, "", result, usage, timings)


def of_error(error: EngineError) -> Verdict | Setback:
    """What an engine's error means for the attempt."""
    if not isinstance(error, EngineRefused):
        return Setback(Reason.ENGINE_LOST, "the engine ended before it answered")
    # Aborted is only ever asked for by this runner, which then does not wait for the answer.
    if error.retryable or error.reason == _ABORTED:
        return Setback(error.reason, error.message)
    return failed(error.reason, error.message)


def too_large_for_object(verdict: Verdict) -> Verdict:
    """The outcome that still fits when the API server refuses the object's size."""
    message = "the object would be larger than the API server stores: shorten spec or lower spec.parameters.maxTokens"
    return failed(Reason.RESULT_TOO_LARGE, message, usage=verdict.usage, timings=verdict.timings)


def _truncated(work: Work, usage: Usage) -> str:
    asked = work.parameters.max_tokens
    if asked is not None and usage.completion_tokens >= asked:
        return (
            f"spec.parameters.maxTokens ({asked}) ended the document before it was complete: "
            "raise it or ask for a smaller document"
        )
    return (
        f"the model's context was full after {usage.prompt_tokens} prompt and {usage.completion_tokens} result tokens, "
        f"before the document was complete (maxTokens is {asked}): shorten the input or raise "
        "the model's spec.local.contextTokens"
    )
