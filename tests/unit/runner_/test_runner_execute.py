"""One attempt's way through judging and generating: where it can be ended early, and where it cannot any more."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from headrace_crds.inputs import Output
from headrace_crds.result import Usage as BilledUsage
from headrace_crds.task import Outcome
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.cut import Halt
from headrace_runner.engine.protocol import FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.execute import execute
from headrace_runner.validate import Finding, Judgement, Share, ValidationUnavailable, Validator
from headrace_runner.verdict import GivenBack, Setback, Verdict

SCHEMA = '{"type": "object"}'


class Endings:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Verdict | Setback | GivenBack] = []

    def progress(self, completion_tokens: int) -> None:
        pass

    def generated(self) -> None:
        pass

    async def conclude(self, verdict: Verdict) -> None:
        self.told.append(verdict)

    async def give_back(self, setback: Setback) -> None:
        self.told.append(setback)

    async def release(self, reason: str, usage: BilledUsage | None = None) -> None:
        self.told.append(GivenBack(reason, usage))


def result(text: str, finish_reason: FinishReason) -> GenerationResult:
    return GenerationResult("u-1/1", text, finish_reason, Usage(1, 0, 3), Timings(0, 1, 2))


class Engine:
    """Generates ``{}`` at once, or half of it when it is told to wait for an abort."""

    def __init__(self, *, waits: bool = False) -> None:
        self.asked = asyncio.Event()
        self._aborted = asyncio.Event()
        self._waits = waits

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        self.asked.set()
        self.request = request
        if self._waits:
            await self._aborted.wait()
            return result("{", "Cancelled")
        return result("{}", "Stop")

    async def abort(self, generation_id: str) -> None:
        self._aborted.set()


class Judge(Validator):
    """Takes its time, where it is told to: with the schema, with the document."""

    def __init__(self, *, slow: str = "") -> None:
        super().__init__()
        self.busy, self.go_on = asyncio.Event(), asyncio.Event()
        self._slow = slow

    async def check_schema(self, schema: str, share: Share | None = None) -> Judgement:
        return await self._judge("schema")

    async def validate(self, schema: str, text: str, share: Share | None = None) -> Judgement:
        return await self._judge("document")

    async def _judge(self, what: str) -> Judgement:
        if what == self._slow:
            self.busy.set()
            await self.go_on.wait()
        return Judgement(Finding.VALID)


class Helpless(Validator):
    """Its helpers break with every question."""

    async def check_schema(self, schema: str, share: Share | None = None) -> Judgement:
        raise ValidationUnavailable("a validation helper broke")


@pytest.fixture
def shaped(attempt: Attempt) -> Attempt:
    return replace(attempt, work=attempt.work.model_copy(update={"output": Output(json_schema=SCHEMA)}))


async def test_an_attempt_that_cannot_be_judged_is_a_setback(shaped: Attempt) -> None:
    endings, engine = Endings(), Engine()
    await execute(shaped, engine, Helpless(), endings, Curb())
    (setback,) = endings.told
    assert isinstance(setback, Setback)
    assert (setback.reason, setback.retryable) == ("RunnerError", True)
    # The schema comes first.
    assert not engine.asked.is_set()


async def test_cancelled_while_its_schema_is_judged_it_never_reaches_the_engine(shaped: Attempt) -> None:
    endings, engine, judge, curb = Endings(), Engine(), Judge(slow="schema"), Curb()
    running = asyncio.create_task(execute(shaped, engine, judge, endings, curb))
    await judge.busy.wait()
    curb.ask(Halt.CANCEL)
    await running
    (verdict,) = endings.told
    assert isinstance(verdict, Verdict)
    assert (verdict.outcome, verdict.result) == (Outcome.CANCELLED, None)
    assert not engine.asked.is_set()


@pytest.mark.parametrize("why", Halt)
async def test_what_is_generated_is_judged_and_complete_whoever_asks_then(shaped: Attempt, why: Halt) -> None:
    endings, judge, curb = Endings(), Judge(slow="document"), Curb()
    running = asyncio.create_task(execute(shaped, Engine(), judge, endings, curb))
    await judge.busy.wait()
    curb.ask(why)
    judge.go_on.set()
    await running
    (verdict,) = endings.told
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.COMPLETE


async def test_half_a_document_is_not_judged(shaped: Attempt) -> None:
    endings, engine, judge, curb = Endings(), Engine(waits=True), Judge(slow="document"), Curb()
    running = asyncio.create_task(execute(shaped, engine, judge, endings, curb))
    await engine.asked.wait()
    curb.ask(Halt.CANCEL)
    await running
    (verdict,) = endings.told
    assert isinstance(verdict, Verdict)
    assert verdict.outcome is Outcome.CANCELLED
    assert verdict.result is not None
    assert (verdict.result.text, verdict.result.partial) == ("{", True)
    assert verdict.timings is not None
    assert not judge.busy.is_set()


async def test_a_suspended_attempt_is_given_back(attempt: Attempt) -> None:
    endings, engine, curb = Endings(), Engine(waits=True), Curb()
    running = asyncio.create_task(execute(attempt, engine, Judge(), endings, curb))
    await engine.asked.wait()
    curb.ask(Halt.SUSPEND)
    await running
    assert endings.told == [GivenBack("Suspended", BilledUsage(prompt_tokens=1, completion_tokens=3))]


async def test_prompts_share_the_cache_within_their_namespace_only(attempt: Attempt) -> None:
    scopes = []
    for namespace in ("team-a", "team-b"):
        engine = Engine()
        await execute(replace(attempt, namespace=namespace), engine, Judge(), Endings(), Curb())
        scopes.append(engine.request.cache_scope)
    assert scopes == ["team-a", "team-b"]
