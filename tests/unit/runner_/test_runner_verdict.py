"""How attempts end: the table of ``verdict``."""

from typing import Literal

import pytest

from headrace_crds.task import INLINE_RESULT_LIMIT_BYTES, Outcome, Timings
from headrace_crds.work import Work
from headrace_runner.engine.client import EngineLost, EngineRefused
from headrace_runner.engine.protocol import GenerationResult
from headrace_runner.engine.protocol import Timings as EngineTimings
from headrace_runner.engine.protocol import Usage as EngineUsage
from headrace_runner.validate import Finding, Judgement
from headrace_runner.verdict import Setback, Verdict, of_error, of_generation

TIMINGS = Timings(queued_millis=0, first_token_millis=1, generation_millis=2)


def generation(
    text: str = "{}", finish: Literal["Stop", "Length"] = "Stop", tokens: int = 7, *, grammar: bool = False
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
    return work.model_copy(update={"json_schema": "{}"})


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


@pytest.mark.parametrize(("tokens", "remedy"), [(64, "maxTokens (64)"), (30, "contextTokens")])
def test_a_cut_off_document_names_the_bound_that_cut_it(shaped: Work, tokens: int, remedy: str) -> None:
    # 12 is a valid document and yet may be the first half of 123.
    verdict = of_generation(generation("12", "Length", tokens), shaped, Judgement(Finding.VALID), TIMINGS)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "OutputTruncated")
    assert remedy in verdict.message
    assert verdict.result is None


@pytest.mark.parametrize(("extra", "outcome"), [(0, Outcome.COMPLETE), (1, Outcome.FAILED)])
def test_a_result_fits_an_object_or_is_left_out(work: Work, extra: int, outcome: Outcome) -> None:
    # Bytes count, not characters.
    text = "ü" * (INLINE_RESULT_LIMIT_BYTES // 2) + "x" * extra
    verdict = of_generation(generation(text), work, None, TIMINGS)
    assert verdict.outcome is outcome
    assert (verdict.result is None) is (outcome is Outcome.FAILED)
    if outcome is Outcome.FAILED:
        assert verdict.reason == "ResultTooLarge"


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
        (EngineRefused("Aborted", "why", retryable=False), "Aborted"),
        (EngineLost("gone"), "EngineLost"),
    ],
)
def test_what_may_go_better_is_a_setback(error: EngineRefused | EngineLost, reason: str) -> None:
    setback = of_error(error)
    assert isinstance(setback, Setback)
    assert (setback.reason, setback.retryable) == (reason, True)
