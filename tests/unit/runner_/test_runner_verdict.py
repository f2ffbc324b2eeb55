"""How attempts end: the table of ``verdict``."""

from collections.abc import Callable
from typing import Literal

import pytest

from headrace_crds.inputs import Output
from headrace_crds.result import INLINE_RESULT_LIMIT_BYTES, LARGE_RESULT_LIMIT_BYTES, Usage
from headrace_crds.task import Outcome, Timings
from headrace_crds.work import Work
from headrace_runner.cut import Cut, Halt
from headrace_runner.engine.client import EngineLost, EngineRefused
from headrace_runner.engine.protocol import FinishReason, GenerationResult
from headrace_runner.engine.protocol import Timings as EngineTimings
from headrace_runner.engine.protocol import Usage as EngineUsage
from headrace_runner.validate import Finding, Judgement
from headrace_runner.verdict import (
    GivenBack,
    LargeText,
    Setback,
    Verdict,
    of_cut,
    of_error,
    of_generation,
    too_large_for_object,
    too_large_to_park,
)

TIMINGS = Timings(queued_millis=0, first_token_millis=1, generation_millis=2)


def generation(
    text: str = "{}", finish: FinishReason = "Stop", tokens: int = 7, *, grammar: bool = False
) -> GenerationResult:
    return GenerationResult(
        id="1",
        text=text,
        finish_reason=finish,
        usage=EngineUsage(prompt_tokens=5, cached_tokens=2, completion_tokens=tokens),
        timings=EngineTimings(queued_ms=0, first_token_ms=1, generation_ms=2),
        enforcement="Grammar" if grammar else None,
    )


@pytest.fixture
def shaped(work: Work) -> Work:
    return work.model_copy(update={"output": Output(json_schema="{}")})


@pytest.mark.parametrize("finish", ["Stop", "Length"])
def test_text_is_complete_however_it_ended(work: Work, finish: Literal["Stop", "Length"]) -> None:
    verdict = of_generation(generation("hi", finish), work, None, TIMINGS)
    assert verdict.outcome is Outcome.COMPLETE
    assert verdict.result is not None
    assert (verdict.result.text, verdict.result.finish_reason, verdict.result.enforcement) == ("hi", finish, None)
    assert verdict.usage is not None
    assert (verdict.usage.prompt_tokens, verdict.usage.cached_tokens, verdict.usage.completion_tokens) == (5, 2, 7)


@pytest.mark.parametrize(("grammar", "enforcement"), [(True, "Grammar"), (False, "ValidatedOnly")])
def test_a_valid_document_is_complete(shaped: Work, grammar: bool, enforcement: str) -> None:
    verdict = of_generation(generation(grammar=grammar), shaped, Judgement(Finding.VALID), TIMINGS)
    assert verdict.outcome is Outcome.COMPLETE
    assert verdict.result is not None
    assert verdict.result.enforcement == enforcement


@pytest.mark.parametrize("finding", [Finding.INVALID, Finding.BAD_SCHEMA, Finding.UNSUPPORTED])
def test_a_document_that_is_not_admitted_is_never_a_success(shaped: Work, finding: Finding) -> None:
    verdict = of_generation(generation(), shaped, Judgement(finding, "why"), TIMINGS)
    assert (verdict.outcome, verdict.reason, verdict.message) == (Outcome.FAILED, finding.value, "why")
    assert verdict.result is None
    assert verdict.usage is not None


@pytest.mark.parametrize(("tokens", "remedy"), [(64, "maxTokens (64)"), (30, "contextTokens"), (0, "counts no tokens")])
def test_a_cut_off_document_names_the_bound_that_cut_it(shaped: Work, tokens: int, remedy: str) -> None:
    # 12 is a valid document and yet may be the first half of 123.
    verdict = of_generation(generation("12", "Length", tokens), shaped, Judgement(Finding.VALID), TIMINGS)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "OutputTruncated")
    assert remedy in verdict.message
    assert verdict.result is None


@pytest.mark.parametrize(
    ("size_bytes", "place"),
    [
        (INLINE_RESULT_LIMIT_BYTES, "object"),
        (INLINE_RESULT_LIMIT_BYTES + 1, "parked"),
        (LARGE_RESULT_LIMIT_BYTES, "parked"),
        (LARGE_RESULT_LIMIT_BYTES + 1, "nowhere"),
    ],
)
def test_a_result_fits_the_object_or_is_parked_or_left_out(work: Work, size_bytes: int, place: str) -> None:
    # Bytes count, not characters.
    text = "ü" * (size_bytes // 2) + "x" * (size_bytes % 2)
    verdict = of_generation(generation(text), work, None, TIMINGS)
    assert (verdict.result is not None) == (place == "object")
    assert (verdict.large == LargeText(text, "Stop", None)) == (place == "parked")
    if place == "nowhere":
        assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "ResultTooLarge")
        assert str(size_bytes) in verdict.message
    else:
        assert verdict.outcome is Outcome.COMPLETE


def cut(why: Halt, text: str | None = None, tokens: int = 7, *, grammar: bool = False) -> Cut:
    partial = None if text is None else generation(text, "Cancelled", tokens, grammar=grammar)
    return Cut(why, partial, seen_tokens=tokens)


def test_a_cancelled_task_keeps_what_was_generated_as_plain_text(shaped: Work) -> None:
    verdict = of_cut(cut(Halt.CANCEL, '{"a": 1', grammar=True), shaped, TIMINGS)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.reason) == (Outcome.CANCELLED, "Cancelled")
    assert verdict.result is not None
    assert (verdict.result.text, verdict.result.partial, verdict.result.finish_reason) == ('{"a": 1', True, "Cancelled")
    assert verdict.result.enforcement is None
    assert verdict.usage is not None
    assert verdict.usage.completion_tokens == 7
    assert verdict.timings == TIMINGS


@pytest.mark.parametrize(("ended", "read"), [(cut(Halt.CANCEL), False), (cut(Halt.CANCEL, "", 0), True)])
def test_a_cancelled_task_without_text_has_no_result(work: Work, ended: Cut, read: bool) -> None:
    verdict = of_cut(ended, work, TIMINGS)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.CANCELLED
    assert (verdict.result, verdict.large) == (None, None)
    # A prompt that was sent is paid for, also where nothing came of it.
    assert (verdict.usage is not None, verdict.timings is not None) == (read, read)


@pytest.mark.parametrize(("extra", "kept"), [(0, True), (1, False)])
def test_a_long_text_of_a_cancelled_task_is_parked_or_left_out(work: Work, extra: int, kept: bool) -> None:
    text = "x" * (LARGE_RESULT_LIMIT_BYTES + extra)
    verdict = of_cut(cut(Halt.CANCEL, text), work, TIMINGS)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.result) == (Outcome.CANCELLED, None)
    assert (verdict.large == LargeText(text, "Cancelled", None)) is kept
    assert ("not kept" in verdict.message) is not kept


def test_a_deadline_fails_the_task(work: Work) -> None:
    verdict = of_cut(cut(Halt.DEADLINE, "so far"), work, TIMINGS)
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "DeadlineExceeded")
    assert "activeDeadlineSeconds" in verdict.message
    assert verdict.result is None
    assert verdict.usage is not None


@pytest.mark.parametrize("text", ["so far", None])
def test_an_attempts_time_out_is_a_setback_that_names_field_and_tokens(work: Work, text: str | None) -> None:
    setback = of_cut(cut(Halt.ATTEMPT_TIMEOUT, text), work, TIMINGS)
    assert isinstance(setback, Setback)
    assert (setback.reason, setback.retryable) == ("AttemptTimeout", True)
    assert "spec.attemptTimeoutSeconds (300)" in setback.message
    assert "7 generated tokens" in setback.message


def test_a_suspended_task_is_given_back(work: Work) -> None:
    usage = Usage(prompt_tokens=5, cached_tokens=2, completion_tokens=7)
    assert of_cut(cut(Halt.SUSPEND, "so far"), work, TIMINGS) == GivenBack("Suspended", usage)
    assert of_cut(cut(Halt.SUSPEND, None), work, TIMINGS) == GivenBack("Suspended"), "nobody knows what it took"


@pytest.mark.parametrize("smaller", [too_large_for_object, too_large_to_park])
def test_what_does_not_fit_keeps_the_outcome_only_of_a_cancelled_task(
    work: Work, smaller: Callable[[Verdict], Verdict]
) -> None:
    text = "x" * (INLINE_RESULT_LIMIT_BYTES + 1)
    complete = smaller(of_generation(generation(text), work, None, TIMINGS))
    assert (complete.outcome, complete.reason) == (Outcome.FAILED, "ResultTooLarge")
    cancelled = of_cut(cut(Halt.CANCEL, text), work, TIMINGS)
    assert isinstance(cancelled, Verdict)
    cancelled = smaller(cancelled)
    assert (cancelled.outcome, cancelled.reason) == (Outcome.CANCELLED, "Cancelled")
    assert (complete.result, complete.large, cancelled.result, cancelled.large) == (None, None, None, None)
    assert cancelled.usage is not None


@pytest.mark.parametrize(
    "reason", ["ContextLengthExceeded", "UnsupportedSchema", "InvalidSchema", "InvalidParameters", "ANewWord"]
)
def test_a_final_refusal_is_the_outcome(reason: str) -> None:
    verdict = of_error(EngineRefused(reason, "why", retryable=False))
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.reason, verdict.message) == (Outcome.FAILED, reason, "why")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineRefused("EngineOverloaded", "why", retryable=True), "EngineOverloaded"),
        (EngineRefused("DecodeFailed", "why", retryable=True), "DecodeFailed"),
        (EngineLost("gone"), "EngineLost"),
    ],
)
def test_what_may_go_better_is_a_setback(error: EngineRefused | EngineLost, reason: str) -> None:
    setback = of_error(error)
    assert isinstance(setback, Setback)
    assert (setback.reason, setback.retryable) == (reason, True)
