"""One generation and its early end, against an engine that is played by hand."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from headrace_runner import generating
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.cut import Cut, Halt
from headrace_runner.engine.client import EngineLost, EngineRefused
from headrace_runner.engine.protocol import FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.generating import generate

REQUEST = Generate("u-1/1", prompt="hi")


def result(text: str, finish_reason: FinishReason, tokens: int = 3) -> GenerationResult:
    return GenerationResult("u-1/1", text, finish_reason, Usage(1, 0, tokens), Timings(0, 1, 2))


class Engine:
    """Says nothing until it is asked to abort; answers that with ``answer``, or never."""

    def __init__(
        self, answer: GenerationResult | Exception | None = None, *, on_abort: Callable[[], None] = lambda: None
    ) -> None:
        self.asked = asyncio.Event()
        self.aborted: list[str] = []
        self.cancelled = False
        self._answer = answer
        self._on_abort = on_abort
        self.result: asyncio.Future[GenerationResult] = asyncio.get_running_loop().create_future()

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        assert on_progress is not None
        on_progress(2)
        self.asked.set()
        try:
            return await self.result
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def abort(self, generation_id: str) -> None:
        self.aborted.append(generation_id)
        self._on_abort()
        if isinstance(self._answer, Exception):
            self.result.set_exception(self._answer)
        elif self._answer is not None:
            self.result.set_result(self._answer)


def nobody(tokens: int) -> None:
    pass


async def interrupted(attempt: Attempt, engine: Engine, *reasons: Halt) -> GenerationResult | Cut:
    curb = Curb()
    running = asyncio.create_task(generate(attempt, engine, REQUEST, curb, nobody))
    await engine.asked.wait()
    for why in reasons:
        curb.ask(why)
    return await running


async def test_an_interrupted_generation_gives_what_there_is(attempt: Attempt) -> None:
    partial = result("so f", "Cancelled")
    engine = Engine(partial)
    cut = await interrupted(attempt, engine, Halt.SUSPEND, Halt.CANCEL)
    assert cut == Cut(Halt.CANCEL, partial, 2)
    assert cut.completion_tokens == 3
    assert engine.aborted == ["u-1/1"]


async def test_a_stronger_reason_that_comes_before_the_answer_wins(attempt: Attempt) -> None:
    curb, partial = Curb(), result("so f", "Cancelled")
    engine = Engine(partial, on_abort=lambda: curb.ask(Halt.CANCEL))
    running = asyncio.create_task(generate(attempt, engine, REQUEST, curb, nobody))
    await engine.asked.wait()
    curb.ask(Halt.SUSPEND)
    assert await running == Cut(Halt.CANCEL, partial, 2)


@pytest.mark.parametrize("why", Halt)
async def test_a_generation_that_had_ended_is_whole(attempt: Attempt, why: Halt) -> None:
    whole = result("all of it", "Stop")
    assert await interrupted(attempt, Engine(whole), why) == whole


@pytest.mark.parametrize("error", [EngineLost("gone"), EngineRefused("EngineStopping", "it stops", retryable=True)])
async def test_an_engine_that_ends_with_the_abort_leaves_nothing(attempt: Attempt, error: Exception) -> None:
    cut = await interrupted(attempt, Engine(error), Halt.CANCEL)
    assert cut == Cut(Halt.CANCEL, None, 2)
    assert cut.completion_tokens == 2


async def test_an_engine_that_does_not_answer_is_not_waited_for(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "ANSWER_SECONDS", 0.01)
    engine = Engine()
    assert await interrupted(attempt, engine, Halt.CANCEL) == Cut(Halt.CANCEL, None, 2)
    assert engine.cancelled


async def test_an_engine_is_not_asked_what_nobody_wants(attempt: Attempt) -> None:
    curb, engine = Curb(), Engine()
    curb.ask(Halt.CANCEL)
    assert await generate(attempt, engine, REQUEST, curb, nobody) == Cut(Halt.CANCEL)
    assert not engine.asked.is_set()


async def test_an_attempt_that_takes_too_long_is_aborted(attempt: Attempt) -> None:
    loop = asyncio.get_running_loop()
    work = attempt.work.model_copy(update={"attempt_timeout_ms": 20})
    attempt = replace(attempt, work=work, claimed_at=loop.time(), monotonic=loop.time)
    engine = Engine(result("so f", "Cancelled"))
    cut = await generate(attempt, engine, REQUEST, Curb(), nobody)
    assert isinstance(cut, Cut)
    assert cut.why is Halt.ATTEMPT_TIMEOUT
    assert engine.aborted == ["u-1/1"]


async def test_a_result_and_an_error_come_through(attempt: Attempt) -> None:
    engine = Engine()
    engine.result.set_result(result("hi", "Stop"))
    assert await generate(attempt, engine, REQUEST, Curb(), nobody) == result("hi", "Stop")
    engine = Engine()
    engine.result.set_exception(EngineLost("gone"))
    with pytest.raises(EngineLost):
        await generate(attempt, engine, REQUEST, Curb(), nobody)


async def test_cancelling_it_ends_the_generation(attempt: Attempt) -> None:
    engine = Engine()
    running = asyncio.create_task(generate(attempt, engine, REQUEST, Curb(), nobody))
    await engine.asked.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.cancelled
    assert engine.aborted == []
