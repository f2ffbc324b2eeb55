"""A result without its shape is asked for again: how often, with what words, at whose cost."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from headrace_crds.inputs import Output
from headrace_crds.result import Usage as BilledUsage
from headrace_crds.task import Outcome
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.engine.client import EngineError, EngineRefused
from headrace_runner.engine.protocol import FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.execute import execute
from headrace_runner.remote.refused import Consequence, ProviderRefused
from headrace_runner.validate import Validator
from headrace_runner.verdict import GivenBack, Setback, Verdict


class Endings:
    def __init__(self) -> None:
        self.told: list[Verdict | Setback | GivenBack] = []
        self.tokens: list[int] = []

    def progress(self, completion_tokens: int) -> None:
        self.tokens.append(completion_tokens)

    def generated(self) -> None:
        pass

    async def conclude(self, verdict: Verdict) -> None:
        self.told.append(verdict)

    async def give_back(self, setback: Setback) -> None:
        self.told.append(setback)

    async def release(self, reason: str, usage: BilledUsage | None = None) -> None:
        self.told.append(GivenBack(reason, usage))


class Engine:
    """Says one text after the other, and then refuses."""

    refusal: EngineError = EngineRefused("ContextLengthExceeded", "the prompt is too long", retryable=False)

    def __init__(self, *texts: str, finish_reason: FinishReason = "Stop", complete: bool = False) -> None:
        self.asked: list[Generate] = []
        self._texts = list(texts)
        self._finish_reason: FinishReason = finish_reason
        self._complete = complete

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        self.asked.append(request)
        await asyncio.sleep(0)
        if len(self.asked) > len(self._texts):
            raise self.refusal
        if on_progress is not None:
            on_progress(2)
        return GenerationResult(
            request.id,
            self._texts[len(self.asked) - 1],
            self._finish_reason,
            Usage(10, 1, 3),
            Timings(0, 1, 2),
            enforcement="ValidatedOnly",
            complete=self._complete,
        )

    async def abort(self, generation_id: str) -> None:
        pass


async def verdict_of(attempt: Attempt, engine: Engine, output: Output) -> tuple[Verdict, Endings]:
    endings = Endings()
    shaped = replace(attempt, work=attempt.work.model_copy(update={"output": output}))
    async with Validator() as validator:
        await execute(shaped, engine, validator, endings, Curb())
    (verdict,) = endings.told
    assert isinstance(verdict, Verdict)
    return verdict, endings


UNIQUE = Output(json_schema='{"type": "array", "uniqueItems": true}')


async def test_the_model_is_told_what_is_wrong_and_every_try_is_counted(attempt: Attempt) -> None:
    engine = Engine("[1,1]", "[1]")
    verdict, endings = await verdict_of(attempt, engine, UNIQUE)
    assert verdict.outcome is Outcome.COMPLETE
    assert verdict.result is not None
    assert (verdict.result.text, verdict.result.repairs, verdict.result.enforcement) == ("[1]", 1, "ValidatedOnly")
    assert verdict.usage is not None
    assert (verdict.usage.prompt_tokens, verdict.usage.completion_tokens) == (20, 6)
    first, second = engine.asked
    assert (first.narrow, second.narrow) == (False, True)
    assert second.messages[: len(first.messages)] == first.messages
    assert [message.role for message in second.messages[-2:]] == ["assistant", "user"]
    assert second.messages[-2].content == "[1,1]"
    assert "non-unique" in second.messages[-1].content
    assert endings.tokens == [2, 5]


@pytest.mark.parametrize("repairs", [0, 3])
async def test_after_the_last_repair_the_result_is_refused(attempt: Attempt, repairs: int) -> None:
    engine = Engine(*["[1,1]"] * 9)
    verdict, _ = await verdict_of(attempt, engine, UNIQUE.model_copy(update={"max_repairs": repairs}))
    assert (verdict.outcome, verdict.reason, verdict.result) == (Outcome.FAILED, "InvalidOutput", None)
    assert len(engine.asked) == 1 + repairs
    assert verdict.usage is not None
    assert verdict.usage.completion_tokens == 3 * (1 + repairs)


async def test_a_repair_that_the_engine_refuses_leaves_what_was_wrong_as_the_reason(attempt: Attempt) -> None:
    verdict, _ = await verdict_of(attempt, Engine("[1,1]"), UNIQUE)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "InvalidOutput")


async def test_a_repair_that_a_provider_refuses_is_paid_for(attempt: Attempt) -> None:
    engine = Engine("[1,1]")
    engine.refusal = ProviderRefused(Consequence.FAILED, "ContentRefused", "no", Usage(20, 2, 1))
    verdict, _ = await verdict_of(attempt, engine, UNIQUE)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "InvalidOutput")
    assert verdict.usage is not None
    assert (verdict.usage.prompt_tokens, verdict.usage.cached_tokens, verdict.usage.completion_tokens) == (30, 3, 4)


async def test_a_text_at_once_right_has_no_repairs(attempt: Attempt) -> None:
    verdict, _ = await verdict_of(attempt, Engine("[1]"), UNIQUE)
    assert verdict.result is not None
    assert verdict.result.repairs is None


@pytest.mark.parametrize(
    ("output", "wrong", "right"),
    [
        (Output(choice=["yes", "no"]), "maybe", "yes"),
        (Output(regex="[0-9]{4}"), "x1999", "1999"),
    ],
)
async def test_choices_and_matches_are_judged_as_well(attempt: Attempt, output: Output, wrong: str, right: str) -> None:
    verdict, _ = await verdict_of(attempt, Engine(wrong, right), output)
    assert verdict.result is not None
    assert (verdict.result.text, verdict.result.repairs) == (right, 1)


async def test_a_regular_expression_that_cannot_be_checked_never_reaches_the_engine(attempt: Attempt) -> None:
    engine = Engine("a")
    verdict, _ = await verdict_of(attempt, engine, Output(regex="a(?!b)"))
    assert (verdict.reason, engine.asked) == ("InvalidSchema", [])


async def test_a_text_cut_off_is_no_result_and_one_brought_to_its_end_is_judged(attempt: Attempt) -> None:
    # Either could stand for a whole list: only the engine knows.
    cut, _ = await verdict_of(attempt, Engine("[1]", finish_reason="Length"), UNIQUE)
    assert (cut.reason, cut.result) == ("OutputTruncated", None)
    whole, _ = await verdict_of(attempt, Engine("[1]", finish_reason="Length", complete=True), UNIQUE)
    assert whole.result is not None
    assert (whole.result.finish_reason, whole.result.text) == ("Length", "[1]")
