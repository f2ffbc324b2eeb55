"""What ends an attempt early: wishes, two clocks' bounds, and which of them wins."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import pytest

from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.cut import Halt


def bounded(attempt: Attempt, **work: Any) -> Attempt:
    return replace(attempt, work=attempt.work.model_copy(update=work))


async def endless() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(Halt, 2)))
def test_cancel_outranks_suspend_and_wishes_outrank_time(attempt: Attempt, one: Halt, other: Halt) -> None:
    curb = Curb()
    assert curb.why(attempt) is None
    curb.ask(other)
    assert curb.why(attempt) is other
    curb.ask(one)
    assert curb.why(attempt) is one
    curb.ask(other)
    assert curb.why(attempt) is one


def test_time_runs_from_the_claim_by_the_monotonic_clock(attempt: Attempt, clock: Any) -> None:
    attempt = bounded(attempt, attempt_timeout_ms=2000, deadline_ms=attempt.claimed_ms + 3000)
    curb = Curb()
    clock.now += 1.999
    assert curb.why(attempt) is None
    clock.now += 0.001
    assert curb.why(attempt) is Halt.ATTEMPT_TIMEOUT
    # Both are over: the task's end outranks the attempt's.
    clock.now += 1
    assert curb.why(attempt) is Halt.DEADLINE


def test_a_deadline_may_have_passed_before_the_claim(attempt: Attempt) -> None:
    assert Curb().why(bounded(attempt, deadline_ms=attempt.claimed_ms - 1)) is Halt.DEADLINE


async def test_what_is_done_outranks_every_reason(attempt: Attempt) -> None:
    curb = Curb()
    curb.ask(Halt.CANCEL)
    done = asyncio.create_task(asyncio.sleep(0))
    await done
    assert await curb.first(attempt, done) is None


async def test_a_wish_is_heard_while_the_work_goes_on(attempt: Attempt) -> None:
    curb = Curb()
    work = asyncio.create_task(endless())
    waiting = asyncio.create_task(curb.first(attempt, work))
    await asyncio.sleep(0)
    assert not waiting.done()
    curb.ask(Halt.SUSPEND)
    assert await waiting is Halt.SUSPEND
    assert not work.done()
    work.cancel()


@pytest.mark.parametrize(
    ("left_ms", "deadline_left_ms", "why"),
    [(30, 60_000, Halt.ATTEMPT_TIMEOUT), (60_000, 30, Halt.DEADLINE), (30, None, Halt.ATTEMPT_TIMEOUT)],
)
async def test_time_that_passes_ends_the_wait(
    attempt: Attempt, left_ms: int, deadline_left_ms: int | None, why: Halt
) -> None:
    loop = asyncio.get_running_loop()
    attempt = replace(attempt, claimed_at=loop.time(), monotonic=loop.time)
    deadline_ms = None if deadline_left_ms is None else attempt.claimed_ms + deadline_left_ms
    attempt = bounded(attempt, attempt_timeout_ms=left_ms, deadline_ms=deadline_ms)
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await endless()
        finally:
            cancelled.set()

    assert await Curb().unless_halted(attempt, work()) is why
    assert cancelled.is_set()


async def test_what_the_work_gives_or_raises_comes_through(attempt: Attempt) -> None:
    async def gives() -> int:
        return 7

    async def raises() -> None:
        raise LookupError("why")

    assert await Curb().unless_halted(attempt, gives()) == 7
    with pytest.raises(LookupError, match="why"):
        await Curb().unless_halted(attempt, raises())
