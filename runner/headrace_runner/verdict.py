"""How an attempt ends: with an outcome (`Verdict`) or without one (`Setback`, `GivenBack`). Pure.

| the engine said                         | ends in                                       |
|-----------------------------------------|-----------------------------------------------|
| done, no shape                          | Complete                                      |
| done, shape, cut off by maxTokens       | Failed/OutputTruncated                        |
| done, shape, the text has it            | Complete                                      |
| done, shape, the text has it not        | Failed/InvalidOutput, after the last repair   |
| done, a call that the task refuses      | Failed/InvalidOutput                          |
| done, above 900 KiB                     | Failed/ResultTooLarge, without the result     |
| aborted: the task is cancelled          | Cancelled, with the text so far if any        |
| aborted: the task's deadline is over    | Failed/DeadlineExceeded                       |
| aborted: the attempt's time is over     | setback AttemptTimeout                        |
| aborted: the task is suspended          | given back, Suspended                         |
| refused, trying again cannot help       | Failed with the engine's reason and message   |
| refused, trying again may help          | setback with the engine's reason              |
| nothing: it died with this one alone    | setback EngineLost                            |
| nothing: it died under several          | given back, EngineLost                        |
| that it makes room for the next         | given back, EngineStopping                    |
| a provider's fault: ``ProviderRefused`` | as ``remote.refused.Consequence`` says        |

A Failed whose reason is in ``Work.hand_over`` is a setback: the operator tries another model.
"""

from dataclasses import dataclass, field, replace

from headrace_crds.cost import billed
from headrace_crds.dialogue import ToolCall
from headrace_crds.outcome import text_digest, text_result
from headrace_crds.reasons import Reason
from headrace_crds.remote import Price
from headrace_crds.result import (
    INLINE_RESULT_LIMIT_BYTES,
    LARGE_RESULT_LIMIT_BYTES,
    Enforcement,
    Result,
    Timings,
    Usage,
)
from headrace_crds.task import Outcome
from headrace_crds.work import Work
from headrace_runner.calls import kept_calls, kept_reasoning
from headrace_runner.cut import Cut, Halt, Quarantined
from headrace_runner.engine.client import EngineError, EngineRefused
from headrace_runner.engine.protocol import FinishReason, GenerationResult
from headrace_runner.engine.protocol import Usage as EngineUsage
from headrace_runner.remote.refused import Consequence, ProviderRefused
from headrace_runner.validate import Finding, Judgement


@dataclass(frozen=True)
class LargeText:
    """A text that no object holds: more than 32 KiB, at most 900 KiB in UTF-8."""

    text: str
    finish_reason: FinishReason
    enforcement: Enforcement | None
    repairs: int | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning: str | None = None


@dataclass(frozen=True)
class Verdict:
    """An outcome that this attempt may commit. It has a ``result``, or a ``large`` one, or none."""

    outcome: Outcome
    reason: str
    message: str = ""
    result: Result | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    large: LargeText | None = None
    generation: GenerationResult | None = field(default=None, compare=False, repr=False)
    """What it was made of, where it is Complete: a call tells more of it than an object holds."""
    repairs: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Setback:
    """The attempt ended without an outcome; whoever planned it decides whether another follows."""

    reason: str
    message: str
    retryable: bool = True
    usage: Usage | None = None
    """What it took all the same; None where it took nothing, or nobody knows."""


@dataclass(frozen=True)
class GivenBack:
    """The attempt ended unfinished, and for no fault: nobody is charged a retry. Tokens are counted all the same."""

    reason: str
    usage: Usage | None = None


def failed(reason: str, message: str, *, usage: Usage | None = None, timings: Timings | None = None) -> Verdict:
    return Verdict(Outcome.FAILED, reason, message, usage=usage, timings=timings)


def is_whole(generation: GenerationResult) -> bool:
    """Whether a text that has to have a shape is not one cut off."""
    return generation.finish_reason != "Length" or generation.complete


def of_generation(
    generation: GenerationResult, work: Work, judgement: Judgement | None, timings: Timings, *, repairs: int = 0
) -> Verdict:
    """The outcome of a generation, whose usage counts all tries; ``judgement`` is None where nothing was judged."""
    usage = _usage(generation.usage)
    called = bool(generation.tool_calls) or work.tool_choice in ("auto", "none")
    if (work.output is not None or not called) and not is_whole(generation):
        return failed(Reason.OUTPUT_TRUNCATED, _truncated(work, usage), usage=usage, timings=timings)
    if judgement is not None and judgement.finding is not Finding.VALID:
        message = judgement.message
        if repairs:
            message = f"{message} (asked {repairs + 1} times)"
        return failed(judgement.finding.reason, message, usage=usage, timings=timings)
    enforcement = None
    if work.output is not None:
        enforcement = Enforcement(generation.enforcement or Enforcement.VALIDATED_ONLY)
    text, finish_reason = generation.text, generation.finish_reason
    size_bytes, _ = text_digest(text)
    if size_bytes > LARGE_RESULT_LIMIT_BYTES:
        return failed(Reason.RESULT_TOO_LARGE, _too_large(size_bytes), usage=usage, timings=timings)
    try:
        calls, reasoning = kept_calls(generation), kept_reasoning(generation.reasoning)
    except ValueError as error:
        return failed(Reason.RESULT_TOO_LARGE, f"{error}: ask for less", usage=usage, timings=timings)
    result = large = None
    if size_bytes > INLINE_RESULT_LIMIT_BYTES:
        large = LargeText(text, finish_reason, enforcement, repairs or None, calls, reasoning)
    else:
        result = text_result(
            text, finish_reason, enforcement, repairs=repairs or None, tool_calls=calls, reasoning=reasoning
        )
    return Verdict(Outcome.COMPLETE, Reason.SUCCEEDED, "", result, usage, timings, large, generation, repairs)


def of_cut(cut: Cut, work: Work, timings: Timings | None) -> Verdict | Setback | GivenBack:
    """What an early end means; ``timings`` are the partial's, None where there is none."""
    tokens = cut.completion_tokens
    told = None if cut.partial is None else cut.partial.usage
    # A provider bills a prompt that was sent, also where nothing came of it.
    usage = None if told is None or not (tokens or told.prompt_tokens) else _usage(told)
    match cut.why:
        case Halt.SUSPEND:
            return GivenBack(Reason.SUSPENDED, usage)
        case Halt.ATTEMPT_TIMEOUT:
            seconds = work.attempt_timeout_ms // 1000
            message = (
                f"spec.attemptTimeoutSeconds ({seconds}) was over after {tokens} generated tokens: "
                "raise it or lower spec.parameters.maxTokens"
            )
            return Setback(Reason.ATTEMPT_TIMEOUT, message, usage=usage)
    timings = None if usage is None else timings
    if cut.why is Halt.DEADLINE:
        message = (
            f"spec.activeDeadlineSeconds were over after {tokens} generated tokens: "
            "raise it or lower spec.parameters.maxTokens"
        )
        return failed(Reason.DEADLINE_EXCEEDED, message, usage=usage, timings=timings)
    message = f"cancelled after {tokens} generated tokens"
    return _cancelled(message, "" if cut.partial is None else cut.partial.text, usage, timings)


def _cancelled(message: str, text: str, usage: Usage | None, timings: Timings | None) -> Verdict:
    size_bytes, _ = text_digest(text)
    result = large = None
    if size_bytes > LARGE_RESULT_LIMIT_BYTES:
        message = f"{message}; the text so far was not kept: {_too_large(size_bytes)}"
    elif size_bytes > INLINE_RESULT_LIMIT_BYTES:
        large = LargeText(text, "Cancelled", None)
    elif size_bytes:
        # Plain text, whatever it was to become: nothing judges half a document.
        result = text_result(text, "Cancelled", None, partial=True)
    return Verdict(Outcome.CANCELLED, Reason.CANCELLED, message, result, usage, timings, large)


def of_error(error: EngineError) -> Verdict | Setback | GivenBack:
    """What an engine's error means for the attempt."""
    if isinstance(error, Quarantined):
        return GivenBack(Reason.ENGINE_LOST)
    if isinstance(error, ProviderRefused):
        return _of_provider(error)
    if not isinstance(error, EngineRefused):
        return Setback(Reason.ENGINE_LOST, "the engine died while it generated this task alone")
    if error.left:
        return GivenBack(Reason.ENGINE_STOPPING)
    if error.retryable:
        return Setback(error.reason, error.message)
    return failed(error.reason, error.message)


def _of_provider(refused: ProviderRefused) -> Verdict | Setback | GivenBack:
    usage = None if refused.usage is None else _usage(refused.usage)
    match refused.consequence:
        case Consequence.RELEASED:
            return GivenBack(refused.reason, usage)
        case Consequence.SETBACK:
            return Setback(refused.reason, refused.message, usage=usage)
        case Consequence.FAILED:
            return failed(refused.reason, refused.message, usage=usage)


def handed_over(verdict: Verdict, work: Work) -> Setback | None:
    """What is said instead of a Failed that another model may spare the task; None: the verdict is committed."""
    if verdict.outcome is not Outcome.FAILED or verdict.reason not in work.hand_over:
        return None
    return Setback(verdict.reason, verdict.message, retryable=False, usage=verdict.usage)


def too_large_for_object(verdict: Verdict) -> Verdict:
    """The outcome that still fits when the API server refuses the object's size."""
    if verdict.outcome is Outcome.CANCELLED:
        message = f"{verdict.message}; the text so far does not fit into the object"
        return Verdict(verdict.outcome, verdict.reason, message, usage=verdict.usage, timings=verdict.timings)
    message = "the object would be larger than the API server stores: shorten spec or lower spec.parameters.maxTokens"
    return failed(Reason.RESULT_TOO_LARGE, message, usage=verdict.usage, timings=verdict.timings)


def too_large_to_park(verdict: Verdict) -> Verdict:
    """The outcome where the bus takes no text of that size."""
    size_bytes = 0 if verdict.large is None else text_digest(verdict.large.text)[0]
    if verdict.outcome is Outcome.CANCELLED:
        message = f"{verdict.message}; the text so far was not kept: {_too_large(size_bytes)}"
        return Verdict(verdict.outcome, verdict.reason, message, usage=verdict.usage, timings=verdict.timings)
    return failed(Reason.RESULT_TOO_LARGE, _too_large(size_bytes), usage=verdict.usage, timings=verdict.timings)


def _usage(usage: EngineUsage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens or None,
    )


def also_spent(
    ending: Verdict | Setback | GivenBack, spent: EngineUsage | Usage | None
) -> Verdict | Setback | GivenBack:
    """The ending of a try with the tokens of other tries of the attempt added."""
    if spent is None:
        return ending
    last = ending.usage or Usage(prompt_tokens=0, completion_tokens=0)
    usage = Usage(
        prompt_tokens=spent.prompt_tokens + last.prompt_tokens,
        cached_tokens=spent.cached_tokens + last.cached_tokens,
        completion_tokens=spent.completion_tokens + last.completion_tokens,
        reasoning_tokens=(spent.reasoning_tokens or 0) + (last.reasoning_tokens or 0) or None,
    )
    return replace(ending, usage=usage)


def priced(ending: Verdict | Setback | GivenBack, price: Price | None) -> Verdict | Setback | GivenBack:
    """The ending with what its tokens cost."""
    return ending if ending.usage is None else replace(ending, usage=billed(ending.usage, price))


def _too_large(size_bytes: int) -> str:
    return (
        f"the result has {size_bytes} bytes, at most {LARGE_RESULT_LIMIT_BYTES} are kept: "
        "lower spec.parameters.maxTokens or ask for less"
    )


def _truncated(work: Work, usage: Usage) -> str:
    asked = work.parameters.max_tokens
    if asked is not None and usage.completion_tokens >= asked:
        return (
            f"spec.parameters.maxTokens ({asked}) ended the document before it was complete: "
            "raise it or ask for a smaller document"
        )
    if not usage.completion_tokens:
        return (
            f"the document was cut off before it was complete (maxTokens is {asked}; the provider counts no tokens): "
            "raise spec.parameters.maxTokens or ask for a smaller document"
        )
    return (
        f"the model's context was full after {usage.prompt_tokens} prompt and {usage.completion_tokens} result tokens, "
        f"before the document was complete (maxTokens is {asked}): shorten the input, ask for a smaller document, "
        "or use a model with a longer context (a local model's spec.local.contextTokens, a provider's own bound)"
    )
